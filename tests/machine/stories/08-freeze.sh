# Snapshots and backups while somebody writes: units are frozen or stopped for them, and go on
# whatever becomes of it, also when the daemon is killed while they stand still.
disks=()
off() {
    in_machine systemctl stop writer 2> /dev/null || true
    in_machine umount /srv/sub /srv/tree 2> /dev/null || true
    local disk
    for disk in "${disks[@]}"; do losetup --detach "$disk" || true; done
}
trap off EXIT
# disk FILESYSTEM WHERE MEGABYTES: one for the machine, which has no devices of its own.
disk() {
    local image=$work/$1.img device
    truncate -s "$3M" "$image"
    "mkfs.$1" -q "$image" > /dev/null
    device=$(losetup --find --show "$image")
    disks+=("$device")
    if [[ $1 == btrfs ]]; then
        mkdir -p "$work/mnt" && mount "$device" "$work/mnt"
        btrfs subvolume create "$work/mnt/data" > /dev/null
        umount "$work/mnt"
    fi
    in_machine sh -c "test -e $device || mknod $device b 7 ${device#/dev/loop}; mkdir -p $2 && mount $device $2"
}
disk btrfs /srv/sub 256
disk xfs /srv/tree 400
in_machine sh -c '
    mkdir -p /srv/tree/data
    cat > /root/writer.sh << "END"
i=0
while :; do
    i=$((i + 1))
    for file in /srv/sub/data/n /srv/tree/data/a-first /srv/tree/data/z-last; do
        echo $i > $file.new; mv $file.new $file
    done
done
END
    cat > /etc/systemd/system/writer.service << "END"
[Service]
ExecStartPre=/bin/sh -c "echo start >> /root/writer.log"
ExecStart=/bin/sh /root/writer.sh
ExecStopPost=/bin/sh -c "echo stop >> /root/writer.log"
END
    systemctl daemon-reload && systemctl start writer'
frozen() { [[ $(property writer FreezerState) == "$1" ]]; }
# Units stand still for less time than it takes to ask from here whether they do. So whoever has to
# do something at that moment waits for it in the machine, in a loop that starts no programs: `do`,
# a piece of sh, runs as soon as the writer stands still, and knows the daemon's process as $pid.
in_machine sh -c 'cat > /root/at-freeze.sh << "END"
group=/sys/fs/cgroup$(systemctl show --value --property ControlGroup writer)
pid=$(systemctl show --value --property MainPID strongroomd)
still() { while read -r name value; do [ "$name $value" != "frozen 1" ] || return 0; done < "$group/cgroup.events"; return 1; }
: > /run/at-freeze.ready
until still; do :; done
eval "$1"
END'
# at_freeze DO
at_freeze() {
    in_machine rm -f /run/at-freeze.ready
    in_machine timeout 60 sh /root/at-freeze.sh "$1" > "$work/at-freeze" 2>&1 &
    watcher=$!
    eventually 20 in_machine test -e /run/at-freeze.ready
}
# Waits until that was done.
at_freeze_done() { wait "$watcher" || { cat "$work/at-freeze"; fail "nothing stood still, or what was to be done then failed"; }; }
writes() {
    local before
    before=$(in_machine cat /srv/sub/data/n)
    eventually 10 sh -c "[ \"\$(nsenter --target $leader --all cat /srv/sub/data/n)\" != '$before' ]"
}
result() { call GetJob t "$1" | jq -r ".data[0].result.data.$2.data"; }
# snapshot RESOURCE NAME [ACTION]: takes one, and gives its id and its job's.
snapshot() {
    local answer
    if [[ ${3:-} ]]; then
        answer=$(call CreateSnapshot 'ssa{sv}' "$1" "$2" 1 unit_action s "$3")
    else
        answer=$(call CreateSnapshot 'ssa{sv}' "$1" "$2" 0)
    fi
    job_completed "$(job_of <<< "$answer")" || return 1
    echo "$(field id <<< "$answer") $(job_of <<< "$answer")"
}

# A subvolume: frozen for moments.
call AddResource 'sa{sv}' sub 3 paths as 1 /srv/sub/data units as 1 writer.service unit_action s freeze
read -r id job <<< "$(snapshot sub one)"
[[ $(result "$job" units_frozen) == 1 ]] || { call GetJob t "$job"; fail "nothing was frozen"; }
ms=$(result "$job" held_ms)
((ms > 0)) || fail "it took no time"
call GetSnapshot t "$id" | field message | grep "frozen for $ms ms: writer.service"
echo "a subvolume was snapshotted with its writer frozen for $ms ms"
frozen running
writes

