package conntrack

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/match"
)

// parseLines parses a file of --match.
func parseLines(text string) ([]match.Predicate, error) {
	var pf predicateFile
	return pf.parse(NewParser(io.Discard, false), "conntrack", "FILE", []byte(text))
}

// TestLinesAreConditions: a line of options means what -D means by it.
func TestLinesAreConditions(t *testing.T) {
	for _, line := range []string{
		"-s 192.0.2.1", "-d 192.0.2.0/24", "-r 2001:db8::1 -q 2001:db8::2", "-f ipv6", "-p tcp", "-p 89",
		"-p udp --orig-dst 192.0.2.10 --dport 53", "-p udp --dport domain", "-p tcp --sport 1 --dport 2 --reply-port-src 3 --reply-port-dst 4 --state CLOSE",
		"-p icmp --icmp-type 8 --icmp-code 0 --icmp-id 9", "-p gre --srckey 0x10 --dstkey 17", "-p sctp --state CLOSED", "-p dccp --state OPEN",
		"-m 5", "-m 0x10/0xf0", "-u ASSURED,!SEEN_REPLY", "-u UNREPLIED", "-w 3", "--orig-zone 3", "--reply-zone 4", "-i 77",
		"-n", "-g 192.0.2.1", "-n 192.0.2.1:80 -g 2001:db8::1", "-t 5", "-s 192.0.0.1 --mask-src 255.255.0.255", "-d 192.0.2.1 --mask-dst 0xffffff00",
	} {
		if line == "-n 192.0.2.1:80 -g 2001:db8::1" {
			if _, err := parseLines(line); err == nil {
				t.Errorf("%s: no error", line)
			}
			continue
		}
		got, err := parseLines(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		var want match.Predicate
		setConditions(&want, parse(t, "-D "+line))
		// A line has the family of its addresses, as the command has.
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s:\n%+v\n-D:\n%+v", line, got, want)
		}
	}
}

// TestLinesAndObjects: both ways to write a predicate give the same one.
func TestLinesAndObjects(t *testing.T) {
	for _, both := range [][2]string{
		{"-p udp --orig-dst 192.0.2.10 --dport 53", `{"proto":17,"original":{"dst":"192.0.2.10","dport":53}}`},
		{"-p tcp -s 2001:db8::/32 --sport 80-90", `{"proto_name":"tcp","original":{"src":"2001:db8::/32","sport":"80-90"}}`},
		{"-r 192.0.2.0/24:53 -q 192.0.2.1", `{"reply":{"src":"192.0.2.0/24","sport":53,"dst":"192.0.2.1"}}`},
		{"--any-src [2001:db8::1]:1-5 --any-dst 2001:db8::2", `{"any":{"src":"2001:db8::1","sport":"1-5","dst":"2001:db8::2"}}`},
		{"--any-addr 192.0.2.1:53", `{"any":{"addr":"192.0.2.1","port":53}}`},
		{"-m 16/0xf0 -w 4 -u ASSURED,!SEEN_REPLY", `{"mark":"0x10/240","zone":4,"status":["!SEEN_REPLY","ASSURED"]}`},
		{"-t -100 --age 60- --bytes 1-2 --packets 3", `{"timeout":"-100","delta_time":"60-","bytes":"1-2","packets":3}`},
		{"-p tcp --state TIME_WAIT", `{"state":"TIME_WAIT","proto":6}`},
		{"--orig-zone 1 --reply-zone 2 -i 3 -c 4", `{"original":{"zone":1},"reply":{"zone":2},"id":3,"secmark":4}`},
		{"-g 192.0.2.1:80 -n", `{"dst_nat":"192.0.2.1:80","src_nat":true,"family":"ipv4"}`},
		{"-p icmp --icmp-type 8 --icmp-code 0 --icmp-id 9", `{"proto":1,"original":{"icmp_type":8,"icmp_code":0,"icmp_id":9}}`},
		{"-p gre --srckey 16", `{"proto_name":"gre","original":{"srckey":16}}`},
	} {
		got, err := parseLines(both[0] + "\n" + both[1] + "\n")
		if err != nil {
			t.Errorf("%v: %v", both, err)
			continue
		}
		// A line of options has the family of its addresses as a condition of its own.
		got[1].Family = got[0].Family
		if got[0] != got[1] {
			t.Errorf("%s:\n%+v\n%s:\n%+v", both[0], got[0], both[1], got[1])
		}
	}
}

