# Commands of a declaration run before and after a backup or snapshot, each as a unit of its own,
# with a time limit; those after run whatever came of it.
in_machine sh -c '
    mkdir -p /srv/cmd /etc/strongroom/conf.d && echo 1 > /srv/cmd/file
    cat > /root/say << "END"
#!/bin/sh
echo "$* $STRONGROOM_WHEN $STRONGROOM_KIND $STRONGROOM_RESOURCE $(cat /proc/self/cgroup | grep -o "strongroom-[a-z]*-[0-9]*-[0-9]*")" >> /root/said
END
    chmod +x /root/say
    cat > /etc/strongroom/conf.d/cmd.toml << "END"
[resource.cmd]
paths = ["/srv/cmd"]
before = [["/root/say", "one two"], ["/bin/sh", "-c", "test ! -e /root/fail && time=$(cat /root/sleep) && sleep $time"]]
after = [["/root/say", "three"], ["/bin/false"], ["/root/say", "four"]]
command_timeout = 2
END
    echo 0 > /root/sleep; : > /root/said'
call Reload 'a{sv}' 0
said() { in_machine cat /root/said | tr '\n' ';'; in_machine sh -c ': > /root/said'; }
id=$(backup cmd)
job=$(call GetBackup t "$id" | field job | grep -o '[0-9]*$')
text=$(said)
[[ $text == "one two before backup cmd strongroom-before-$job-0;three after backup cmd strongroom-after-$job-0;four after backup cmd strongroom-after-$job-2;" ]] ||
    fail "$text"
# That one of them failed is told, and the backup is good all the same.
call GetBackup t "$id" | field message | grep "the command after the backup: /bin/false failed"
in_machine journalctl --no-pager -u "strongroom-after-$job-1.service" | grep -i "failed"

# One that fails ends the backup, and what is to be done afterwards is done.
in_machine touch /root/fail
id=$(begin_backup cmd)
eventually 20 ended "$id"
has_status "$id" failed
call GetBackup t "$id" | field error | grep "the command before the backup: /bin/sh -c .* failed"
[[ $(said) == "one two before"*"three after"*"four after"* ]] || fail "those after were not run"
# So does one that takes too long.
in_machine sh -c 'rm /root/fail; echo 60 > /root/sleep'
id=$(begin_backup cmd)
eventually 20 ended "$id"
call GetBackup t "$id" | field error | grep "because it took longer than 2 s"
[[ $(said) == *"four after"* ]] || fail "those after were not run"

# A daemon that dies meanwhile runs them when it is back.
in_machine sh -c 'sed -i "s/command_timeout = 2/command_timeout = 60/" /etc/strongroom/conf.d/cmd.toml'
call Reload 'a{sv}' 0
id=$(begin_backup cmd)
job=$(call GetBackup t "$id" | field job | grep -o '[0-9]*$')
before_runs() { [[ $(in_machine systemctl is-active "strongroom-before-$job-1") == activating ]]; }
eventually 20 before_runs
in_machine systemctl kill --signal KILL --kill-whom main strongroomd
eventually 60 in_machine systemctl is-active strongroomd
eventually 20 in_machine grep "four after backup" /root/said
[[ $(in_machine systemctl is-active "strongroom-before-$job-1") == inactive ]] || fail "what was to be before is still at work"
in_machine sh -c 'rm /etc/strongroom/conf.d/cmd.toml'
call Reload 'a{sv}' 0
