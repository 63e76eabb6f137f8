# An ordinary user is denied by name, root is served, and a rule admits a group to what it names.
denied() { # USER METHOD ARGUMENT...: the error, by name and in words
    local said
    # busctl keeps an error's name to itself, except when it is asked to tell all.
    if said=$(SYSTEMD_LOG_LEVEL=debug call_as "$@" 2>&1); then fail "$*: $said"; fi
    grep -o 'error-name=.*' <<< "$said"
}
required=org.freedesktop.DBus.Error.InteractiveAuthorizationRequired
denied alice ListBackups 'a{sv}' 0 | grep "$required.*org.strongroom1.read"
denied alice CreateBackup 'sa{sv}' web 0 | grep "$required.*org.strongroom1.backup"
denied alice RestoreBackup 'ta{sv}' 1 1 target s /home/alice/out | grep "$required.*org.strongroom1.restore"
denied alice DeleteBackup 'ta{sv}' 1 0 | grep "$required.*org.strongroom1.delete"
denied alice AddResource 'sa{sv}' theft 1 paths as 1 /etc | grep "$required.*org.strongroom1.configure"
# The command says it in words.
if said=$(as alice strongroom list 2>&1); then fail "$said"; fi
grep 'org.strongroom1.read' <<< "$said"
# Properties and objects are root's alone, by the bus itself; the documentation is not.
for question in "get-property org.strongroom1 /org/strongroom1 org.strongroom1.Manager Version" \
    "call org.strongroom1 /org/strongroom1 org.freedesktop.DBus.ObjectManager GetManagedObjects"; do
    # shellcheck disable=SC2086
    if as alice busctl $question; then fail "alice may: $question"; fi
    # shellcheck disable=SC2086
    in_machine busctl $question > /dev/null
done
as alice busctl call org.strongroom1 /org/strongroom1 org.freedesktop.DBus.Introspectable Introspect > /dev/null

cp packaging/50-strongroom.rules "$work/root/etc/polkit-1/rules.d/"
in_machine gpasswd --add bob backup-operators
eventually 10 call_as bob ListBackups 'a{sv}' 0
[[ $(call_as bob CreateBackup 'sa{sv}' web 0 | field id) -gt 0 ]]
denied bob DeleteBackup 'ta{sv}' 1 0 | grep 'org.strongroom1.delete'
denied alice ListBackups 'a{sv}' 0