func TestBadLines(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"-p tcp --dport 80,443", "1:16: unexpected value '80,443' with --dport option"},
		{"# comment\n\n  -p udp dport 53", "3:10: unexpected word `dport'"},
		{"-s 192.0.2.1 -s 192.0.2.2", "1:17: option `--src' twice"},
		{"-p tcp --dport 1 --dport 2", "1:26: option `--dport' twice"},
		{"-s 192.0.2.1\n-D -s 192.0.2.1", "2:1: unknown option `-D'"},
		{"-p tcp --dport 90-80", "1:16: unexpected value '90-80'"},
		{"-p tcp --dport 80-70000", "1:16: unexpected value"},
		{"-s 192.0.2.1:80 -p tcp --sport 81", "1:1: a port behind the address and another"},
		{"-p tcp --sport 1-2 -s 192.0.2.1:80", "1:23: a port behind the address and another"},
		{"-s 192.0.2.1:99999", "1:4: Invalid port `99999'"},
		{"-s 192.0.2.0/24 --mask-src 255.255.255.255", "1:1: `--mask-src' and the length of a prefix"},
		{"--mask-src 255.255.255.255", "1:1: Can't use --mask-src without --src"},
		{"-s 192.0.2.1 -d 2001:db8::1", "1:17: mismatched address family"},
		{`"-s" 192.0.2.1 "-d" x`, "1:21: Invalid IP address `x'"},
		{"-s", "1:1: option `-s' requires an argument"},
		{"--sport 53", "1:1: unknown option `--sport'"},
		{"-u UNSET", "1:1: the status list names no status"},
		{"-l nolabel", "1:1: unknown label 'nolabel'"},
		{"-o json", "1:1: unknown option `-o'"},
		{"--", "1:1: no condition"},
		{"-p udp\n -- ", "2:2: no condition"},
		{"-- -s", "1:4: unexpected word `-s'"},
		{"-p tcp --mask-port-src 5", "1:1: Illegal option `--mask-port-src'"},
		{"--age x", "1:7: unexpected value 'x' with --age option: not a number, or a range"},
		{"-t 4294967296", "1:4: unexpected value"},
		{"-a 192.0.2.1", "1:1: unknown option `-a'"},
		{`{"proto":6,"fooo":1}`, `1:12: "fooo" is no condition`},
		{`{"proto":6,"orignal":{}}`, `1:12: "orignal" is no condition (did you mean original?)`},
		{` {"original":{"src":"192.0.2.1/33"}}`, "1:21: not an address or prefix"},
		{`{"original":{"src":"192.0.2.1","dst":"2001:db8::1"}}`, "1:38: addresses of two families"},
		{`{"original":{"dport":"90-80"}}`, "1:22: not a range"},
		{`{"mark":"x"}`, "1:9: not a mark"},
		{`{"status":[]}`, "the status list names no status"},
		{`{"status":["SEEN"]}`, "1:12: unknown status"},
		{`{"state":"CLOSE"}`, "1:10: state without a protocol"},
		{`{"proto":1,"original":{"dport":53}}`, "ports of a protocol that has none"},
		{`{"proto":6,"proto_name":"udp"}`, "1:25: proto and proto_name differ"},
		{`{"zone":1,"zone":2}`, "1:11: member zone twice"},
		{`{}`, "1:1: no condition"},
		{`{"zone":1} x`, "1:12: text after the object"},
		{`{"original":{"addr":"192.0.2.1"}}`, "addr and port are members of any only"},
	} {
		_, err := parseLines(tt.line)
		if err == nil || !strings.HasPrefix(err.Error(), "FILE:") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s\n%v\nwant FILE:…%s", tt.line, err, tt.want)
		}
	}
}

