#!/bin/sh
# Makes conntrackd take the role that this firewall has now.
#
#   primary-backup.sh primary    traffic comes here from now on
#   primary-backup.sh backup     another firewall has the traffic
#   primary-backup.sh fault      something here is broken; another one takes over
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
# keeps the next one from starting. Ours writes its process id there and knows by
# itself whether the owner lives.
start() {
	daemon -d && return
	if [ -f "$lock" ] && [ ! -s "$lock" ]; then
		rm -f "$lock"
		daemon -d && return
	fi
	complain "cannot start conntrackd"
}

case ${1:-} in
primary)
	# The old primary's flows go into the kernel. Then the caches are filled anew from
	# the kernel's table, and the backup gets all of it.
	step "commit the flows of the old primary" -c
	step "flush the caches" -f
	step "read the kernel's table" -R
	step "send all flows to the backup" -B
	;;
backup)
	daemon -s >/dev/null 2>&1 || start
	# What the kernel still has from our time as primary goes after a while
	# (PurgeTimeout), so that it does not stand in the way of the next commit.
	step "shorten the life of the kernel's flows" -t
	step "ask the new primary for its flows" -n
	;;
fault)
	step "shorten the life of the kernel's flows" -t
	;;
*)
	echo "usage: $0 primary|backup|fault" >&2
	exit 1
	;;
esac
exit $status
