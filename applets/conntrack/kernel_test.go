package conntrack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

func TestCreateAndList(t *testing.T) {
	ns := netnstest.New(t, "create")
	must(t, ns, "-I -t 1000 "+udp4, "1 flow entries have been created.")
	fails(t, ns, "-I -t 1000 "+udp4, 1, "Operation failed: Such conntrack exists, try -U to update")
	must(t, ns, "-A -t 2000 -m 5 "+udp4, "1 flow entries have been added.")
	must(t, ns, "-I -t 1000 -u ASSURED,SEEN_REPLY "+tcp4, "1 flow entries have been created.")
	must(t, ns, "-I -t 1000 "+udp6+" -w 7", "1 flow entries have been created.")
	must(t, ns, "-I -t 1000 "+icmp4, "1 flow entries have been created.")
	must(t, ns, "-I -t 1000 -p gre -s 192.0.2.1 -d 192.0.2.2 --srckey 16 --dstkey 77", "1 flow entries have been created.")
	must(t, ns, "-I -t 1000 -p 200 -s 192.0.2.1 -d 192.0.2.2 --reply-zone 3", "1 flow entries have been created.")
	must(t, ns, "-I -t 1000 -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2 --state TIME_WAIT -g 192.0.2.3:80 -n 192.0.2.4", "1 flow entries have been created.")

	for _, output := range []string{"", "-o extended,id", "-o ktimestamp", "-o save", "-o xml"} {
		theirs := ns.Must("/usr/sbin/conntrack", append([]string{"-L"}, strings.Fields(output)...)...)
		ours := must(t, ns, "-L "+output, "7 flow entries have been shown.")
		if output == "-o xml" {
			// Ours has the fields of ICMP, too.
			ours = strings.ReplaceAll(ours, "<icmp-type>8</icmp-type><icmp-code>0</icmp-code><icmp-id>9</icmp-id>", "")
			ours = strings.ReplaceAll(ours, "<icmp-type>0</icmp-type><icmp-code>0</icmp-code><icmp-id>9</icmp-id>", "")
		}
		if sameSecond(ours) != sameSecond(theirs) {
			t.Errorf("-L %s:\n%s\nDebian's:\n%s", output, ours, theirs)
		}
	}
	for line := range strings.Lines(must(t, ns, "-L -o json", "7 flow entries have been shown.")) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
	if n := must(t, ns, "-C", ""); n != "7\n" {
		t.Errorf("-C: %q", n)
	}
	if n := must(t, ns, "-C -o json", ""); n != `{"table":"conntrack","count":7}`+"\n" {
		t.Errorf("-C -o json: %q", n)
	}
	for line := range strings.Lines(must(t, ns, "-S -o json", "")) {
		if !strings.HasPrefix(line, `{"cpu":`) || !json.Valid([]byte(line)) {
			t.Errorf("-S -o json: %s", line)
		}
	}
	for _, line := range []string{"-C -o id", "-S -o xml", "-V -o json", "-F -o json", "-C -o json,id"} {
		if r := run(t, ns, line); r.status != 2 || !strings.Contains(r.stderr, "Illegal option `--output' with this command") {
			t.Errorf("%s: %+v", line, r)
		}
	}
	if theirs, ours := ns.Must("/usr/sbin/conntrack", "-S"), must(t, ns, "-S", ""); ours != theirs {
		t.Errorf("-S:\n%s\nDebian's:\n%s", ours, theirs)
	}
	if theirs, ours := ns.Must("/usr/sbin/conntrack", "-S", "expect"), must(t, ns, "-S expect", ""); ours != theirs {
		t.Errorf("-S expect:\n%s\nDebian's:\n%s", ours, theirs)
	}
	must(t, ns, "-L dying -o xml", "0 flow entries have been shown.")
	must(t, ns, "-L unconfirmed", "0 flow entries have been shown.")
	must(t, ns, "-L -w 9", "0 flow entries have been shown.")
}

func TestGet(t *testing.T) {
	ns := netnstest.New(t, "get")
	run(t, ns, "-I -t 1000 -u ASSURED "+tcp4)
	run(t, ns, "-I -t 1000 "+udp6)
	get := "-G -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 1000 --dport 80"
	if out := must(t, ns, get, "1 flow entries have been shown."); !strings.HasPrefix(out, "tcp      6 ") {
		t.Errorf("%s: %s", get, out)
	}
	if out := must(t, ns, get+" -o xml", "1 flow entries have been shown."); !strings.HasSuffix(out, "</flow>\n</conntrack>\n") {
		t.Errorf("%s: %s", get, out)
	}
	must(t, ns, get+" --state ESTABLISHED", "1 flow entries have been shown.")
	fails(t, ns, get+" --state CLOSE", 1, "0 flow entries have been shown.")
	must(t, ns, "-G -p udp -r 2001:db8::2 -q 2001:db8::1 --reply-port-src 53 --reply-port-dst 1000", "1 flow entries have been shown.")
	fails(t, ns, "-G -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2", 1, "Operation failed: such conntrack doesn't exist")
}