// FuzzPredicateLine parses lines of either syntax: the same line gives the same predicate
// or an error at a column of the line.
func FuzzPredicateLine(f *testing.F) {
	for _, line := range []string{
		"-p udp --orig-dst 192.0.2.10 --dport 53-60", "--any-addr [2001:db8::/32]:80 -u !ASSURED -m 1/3", `"-s" "192.0.2.1"`,
		`{"proto":6,"original":{"src":"192.0.2.0/24","sport":"1-"},"status":["!ASSURED"],"mark":"1/3"}`, "--age 5- -t -3", "-p tcp -- x", "{", "--",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "\n") {
			return
		}
		one, err := parseLines(line)
		two, again := parseLines("\n" + line)
		if (err == nil) != (again == nil) || !slices.Equal(one, two) {
			t.Fatalf("%q: %+v, %v; the second time %+v, %v", line, one, err, two, again)
		}
		bad, isUsage := err.(*UsageError)
		if err != nil && (!isUsage || bad.Line != 1 || bad.Column < 1 || bad.Column > len(line)+1) {
			t.Fatalf("%q: %+v", line, err)
		}
		for i := range one {
			if one[i] == (match.Predicate{}) {
				t.Fatalf("%q is a predicate without conditions", line)
			}
			match.New(one).Dump()
			one[i].Key()
		}
	})
}

