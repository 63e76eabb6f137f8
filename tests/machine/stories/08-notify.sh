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
    cp 20-tells 30-old.dpkg-old
    chmod 755 10-fails 20-tells 30-old.dpkg-old'
if in_machine systemctl start strongroom-notify@8; then fail "a failure was not told"; fi
[[ $(in_machine cat /root/told) == "8: disk full" ]]
in_machine test ! -e /run/strongroom/notify/8.env
in_machine rm /etc/strongroom/notify.d/10-fails
in_machine systemctl start strongroom-notify@9
in_machine systemctl reset-failed
