# Removed and purged, the keys and the backups are still there, and it says so; installed again,
# everything is as it was.
last=$(backup web)
in_machine apt-get -qq purge --yes strongroom 2>&1 | tee "$work/purge"
grep '/var/lib/strongroom is kept' "$work/purge"
grep '/var/backups/strongroom is kept' "$work/purge"
in_machine sh -c 'ls /var/lib/strongroom/keys/* /var/backups/strongroom/vault.json'
in_machine test ! -e /var/cache/strongroom
in_machine test ! -e /etc/strongroom/strongroom.toml
if in_machine mountpoint "$browse"; then fail "the mount is still there"; fi
in_machine apt-get -qq install --yes /root/strongroom.deb
has_status "$last" completed
in_machine diff -r "$(call GetBackup t "$last" | field browse_path)/srv/web" /srv/web