# A tree of reflinked files, which without that would not be of one moment.
in_machine sh -c 'cd /srv/tree/data && for d in $(seq 40); do mkdir $d && (cd $d && seq 100 | xargs touch); done'
call AddResource 'sa{sv}' tree 3 paths as 1 /srv/tree/data units as 1 writer.service unit_action s freeze
read -r id job <<< "$(snapshot tree one)"
there=$(call GetSnapshot t "$id" | jq -r '.data[0].location.data[0]')
first=$(in_machine cat "$there/a-first") last=$(in_machine cat "$there/z-last")
((first == last || first == last + 1)) || fail "not of one moment: $first and $last"
echo "4000 files were cloned with their writer frozen for $(result "$job" held_ms) ms"
frozen running
writes

# Stopped instead, and started again.
in_machine sh -c ': > /root/writer.log'
read -r id job <<< "$(snapshot tree two stop)"
[[ $(in_machine cat /root/writer.log | tr '\n' ' ') == 'stop start ' ]] || fail "it was not stopped and started once"
[[ $(result "$job" units_stopped) == 1 ]]
call GetSnapshot t "$id" | field message | grep 'stopped for .* ms: writer.service'
writes
# And for a restore.
in_machine sh -c ': > /root/writer.log; echo more > /srv/tree/data/more'
job=$(call RestoreSnapshot 'ta{sv}' "$id" 1 confirm b true | job_of)
job_completed "$job"
[[ $(in_machine cat /root/writer.log | tr '\n' ' ') == 'stop start ' ]] || fail "it was not stopped and started once"
if in_machine test -e /srv/tree/data/more; then fail "it was not restored"; fi
in_machine systemctl is-active writer

# A daemon that dies while the unit stands still thaws it when it is back.
at_freeze 'kill -KILL $pid; while kill -0 $pid 2> /dev/null; do :; done; still'
answer=$(call CreateSnapshot 'ssa{sv}' tree three 0)
job=$(job_of <<< "$answer")
at_freeze_done
eventually 60 in_machine systemctl is-active strongroomd
eventually 20 frozen running
[[ $(call GetJob t "$job" | field state) == failed ]] || { call GetJob t "$job"; fail "a job that was killed"; }
in_machine journalctl --no-pager -u strongroomd | grep "units that were frozen for job $job are thawed: writer.service"
writes
[[ $(in_machine ls -A /srv/tree/.strongroom | grep -cv -e README -e store.json) == 2 ]] || fail "something is left of it"

# At whatever moment it is killed, in whatever it does: the unit runs, the data is whole, nothing is left.
# STRONGROOM_KILLS=50 kills that often.
RANDOM=7006
base=$(call ListSnapshots 'a{sv}' 3 resource s tree sort as 1 id status s completed | jq '.data[1][0].id.data')
call DeleteSnapshot 'ta{sv}' "$(call ListSnapshots 'a{sv}' 2 resource s tree status s failed | jq '.data[1][0].id.data')" 0
in_machine sh -c 'cd /srv/tree/data && for d in $(seq 40); do echo old > $d/1; done'
job_completed "$(call CreateSnapshot 'ssa{sv}' tree kept 0 | job_of)"
kept=$(call ListSnapshots 'a{sv}' 2 resource s tree status s completed | jq '.data[1][0].id.data')
stores() { in_machine ls -A /srv/tree/.strongroom | grep -cv -e README -e store.json; }
whole() { [[ $(in_machine sh -c 'cd /srv/tree/data && for d in $(seq 40); do cat $d/1; done | sort | uniq -c') =~ ^\ *40\ (old|new)$ ]]; }
here=$(stores)
for ((kill = 0; kill < ${STRONGROOM_KILLS:-3}; kill++)); do
    pause=$((RANDOM % 900))
    case $((kill % 3)) in
        0) what="taken"; job=$(call CreateSnapshot 'ssa{sv}' tree "k$kill" 0 | job_of) ;;
        1)
            what="restored"
            in_machine sh -c 'cd /srv/tree/data && for d in $(seq 40); do echo new > $d/1; done'
            job=$(call RestoreSnapshot 'ta{sv}' "$kept" 1 confirm b true | job_of)
            ;;
        2)
            what="deleted"
            job_completed "$(call CreateSnapshot 'ssa{sv}' tree "k$kill" 0 | job_of)"
            job=$(call DeleteSnapshot 'ta{sv}' "$(call ListSnapshots 'a{sv}' 1 resource s tree | jq '.data[1][0].id.data')" 0 | job_of)
            ;;
    esac
    sleep "0.$(printf %03d $pause)"
    in_machine systemctl kill --signal KILL --kill-whom main strongroomd
    sleep 0.2
    eventually 60 in_machine systemctl is-active strongroomd
    eventually 30 job_ended "$job"
    eventually 20 frozen running
    eventually 20 in_machine systemctl is-active writer
    echo "killed after $pause ms while one was $what: job $job $(call GetJob t "$job" | field state)"
    whole || fail "neither old nor new: $(in_machine sh -c 'cat /srv/tree/data/*/1 | sort | uniq -c')"
    if in_machine sh -c 'ls -d /srv/tree/.strongroom-* /var/lib/strongroom/swap-*' 2> /dev/null; then fail "something is left"; fi
    for id in $(call ListSnapshots 'a{sv}' 1 resource s tree | jq ".data[1][].id.data | select(. != $kept and . != $base)"); do
        [[ $(call GetSnapshot t "$id" | field name) == k* ]] || continue
        job_completed "$(call DeleteSnapshot 'ta{sv}' "$id" 0 | job_of)"
    done
    [[ $(stores) == "$here" ]] || fail "$(stores) snapshots rest there, and $here should"
