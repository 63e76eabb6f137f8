# Stopped, it is started by the first call over the bus; the mount was there all the time.
in_machine systemctl stop strongroomd
in_machine ls "$browse/resources"
[[ $(property strongroomd ActiveState) == inactive ]]
call ListBackups 'a{sv}' 0 | grep '"data":\[0,\[\]\]'
[[ $(property strongroomd ActiveState) == active ]]
