#!/bin/bash
# usage: scripts/pictures/record.sh top|demo|dashboard|soak LOG
#
# Records the data that the generator in this directory draws: data/top.ansi from conntrack
# --top in a terminal of tmux, data/demo.cast from the failover demo, data/dashboard.json from
# Prometheus watching a pair of daemons, data/soak.csv from the output of `make soak`. All but
# the last need root and bin/ (run make), and create network namespaces. Then run `make
# pictures`.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..

ns=ctbox-picture-$$
pids=
tear_down() {
	tmux -L "$ns" kill-server 2>/dev/null || :
	for pid in $pids; do kill "$pid" 2>/dev/null || :; done
	for n in client fw fw2 server; do ip netns del "$ns-$n" 2>/dev/null || :; done
	[ -z "${dir-}" ] || rm -rf "$dir"
}

# traffic starts ten clients that together open RATE new UDP flows per second, in different
# shares, through a NAT firewall to a server that answers.
traffic() {
	trap tear_down EXIT
	for n in client fw fw2 server; do ip netns add "$ns-$n"; ip -n "$ns-$n" link set lo up; done
	ip link add lan netns "$ns-fw" type veth peer name eth0 netns "$ns-client"
	ip link add wan netns "$ns-fw" type veth peer name eth0 netns "$ns-server"
	for i in 10 11 12 13 14 15 16 17 18 19; do ip -n "$ns-client" addr add 192.0.2.$i/24 dev eth0; done
	ip -n "$ns-server" addr add 198.51.100.10/24 dev eth0
	ip -n "$ns-fw" addr add 192.0.2.1/24 dev lan
	ip -n "$ns-fw" addr add 198.51.100.1/24 dev wan
	ip -n "$ns-client" link set eth0 up
	ip -n "$ns-server" link set eth0 up
	ip -n "$ns-fw" link set lan up
	ip -n "$ns-fw" link set wan up
	ip -n "$ns-client" route add default via 192.0.2.1
	ip netns exec "$ns-fw" sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_udp_timeout=10
	ip netns exec "$ns-fw" nft -f - <<-'END'
		table ip nat { chain post { type nat hook postrouting priority srcnat; oifname "wan" masquerade
		}; }
	END
	ip netns exec "$ns-server" python3 - <<-'END' &
		import socket
		s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		s.bind(("198.51.100.10", 53))
		while True:
		    data, peer = s.recvfrom(2048)
		    s.sendto(data * 3, peer)
	END
	pids="$pids $!"
	ip netns exec "$ns-client" python3 - <<-END &
		import random, socket, time
		shares = [40, 20, 12, 8, 6, 5, 4, 3, 1, 1]
		while True:
		    begin = time.monotonic()
		    for i in random.choices(range(10), shares, k=$1 // 10):
		        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		        s.bind((f"192.0.2.{10 + i}", 0))
		        for _ in range(1 + i % 3):
		            s.sendto(bytes(40 + 90 * (i % 4)), ("198.51.100.10", 53))
		        s.close()
		    time.sleep(max(0, begin + 0.1 - time.monotonic()))
	END
	pids="$pids $!"
}

# top records a screen of conntrack --top after some refreshes.
record_top() {
	command -v tmux >/dev/null || { echo "record.sh: tmux is missing" >&2; exit 1; }
	traffic 3000
	tmux -L "$ns" -f /dev/null new-session -d -x 92 -y 17 "ip netns exec $ns-fw $root/bin/conntrack --top"
	sleep 15
	local screen
	screen=$(tmux -L "$ns" capture-pane -e -p)
	grep -q 192.0.2.10 <<<"$screen" || { echo "record.sh: no flows on the screen" >&2; exit 1; }
	printf '%s\n' "$screen" >"$here/data/top.ansi"
}

# demo records each line of the failover demo with its time, in asciicast version 2, the format
# of asciinema.
record_demo() {
	"$root/scripts/demo-failover.sh" ours-ours | python3 -c '
import json, sys, time
print(json.dumps({"version": 2, "width": 96, "height": 30}))
begin = time.monotonic()
for line in sys.stdin:
    print(json.dumps([round(time.monotonic() - begin, 1), "o", line]), flush=True)
' >"$here/data/demo.new"
	mv "$here/data/demo.new" "$here/data/demo.cast"
}

# dashboard lets Prometheus watch a pair of daemons for three minutes, in the middle of which the
# link between them fails for ten seconds, and queries the data of the panels.
record_dashboard() {
	command -v prometheus >/dev/null || { echo "record.sh: prometheus is missing" >&2; exit 1; }
	dir=$(mktemp -d)
	traffic 800
	ip link add sync netns "$ns-fw" type veth peer name sync netns "$ns-fw2"
	local n other
	for n in 1 2; do
		other=$((3 - n))
		if [ $n = 1 ]; then node=$ns-fw; else node=$ns-fw2; fi
		ip -n "$node" addr add 203.0.113.$n/30 dev sync
		ip -n "$node" link set sync up
		cat >"$dir/$n.conf" <<-END
			General {
				LockFile $dir/$n.lock
				UNIX { Path $dir/$n.ctl }
				NetlinkBufferSize 2097152
				NetlinkBufferSizeMaxGrowth 33554432
				Metrics { Listen 203.0.113.$n:9107 }
				Filter { Address Ignore { IPv4_address 203.0.113.0/30 } }
			}
			Sync {
				Mode FTFW { }
				UDP { IPv4_address 203.0.113.$n IPv4_Destination_Address 203.0.113.$other Port 3780 Interface sync }
			}
		END
		ip netns exec "$node" "$root/bin/conntrackd" -C "$dir/$n.conf" >"$dir/$n.log" 2>&1 &
		pids="$pids $!"
	done
	cat >"$dir/prometheus.yml" <<-END
		global: {scrape_interval: 2s, scrape_timeout: 1s}
		scrape_configs:
		  - job_name: conntrackd
		    static_configs:
		      - {targets: ["203.0.113.1:9107"], labels: {instance: fw1}}
		      - {targets: ["203.0.113.2:9107"], labels: {instance: fw2}}
	END
	ip netns exec "$ns-fw" prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/data" \
		--web.listen-address=127.0.0.1:9090 >"$dir/prometheus.log" 2>&1 &
	pids="$pids $!"
	sleep 100
	ip -n "$ns-fw2" link set sync down
	sleep 10
	ip -n "$ns-fw2" link set sync up
	sleep 40
	ip netns exec "$ns-fw2" "$root/bin/conntrackd" -C "$dir/2.conf" -c || :
	sleep 40
	ip netns exec "$ns-fw" python3 - "$root/scripts/monitoring/grafana-conntrackd.json" >"$dir/new" <<-'END'
		import json, sys, time, urllib.parse, urllib.request
		end = time.time()
		record = {}
		for panel in json.load(open(sys.argv[1]))["panels"]:
		    for target in panel["targets"]:
		        expr = target["expr"]
		        query = urllib.parse.urlencode({"query": expr.replace("$__rate_interval", "10s"), "start": end - 180, "end": end, "step": 3})
		        answer = json.load(urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query_range?" + query))
		        record[expr] = []
		        for series in answer["data"]["result"]:
		            labels = {k: v for k, v in series["metric"].items() if k not in ("__name__", "job")}
		            points = {round((t - end + 180) / 3): float(f"{float(v):.3g}") for t, v in series["values"]}
		            record[expr].append({"labels": labels, "values": [points.get(i) for i in range(61)]})
		print("{")
		print(",\n".join(json.dumps(k) + ": [\n" + ",\n".join("  " + json.dumps(s, separators=(",", ":")) for s in v) + "\n]" for k, v in record.items()))
		print("}")
	END
	mv "$dir/new" "$here/data/dashboard.json"
}

# soak extracts the table that `make soak` prints.
record_soak() {
	awk '
		/changes a second of/ { print "# " $1 " changes a second of " $6 " flows" }
		/^ *[0-9]+ +[0-9]+ \|/ {
			if (!n++) print "seconds,events,active MiB,active us/event,backup MiB,backup us/event,dropped"
			print $1 "," $2 "," $4 "," $7 "," $9 "," $12 "," $14
		}' "$1" >"$here/data/soak.csv"
	[ "$(wc -l <"$here/data/soak.csv")" -gt 10 ] || { echo "record.sh: $1 is not the output of make soak" >&2; exit 1; }
}

case ${1-} in
top) record_top ;;
demo) record_demo ;;
dashboard) record_dashboard ;;
soak) record_soak "${2:?the output of make soak}" ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
