#!/bin/sh
# Switches conntrackd to this firewall's new role.
#
#   primary-backup.sh primary    this firewall has the traffic from now on
#   primary-backup.sh backup     another firewall has the traffic
#   primary-backup.sh fault      this firewall has failed; another one takes over
#   primary-backup.sh alive FILE status 0 if conntrackd answers and its file for keepalived exists
#
# With a selector of conntrackd -c behind the role, such as --nat-src ADDRESS, only these flows
# move: for gateways of which each has addresses of its own, in a Cluster of more than two nodes.
#
# VRRP daemons call it when the role changes; scripts/keepalived.conf shows how.
# Every step runs, even if the one before failed. A failure is logged to syslog, and
# the exit status is then 1.

bin=${CONNTRACKD_BIN:-conntrackd}
config=${CONNTRACKD_CONFIG:-/etc/conntrackd/conntrackd.conf}
lock=${CONNTRACKD_LOCK:-/var/lock/conntrackd.lock}

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
status=0

complain() {
	status=1
	echo "primary-backup: $1" >&2
	logger -t primary-backup -p daemon.err -- "$1" 2>/dev/null
}

daemon() {
	"$bin" -C "$config" "$@"
}

# step WHAT ARGUMENT...
step() {
	what=$1
	shift
	daemon "$@" || complain "cannot $what (conntrackd $*)"
}

# A conntrackd of conntrack-tools that was killed leaves an empty lock file, which
# keeps the next one from starting. ctbox writes its process id to the file and checks
# by itself whether the owner is alive.
start() {
	daemon -d && return
	if [ -f "$lock" ] && [ ! -s "$lock" ]; then
		rm -f "$lock"
		daemon -d && return
	fi
	complain "cannot start conntrackd"
}

# More than two nodes: the external caches have flows of nodes that live, which no commit
# takes and which would be lost until those nodes have sent everything again. A conntrackd of
# conntrack-tools has no -s peers.
many() {
	nodes=$(daemon -s peers 2>/dev/null | sed -n 's/^	nodes:		*\([0-9]*\) .*/\1/p')
	[ "${nodes:-2}" -gt 2 ]
}

role=${1:-}
case ${2:-} in
--*) role="part of $1" ;;
esac

case $role in
"part of primary")
	shift
	step "take over a part of the flows" -c "$@"
	;;
"part of backup" | "part of fault")
	# The node that takes over announces the flows from now on. The others stay here.
	daemon -s >/dev/null 2>&1 || start
	;;
primary)
	# Commit the old primary's flows to the kernel. Then refill the caches from the
	# kernel's table, and send all of it to the backup.
	step "commit the flows of the old primary" -c
	many || step "flush the caches" -f
	step "read the kernel's table" -R
	step "send all flows to the backup" -B
	;;
backup)
	daemon -s >/dev/null 2>&1 || start
	# Delete the kernel's flows from the time as primary after PurgeTimeout, so that
	# they do not collide with the next commit.
	step "shorten the life of the kernel's flows" -t
	step "ask the new primary for its flows" -n
	;;
fault)
	step "shorten the life of the kernel's flows" -t
	;;
alive)
	[ -e "${2:-/}" ] && daemon -s >/dev/null 2>&1
	exit
	;;
*)
	echo "usage: $0 primary|backup|fault [--SELECTOR VALUE], or alive FILE" >&2
	exit 1
	;;
esac
exit $status
