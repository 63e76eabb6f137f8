# Installed by apt, it runs, enabled, its mount in the sight of everybody.
in_machine apt-get -qq install --yes --no-install-recommends /root/strongroom.deb
in_machine systemctl is-enabled strongroomd
in_machine systemctl is-active strongroomd strongroom-browse
[[ -z $(in_machine systemctl --failed --plain --no-legend) ]]
in_machine findmnt --noheadings --output FSTYPE,OPTIONS "$browse" | grep 'fuse.strongroom *ro,nosuid,nodev'
# A mount namespace of its own would hide mounts, and the host's file systems, from one another.
for unit in strongroomd strongroom-browse; do
    pid=$(property $unit MainPID)
    [[ $(in_machine readlink "/proc/$pid/ns/mnt") == "$(in_machine readlink /proc/1/ns/mnt)" ]] || fail "$unit is apart"
done
# The first start made a vault, and nothing of it can be seen by others.
call GetVault s main | grep '"encryption":{"type":"b","data":true}'
[[ $(in_machine stat -c %a /var/lib/strongroom /var/cache/strongroom /var/backups/strongroom | sort -u) == 700 ]]
in_machine systemctl status --no-pager strongroomd | grep 'Status: "idle"'
in_machine journalctl --no-pager MESSAGE_ID=e833dca099fa43e7908ed131326d615f | grep 'ready on the system bus'