// withFile writes a file of --match and returns its path.
func withFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "match")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMatch(t *testing.T) {
	ns := netnstest.New(t, "match")
	fill := func() {
		t.Helper()
		run(t, ns, "-F")
		for i, flow := range []string{udp4, tcp4 + " -m 5", udp6, udp6 + " -w 3", icmp4} {
			must(t, ns, fmt.Sprint("-I -t ", 1000+100*i, " ", flow), "1 flow entries have been created.")
		}
	}
	expect := func(line, stdin string, status int, summary, stdout string) {
		t.Helper()
		r := runTo(t, ns, line, stdin, nil)
		if r.status != status || !strings.Contains(r.stderr, summary) || stdout != "*" && r.stdout != stdout {
			t.Errorf("%s\n%sstatus %d, want %d\n%q, want %q\n%s", line, stdin, r.status, status, r.stdout, stdout, r.stderr)
		}
	}
	const file = "# all of UDP\n-p udp\n\n{\"mark\":\"4/4\"}\n-w 3\n-s 203.0.113.1\n"
	fill()
	expect("-C --match -", file, 0, "", "4\n")
	expect("-C --match - -o json", file, 0, "", `{"table":"conntrack","count":4}`+"\n")
	expect("-C --match - --count-each", file, 0, "", "3 -p udp\n1 {\"mark\":\"4/4\"}\n1 -w 3\n0 -s 203.0.113.1\n")
	expect("-L --match - --count-each -o json", file, 0, "4 flow entries have been shown.",
		`{"line":2,"predicate":"-p udp","flows":3}
{"line":4,"predicate":"{\"mark\":\"4/4\"}","flows":1}
{"line":5,"predicate":"-w 3","flows":1}
{"line":6,"predicate":"-s 203.0.113.1","flows":0}
`)
	expect("-L --match "+withFile(t, file), "", 0, "4 flow entries have been shown.", "*")
	expect("-D --dry-run --match "+withFile(t, file+"\n-p nix\n"), "", 2, "/match:8:4: `nix' unsupported protocol", "")
	expect("-L -f ipv6 --match -", file, 0, "2 flow entries have been shown.", "*")
	expect("-D -p udp -f ipv6 -w 3 --match - --dry-run -o save", file, 0, "1 flow entries would be deleted.",
		"*")
	expect("-U -m 9 --match - --dry-run", "-p udp -f ipv4\n", 0, "1 flow entries would be updated.", "*")
	expect("-D -p udp --dry-run", "", 0, "3 flow entries would be deleted.", "*")
	if n := entries(t, ns); n != 5 {
		t.Fatalf("%d flows are left after dry runs", n)
	}
	expect("-U -m 9 --match - --count-each", "-p udp -f ipv4\n-p udp\n", 0, "3 flow entries have been updated.", "1 -p udp -f ipv4\n3 -p udp\n")
	expect("-C --match -", "-m 9\n", 0, "", "3\n")
	expect("-D --match - --count-each", "-p udp -f ipv4\n-p udp\n-p tcp\n", 0, "4 flow entries have been deleted.", "1 -p udp -f ipv4\n3 -p udp\n1 -p tcp\n")
	if n := entries(t, ns); n != 1 {
		t.Fatalf("%d flows are left, want ICMP's", n)
	}

	fill()
	expect("-C --by zone --match -", "-p udp\n", 0, "", "2 zone=0\n1 zone=3\n")

	// Statuses.
	fill()
	expect("-D --match -", "", 1, "0 flow entries have been deleted.", "")
	expect("-D --match -", "-s 203.0.113.1\n", 1, "0 flow entries have been deleted.", "")
	expect("-D --distinct-status --match -", "-s 203.0.113.1\n", 3, "0 flow entries have been deleted.", "")
	expect("-D --distinct-status -s 203.0.113.1", "", 3, "0 flow entries have been deleted.", "")
	expect("-L --distinct-status -s 203.0.113.1", "", 3, "0 flow entries have been shown.", "")
	expect("-C --distinct-status --match -", "-s 203.0.113.1\n", 3, "", "0\n")
	expect("-C --distinct-status --match -", "-p udp\n", 0, "", "3\n")
	expect("-D --dry-run --match -", "-s 203.0.113.1\n", 1, "0 flow entries would be deleted.", "")

	// A refusal does not keep the other flows: a fixed timeout can't be changed.
	must(t, ns, "-I -t 1000 -u FIXED_TIMEOUT -p tcp -s 2001:db8::1 -d 2001:db8::2 --sport 1000 --dport 80 --state ESTABLISHED", "1 flow entries have been created.")
	expect("-U -t 77 --match - --distinct-status", "-p tcp\n", 4, "1 flow entries have been updated.\n"+messagePrefix+"1 flow entries have been refused, the first: Operation failed: Operation not permitted (the flow's timeout is fixed", "*")
	expect("-U -t 78 --match -", "-p tcp\n", 1, "1 flow entries have been updated.", "*")
	expect("-U -t 79 --match - --distinct-status", "-p tcp -f ipv6\n", 1, "1 flow entries have been refused", "*")
	expect("-U -t 80 -p tcp -f ipv6", "", 1, "Operation failed: Operation not permitted", "*")
	must(t, ns, "-D -p tcp -f ipv6", "1 flow entries have been deleted.")

	// What is not understood does nothing.
	for _, tt := range []struct{ line, stdin, want string }{
		{"-D --match -", "-p udp\n-p tcp --dport 80,443\n", "-:2:16: unexpected value '80,443'"},
		{"-D --match /nonexistent", "", "Failed to open file /nonexistent for reading: No such file or directory"},
		{"-D --match - --match -", "-p udp\n", "option `--match' can only be specified once"},
		{"-D --count-each", "", "Can't use --count-each without --match"},
		{"-E --match -", "-p udp\n", "Illegal option `--match' with this command"},
		{"-I --match - -t 5 " + udp4, "-p udp\n", "Illegal option `--match' with this command"},
		{"-C --by zone --match - --count-each", "-p udp\n", "Can't use --by with --count-each"},
		{"-C --dry-run", "", "Illegal option `--dry-run' with this command"},
		{"-C --count-each", "", "Illegal option `--count-each' with this command"},
		{"-L -z --match -", "-p udp\n", "Can't use -z with filtering parameters"},
		{"-L --count-each --match - -o xml", "-p udp\n", "--count-each has no output but text and json"},
		{"-D expect --match - -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2", "-p udp\n", "Illegal option `--match' with this command"},
		{"-R -", "-D --match /dev/null\n", "Can't use --match in a file of --load-file"},
		{"-D -p tcp --dport 80-90", "", "unexpected value '80-90' with --dport option"},
		{"-D -s 192.0.2.1:80", "", "Invalid IP address `192.0.2.1:80'"},
		{"-D --any-src 192.0.2.1", "", "unknown option"},
	} {
		expect(tt.line, tt.stdin, 2, tt.want, "")
	}
	if n := entries(t, ns); n != 5 {
		t.Errorf("%d flows are left after errors", n)
	}
	// Flows that the kernel does not date or count.
	if r := runTo(t, ns, "-L --match -", "--age 0-\n--bytes 0-\n", nil); r.stdout != "" || strings.Count(r.stderr, "WARNING: flows without") != 2 ||
		!strings.Contains(r.stderr, "nf_conntrack_timestamp=1") || !strings.Contains(r.stderr, "nf_conntrack_acct=1") {
		t.Errorf("without times and counters: %+v", r)
	}
}

