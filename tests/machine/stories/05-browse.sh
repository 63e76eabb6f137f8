# Who sees what in the mount: of a `root` resource nobody but root, of a `strict` one everybody
# their own files, behind directories of mode 0700 too.
in_machine sh -c '
    for user in alice bob; do
        chmod 700 /home/$user
        install -d -o $user -g $user -m 700 /home/$user/letters
        echo "dear $user" > /home/$user/letters/one
        chown $user:$user /home/$user/letters/one
        chmod 600 /home/$user/letters/one
    done
    echo public > /home/notice'
call AddResource 'sa{sv}' homes 2 paths as 1 /home browse s strict
at=$(call GetBackup t "$(backup homes)" | field browse_path)
as alice grep 'dear alice' "$at/home/alice/letters/one"
as bob grep 'dear bob' "$at/home/bob/letters/one"
as alice cat "$at/home/notice"
if as alice cat "$at/home/bob/letters/one"; then fail "alice reads bob's letters"; fi
if as alice ls "$at/home/bob"; then fail "alice looks into bob's home"; fi
in_machine cat "$at/home/bob/letters/one"
# Written to by nobody.
if in_machine touch "$at/home/notice"; then fail "the mount was written to"; fi

root_only=$(call GetBackup t "$(backup web)" | field browse_path)
in_machine ls "$root_only/srv/web" > /dev/null
if as alice ls "$root_only"; then fail "alice sees into a resource of root's"; fi
if as alice ls "$browse/resources/default/web"; then fail "alice sees a resource of root's"; fi
