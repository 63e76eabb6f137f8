# Back up, browse, copy a file back, restore: by busctl and cp.
in_machine sh -c 'mkdir -p /srv/web/deep && cp -a /usr/share/polkit-1 /srv/web/ && head -c 5000000 /dev/urandom > /srv/web/deep/image && ln /srv/web/deep/image /srv/web/link && setcap cap_net_raw+ep /srv/web/deep/image 2> /dev/null || true'
call AddResource 'sa{sv}' web 1 paths as 1 /srv/web
id=$(backup web)
at=$(call GetBackup t "$id" | field browse_path)
in_machine diff -r --no-dereference /srv/web "$at/srv/web"
in_machine cp "$browse/resources/default/web/latest/srv/web/deep/image" /root/image
in_machine cmp /root/image /srv/web/deep/image
job=$(call RestoreBackup 'ta{sv}' "$id" 1 target s /root/restored | job_of)
job_completed "$job"
in_machine diff -r --no-dereference /srv/web /root/restored/srv/web
# In place: what was lost is there again.
in_machine rm -r /srv/web/deep
job=$(call RestoreBackup 'ta{sv}' "$id" 1 confirm b true | job_of)
job_completed "$job"
in_machine cmp /root/image /srv/web/deep/image
# The journal knows each of them by its fields.
journal() { in_machine journalctl --no-pager --output=json "$@"; }
journal MESSAGE_ID=4b87592c605b49cba47f9dfe77920f5b STRONGROOM_JOB="$job" | grep '"STRONGROOM_KIND":"restore"'
journal MESSAGE_ID=2a1f21f28cba4a718ce98ee27623eb41 STRONGROOM_JOB="$job" | grep '"STRONGROOM_RESULT":"completed"'
journal MESSAGE_ID=d58afac2a4dd4ab6af2c22dfb3ee9bc4 STRONGROOM_BACKUP="$id" | grep '"STRONGROOM_RESOURCE":"web"'
