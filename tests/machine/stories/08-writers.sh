# Writers at full speed that are frozen for a snapshot: fio on btrfs and XFS, PostgreSQL under
# pgbench. The small machine of CI has none of these programs:
#
#   MACHINE=writers tests/machine/run writers
if ! in_machine sh -c 'command -v fio && ls /usr/lib/postgresql/*/bin/pg_ctl' > /dev/null 2>&1; then
    echo "SKIPPED: the machine has no fio and no PostgreSQL; give MACHINE=writers"
    exit 0
fi
disks=()
off() {
    in_machine systemctl stop load fio@btrfs fio@xfs database 2> /dev/null || true
    in_machine umount /srv/wbtrfs /srv/wxfs 2> /dev/null || true
    local disk
    for disk in "${disks[@]}"; do losetup --detach "$disk" || true; done
}
trap off EXIT
for fs in btrfs xfs; do
    truncate -s 1500M "$work/w$fs.img"
    "mkfs.$fs" -q "$work/w$fs.img" > /dev/null
    device=$(losetup --find --show "$work/w$fs.img")
    disks+=("$device")
    in_machine sh -c "test -e $device || mknod $device b 7 ${device#/dev/loop}; mkdir -p /srv/w$fs && mount $device /srv/w$fs"
done
nsenter --target "$leader" --mount btrfs subvolume create /srv/wbtrfs/data > /dev/null 2>&1 ||
    { mkdir -p "$work/wmnt"; mount "${disks[0]}" "$work/wmnt"; btrfs subvolume create "$work/wmnt/data" > /dev/null; umount "$work/wmnt"; }
in_machine sh -c '
    mkdir -p /srv/wxfs/data
    printf "%s\n" "[Service]" "ExecStart=/usr/bin/fio --name=w --rw=randwrite --bs=4k --size=200M --time_based --runtime=600 --directory=/srv/w%i/data" \
        > /etc/systemd/system/fio@.service
    systemctl daemon-reload'
result() { call GetJob t "$1" | jq -r ".data[0].result.data.$2.data"; }
# taken RESOURCE NAME: takes a snapshot, and gives how long units were held and how long it took, in ms
taken() {
    local answer job since
    since=$(date +%s%N)
    answer=$(call CreateSnapshot 'ssa{sv}' "$1" "$2" 0)
    job=$(job_of <<< "$answer")
    job_completed "$job" || return 1
    echo "$(field id <<< "$answer") $(result "$job" held_ms) $((($(date +%s%N) - since) / 1000000))"
}
for fs in btrfs xfs; do
    in_machine systemctl start "fio@$fs"
    eventually 60 in_machine test -s "/srv/w$fs/data/w.0.0"
    sleep 3
    call AddResource 'sa{sv}' "w$fs" 3 paths as 1 "/srv/w$fs/data" units as 1 "fio@$fs.service" unit_action s freeze
    for n in 1 2 3 4; do
        read -r id held ms <<< "$(taken "w$fs" "n$n")"
        ((held > 0)) || fail "nothing was held"
        echo "figure: $fs: fio was frozen for $held ms, the snapshot was there after $ms ms"
        there=$(call GetSnapshot t "$id" | jq -r '.data[0].location.data[0]')
        sum=$(in_machine sha256sum "$there/w.0.0")
        sleep 1
        [[ $(in_machine sha256sum "$there/w.0.0") == "$sum" ]] || fail "what was taken changes"
        [[ $(property "fio@$fs" FreezerState) == running ]]
        job_completed "$(call DeleteSnapshot 'ta{sv}' "$id" 0 | job_of)"
    done
    in_machine systemctl is-active "fio@$fs"
    in_machine systemctl stop "fio@$fs"
    in_machine rm -r "/srv/w$fs/data/w.0.0"
done

# A database that is frozen on XFS, where its files are cloned one after the other.
in_machine sh -c '
    systemctl disable --now postgresql 2> /dev/null || true
    bin=$(ls -d /usr/lib/postgresql/*/bin)
    mkdir /srv/wxfs/data/db && chown postgres: /srv/wxfs/data/db && chmod 755 /srv/wxfs /srv/wxfs/data && chmod 700 /srv/wxfs/data/db
    cat > /etc/systemd/system/database.service << END
[Service]
Type=forking
User=postgres
RuntimeDirectory=database
ExecStart=$bin/pg_ctl -s -w -D /srv/wxfs/data/db -l /run/database/log -o "-k /run/database -c listen_addresses=" start
ExecStop=$bin/pg_ctl -s -w -D /srv/wxfs/data/db -m fast stop
END
    cat > /etc/systemd/system/load.service << END
[Service]
User=postgres
ExecStart=$bin/pgbench -n -c 4 -T 600 -h /run/database postgres
END
    systemctl daemon-reload
    setpriv --reuid postgres --regid postgres --init-groups $bin/initdb -N -A trust -D /srv/wxfs/data/db > /dev/null
    systemctl start database
    setpriv --reuid postgres --regid postgres --init-groups $bin/pgbench -q -i -s 4 -h /run/database postgres 2> /dev/null
    systemctl start load'
sql() { in_machine setpriv --reuid postgres --regid postgres --init-groups psql -h /run/database -Atc "$1" postgres; }
call UpdateResource 'sa{sv}' wxfs 1 units as 1 database.service
for n in 1 2 3; do
    sleep 2
    read -r id held ms <<< "$(taken wxfs "db$n")"
    ((held > 0)) || fail "nothing was held"
    echo "figure: PostgreSQL under pgbench was frozen for $held ms, the snapshot was there after $ms ms"
done
in_machine systemctl is-active load
sleep 1
after=$(sql 'select count(*) from pgbench_history')
in_machine systemctl stop load
job_completed "$(call RestoreSnapshot 'ta{sv}' "$id" 1 confirm b true | job_of)"
eventually 30 sql 'select 1'
there=$(sql 'select count(*) from pgbench_history')
((there > 0 && there < after)) || fail "$there of $after transactions"
[[ $(sql 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
    and (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches)
    and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)') == t ]]
in_machine sh -c 'setpriv --reuid postgres --regid postgres --init-groups /usr/lib/postgresql/*/bin/pg_amcheck -h /run/database --install-missing --heapallindexed --all &&
    setpriv --reuid postgres --regid postgres --init-groups pg_dump -h /run/database postgres > /dev/null'
echo "figure: restored, $there of $after transactions are in it; pg_amcheck and pg_dump find it whole"
in_machine systemctl stop database
for resource in wbtrfs wxfs; do call RemoveResource 'sa{sv}' $resource 0; done