// TestMatchByKey: where each line is a whole tuple and zone, the table is not read, and a
// flow that two lines name is there once.
func TestMatchByKey(t *testing.T) {
	ns := netnstest.New(t, "keys")
	var lines, json strings.Builder
	const n = 1000
	load := strings.Builder{}
	for i := range n {
		flow := fmt.Sprintf("-p udp -s 192.0.2.1 -d 198.51.100.%d --sport %d --dport 53", i%200, 1000+i)
		fmt.Fprintln(&load, "-A -t 1000", flow, "-w", i%3)
		fmt.Fprintln(&lines, flow, "-w", i%3)
		fmt.Fprintf(&json, `{"proto":17,"zone":%d,"original":{"src":"192.0.2.1","dst":"198.51.100.%d","sport":%d,"dport":53}}`+"\n", i%3, i%200, 1000+i)
	}
	// The reply of this flow is the tuple of a line.
	reply := "-p udp -s 198.51.100.7 -d 192.0.2.1 --sport 53 --dport 40000"
	fmt.Fprintln(&load, "-A -t 1000", reply)
	fmt.Fprintln(&lines, "-p udp -s 192.0.2.1 -d 198.51.100.7 --sport 40000 --dport 53 -w 0")
	if r := runTo(t, ns, "-R -", load.String(), nil); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	predicates, err := parseLines(lines.String())
	if err != nil {
		t.Fatal(err)
	}
	if keys := uniqueKeys(predicates); len(keys) != n+1 {
		t.Fatalf("%d of %d lines are keys", len(keys), n+1)
	}
	if keys := uniqueKeys(append(predicates, predicates...)); len(keys) != n+1 {
		t.Errorf("%d keys, doubles among them", len(keys))
	}
	both := lines.String() + json.String()
	if r := runTo(t, ns, "-C --match -", both, nil); r.stdout != fmt.Sprintln(n) {
		t.Errorf("%+v", r)
	}
	if r := runTo(t, ns, "-L --match -", both, nil); strings.Count(r.stdout, "\n") != n {
		t.Errorf("listed %d flows", strings.Count(r.stdout, "\n"))
	}
	r := runTo(t, ns, "-D --match - --count-each", both, nil)
	if r.status != 0 || !strings.Contains(r.stderr, fmt.Sprint(n, " flow entries have been deleted.")) || strings.Count(r.stdout, "\n") != 2*n+1 ||
		strings.Count("\n"+r.stdout, "\n1 ") != 2*n {
		t.Errorf("status %d, %s", r.status, r.stderr)
	}
	if left := table(t, ns); len(left) != 1 {
		t.Errorf("%d flows are left, want the one whose reply is a line's tuple", len(left))
	}
}

// modelFlow is a flow as -o json writes it.
type modelFlow struct {
	Family          string
	Proto           int
	Original, Reply struct {
		Src, Dst     netip.Addr
		Sport, Dport int
	}
	State      string
	Status     []string
	Mark, Zone int
	Timeout    int
}

// modelCondition is a condition in both syntaxes, and the model's notion of it.
type modelCondition struct {
	options string
	object  string // "" for the predicate, or original, reply, any
	name    string
	value   any
	met     func(f *modelFlow) bool
}

