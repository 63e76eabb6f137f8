# A restart, an upgrade and a crash, each while a user copies a large file out of the mount and a
# backup runs.

in_machine sh -c 'install -d -o alice /srv/large && head -c 300M /dev/urandom > /srv/large/film && chown alice: /srv/large/film'
call AddResource 'sa{sv}' large 2 paths as 1 /srv/large browse s strict
first=$(backup large)
film=$(call GetBackup t "$first" | field browse_path)/srv/large/film

# Starts a copy that stays in the middle of the file until end_copy.
begin_copy() {
    rm -f "$work/root/home/alice/go" "$work/root/home/alice/film"
    as alice sh -c '
        cp "$1" /dev/stdout | { head -c 10000000; until [ -e /home/alice/go ]; do sleep 0.1; done; cat; } > /home/alice/film
    ' copy "$film" &
    copy=$!
    eventually 20 in_machine test -s /home/alice/film
}
end_copy() {
    in_machine test "$(in_machine stat -c %s /home/alice/film)" -lt 100000000 || fail "the copy had ended before"
    pgrep -x cp > /dev/null || fail "no copy was under way"
    in_machine touch /home/alice/go
    wait "$copy"
    in_machine cmp /home/alice/film /srv/large/film
}
# A backup that has begun to read.
begin_large() {
    in_machine sh -c 'head -c 400M /dev/urandom > /srv/large/more'
    running=$(begin_backup large)
    eventually 20 has_status "$running" running
    job=$(call GetBackup t "$running" | field job | grep -o '[0-9]*$')
}
begun() { in_machine journalctl --no-pager -o cat MESSAGE_ID=4b87592c605b49cba47f9dfe77920f5b STRONGROOM_JOB="$job" | wc -l; }
# It was interrupted, and yet it is complete and whole.
went_on() {
    completed "$running"
    [[ $(begun) == 2 ]] || fail "the backup began $(begun) times, not twice"
    in_machine cmp "$(call GetBackup t "$running" | field browse_path)/srv/large/more" /srv/large/more
    job_completed "$(call VerifyBackup 'ta{sv}' "$running" 1 read_data b true | job_of)"
}

echo "restart"
daemon=$(property strongroomd MainPID) mount=$(property strongroom-browse MainPID)
begin_copy
begin_large
in_machine systemctl restart strongroomd
end_copy
went_on
[[ $(property strongroomd MainPID) != "$daemon" ]]
[[ $(property strongroom-browse MainPID) == "$mount" ]]

echo "upgrade"
daemon=$(property strongroomd MainPID)
rm -rf "$work/next"
dpkg-deb -R "$work/root/root/strongroom.deb" "$work/next"
sed -i 's/^Version: .*/&+next/' "$work/next/DEBIAN/control"
dpkg-deb -Znone -b "$work/next" "$work/root/root/next.deb" > /dev/null
begin_copy
begin_large
in_machine apt-get -qq install --yes /root/next.deb
end_copy
went_on
[[ $(property strongroomd MainPID) != "$daemon" ]]
[[ $(property strongroom-browse MainPID) == "$mount" ]]
in_machine dpkg-query -W -f '${Version}' strongroom | grep +next

echo "the daemon is killed"
begin_copy
begin_large
kill -KILL "$(pgrep -P "$leader" -x strongroomd | while read -r pid; do
    grep -qz browse "/proc/$pid/cmdline" || echo "$pid"
done)"
end_copy
eventually 20 call ListJobs 'a{sv}' 0
[[ $(property strongroomd NRestarts) -ge 1 ]]
[[ $(property strongroom-browse MainPID) == "$mount" ]]
# That one has failed and says so; the next one finds what was stored.
eventually 20 ended "$running"
backup large > /dev/null
call GetBackup t "$first" | field status | grep completed

echo "the mount is killed"
in_machine systemctl kill --signal KILL --kill-who main strongroom-browse
eventually 20 in_machine cmp -n 1000000 "$film" /srv/large/film
[[ $(property strongroom-browse MainPID) != "$mount" ]]
[[ $(in_machine grep -c "$browse fuse.strongroom" /proc/mounts) == 1 ]]
in_machine systemctl restart strongroom-browse
eventually 20 in_machine cmp -n 1000000 "$film" /srv/large/film
