# What the stories say. Sourced.
# shellcheck shell=bash

fail() { echo "FAILED: $*"; return 1; }

# Calls a Manager method as root: call METHOD SIGNATURE ARGUMENT...; the answer as JSON.
call() { in_machine busctl --json=short call org.strongroom1 /org/strongroom1 org.strongroom1.Manager "$@"; }

# The same as an ordinary user: call_as USER METHOD SIGNATURE ARGUMENT...
call_as() {
    local user=$1
    shift
    as "$user" env SYSTEMD_LOG_LEVEL="${SYSTEMD_LOG_LEVEL:-info}" busctl --allow-interactive-authorization=no --json=short \
        call org.strongroom1 /org/strongroom1 org.strongroom1.Manager "$@"
}

# A field of an answer that is one map: field NAME < JSON.
field() { jq --raw-output ".data[0].$1.data // empty"; }

# The id of the backup that this starts.
begin_backup() { call CreateBackup 'sa{sv}' "$1" 0 | field id; }

status_of() { call GetBackup t "$1" | field status; }

# eventually SECONDS CMD...: until it succeeds.
eventually() {
    local until=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        if ((SECONDS >= until)); then
            fail "not within the time: $*"
            return 1
        fi
        sleep 0.1
    done
}

has_status() { [[ $(status_of "$1") == "$2" ]]; }
ended() { [[ $(status_of "$1") =~ ^(completed|failed|cancelled)$ ]]; }

# Waits until a backup is completed.
completed() {
    eventually "${2:-60}" ended "$1" || return 1
    has_status "$1" completed || { call GetBackup t "$1"; fail "backup $1 is not completed"; }
}

# backup RESOURCE: makes one, waits for it, and gives its id.
backup() {
    local id
    id=$(begin_backup "$1")
    completed "$id" > /dev/null || return 1
    echo "$id"
}

job_ended() { [[ $(call GetJob t "$1" | field state) =~ ^(completed|failed|cancelled)$ ]]; }

# job_completed ID
job_completed() {
    eventually 60 job_ended "$1" || return 1
    [[ $(call GetJob t "$1" | field state) == completed ]] || { call GetJob t "$1"; fail "job $1 is not completed"; }
}

# The number at the end of an object path in an answer.
job_of() { grep -o '/job/[0-9]*' | grep -o '[0-9]*$'; }

property() { in_machine systemctl show --value --property "$2" "$1"; }

browse=/run/strongroom/browse
