# A booted Debian in a container, and how to talk to it. Sourced; needs root.
#
# start ROOT       boots it over ROOT, which stays as it is
# stop             and throws away what it wrote
# in_machine CMD   runs a command in it as root, as a service would be: no session, no terminal
# as USER CMD      the same as an ordinary user
# shellcheck shell=bash

# What the machine lacks, in words; empty if there can be one here.
missing_for_machine() {
    if [[ $EUID != 0 ]]; then echo "not root"; return; fi
    local program
    for program in systemd-nspawn mmdebstrap nsenter jq; do
        command -v "$program" > /dev/null || { echo "$program is not installed"; return; }
    done
    [[ -c /dev/fuse ]] || { echo "there is no /dev/fuse"; return; }
    grep -qs " cgroup2\? " /proc/mounts || { echo "no cgroups are mounted"; return; }
}

start() {
    work=$(mktemp -d /tmp/strongroom-machine.XXXXXX)
    mount -t tmpfs -o size=6G,mode=755 machine "$work"
    mkdir "$work"/{upper,work,root}
    mount -t overlay -o "lowerdir=$1,upperdir=$work/upper,workdir=$work/work" machine "$work/root"
    # Units can be frozen in the unified hierarchy alone, which it has wherever the kernel has it.
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 setsid systemd-nspawn --quiet --boot --directory="$work/root" --machine="${work##*.}" --register=no --keep-unit \
        --private-network --bind=/dev/fuse --console=passive --link-journal=no < /dev/null > "$work/console" 2>&1 &
    nspawn=$!
    local i state=
    for ((i = 0; i < 300; i++)); do
        if leader=$(pgrep -P "$nspawn" -x systemd) && state=$(in_machine systemctl is-system-running --wait 2> /dev/null); then
            return
        fi
        [[ $state != degraded ]] || { in_machine systemctl --failed; break; }
        sleep 0.1
    done
    tail -n 20 "$work/console"
    echo "the machine does not come up: $state"
    return 1
}

stop() {
    if [[ ${nspawn:-} ]]; then
        # systemd's own signal to power off.
        kill -RTMIN+4 "$leader" 2> /dev/null || true
        ( sleep 20; kill -KILL "$leader" ) 2> /dev/null & local watchdog=$!
        wait "$nspawn" 2> /dev/null || true
        kill "$watchdog" 2> /dev/null || true
    fi
    if [[ ${work:-} ]]; then
        umount "$work/root" 2> /dev/null || true
        umount "$work" && rmdir "$work"
    fi
}

in_machine() {
    nsenter --target "$leader" --all -- env -i -C / PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
}

as() {
    local user=$1
    shift
    in_machine setpriv --reuid "$user" --regid "$user" --init-groups "$@"
}
