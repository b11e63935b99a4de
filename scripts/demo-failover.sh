#!/bin/sh
# usage: scripts/demo-failover.sh [PRIMARY-BACKUP...]     (make demo builds the binary first)
#
# Demonstrates a failover with conntrackd on the real kernel: two firewalls with NAT
# and rules that drop packets of unknown flows, keepalived on both, a client on one
# side and a server on the other, each in its own network namespace. A TCP stream and
# two FTP sessions run through the primary. The primary is killed, the backup takes
# over, and the connections continue without losing a byte. Where both run our conntrackd the
# link is sealed with a key, and digests prove that fw2 has what fw1 has, before the takeover and
# after it; and the primary then returns, empty: it takes over again when it has all flows, and
# not before.
#
# The nodes use the example files in this folder, with only paths and the node's own
# addresses and number changed: conntrackd/ftfw-cluster.conf (ftfw.conf where one of them is
# Debian's), keepalived.conf and primary-backup.sh. Ours has the clause Ready; with Debian's the
# keepalived of both tracks no file and preempts nothing.
#
# Each PRIMARY-BACKUP selects the conntrackd of the two nodes: ours or debian. The
# default is ours-ours debian-ours ours-debian.
#
# WITHOUT=commit shows the purpose of the commit: the backup takes over without it,
# and the demo fails.
set -eu
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
conntrack=$here/../bin/conntrack
[ $# -gt 0 ] || set -- ours-ours debian-ours ours-debian

dir=
fail() {
	echo "demo: $*" >&2
	[ -z "$dir" ] || show_logs >&2
	exit 1
}

show_logs() {
	for node in $fw1 $fw2; do
		[ -e "/run/netns/$node" ] || continue
		echo "--- ${node##*-}: the kernel's table, its counters, the rules"
		in_ns "$node" "$conntrack" -L || :
		in_ns "$node" "$conntrack" -S || :
		in_ns "$node" nft list ruleset || :
	done
	for log in "$dir"/*/*.log "$dir"/*.err; do
		[ -s "$log" ] || continue
		echo "--- ${log#"$dir"/}"
		tail -n 40 "$log"
	done
}

[ "$(id -u)" = 0 ] || fail "needs root, to make network namespaces"

client=ctbox-demo-$$-client
server=ctbox-demo-$$-server
cables=ctbox-demo-$$-cables
fw1=ctbox-demo-$$-fw1
fw2=ctbox-demo-$$-fw2
pids=
dir=$(mktemp -d)

tear_down() {
	exec 3>&- 4>&- 5>&-
	for node in fw1 fw2; do
		for file in "$dir/$node/keepalived.pid" "$dir/$node/vrrp.pid" "$dir/$node/conntrackd.pid"; do
			[ ! -s "$file" ] || kill -KILL "$(cat "$file")" 2>/dev/null || :
		done
	done
	for pid in $pids; do kill -KILL "$pid" 2>/dev/null || :; done
	for pid in $pids; do wait "$pid" 2>/dev/null || :; done
	pids=
	for ns in $client $server $cables $fw1 $fw2; do
		# The script of keepalived starts a daemon where none runs.
		for pid in $(ip netns pids $ns 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || :; done
		ip netns del $ns 2>/dev/null || :
	done
	rm -rf "$dir"
}
clean_up() {
	trap - EXIT INT TERM
	tear_down
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# in_ns NAMESPACE COMMAND...
# (Don't start background processes with this function: $! would be the pid of the
# shell around them.)
in_ns() {
	ns=$1
	shift
	nsenter --net="/run/netns/$ns" -- "$@"
}

# wait_for WHAT COMMAND...: polls until the command succeeds, 40 seconds at most.
wait_for() {
	what=$1
	shift
	deadline=$(($(date +%s) + 40))
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt $deadline ] || fail "timed out after 40 seconds: $what"
		sleep 0.1
	done
}

title() {
	echo
	echo "== $*"
}

# say TEXT: a step, with the seconds since this round began
say() {
	printf '%3d s  %s\n' $(($(date +%s) - began)) "$*"
}

# cable NAMESPACE DEVICE BRIDGE: the device, plugged into a switch
cable() {
	port=$3-${1##*-}
	ip link add "$port" netns $cables type veth peer name "$2" netns "$1"
	ip -n $cables link set "$port" master "$3" up
	ip -n "$1" link set "$2" up
}

make_network() {
	for ns in $client $server $cables $fw1 $fw2; do
		ip netns add $ns
		ip -n $ns link set lo up
	done
	for bridge in lan wan; do
		ip -n $cables link add $bridge type bridge
		ip -n $cables link set $bridge up
	done
	ip link add eth0 netns $fw1 type veth peer name eth0 netns $fw2
	cable $client eth0 lan
	cable $server eth0 wan
	cable $fw1 eth1 lan
	cable $fw2 eth1 lan
	cable $fw1 eth2 wan
	cable $fw2 eth2 wan

	ip -n $client addr add 192.0.2.10/24 dev eth0
	ip -n $client route add default via 192.0.2.1
	ip -n $server addr add 198.51.100.10/24 dev eth0
	for number in 1 2; do
		node=ctbox-demo-$$-fw$number
		ip -n $node addr add 203.0.113.$number/24 dev eth0
		ip -n $node addr add 192.0.2.1$number/24 dev eth1
		ip -n $node addr add 198.51.100.1$number/24 dev eth2
		ip -n $node link set eth0 up
		in_ns $node sysctl -qw net.ipv4.ip_forward=1 \
			net.netfilter.nf_conntrack_tcp_loose=0 # a flow whose start was not seen is INVALID
		in_ns $node nft -f "$dir/rules"
	done
}

cat_rules() {
	cat <<'RULES'
table ip firewall {
	ct helper ftp {
		type "ftp" protocol tcp
	}
	chain forward {
		type filter hook forward priority 0; policy drop
		ct state established,related accept
		ct state invalid counter comment "dropped"
		iifname "eth1" oifname "eth2" tcp dport 21 ct state new ct helper set "ftp" accept
		iifname "eth1" oifname "eth2" tcp dport 7 ct state new accept
	}
	chain input {
		type filter hook input priority 0; policy drop
		iifname "lo" accept
		iifname { "eth0", "eth1" } udp dport 3780 accept comment "conntrackd"
		iifname { "eth1", "eth2" } ip protocol vrrp accept
		icmp type echo-request accept
	}
	chain postrouting {
		type nat hook postrouting priority 100
		ip saddr 192.0.2.0/24 oifname "eth2" meta l4proto tcp snat to 198.51.100.1
	}
}
RULES
}

# program NODE WHOSE: finds the node's conntrackd
program() {
	case $2 in
	ours) echo "$here/../bin/conntrackd" ;;
	debian) echo /usr/sbin/conntrackd ;;
	*) fail "unknown conntrackd '$2': expected ours or debian" ;;
	esac
}

# configure NODE NUMBER PEER-NUMBER PRIORITY WHOSE: adapts the example files and writes
# them to the node's own folder
configure() {
	home=$dir/$1
	mkdir -p "$home/run"
	example=ftfw ready= keepalived=
	if [ "$round" = ours-ours ]; then
		example=ftfw-cluster ready="s|# Ready {|Ready {|"
		# All nodes have the same key, and only root can read it.
		[ "$1" = fw1 ] || (umask 077 && cp "$dir/fw1/cluster.key1" "$home/cluster.key1")
		[ "$1" != fw1 ] || (umask 077 && "$here/../bin/conntrackd" --genkey >"$home/cluster.key1")
	else
		keepalived='/^track_file/,/^}/d; /^	track_file/,/^	}/d; s| /run/ctbox/ready||; s|^	state BACKUP|&\n	nopreempt|'
	fi
	sed -e "$ready" -e "s|/run/ctbox|$home/run|" \
		-e "s/ss 203\.0\.113\.1\>/ss 203.0.113.@$2/; s/ss 203\.0\.113\.2\>/ss 203.0.113.@$3/" \
		-e "s/ss 192\.0\.2\.11\>/ss 192.0.2.1@$2/; s/ss 192\.0\.2\.12\>/ss 192.0.2.1@$3/" \
		-e "s/Node 1 fw1/Node $2 $1/; s/Peer 2 fw2/Peer $3 fw$3/; s|/etc/conntrackd/|$home/|" \
		-e "s/@//" \
		-e "s|LogFile on.*|LogFile $home/conntrackd.log|" \
		-e "s|/var/lock|$home|; s|/var/run|$home|" \
		"$here/conntrackd/$example.conf" >"$home/conntrackd.conf"
	sed -e "$keepalived" -e "s/priority 100 .*/priority $4/" \
		-e "s|/etc/conntrackd/|$home/|; s|/run/ctbox|$home/run|" \
		"$here/keepalived.conf" >"$home/keepalived.conf"
	# logs keepalived's notification, then runs the user's script
	cat >"$home/primary-backup.sh" <<SCRIPT
#!/bin/sh
export CONNTRACKD_BIN="$(program "$1" "$5")"
export CONNTRACKD_CONFIG="$home/conntrackd.conf"
export CONNTRACKD_LOCK="$home/conntrackd.lock"
[ "\$1" != alive ] || exec sh "$here/primary-backup.sh" "\$@"
[ "\$1 ${WITHOUT:-}" = "primary commit" ] || sh "$here/primary-backup.sh" "\$1" >>"$home/notify.log" 2>&1
echo "\$1 status \$?" >>"$home/roles.log"
SCRIPT
	chmod 755 "$home/primary-backup.sh"
}

# start_conntrackd NAMESPACE NODE WHOSE
start_conntrackd() {
	home=$dir/$2
	nsenter --net="/run/netns/$1" -- "$(program "$2" "$3")" -C "$home/conntrackd.conf" >"$home/daemon.log" 2>&1 3>&- 4>&- 5>&- &
	pids="$pids $!"
	echo $! >"$home/conntrackd.pid"
}

start_keepalived() {
	home=$dir/$2
	nsenter --net="/run/netns/$1" -- keepalived --dont-fork --log-console --log-detail --vrrp \
		--use-file "$home/keepalived.conf" --pid "$home/keepalived.pid" --vrrp_pid "$home/vrrp.pid" \
		>"$home/keepalived.log" 2>&1 3>&- 4>&- 5>&- &
	pids="$pids $!"
}

# control NODE ARGUMENT...: its conntrackd's own client
control() {
	node=$1
	shift
	in_ns "ctbox-demo-$$-$node" "$(program "$node" "$(cat "$dir/$node/whose")")" -C "$dir/$node/conntrackd.conf" "$@"
}

# role NODE ROLE: succeeds if ROLE is the node's last role and its script has finished.
role() {
	[ "$(tail -n 1 "$dir/$1/roles.log")" = "$2 status 0" ]
}

# traffic NAME NAMESPACE: in the background, fed by a fifo
traffic() {
	mkfifo "$dir/$1.in"
	nsenter --net="/run/netns/$2" -- python3 "$here/demo-failover.py" "$1" 198.51.100.10 3>&- 4>&- 5>&- \
		<"$dir/$1.in" >"$dir/$1.out" 2>"$dir/$1.err" &
	pids="$pids $!"
}

# answered NAME PATTERN: succeeds if the output has that line; fails on any error.
answered() {
	if grep '^wrong' "$dir/$1.out" >&2 || [ -s "$dir/$1.err" ]; then
		fail "the $1 traffic failed"
	fi
	[ "$(grep -c "^$2" "$dir/$1.out")" -ge "$3" ]
}

# ask NAME COMMAND: sends the command to the client and shows its answer
ask() {
	before=$(grep -c "^$2" "$dir/$1.out" || :)
	case $1 in
	stream) echo "$2" >&4 ;;
	ftp) echo "$2" >&5 ;;
	esac
	deadline=$(($(date +%s) + 60))
	until answered "$1" "$2" $((before + 1)); do
		[ "$(date +%s)" -lt $deadline ] || fail "$1: no answer to $2"
		sleep 0.05
	done
	say "client, $1: $(grep "^$2" "$dir/$1.out" | tail -n 1)"
}