// TestDangerousDeletes are lines that made conntrack-tools empty the table.
func TestDangerousDeletes(t *testing.T) {
	ns := netnstest.New(t, "danger")
	run(t, ns, "-I -t 1000 -u ASSURED,SEEN_REPLY "+tcp4)
	run(t, ns, "-I -t 1000 -u SEEN_REPLY "+udp4)
	run(t, ns, "-I -t 1000 -u ASSURED "+udp6)
	before := entries(t, ns)
	for _, line := range []string{"-D -u UNREPLIED -p tcp", "-D -u !SEEN_REPLY -s 192.0.2.1", "-D -t 5", "-D -p tcp --state CLOSE", "-D -s 192.0.2.9/32", "-D -m 5", "-D -w 4", "-D -i 1"} {
		fails(t, ns, line, 1, "0 flow entries have been deleted.")
	}
	for _, line := range []string{"-D -u UNSET", "-D -u UNSET -p tcp", "-L -u UNSET"} {
		fails(t, ns, line, 1, "Operation failed: invalid parameters (the status list names no status)")
	}
	if after := entries(t, ns); after != before {
		t.Fatalf("%d of %d flows are left", after, before)
	}
	must(t, ns, "-D -u UNREPLIED", "1 flow entries have been deleted.")
	must(t, ns, "-D -u !ASSURED", "1 flow entries have been deleted.")
	if left := table(t, ns); len(left) != 1 || !strings.HasPrefix(left[0], "tcp") {
		t.Errorf("left: %v", left)
	}
}

func TestFlush(t *testing.T) {
	ns := netnstest.New(t, "flush")
	fill := func() {
		for _, flow := range []string{udp4, tcp4, udp6, udp6 + " -w 3"} {
			run(t, ns, "-I -t 1000 "+flow)
		}
	}
	fill()
	must(t, ns, "-F -f ipv6", "connection tracking table has been emptied.")
	if left := table(t, ns); len(left) != 2 {
		t.Errorf("after -F -f ipv6: %q", left)
	}
	fill()
	must(t, ns, "-F -f ipv4", "connection tracking table has been emptied.")
	if left := table(t, ns); len(left) != 2 || !strings.Contains(left[0], "2001:db8::1") {
		t.Errorf("after -F -f ipv4: %q", left)
	}
	fill()
	must(t, ns, "-F", "connection tracking table has been emptied.")
	if n := entries(t, ns); n != 0 {
		t.Errorf("after -F: %d", n)
	}
	must(t, ns, "-F expect", "expectation table has been emptied.")
}

func TestDelete(t *testing.T) {
	ns := netnstest.New(t, "delete")
	fillTable(t, ns, 3000)
	run(t, ns, "-I -t 1000 -w 5 "+udp4)
	run(t, ns, "-I -t 1000 -p 200 -s 192.0.2.1 -d 192.0.2.2 --orig-zone 3")
	out := must(t, ns, "-D -p udp --dport 7", "1500 flow entries have been deleted.")
	if n := strings.Count(out, "\n"); n != 1500 || strings.Count(out, " dport=7 [UNREPLIED]") != 1500 {
		t.Errorf("%d lines of deleted flows", n)
	}
	if n := entries(t, ns); n != 1502 {
		t.Errorf("%d flows left", n)
	}
	must(t, ns, "-D -w 5", "1 flow entries have been deleted.")
	must(t, ns, "-D -p 200", "1 flow entries have been deleted.")
	must(t, ns, "-D -w 0 -p udp -s 192.0.2.1 -d 198.51.100.1 --sport 1 --dport 8", "1 flow entries have been deleted.")
	fails(t, ns, "-D -w 0 -p udp -s 192.0.2.1 -d 198.51.100.1 --sport 1 --dport 8", 1, "0 flow entries have been deleted.")

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, line := range []string{"-D", "-L", "-L -o json"} {
		r := runTo(t, ns, line, "", full)
		if r.status != 1 || r.stderr != onStderr("can't write to standard output: no space left on device") {
			t.Errorf("%s to a full disk: %+v", line, r)
		}
	}
	if n := entries(t, ns); n != 1499 {
		t.Errorf("%d flows left after -D to a full disk", n)
	}
	out = must(t, ns, "-D -o save -p udp --dport 8", "1499 flow entries have been deleted.")
	if !strings.HasPrefix(out, "-D -t ") {
		t.Errorf("-D -o save: %.50s", out)
	}
}