var modelAddrs = map[string][]string{
	"ipv4": {"192.0.2.1", "192.0.2.2", "192.0.2.130", "198.51.100.1", "198.51.100.9"},
	"ipv6": {"2001:db8::1", "2001:db8::2", "2001:db8::8000", "2001:db8:1::1"},
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// modelLoad is a flow as a line of a load file.
func modelLoad(r *rand.Rand) string {
	family := pick(r, "ipv4", "ipv4", "ipv6")
	addr := func() string { return pick(r, modelAddrs[family]...) }
	line := fmt.Sprintf("-A -t %d -s %s -d %s -m %d", 1000+r.IntN(1000), addr(), addr(), r.IntN(8))
	if zone := r.IntN(4); zone > 0 {
		line += fmt.Sprint(" -w ", zone)
	}
	if status := r.IntN(4); status > 0 {
		line += " -u " + []string{"SEEN_REPLY", "ASSURED", "SEEN_REPLY,ASSURED"}[status-1]
	}
	if r.IntN(4) == 0 {
		line += " -g " + addr()
	}
	switch r.IntN(3) {
	case 0:
		return line + fmt.Sprintf(" -p tcp --sport %d --dport %d --state %s", 1000+r.IntN(20), 80+r.IntN(10), pick(r, "ESTABLISHED", "TIME_WAIT", "SYN_SENT"))
	case 1:
		return line + fmt.Sprintf(" -p udp --sport %d --dport %d", 1000+r.IntN(20), 80+r.IntN(10))
	}
	return line + " -p 89"
}

// modelPredicate makes conditions; from is a flow that they are sometimes taken from.
func modelPredicate(r *rand.Rand, from *modelFlow) []modelCondition {
	family := pick(r, "ipv4", "ipv4", "ipv6")
	var all []modelCondition
	if r.IntN(3) == 0 {
		// A whole tuple and zone.
		o := from.Original
		add := func(options, object, name string, value any) {
			all = append(all, modelCondition{options, object, name, value, func(f *modelFlow) bool {
				return f.Proto == from.Proto && f.Original == o && f.Zone == from.Zone
			}})
		}
		add(fmt.Sprint("-p ", from.Proto), "", "proto", from.Proto)
		add(fmt.Sprint("-s ", o.Src), "original", "src", o.Src)
		add(fmt.Sprint("-d ", o.Dst), "original", "dst", o.Dst)
		if from.Proto != 89 {
			add(fmt.Sprint("--sport ", o.Sport), "original", "sport", o.Sport)
			add(fmt.Sprint("--dport ", o.Dport), "original", "dport", o.Dport)
		}
		add(fmt.Sprint("-w ", from.Zone), "", "zone", from.Zone)
		return all
	}
	seen := map[string]bool{}
	add := func(options, object, name string, value any, met func(f *modelFlow) bool) {
		if key := object + "." + name; !seen[key] {
			seen[key] = true
			all = append(all, modelCondition{options, object, name, value, met})
		}
	}
	proto := pick(r, 0, 0, 6, 17, 89)
	if proto != 0 {
		name := pick[any](r, proto, proto)
		add(fmt.Sprint("-p ", proto), "", "proto", name, func(f *modelFlow) bool { return f.Proto == proto })
	}
	for range 1 + r.IntN(3) {
		a := netip.MustParseAddr(pick(r, modelAddrs[family]...))
		bits := a.BitLen()
		if r.IntN(3) == 0 {
			bits -= r.IntN(20)
		}
		p := netip.PrefixFrom(a, bits)
		low := 80 + r.IntN(10)
		high := low + r.IntN(4)
		ports := any(fmt.Sprint(low, "-", high))
		text := fmt.Sprint(low, "-", high)
		if high == low {
			ports, text = low, fmt.Sprint(low)
		}
		in := p.Masked().Contains
		inPorts := func(f *modelFlow, port int) bool { return f.Proto != 89 && port >= low && port <= high }
		switch r.IntN(15) {
		case 0, 1:
			add(fmt.Sprint("-s ", p), "original", "src", p, func(f *modelFlow) bool { return in(f.Original.Src) })
		case 2, 3:
			add(fmt.Sprint("-d ", p), "original", "dst", p, func(f *modelFlow) bool { return in(f.Original.Dst) })
		case 4:
			add(fmt.Sprint("-r ", p), "reply", "src", p, func(f *modelFlow) bool { return in(f.Reply.Src) })
		case 5:
			add(fmt.Sprint("-q ", p), "reply", "dst", p, func(f *modelFlow) bool { return in(f.Reply.Dst) })
		case 6:
			if proto == 6 || proto == 17 {
				add("--dport "+text, "original", "dport", ports, func(f *modelFlow) bool { return inPorts(f, f.Original.Dport) })
			}
		case 7:
			if proto == 6 || proto == 17 {
				add("--reply-port-src "+text, "reply", "sport", ports, func(f *modelFlow) bool { return inPorts(f, f.Reply.Sport) })
			}
		case 8:
			add(fmt.Sprint("--any-src ", p), "any", "src", p, func(f *modelFlow) bool { return in(f.Original.Src) || in(f.Reply.Src) })
		case 9:
			add(fmt.Sprint("--any-addr ", p), "any", "addr", p, func(f *modelFlow) bool {
				return in(f.Original.Src) || in(f.Reply.Src) || in(f.Original.Dst) || in(f.Reply.Dst)
			})
		case 10:
			mark, mask := r.IntN(8), pick[int64](r, 7, 4, 3, 0xffffffff)
			add(fmt.Sprint("-m ", mark, "/", mask), "", "mark", fmt.Sprint(mark, "/", mask), func(f *modelFlow) bool { return int64(f.Mark)&mask == int64(mark) })
		case 11:
			zone := r.IntN(4)
			add(fmt.Sprint("-w ", zone), "", "zone", zone, func(f *modelFlow) bool { return f.Zone == zone })
		case 12:
			status := pick(r, "ASSURED", "!ASSURED", "!SEEN_REPLY")
			name, not := strings.CutPrefix(status, "!")
			add("-u "+status, "", "status", []string{status}, func(f *modelFlow) bool { return slices.Contains(f.Status, name) != not })
		case 13:
			if proto == 6 {
				state := pick(r, "ESTABLISHED", "TIME_WAIT")
				add("--state "+state, "", "state", state, func(f *modelFlow) bool { return f.State == state })
			}
		case 14:
			// Far from what the seconds that a round takes could change.
			above := r.IntN(2) == 0
			if above {
				add("-t 500-", "", "timeout", "500-", func(f *modelFlow) bool { return f.Timeout >= 500 })
			} else {
				add("-g", "", "dst_nat", true, func(f *modelFlow) bool {
					return f.Original.Dst != f.Reply.Src || f.Proto != 89 && f.Original.Dport != f.Reply.Sport
				})
			}
		}
	}
	if len(all) == 0 {
		add("-f "+family, "", "family", family, func(f *modelFlow) bool { return f.Family == family })
	}
	return all
}

// modelLine writes a predicate in one of the syntaxes.
func modelLine(r *rand.Rand, conditions []modelCondition) string {
	if r.IntN(2) == 0 {
		var options []string
		for _, c := range conditions {
			options = append(options, c.options)
		}
		return strings.Join(options, " ")
	}
	object := map[string]any{}
	for _, c := range conditions {
		in := object
		if c.object != "" {
			if object[c.object] == nil {
				object[c.object] = map[string]any{}
			}
			in = object[c.object].(map[string]any)
		}
		in[c.name] = c.value
	}
	text, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// TestMatchModel has files of random predicates list, count, try and delete the flows of
// random tables, and holds the kernel's table against a model of them. CTBOX_MATCH_ROUNDS
// is another number of rounds.
func TestMatchModel(t *testing.T) {
	ns := netnstest.New(t, "model")
	rounds := 60
	if netnstest.Long {
		rounds = 500
	}
	if n, err := strconv.Atoi(os.Getenv("CTBOX_MATCH_ROUNDS")); err == nil {
		rounds = n
	}
	flows := func() (all []modelFlow, lines []string) {
		t.Helper()
		for line := range strings.Lines(run(t, ns, "-L -o json").stdout) {
			var f modelFlow
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Fatal(err)
			}
			all = append(all, f)
			lines = append(lines, line)
		}
		return all, lines
	}
	met, missed, keyed := 0, 0, 0
	for round := range rounds {
		r := rand.New(rand.NewPCG(uint64(round), 17))
		var load strings.Builder
		for range 1 + r.IntN(60) {
			fmt.Fprintln(&load, modelLoad(r))
		}
		run(t, ns, "-F")
		runTo(t, ns, "-R -", load.String(), nil) // some lines make the same flow, or its reply
		before, _ := flows()
		if len(before) == 0 {
			continue
		}
		predicates := make([][]modelCondition, 1+r.IntN(pick(r, 1, 3, 30)))
		var file strings.Builder
		for i := range predicates {
			predicates[i] = modelPredicate(r, &before[r.IntN(len(before))])
			fmt.Fprintln(&file, modelLine(r, predicates[i]))
		}
		if parsed, err := parseLines(file.String()); err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, file.String())
		} else if uniqueKeys(parsed) != nil {
			keyed++
		}
		also, alsoMet := "", func(*modelFlow) bool { return true }
		switch r.IntN(6) {
		case 0:
			also, alsoMet = " -f ipv4", func(f *modelFlow) bool { return f.Family == "ipv4" }
		case 1:
			also, alsoMet = " -p tcp", func(f *modelFlow) bool { return f.Proto == 6 }
		}
		hits := make([]int, len(predicates))
		var keep []modelFlow
		for _, f := range before {
			hit := false
			for i, p := range predicates {
				if alsoMet(&f) && !slices.ContainsFunc(p, func(c modelCondition) bool { return !c.met(&f) }) {
					hits[i]++
					hit = true
				}
			}
			if !hit {
				keep = append(keep, f)
			}
		}
		want := len(before) - len(keep)
		met, missed = met+want, missed+len(keep)
		fail := func(what string, r ran) {
			t.Helper()
			t.Fatalf("round %d: %s%s\n%s%d flows, the model meets %d\n%s%s", round, what, also, file.String(), len(before), want, r.stdout, r.stderr)
		}
		if r := runTo(t, ns, "-L --match -"+also, file.String(), nil); strings.Count(r.stdout, "\n") != want {
			fail("-L", r)
		}
		if r := runTo(t, ns, "-D --dry-run --match -"+also, file.String(), nil); strings.Count(r.stdout, "\n") != want {
			fail("-D --dry-run", r)
		}
		ran := runTo(t, ns, "-D --count-each --match -"+also, file.String(), nil)
		if ran.status != map[bool]int{true: 1}[want == 0] || !strings.Contains(ran.stderr, fmt.Sprintf("%s%d flow entries have been deleted.", messagePrefix, want)) {
			fail("-D", ran)
		}
		i := 0
		for line := range strings.Lines(ran.stdout) {
			if n, _, _ := strings.Cut(line, " "); n != strconv.Itoa(hits[i]) {
				fail(fmt.Sprint("-D: line ", i+1, " has met ", n, ", want ", hits[i]), ran)
			}
			i++
		}
		after, lines := flows()
		same := func(a, b modelFlow) bool {
			return a.Original == b.Original && a.Zone == b.Zone && a.Proto == b.Proto && a.Family == b.Family
		}
		if len(after) != len(keep) {
			fail(fmt.Sprint("-D left ", len(after), " flows: ", lines), ran)
		}
		for _, f := range keep {
			if !slices.ContainsFunc(after, func(g modelFlow) bool { return same(f, g) }) {
				fail(fmt.Sprintf("-D deleted %+v", f), ran)
			}
		}
	}
	t.Logf("%d rounds: %d flows met a predicate, %d none; %d files by key", rounds, met, missed, keyed)
	if met < rounds || missed < rounds || keyed == 0 {
		t.Error("a kind of round was not there")
	}
}