done
writes

# A cancelled one thaws too.
# The daemon is held, too, until the call that cancels is on its way.
next=$(($(call ListJobs 'a{sv}' 1 page_size i 1 | jq '.data[1][0].id.data') + 1))
at_freeze "kill -STOP \$pid
    busctl call org.strongroom1 /org/strongroom1 org.strongroom1.Manager CancelJob 'ta{sv}' $next 0 & cancel=\$!
    sleep 1; still; was=\$?; kill -CONT \$pid; wait \$cancel && exit \$was"
answer=$(call CreateSnapshot 'ssa{sv}' tree four 0)
job=$(job_of <<< "$answer")
[[ $job == "$next" ]]
at_freeze_done
eventually 20 job_ended "$job"
[[ $(call GetJob t "$job" | field state) == cancelled ]] || { call GetJob t "$job"; fail "it was not cancelled"; }
eventually 20 frozen running
writes
writes

# A backup: frozen while its snapshot is taken, and not at all where there can be none.
id=$(backup sub)
call GetBackup t "$id" | field message | grep 'frozen for .* ms: writer.service'
id=$(backup tree)
call GetBackup t "$id" | field message | grep 'writer.service was not frozen'
frozen running
# Stopped until all is read.
call UpdateResource 'sa{sv}' tree 1 unit_action s stop
in_machine sh -c ': > /root/writer.log'
id=$(backup tree)
call GetBackup t "$id" | field message | grep 'stopped for .* ms: writer.service'
[[ $(in_machine cat /root/writer.log | tr '\n' ' ') == 'stop start ' ]] || fail "it was not stopped and started once"
[[ $(in_machine cat "$browse/backups/$id/srv/tree/data/z-last") -gt 0 ]]
writes

# What Strongroom needs is never frozen, by whatever name.
for unit in dbus.service dbus.socket strongroomd.service strongroom-browse.service polkit.service systemd-journald.service \
    system.slice systemd-logind.service; do
    if SYSTEMD_LOG_LEVEL=info call UpdateResource 'sa{sv}' sub 1 units as 1 "$unit" 2> "$work/refused"; then
        fail "$unit can be frozen"
    fi
    grep -F "$unit" "$work/refused"
done
in_machine sh -c 'mkdir -p /etc/systemd/system/strongroomd.service.d; cd /etc/systemd/system/strongroomd.service.d
    printf "[Service]\nSlice=ours.slice\n" > slice.conf; systemctl daemon-reload; systemctl restart strongroomd'
call UpdateResource 'sa{sv}' sub 1 units as 1 ours.slice
if SYSTEMD_LOG_LEVEL=info call CreateSnapshot 'ssa{sv}' sub five 0 2> "$work/refused"; then fail "our own slice"; fi
grep 'because .* is in it' "$work/refused"
in_machine sh -c 'rm -r /etc/systemd/system/strongroomd.service.d; systemctl daemon-reload; systemctl restart strongroomd'
for resource in sub tree; do call RemoveResource 'sa{sv}' $resource 0; done
