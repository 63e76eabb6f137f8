# A restore in one step: units stop for it, and somebody else who has files open keeps it from being done.
in_machine sh -c '
    mkdir -p /srv/whole/in; echo old > /srv/whole/in/file; echo 1 > /srv/whole/held
    printf "%s\n" "[Service]" "ExecStart=/bin/sh -c \"echo start >> /root/keeper.log; exec sleep infinity < /srv/whole/held\"" > /etc/systemd/system/keeper.service
    systemctl daemon-reload && systemctl start keeper'
call AddResource 'sa{sv}' whole 2 paths as 1 /srv/whole units as 1 keeper.service
id=$(backup whole)
in_machine sh -c 'echo new > /srv/whole/in/file; touch /srv/whole/more; : > /root/keeper.log'
atomic() { call RestoreBackup 'ta{sv}' "$id" 2 confirm b true atomic b true; }
# Whoever else has files open, as an ordinary user or as root, is seen by the daemon as it runs here.
for user in alice root; do
    in_machine systemd-run --quiet --unit "other-$user" --uid "$user" sh -c 'exec sleep infinity < /srv/whole/in/file'
    eventually 20 in_machine sh -c "readlink /proc/\$(systemctl show --value -p MainPID other-$user)/fd/0 | grep /srv/whole"
    pid=$(property "other-$user" MainPID)
    if SYSTEMD_LOG_LEVEL=info atomic 2> "$work/refused"; then fail "it was not refused, though $user has a file open"; fi
    grep -F "sleep ($pid)" "$work/refused"
    in_machine systemctl stop "other-$user"
done
# A daemon that cannot see that says so, and does nothing.
in_machine sh -c 'mkdir -p /etc/systemd/system/strongroomd.service.d; cd /etc/systemd/system/strongroomd.service.d
    printf "[Service]\nCapabilityBoundingSet=~CAP_SYS_PTRACE\n" > blind.conf; systemctl daemon-reload; systemctl restart strongroomd'
if SYSTEMD_LOG_LEVEL=info atomic 2> "$work/refused"; then fail "it was not refused, though nobody knows who has files open"; fi
grep -F CAP_SYS_PTRACE "$work/refused"
in_machine sh -c 'rm -r /etc/systemd/system/strongroomd.service.d; systemctl daemon-reload; systemctl restart strongroomd'
[[ $(in_machine cat /srv/whole/in/file) == new && -z $(in_machine cat /root/keeper.log) ]]
job_completed "$(atomic | job_of)"
[[ $(in_machine cat /srv/whole/in/file) == old && $(in_machine cat /root/keeper.log) == start ]]
if in_machine test -e /srv/whole/more; then fail "it was not restored as a whole"; fi
in_machine systemctl is-active keeper
if in_machine sh -c 'ls -d /srv/.strongroom-* /var/lib/strongroom/swap-*' 2> /dev/null; then fail "something is left"; fi
in_machine systemctl stop keeper
call RemoveResource 'sa{sv}' whole 0
