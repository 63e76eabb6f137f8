# How exposed the units are, in systemd's own figures; docs/units.md says why it cannot be less.
for unit in strongroomd:5.7 strongroom-browse:4.4; do
    in_machine systemd-analyze security --no-pager "${unit%:*}.service" > "$work/security"
    cat "$work/security"
    exposure=$(sed -n 's/.*Overall exposure level for .*: \([0-9.]*\) .*/\1/p' "$work/security")
    awk -v is="$exposure" -v most="${unit#*:}" 'BEGIN { exit !(is != "" && is <= most) }' || fail "$unit: $exposure"
done