# flows: prints the live flows from standard input, one per line, without the fields
# that change every second (timeout, use count) and those that only a cache has
flows() {
	grep -E '^(ipv4 +2 )?tcp .*ESTABLISHED' |
		sed -E 's/^(ipv4 +2 )?tcp +6 +([0-9]+ +)?//; s/ \[active since [^]]*\]//; s/ use=[0-9]+//; s/ mark=0//; s/ secctx=[^ ]*//; s/ +/ /g; s/ $//' | sort
}

kernel_flows() { in_ns "$1" "$conntrack" -L -p tcp 2>/dev/null | flows; }
kernel_expectations() {
	in_ns "$1" "$conntrack" -L expect 2>/dev/null | grep 'proto=6' | sed -E 's/^[0-9]+ //; s/ use=[0-9]+//' | sort
}
kernel_table() {
	kernel_flows "$1"
	kernel_expectations "$1"
}

# replicated: succeeds if fw2's external cache has all flows of fw1's kernel (with version 1 of
# the protocol the cache shows the original tuple only)
replicated() {
	kernel_flows $fw1 >"$dir/before.flows"
	reply='s/( dport=[0-9]+) src=.* dport=[0-9]+/\1/'
	[ "$round" != ours-ours ] || reply=
	sed -E "$reply" "$dir/before.flows" >"$dir/original.flows"
	control fw2 -e | flows >"$dir/cache.flows"
	[ -s "$dir/before.flows" ] && cmp -s "$dir/original.flows" "$dir/cache.flows" || return 1
	kernel_expectations $fw1 >"$dir/before.expectations"
	[ "$(control fw2 -e expect | grep -c 'proto=6')" = "$(grep -c '' "$dir/before.expectations")" ]
}

