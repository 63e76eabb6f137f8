# Notifications: nothing without programs; with some, each gets the facts, and one that fails
# keeps no other from running.
facts=$work/root/run/strongroom/notify
in_machine systemctl start strongroom-notify@7
mkdir -p "$work/root/etc/strongroom/notify.d"
in_machine mkdir -p /run/strongroom/notify
in_machine sh -c 'echo "STRONGROOM_ERROR=\"disk full\"" > /run/strongroom/notify/8.env'
in_machine sh -c 'cd /etc/strongroom/notify.d
    printf "#!/bin/sh\nexit 3\n" > 10-fails
    printf "#!/bin/sh\necho \"\$1: \$STRONGROOM_ERROR\" >> /root/told\n" > 20-tells
    printf "#!/bin/sh\nenv > /root/told-all.new; mv /root/told-all.new /root/told-all\n" > 40-all; chmod 755 40-all
    cp 20-tells 30-old.dpkg-old
    chmod 755 10-fails 20-tells 30-old.dpkg-old'
if in_machine systemctl start strongroom-notify@8; then fail "a failure was not told"; fi
[[ $(in_machine cat /root/told) == "8: disk full" ]]
in_machine test ! -e /run/strongroom/notify/8.env
in_machine rm /etc/strongroom/notify.d/10-fails
in_machine systemctl start strongroom-notify@9
in_machine systemctl reset-failed

# A schedule's backup that fails is told of, by the daemon itself; and the status line knows when
# the next one is due.
in_machine mkdir -p /srv/scheduled
in_machine rm -f /root/told-all
call AddResource 'sa{sv}' scheduled 1 paths as 1 /srv/scheduled
call SetSchedule 'sa{sv}' nightly 3 cron s '0 2 * * *' resources as 1 scheduled notify_on_failure b true
eventually 10 in_machine sh -c 'systemctl show -P StatusText strongroomd | grep "next: nightly at 20.*T0.*Z"'
in_machine rmdir /srv/scheduled
call RunSchedule 'sa{sv}' nightly 0
eventually 20 in_machine grep . /root/told-all
in_machine grep '^STRONGROOM_RESOURCE=scheduled$' /root/told-all
in_machine grep '^STRONGROOM_SCHEDULE=nightly$' /root/told-all
call RemoveSchedule 'sa{sv}' nightly 0
