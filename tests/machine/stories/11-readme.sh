# The first hour, on a machine that never saw Strongroom: what README.md and docs/examples.md say for a
# machine (`sh machine` on the fence), word for word.
blocks() { awk '/^```/ { on = $0 == "```sh machine"; next } on' "$1"; }
in_machine apt-get -qq purge --yes strongroom
in_machine rm -rf /var/lib/strongroom /var/backups/strongroom /var/cache/strongroom /etc/strongroom /run/strongroom /tmp/out
hour=$work/root/root/hour
mkdir "$hour"
ln "$work/root/root/strongroom.deb" "$hour/strongroom_0_all.deb"
blocks README.md > "$hour/first"
blocks docs/examples.md > "$hour/later"
[[ $(grep -c . "$hour/first") == 6 ]]
in_machine sh -c 'cd /root/hour && bash -euxo pipefail first' < /dev/null
in_machine cmp /tmp/out/etc/passwd /etc/passwd
in_machine diff -r --no-dereference /etc /run/strongroom/browse/resources/default/server/latest/etc
completed 2
in_machine bash -euxo pipefail /root/hour/later < /dev/null
[[ $(property strongroomd ActiveState) == active ]]
