# A reload waits and says what is wrong; a start with a bad configuration is not tried again.
etc=$work/root/etc/strongroom
printf '[jobs]\nwork = 0\n' > "$etc/conf.d/50-test.toml"
if in_machine systemctl reload strongroomd; then fail "a bad configuration was taken"; fi
in_machine journalctl --no-pager -u strongroomd -n 20 | grep 'conf.d/50-test.toml, line 2: key "work"'
in_machine systemctl is-active strongroomd
in_machine systemctl stop strongroomd
if in_machine systemctl start strongroomd; then fail "it starts on a bad configuration"; fi
[[ $(property strongroomd ExecMainStatus) == 78 ]]
[[ $(property strongroomd ActiveState) == failed ]]
printf '[jobs]\nwork = 2\n' > "$etc/conf.d/50-test.toml"
in_machine systemctl start strongroomd
in_machine systemctl reload strongroomd
rm "$etc/conf.d/50-test.toml"
in_machine systemctl reload strongroomd
