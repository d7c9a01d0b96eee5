#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# In a machine that systemd runs: start and stop each tool as a unit, and say for each whether it did its work, as
# `ok NAME` or `not ok NAME: why`; and `done` at its end.
trap 'echo done; systemctl poweroff --force --force' EXIT

# What the unit printed, as far as the journal has it.
said() {
	journalctl --sync
	journalctl --quiet --output=cat _SYSTEMD_UNIT="$1" SYSLOG_IDENTIFIER=kscope
}

# until_said UNIT TEXT: whether it says that before it ends; a machine without KVM is slow.
until_said() {
	n=0
	while [ $n -lt 120 ]; do
		! said "$1" | grep -qF "$2" || return 0
		[ "$(systemctl show --value --property=ActiveState "$1")" = active ] || break
		sleep 1
		n=$((n + 1))
	done
	said "$1" | grep -qF "$2"
}

# try TOOL: nothing, or what is wrong with it.
try() {
	unit=kscope@$1.service
	systemctl start "$unit" || { echo "it does not start"; return; }
	until_said "$unit" '"type":"header"' || { echo "no header"; return; }
	systemctl stop "$unit"
	until_said "$unit" '"type":"footer"' || { echo "no footer"; return; }
	result=$(systemctl show --value --property=Result "$unit")
	status=$(systemctl show --value --property=ExecMainStatus "$unit")
	[ "$result $status" = "success 0" ] || echo "it ended with $result, status $status"
}

for tool in $(kscope list --json | sed -n 's|.*"tool":"\([^"]*\)".*|\1|p'); do
	why=$(try "$tool")
	if [ -z "$why" ]; then
		echo "ok $tool"
	else
		echo "not ok $tool: $why"
		said "kscope@$tool.service" | tail -n 5 | cut -c1-400 | sed 's/^/    /'
	fi
done
exposure=$(systemd-analyze security --no-pager kscope@execsnoop.service | sed -n 's/.*exposure level[^:]*: \([0-9.]*\).*/\1/p')
if [ "$(echo "$exposure" | awk '{ print ($1 != "" && $1 <= 2.0) }')" = 1 ]; then
	echo "ok the unit is exposed to $exposure"
else
	echo "not ok the unit is exposed to $exposure"
fi