committed() {
	kernel_table $fw2 >"$dir/after"
	cmp -s "$dir/before" "$dir/after"
}

# proof NODE: what its conntrackd knows of the copy that it has of the peer's tables
proof() {
	control "$1" -s peers |
		sed -n '/^$/q; s/^[[:space:]]*\(protocol version\|node\|proven equal\|differences\):[[:space:]]*/       \1: /p'
}

proven() { control "$1" -s peers | grep -q 'proven equal:.*yes'; }

# tracked NODE VALUE: succeeds if that is in the file that the node's keepalived tracks.
tracked() { [ "$(cat "$dir/$1/run/ready")" = "$2" ]; }

# come_back: fw1 starts again with an empty kernel
come_back() {
	title "fw1 starts again, and has nothing"
	in_ns $fw1 "$conntrack" -F 2>/dev/null
	rm -f "$dir/fw1/run/ready"
	for device in eth1 eth2; do
		in_ns $fw1 ip addr flush dev $device
		ip -n $fw1 link set $device up
	done
	ip -n $fw1 addr add 192.0.2.11/24 dev eth1
	ip -n $fw1 addr add 198.51.100.11/24 dev eth2
	: >"$dir/fw1/roles.log"
	start_keepalived $fw1 fw1
	wait_for "fw1 must not take over" tracked fw1 -60
	say "fw1's keepalived has priority 40: 100, and $(cat "$dir/fw1/run/ready") from the file; fw2 stays the primary with 90"
	start_conntrackd $fw1 fw1 ours
	wait_for "fw1's conntrackd answers" control fw1 -s
	say "fw1: $(control fw1 --ready 2>&1 | sed 's/.*\] //' | grep . || echo in sync)"
	ask stream more
	role fw2 primary || fail "fw2 is not the primary any more"
	ip -n $fw1 link set eth0 up
	wait_for "fw1 is in sync" control fw1 --ready
	wait_for "fw1 may take over" tracked fw1 0
	wait_for "fw1's copy is proven equal" proven fw1
	say "fw1 has $(control fw1 -s peers | sed -n 's/.*flows held:[[:space:]]*//p') flows of fw2, proven equal, and may take over"
	proof fw1
	wait_for "fw1 is the primary again" role fw1 primary
	wait_for "fw2 is the backup" role fw2 backup
	say "fw1 is the primary again; the connections go on"
	ask stream more
	ask stream more
	wait_for "fw2's copy is proven equal" proven fw2
	say "fw2 is proven equal again:"
	proof fw2
	for node in fw1 fw2; do
		proof $node | grep -q 'differences: 0,' || fail "$node's copy has differed"
	done
}