func TestUpdate(t *testing.T) {
	ns := netnstest.New(t, "update")
	ns.NFT(`table inet t {
	chain c { type filter hook output priority 0; ct label set 1; }
}`)
	map1 := filepath.Join(t.TempDir(), "labels")
	if err := os.WriteFile(map1, []byte("1 one\n2 two\n40 forty\n200 far\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	withLabels := func(line string) string { return line + " --labelmap " + map1 }
	for _, flow := range []string{udp4, tcp4, udp6 + " -w 3", udp6} {
		run(t, ns, "-I -t 1000 -m 5 "+flow)
	}
	must(t, ns, "-U -p udp -m 0x10/0xf0", "3 flow entries have been updated.")
	must(t, ns, "-L -m 0x15", "3 flow entries have been shown.")
	fails(t, ns, "-U -p udp -m 0x15", 1, "0 flow entries have been updated.")
	must(t, ns, "-U -t 5000", "4 flow entries have been updated.")
	must(t, ns, "-U -p tcp --state CLOSE -m 1", "1 flow entries have been updated.")
	out := must(t, ns, "-L -p tcp --state CLOSE", "1 flow entries have been shown.")
	if !strings.Contains(out, "mark=1 ") {
		t.Errorf("after -U --state: %s", out)
	}
	must(t, ns, "-U -f ipv4 -u ASSURED", "2 flow entries have been updated.")
	must(t, ns, "-L -u ASSURED", "2 flow entries have been shown.")

	// A flow that is as it should be is not updated, whichever of its states was named.
	const sctp = "-p sctp -s 192.0.2.1 -d 192.0.2.2 --sport 5 --dport 6"
	run(t, ns, "-I -t 1000 "+sctp+" --state ESTABLISHED --orig-vtag 1 --reply-vtag 2")
	for _, c := range []struct{ now, next string }{
		{"--orig-vtag 1", "--orig-vtag 3"}, {"--reply-vtag 2", "--reply-vtag 4"}, {"--state ESTABLISHED", "--state SHUTDOWN_SENT"},
	} {
		fails(t, ns, "-U "+sctp+" "+c.now, 1, "0 flow entries have been updated.")
		must(t, ns, "-U "+sctp+" "+c.next, "1 flow entries have been updated.")
		out = must(t, ns, "-L -p sctp -o save", "1 flow entries have been shown.")
		if !strings.Contains(out, c.next) {
			t.Errorf("after -U %s: %s", c.next, out)
		}
	}
	out = must(t, ns, "-L -p sctp -o save", "1 flow entries have been shown.")
	if !strings.Contains(out, "--state SHUTDOWN_SENT --orig-vtag 3 --reply-vtag 4") {
		t.Errorf("after -U of an SCTP flow: %s", out)
	}
	must(t, ns, "-D -p sctp", "1 flow entries have been deleted.")

	fails(t, ns, "-U -u EXPECTED", 1, "Operation failed: Device or resource busy")

	out = must(t, ns, withLabels("-U -p udp --label-add one,forty -o labels"), "3 flow entries have been updated.")
	if strings.Count(out, "labels=one,forty\n") != 3 {
		t.Errorf("after --label-add: %s", out)
	}
	must(t, ns, withLabels("-L -l one,forty"), "3 flow entries have been shown.")
	must(t, ns, withLabels("-U -p udp -f ipv6 --label-del one"), "2 flow entries have been updated.")
	must(t, ns, withLabels("-L -l one"), "1 flow entries have been shown.")
	must(t, ns, withLabels("-L -l forty"), "3 flow entries have been shown.")
	fails(t, ns, withLabels("-U --label-add far"), 1, "Operation failed: Numerical result out of range")
	must(t, ns, withLabels("-U")+" --label-del", "3 flow entries have been updated.")
	fails(t, ns, withLabels("-U")+" --label-del", 1, "0 flow entries have been updated.")
}

func TestBigUpdate(t *testing.T) {
	ns := netnstest.New(t, "bigupdate")
	fillTable(t, ns, 2000)
	out := must(t, ns, "-U -m 9 -p udp --dport 7", "1000 flow entries have been updated.")
	if n := strings.Count(out, "mark=9 "); n != 1000 {
		t.Errorf("%d lines of updated flows", n)
	}
	must(t, ns, "-L -m 9", "1000 flow entries have been shown.")
}

func TestExpectationCommands(t *testing.T) {
	ns := netnstest.New(t, "expect")
	r := runTo(t, ns, "-R -", `{"proto":6,"original":{"src":"192.0.2.1","dst":"192.0.2.2","sport":1000,"dport":21},"timeout":1000,"state":"ESTABLISHED","helper":"ftp"}`, nil)
	if r.status != 0 {
		t.Fatalf("%+v", r)
	}
	create := "-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp --sport 1000 --dport 21 --tuple-src 192.0.2.2 --tuple-dst 192.0.2.1 --tuple-port-src 0 --tuple-port-dst 5000 --mask-src 255.255.255.255 --mask-dst 255.255.255.255 --mask-port-src 0 --mask-port-dst 65535 -t 100"
	must(t, ns, create, "")
	fails(t, ns, create, 1, "Operation failed: File exists")
	fails(t, ns, strings.NewReplacer("--dport 21", "--dport 22", "5000", "5001").Replace(create), 1, "Operation failed: master conntrack not found")
	theirs := ns.Must("/usr/sbin/conntrack", "-L", "expect")
	if ours := must(t, ns, "-L expect", "1 expectations have been shown."); sameSecond(ours) != sameSecond(theirs) {
		t.Errorf("-L expect:\n%s\nDebian's:\n%s", ours, theirs)
	}
	theirs = ns.Must("/usr/sbin/conntrack", "-L", "expect", "-o", "xml")
	if ours := must(t, ns, "-L expect -o xml", "1 expectations have been shown."); sameSecond(ours) != sameSecond(theirs) {
		t.Errorf("-L expect -o xml:\n%s\nDebian's:\n%s", ours, theirs)
	}
	if out := must(t, ns, "-L expect -o json", "1 expectations have been shown."); !json.Valid([]byte(out)) {
		t.Errorf("-L expect -o json: %s", out)
	}
	if out := must(t, ns, "-C expect", ""); out != "1\n" {
		t.Errorf("-C expect: %s", out)
	}
	one := " expect -s 192.0.2.2 -d 192.0.2.1 -p tcp --sport 0 --dport 5000 --reply-port-src 0 --reply-port-dst 0"
	if out := must(t, ns, "-G"+one, ""); !strings.Contains(out, "dport=5000") {
		t.Errorf("-G expect: %s", out)
	}
	must(t, ns, "-D"+one, "1 expectations have been deleted.")
	fails(t, ns, "-D"+one, 1, "Operation failed: No such file or directory")
	fails(t, ns, "-G"+one, 1, "Operation failed: No such file or directory")
}

// TestFilterParity lists a table of many kinds of flows with many filters, ours
// and Debian's, and compares what they show.
func TestFilterParity(t *testing.T) {
	ns := netnstest.New(t, "filters")
	r := rand.New(rand.NewPCG(5, 6))
	addrs := map[string][]string{
		"ipv4": {"192.0.2.1", "192.0.2.2", "192.0.2.130", "198.51.100.1"},
		"ipv6": {"2001:db8::1", "2001:db8::2", "2001:db8:8000::1", "::192.0.2.1"},
	}
	families := []string{"ipv4", "ipv6"}
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	port := func() string { return strconv.Itoa(1 + r.IntN(3)) }
	var file strings.Builder
	for range 400 {
		family := pick(families)
		fmt.Fprintf(&file, "-A -t 10000 -s %s -d %s -m %d", pick(addrs[family]), pick(addrs[family]), r.IntN(4))
		fmt.Fprint(&file, pick([]string{"", "", " -w 1", " --orig-zone 2", " --reply-zone 2"}))
		fmt.Fprint(&file, pick([]string{"", " -u ASSURED", " -u SEEN_REPLY", " -u SEEN_REPLY,ASSURED"}))
		switch r.IntN(4) {
		case 0:
			fmt.Fprintf(&file, " -p tcp --sport %s --dport %s --state %s", port(), port(), pick([]string{"ESTABLISHED", "CLOSE"}))
		case 1:
			fmt.Fprintf(&file, " -p udp --sport %s --dport %s", port(), port())
		case 2:
			fmt.Fprintf(&file, " -p 20%d", r.IntN(2))
		default:
			fmt.Fprintf(&file, " -p udplite --sport %s --dport %s", port(), port())
		}
		fmt.Fprintln(&file)
	}
	// -A on a flow that is there may be refused, since it would take status
	// bits away, so each line is a run.
	for line := range strings.Lines(file.String()) {
		run(t, ns, strings.TrimSuffix(line, "\n"))
	}

	for i := range 150 {
		family := pick(families)
		var words []string
		add := func(chance int, word ...string) {
			if r.IntN(chance) == 0 {
				words = append(words, word...)
			}
		}
		add(4, "-s", pick(addrs[family]))
		add(4, "-d", pick(addrs[family])+pick([]string{"", "/17", "/24", "/0"}))
		add(6, "-r", pick(addrs[family]))
		add(6, "-q", pick(addrs[family]))
		if r.IntN(2) == 0 { // with both, 1.4.7 compares the mark with the status
			add(2, "-m", fmt.Sprintf("%d/%d", r.IntN(4), 3))
		} else {
			add(2, "-u", pick([]string{"ASSURED", "SEEN_REPLY", "UNREPLIED", "!ASSURED", "SEEN_REPLY,ASSURED"}))
		}
		add(6, "-w", strconv.Itoa(r.IntN(2)))
		add(6, "--orig-zone", pick([]string{"0", "2"}))
		add(6, "--reply-zone", pick([]string{"0", "2"}))
		add(6, "-f", family)
		add(3, pick([]string{"-p tcp", "-p udp --sport 1", "-p tcp --state CLOSE", "-p tcp --dport 2", "-p udp --reply-port-src 3", "-p 200", "-p udplite"}))
		add(8, pick([]string{"-n", "-g", "-j"}))
		line := strings.Join(words, " ")
		theirs := table(t, ns, append([]string{"-o", "id"}, strings.Fields(line)...)...)
		out := run(t, ns, "-L -o id "+line)
		ours := strings.Split(strings.TrimSuffix(out.stdout, "\n"), "\n")
		slices.Sort(ours)
		if out.stdout == "" {
			ours = nil
		}
		if i < 5 && out.status != 0 {
			t.Fatalf("-L %s: %+v", line, out)
		}
		if !slices.Equal(ids(ours), ids(theirs)) {
			t.Errorf("-L %s shows %d flows, Debian's %d", line, len(ours), len(theirs))
		}
	}
}

// ids are the last words of the lines, sorted.
func ids(lines []string) []string {
	var all []string
	for _, line := range lines {
		all = append(all, line[strings.LastIndexByte(line, ' ')+1:])
	}
	slices.Sort(all)
	return all
}

// TestUnprivileged checks that a user without the capability gets one clear line.
func TestUnprivileged(t *testing.T) {
	ns := netnstest.New(t, "unprivileged")
	run(t, ns, "-I -t 1000 "+udp4)
	const sorry = "sorry, you must be root or get CAP_NET_ADMIN capability to do this"
	for line, want := range map[string]string{
		"-L":                "Operation failed: " + sorry,
		"-L expect":         "Operation failed: " + sorry,
		"-D":                "Operation failed: " + sorry,
		"-U -m 3":           "Operation failed: " + sorry,
		"-F":                "Operation failed: " + sorry,
		"-I -t 3 " + tcp4:   "Operation failed: " + sorry,
		"-A -t 3 " + tcp4:   "Operation failed: " + sorry,
		"-G -p udp " + udp4: "Operation failed: " + sorry,
		"-C":                "Operation failed: " + sorry,
		"-S":                "Operation failed: " + sorry,
		"-E":                "Can't open netlink socket: " + sorry,
		"-E expect":         "Can't open netlink socket: " + sorry,
	} {
		var out, errs bytes.Buffer
		status := -1
		ns.Do(func() {
			restore := dropNetAdmin(t)
			defer restore()
			status = Run(t.Context(), append([]string{"conntrack"}, strings.Fields(line)...), nil, &out, &errs)
		})
		if status != 1 || out.Len() > 0 || errs.String() != onStderr(want) {
			t.Errorf("%s: status %d, %q, %q", line, status, out.String(), errs.String())
		}
	}
	if n := entries(t, ns); n != 1 {
		t.Errorf("%d flows", n)
	}
}

// dropNetAdmin takes CAP_NET_ADMIN from the calling thread's effective set.
func dropNetAdmin(t testing.TB) (restore func()) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	saved := data
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Capset(&header, &saved[0]); err != nil {
			t.Error(err)
		}
	}
}
