#!/bin/sh
# usage: scripts/demo-conntrack.sh       (make demo builds the binary first)
#
# Demonstrates conntrack on the real kernel: a client, a NAT firewall and a server,
# each in its own network namespace, with real TCP, UDP, ICMP and SCTP connections
# through the firewall. Every command is echoed with its output, and the demo fails
# if an output is not as expected.
#
# CONNTRACK=/usr/sbin/conntrack runs Debian's program instead of ours.
set -eu
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
conntrack=${CONNTRACK:-$here/../bin/conntrack}

fail() {
	echo "demo: $*" >&2
	exit 1
}

[ "$(id -u)" = 0 ] || fail "needs root, to make network namespaces"
conntrack=$(command -v "$conntrack") || fail "${CONNTRACK:-bin/conntrack} does not exist"
case $conntrack in /*) ;; *) conntrack=$PWD/$conntrack ;; esac

client=ctbox-demo-$$-client
firewall=ctbox-demo-$$-firewall
server=ctbox-demo-$$-server
dir=$(mktemp -d)
pids=
cd "$dir"

clean_up() {
	trap - EXIT INT TERM
	for pid in $pids; do kill "$pid" 2>/dev/null || :; done
	wait
	cd /
	for ns in $client $firewall $server; do ip netns del $ns 2>/dev/null || :; done
	rm -rf "$dir"
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

# on_firewall COMMAND...: echoes the command, runs it and keeps what it printed
# in $dir/out (and shows both). `conntrack` is the program under demonstration.
on_firewall() {
	echo
	echo "firewall# $*"
	if [ "$1" = conntrack ]; then
		shift
		set -- "$conntrack" "$@"
	fi
	status=0
	in_ns $firewall "$@" >"$dir/out" 2>"$dir/err" </dev/null || status=$?
	cat "$dir/out" "$dir/err"
	[ $status = 0 ] || fail "the command ended with status $status"
}

# shows PATTERN: the last output has a line that matches.
shows() {
	grep -Eq -- "$1" "$dir/out" || fail "no line of the output matches: $1"
}

# shows_only N PATTERN: the last output has N lines and each matches.
shows_only() {
	total=$(grep -c '' "$dir/out" || :)
	matching=$(grep -Ec -- "$2" "$dir/out" || :)
	[ "$total" = "$1" ] && [ "$matching" = "$1" ] || fail "expected $1 lines, all matching $2; got $total, of which $matching match"
}

# wait_for WHAT COMMAND...: polls until the command succeeds, ten seconds at most.
wait_for() {
	what=$1
	shift
	tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 200 ] || fail "timed out after ten seconds: $what"
		sleep 0.05
	done
}

# ping_server ADDRESS: from the client
ping_server() {
	echo
	echo "client# ping -q -c 2 -i 0.2 $1"
	in_ns $client ping -q -c 2 -i 0.2 "$1" || fail "no answer to ping"
}

title() {
	echo
	echo "== $*"
}

title "A client (192.0.2.10), a NAT firewall and a server (198.51.100.10)"
for ns in $client $firewall $server; do
	ip netns add $ns
	in_ns $ns sysctl -qw net.ipv6.conf.default.accept_dad=0 # link-local addresses are usable at once
	ip -n $ns link set lo up
done
ip link add lan netns $firewall type veth peer name eth0 netns $client
ip link add wan netns $firewall type veth peer name eth0 netns $server
# link NAMESPACE DEVICE IPV4 IPV6
link() {
	ip -n "$1" addr add "$3" dev "$2"
	ip -n "$1" addr add "$4" dev "$2" nodad
	ip -n "$1" link set "$2" up
}
link $client eth0 192.0.2.10/24 2001:db8:1::10/64
link $firewall lan 192.0.2.1/24 2001:db8:1::1/64
link $firewall wan 198.51.100.1/24 2001:db8:2::1/64
link $server eth0 198.51.100.10/24 2001:db8:2::10/64
ip -n $client route add default via 192.0.2.1
ip -n $client route add default via 2001:db8:1::1
ip -n $server route add default via 2001:db8:2::1
in_ns $firewall sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
	net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_timestamp=1 \
	net.netfilter.nf_conntrack_tcp_loose=0 # no tracking of a connection whose start was not seen
in_ns $firewall nft -f - <<'RULES'
table ip nat {
	chain postrouting {
		type nat hook postrouting priority 100
		oifname "wan" masquerade
	}
	chain prerouting {
		type nat hook prerouting priority -100
		iifname "wan" tcp dport 8080 dnat to 192.0.2.10:80
	}
}
table inet filter {
	chain forward {
		type filter hook forward priority 0
		ct state invalid drop
	}
}
RULES
on_firewall nft list ruleset

title "Real connections through it"
# traffic NAME NAMESPACE ROLE ADDRESS: in the background, fed by a fifo, until clean_up
traffic() {
	mkfifo "$dir/$1.in"
	nsenter --net="/run/netns/$2" -- python3 "$here/traffic.py" "$3" "$4" 3>&- 4>&- 5>&- <"$dir/$1.in" >"$dir/$1.out" &
	pids="$pids $!"
}
traffic server $server server 198.51.100.10
exec 3>"$dir/server.in"
wait_for "the server answers" grep -q ready "$dir/server.out"
traffic client $client client 198.51.100.10
exec 4>"$dir/client.in"
wait_for "the client has its answers" grep -q ready "$dir/client.out"
# The same on the client, for the port that the firewall forwards to it.
traffic inside $client server 192.0.2.10
exec 5>"$dir/inside.in"
wait_for "the client's server answers" grep -q ready "$dir/inside.out"
in_ns $server python3 -c '
import socket
s = socket.create_connection(("198.51.100.1", 8080), 10)
s.sendall(b"hello")
assert s.recv(5) == b"hello"
' || fail "no answer through the forwarded port"
ping_server 198.51.100.10
ping_server 2001:db8:2::10

title "List"
on_firewall conntrack -L
shows '^tcp +6 [0-9]+ ESTABLISHED src=192.0.2.10 dst=198.51.100.10 .* dport=80 .*src=198.51.100.10 dst=198.51.100.1 .*\[ASSURED\]'
shows '^tcp .* dst=198.51.100.1 .* dport=8080 .*src=192.0.2.10 .* sport=80 '
shows '^udp +17 .* dport=53 .*dst=198.51.100.1 '
shows '^icmp +1 .* type=8 code=0 id='
shows '^sctp +132 [0-9]+ ESTABLISHED .* dport=5000 '
on_firewall conntrack -L -f ipv6
shows '^icmpv6 .* src=2001:db8:1::10 dst=2001:db8:2::10 .*type=128'

title "Filter"
on_firewall conntrack -L -p tcp --dport 80
shows_only 1 'dport=80 .*ESTABLISHED|ESTABLISHED .*dport=80 '
on_firewall conntrack -L --dst-nat -p tcp -o extended
shows_only 1 '^ipv4 .* dport=8080 '
on_firewall conntrack -L --src-nat -p udp -o ktimestamp,id
shows_only 1 '^udp .* id=[0-9]+'
on_firewall conntrack -C
shows '^[0-9]+$'
if [ -z "${CONNTRACK:-}" ]; then
	on_firewall conntrack -L -p sctp -o json
	shows_only 1 '^\{.*\}$'
fi

title "Watch events while the client pings again"
echo
echo "firewall# conntrack -E -p icmp &"
nsenter --net=/run/netns/$firewall -- "$conntrack" -E -p icmp >"$dir/events" 2>"$dir/err" &
watcher=$!
pids="$pids $watcher"
# a line of the kernel's table of netlink sockets: sk, protocol 12, pid, groups not zero
wait_for "the event listener listens" in_ns $firewall \
	awk '$2 == 12 && $4 !~ /^0+$/ { found = 1 } END { exit !found }' /proc/self/net/netlink
ping_server 198.51.100.10
wait_for "the reply's event" grep -q UPDATE "$dir/events"
kill -TERM $watcher
status=0
wait $watcher || status=$?
cp "$dir/events" "$dir/out"
cat "$dir/events" "$dir/err"
[ $status = 0 ] || fail "the event listener ended with status $status"
shows '\[NEW\] icmp .* src=192.0.2.10 dst=198.51.100.10 .*\[UNREPLIED\]'
shows '\[UPDATE\] icmp .* src=192.0.2.10 dst=198.51.100.10 '

title "Update: mark the web connection"
on_firewall conntrack -U -f ipv4 -p tcp --dport 80 --mark 42
on_firewall conntrack -L --mark 42
shows_only 1 '^tcp .* dport=80 .* mark=42'

title "Delete: forget the DNS exchange"
on_firewall conntrack -D -p udp --dport 53
shows_only 1 '^udp .* dport=53 '
on_firewall conntrack -L -p udp
shows_only 0 udp

title "Save, flush and load: the live connection must survive"
on_firewall conntrack -L -p tcp --dport 80 -o save
shows_only 1 '^-A .*-p tcp '
cp "$dir/out" "$dir/saved"
on_firewall conntrack -F
on_firewall conntrack -L
shows_only 0 .
on_firewall conntrack -R saved
on_firewall conntrack -L
shows '^tcp .* ESTABLISHED src=192.0.2.10 dst=198.51.100.10 .* dport=80 .*\[ASSURED\]'
echo
echo "client# echo 'still there?' (on the connection from before the flush)"
echo 'still there?' >&4
wait_for "an answer on the restored connection" grep -q 'still there?' "$dir/client.out"
grep 'still there?' "$dir/client.out"

if [ -z "${CONNTRACK:-}" ]; then
	title "The same with JSON, which keeps the mark too"
	on_firewall conntrack -U -p tcp --dport 80 --mark 42
	on_firewall conntrack -L -p tcp --dport 80 -o json
	shows_only 1 '^\{.*"mark":42[,}]'
	cp "$dir/out" "$dir/saved.json"
	on_firewall conntrack -F
	on_firewall conntrack -R saved.json
	on_firewall conntrack -L
	shows '^tcp .* ESTABLISHED src=192.0.2.10 dst=198.51.100.10 .* dport=80 .* mark=42'
fi

echo
echo "demo: all outputs were as expected"
