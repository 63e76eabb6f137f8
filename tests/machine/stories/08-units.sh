# A restore in place stops what uses the data and starts it again, whatever becomes of it: when it
# succeeds, when it fails, and when the daemon is killed meanwhile.
in_machine sh -c '
    mkdir -p /srv/app && echo good > /srv/app/data
    cat > /etc/systemd/system/app.service << "END"
[Service]
Type=exec
ExecStartPre=/bin/sh -c "echo start $(cat /srv/app/data) >> /root/app.log"
ExecStart=/bin/sleep infinity
ExecStop=/bin/sh -c "echo stopping >> /root/app.log; sleep 2"
ExecStopPost=/bin/sh -c "echo stopped $(cat /srv/app/data) >> /root/app.log"
END
    cat > /etc/systemd/system/idle.service << "END"
[Service]
ExecStart=/bin/sh -c "echo idle >> /root/app.log; exec sleep infinity"
END
    systemctl daemon-reload && systemctl start app'
call AddResource 'sa{sv}' app 2 paths as 1 /srv/app units as 2 app.service idle.service
id=$(backup app)
log() { in_machine cat /root/app.log | tr '\n' ' '; }
[[ $(log) == 'start good ' ]]

in_machine sh -c 'echo bad > /srv/app/data'
job=$(call RestoreBackup 'ta{sv}' "$id" 1 confirm b true | job_of)
job_completed "$job"
[[ $(log) == 'start good stopping stopped bad start good ' ]] || fail "$(log)"
in_machine systemctl is-active app
if in_machine systemctl is-active idle; then fail "what did not run was started"; fi
call GetJob t "$job" | grep '"units_stopped":{"type":"t","data":1}'
call GetJob t "$job" | grep 'started afterwards: app.service'

# One that fails at its first error: the data can not be written.
in_machine sh -c 'echo worse > /srv/app/data; : > /root/app.log; mount --bind /srv/app /srv/app; mount -o remount,ro,bind /srv/app'
job=$(call RestoreBackup 'ta{sv}' "$id" 2 confirm b true error_strategy s fast_fail | job_of)
eventually 60 job_ended "$job"
[[ $(call GetJob t "$job" | field state) == failed ]] || { call GetJob t "$job"; fail "it was restored"; }
in_machine umount /srv/app
[[ $(log) == 'stopping stopped worse start worse ' ]] || fail "$(log)"
in_machine systemctl is-active app

# A daemon that dies while the unit is stopped starts it when it is back.
in_machine sh -c ': > /root/app.log'
job=$(call RestoreBackup 'ta{sv}' "$id" 1 confirm b true | job_of)
eventually 20 in_machine grep stopping /root/app.log
in_machine systemctl kill --signal KILL --kill-whom main strongroomd
eventually 60 in_machine systemctl is-active strongroomd
call GetJob t "$job" | grep '"failed"'
eventually 60 in_machine sh -c 'grep -c start /root/app.log | grep 1 && systemctl is-active app'
in_machine journalctl --no-pager -u strongroomd | grep "units that were stopped for job $job are started: app.service"

# What the manager does not know is named before anything is touched.
call UpdateResource 'sa{sv}' app 1 units as 2 app.service nosuch.service
in_machine sh -c 'echo bad > /srv/app/data; : > /root/app.log'
if SYSTEMD_LOG_LEVEL=info call RestoreBackup 'ta{sv}' "$id" 1 confirm b true 2> "$work/refused"; then fail "a unit that is not there"; fi
grep 'does not know the unit "nosuch.service"' "$work/refused"
[[ $(log) == '' && $(in_machine cat /srv/app/data) == bad ]] || fail "$(log)"
in_machine systemctl is-active app