# failover PRIMARY BACKUP
failover() {
	began=$(date +%s)
	round=$1-$2
	title "conntrackd: $1 on the primary (fw1), $2 on the backup (fw2)"
	cat_rules >"$dir/rules"
	make_network
	configure fw1 1 2 100 "$1"
	configure fw2 2 1 90 "$2"
	echo "$1" >"$dir/fw1/whose"
	echo "$2" >"$dir/fw2/whose"
	start_conntrackd $fw1 fw1 "$1"
	start_conntrackd $fw2 fw2 "$2"
	wait_for "both conntrackd answer" eval 'control fw1 -s && control fw2 -s'
	start_keepalived $fw1 fw1
	wait_for "fw1 is the primary" role fw1 primary
	start_keepalived $fw2 fw2
	wait_for "fw2 is the backup" role fw2 backup
	say "fw1 is the primary with 192.0.2.1 and 198.51.100.1, fw2 is the backup"

	traffic server $server
	exec 3>"$dir/server.in"
	wait_for "the server is ready" answered server ready 1
	traffic stream $client
	exec 4>"$dir/stream.in"
	traffic ftp $client
	exec 5>"$dir/ftp.in"
	wait_for "the stream is ready" answered stream ready 1
	wait_for "the FTP client is ready" answered ftp ready 1
	ask stream more
	ask ftp login
	ask ftp announce
	ask ftp upload

	until replicated; do
		[ "$(date +%s)" -lt $((began + 60)) ] || {
			diff -u "$dir/original.flows" "$dir/cache.flows" || :
			control fw2 -e expect
			fail "fw2's external cache lacks flows of fw1's kernel"
		}
		sleep 0.1
	done
	say "fw2's conntrackd has all flows of fw1's kernel"
	if [ "$round" = ours-ours ]; then
		wait_for "fw2's copy is proven equal" proven fw2
		say "fw2: conntrackd -s peers"
		proof fw2
	fi
	cat "$dir/before.flows" "$dir/before.expectations" >"$dir/before"
	title "fw1's table: live flows and what FTP expects"
	cat "$dir/before"

	title "fw1 dies: kill -9 of conntrackd and keepalived, all its links down"
	killed=$(date +%s.%N)
	# Stop the parent first, so that it does not notice the death and send a farewell.
	kill -STOP "$(cat "$dir/fw1/keepalived.pid")"
	kill -KILL "$(cat "$dir/fw1/vrrp.pid")" "$(cat "$dir/fw1/keepalived.pid")" "$(cat "$dir/fw1/conntrackd.pid")"
	for device in eth0 eth1 eth2; do ip -n $fw1 link set $device down; done
	wait_for "fw2 is the primary" role fw2 primary
	say "fw2 is the primary, $(echo "$(date +%s.%N) $killed" | awk '{ printf "%.1f", $1 - $2 }') s later"
	deadline=$(($(date +%s) + 10)) # the C daemon's client does not wait for the end of a commit
	until committed || [ -n "${WITHOUT:-}" ] || [ "$(date +%s)" -ge $deadline ]; do sleep 0.1; done
	[ -n "${WITHOUT:-}" ] || cmp -s "$dir/before" "$dir/after" || {
		diff -u "$dir/before" "$dir/after" || :
		fail "the tables differ"
	}
	title "fw2's table, $(grep -c '' "$dir/after") of $(grep -c '' "$dir/before") lines"
	cat "$dir/after"
	title "The connections go on through fw2"
	ask stream more
	ask ftp fetch
	ask ftp finish
	ask ftp again
	ask stream more
	[ "$round" != ours-ours ] || come_back
	ask stream end
	result="$result
    $1 to $2: $(grep '^end' "$dir/stream.out" | sed 's/^end: //')"
	tear_down
	dir=$(mktemp -d)
}

result=
for pair in "$@"; do
	failover "${pair%-*}" "${pair#*-}"
done
title "The stream survived each time"
echo "${result#?}"
echo
echo "demo: all rounds succeeded"
