package conntrack

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// natLines make flows with every kind of translation, most of them with status bits.
var natLines = []string{
	"-I -t 1000 -u SEEN_REPLY,ASSURED -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 80 --state ESTABLISHED -n 203.0.113.1",
	"-I -t 1000 -u SEEN_REPLY,ASSURED -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 2 --dport 80 --state ESTABLISHED -n 203.0.113.1:4000",
	"-I -t 1000 -u SEEN_REPLY -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 3 --dport 80 --state SYN_RECV -g 192.0.2.3",
	"-I -t 1000 -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 4 --dport 80 --state SYN_SENT -g 192.0.2.3:8080",
	"-I -t 1000 -u SEEN_REPLY,ASSURED -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 5 --dport 53 -n 203.0.113.1:4000 -g 192.0.2.3:5353",
	"-I -t 1000 -p icmp -s 192.0.2.1 -d 192.0.2.2 --icmp-type 8 --icmp-code 0 --icmp-id 9 -n 203.0.113.1",
	"-I -t 1000 -p 200 -s 192.0.2.1 -d 192.0.2.2 -n 203.0.113.1",
	"-I -t 1000 -p udp -s 2001:db8::1 -d 2001:db8::2 --sport 1 --dport 2 -n 2001:db8::4",
	"-I -t 1000 -u SEEN_REPLY -w 5 -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 6 --dport 53 -n 203.0.113.1",
	"-I -t 1000 -u SEEN_REPLY,FIXED_TIMEOUT -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 7 --dport 53 -n 203.0.113.1",
	"-I -t 1000 -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 8 --dport 53",
}

// A saved table, of either form, is loaded onto the live one: every flow exists and has
// the NAT that its line asks for. The lines update what can be updated.
func TestLoadOntoLiveTable(t *testing.T) {
	ns := netnstest.New(t, "live")
	ns.NFT(natRules)
	for _, line := range natLines {
		must(t, ns, line, "1 flow entries have been created.")
	}
	shown := fmt.Sprint(len(natLines), " flow entries have been shown.")
	before := lasting(must(t, ns, "-L -o json", shown))
	for _, form := range []string{"save", "json"} {
		saved := must(t, ns, "-L -o "+form, shown)
		for range 2 {
			if r := runTo(t, ns, "-R -", saved, nil); r.status != 0 || r.stderr != "" {
				t.Fatalf("-R of what -o %s wrote: %+v", form, r)
			}
			if after := lasting(must(t, ns, "-L -o json", shown)); !slices.Equal(after, before) {
				t.Fatalf("-R of what -o %s wrote made\n%s\nof\n%s", form, strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
		}
	}
	// The update is one: the timeout and the mark are those of the line.
	line := "-A -t 2000 -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 2 --dport 80 --state ESTABLISHED -u SEEN_REPLY -n 203.0.113.1:4000 -m 7"
	must(t, ns, line, "1 flow entries have been added.")
	if out := must(t, ns, "-L -m 7", "1 flow entries have been shown."); !strings.Contains(out, " 2000 ESTABLISHED ") && !strings.Contains(out, " 1999 ESTABLISHED ") || !strings.Contains(out, "[ASSURED]") {
		t.Errorf("after -A: %s", out)
	}
}

// A flow with another NAT than its line's is not changed, and each such line gets an error.
func TestLoadOntoOtherNAT(t *testing.T) {
	ns := netnstest.New(t, "other")
	ns.NFT(natRules)
	flow := func(port int, nat string) string {
		return fmt.Sprintf("-t 1000 -p udp -s 192.0.2.1 -d 192.0.2.2 --sport %d --dport 53 %s", port, nat)
	}
	for port, nat := range []string{"-n 203.0.113.1:4000", "-n 203.0.113.1", "-g 192.0.2.3:53", "", "-n 203.0.113.1"} {
		must(t, ns, "-I "+flow(port, nat), "1 flow entries have been created.")
	}
	before := lasting(must(t, ns, "-L -o json", "5 flow entries have been shown."))
	lines := strings.Join([]string{
		"-A " + flow(0, "-n 203.0.113.1:4001"), "-A " + flow(1, "-n 203.0.113.2"), "-A " + flow(2, "-g 192.0.2.4:53"),
		"-A " + flow(3, "-n 203.0.113.1"), "-A " + flow(4, "-n 203.0.113.1"), "-A " + flow(5, "-n 203.0.113.1"),
	}, "\n")
	const other = "Operation failed: Operation not supported (the flow exists with another NAT, its reply is "
	r := runTo(t, ns, "-R -", lines, nil)
	want := onStderr("-:1: "+other+"192.0.2.2:53 -> 203.0.113.1:4000; delete it first)") +
		onStderr("-:2: "+other+"192.0.2.2:53 -> 203.0.113.1:1; delete it first)") +
		onStderr("-:3: "+other+"192.0.2.3:53 -> 192.0.2.1:2; delete it first)") +
		onStderr("-:4: "+other+"192.0.2.2:53 -> 192.0.2.1:3; delete it first)") +
		onStderr("-: 2 lines were carried out, 4 refused, 0 not tried")
	if r.status != 1 || r.stderr != want {
		t.Errorf("status %d\n%swant\n%s", r.status, r.stderr, want)
	}
	must(t, ns, "-D -p udp --sport 5", "1 flow entries have been deleted.")
	if after := lasting(must(t, ns, "-L -o json", "5 flow entries have been shown.")); !slices.Equal(after, before) {
		t.Errorf("the table became\n%s", strings.Join(after, "\n"))
	}
	fails(t, ns, "-A "+flow(0, "-n 203.0.113.1:4001"), 1, other+"192.0.2.2:53 -> 203.0.113.1:4000; delete it first)")
	fails(t, ns, "-I "+flow(0, "-n 203.0.113.1:4001"), 1, "Operation failed: Such conntrack exists, try -U to update")

	// Of many lines the first ten are named, and all are counted.
	var many, text strings.Builder
	for port := range 100 {
		fmt.Fprintln(&many, "-I "+flow(100+port, "-n 203.0.113.1"))
		fmt.Fprintln(&text, "-A "+flow(100+port, "-n 203.0.113.2"))
	}
	if r := runTo(t, ns, "-R -", many.String(), nil); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	r = runTo(t, ns, "-R -", text.String(), nil)
	if n := strings.Count(r.stderr, other); r.status != 1 || n != 1+namedOthers || !strings.HasSuffix(r.stderr, onStderr("-: 0 lines were carried out, 100 refused, 0 not tried")) {
		t.Errorf("%d lines named: %s", n, r.stderr)
	}
}

// The kernel refuses to change a fixed timeout with the error for a missing privilege.
func TestFixedTimeout(t *testing.T) {
	ns := netnstest.New(t, "fixed")
	must(t, ns, "-I -t 1000 -u FIXED_TIMEOUT "+udp4, "1 flow entries have been created.")
	const text = "Operation failed: Operation not permitted (the flow's timeout is fixed, status FIXED_TIMEOUT)"
	fails(t, ns, "-A -t 2000 "+udp4, 1, text)
	if r := run(t, ns, "-U -t 2000 -p udp"); r.status != 1 || r.stderr != onStderr(text) {
		t.Errorf("-U: %+v", r)
	}
	r := runTo(t, ns, "-R -", "-A -t 2000 "+udp4+"\n", nil)
	if want := onStderr("-:1: "+text) + onStderr("-: 0 lines were carried out, 1 refused, 0 not tried"); r.status != 1 || r.stderr != want {
		t.Errorf("-R: %+v", r)
	}
	if r := runTo(t, ns, "-R -", "-U -t 2000 -p udp\n", nil); r.status != 1 || !strings.HasPrefix(r.stderr, onStderr("-:1: "+text)) {
		t.Errorf("-R: %+v", r)
	}
	must(t, ns, "-U -m 5 -p udp", "1 flow entries have been updated.")
}

// Lines of -o save for a protocol of which this kernel keeps no ports can be loaded, and a
// flow that is created with ports gets a warning. DCCP is such a protocol since Linux 6.18,
// UDP-Lite since 7.2; the test asks the kernel what it keeps.
func TestProtocolsWithoutPorts(t *testing.T) {
	for name, line := range map[string]string{
		"udplite": "-t 1000 -p udplite -s 192.0.2.1 -d 192.0.2.2 --sport 3 --dport 4",
		"dccp":    "-t 1000 -p dccp -s 192.0.2.1 -d 192.0.2.2 --sport 3 --dport 4 --state OPEN --role client",
		"sctp":    "-t 1000 -p sctp -s 192.0.2.1 -d 192.0.2.2 --sport 3 --dport 4 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2",
		"gre":     "-t 1000 -p gre -s 192.0.2.1 -d 192.0.2.2 --srckey 3 --dstkey 4",
	} {
		t.Run(name, func(t *testing.T) {
			ns := netnstest.New(t, name)
			what := "ports"
			if name == "gre" {
				what = "keys"
			}
			warning := "WARNING: this kernel keeps no " + what + " of " + name + "; the flow has none.\n"
			created := run(t, ns, "-I "+line)
			saved := must(t, ns, "-L -o save", "1 flow entries have been shown.")
			kept := strings.Contains(saved, "--sport 3 ") || strings.Contains(saved, "--srckey 3 ")
			want := onStderr("1 flow entries have been created.")
			if !kept {
				want = warning + want
			}
			if created.status != 0 || created.stderr != want {
				t.Errorf("-I: %+v, want %s", created, want)
			}
			must(t, ns, "-F", "connection tracking table has been emptied.")
			if r := runTo(t, ns, "-R -", saved+"-A -t 1000 "+tcp4+"\n", nil); r.status != 0 || r.stderr != "" {
				t.Errorf("-R of\n%s%+v", saved, r)
			}
			if again := must(t, ns, "-L -o save -p "+name, "1 flow entries have been shown."); sameSecond(again) != sameSecond(saved) {
				t.Errorf("restored\n%s\nnot\n%s", again, saved)
			}
			must(t, ns, "-F", "connection tracking table has been emptied.")
			r := runTo(t, ns, "-R -", "-I "+line+"\n", nil)
			if kept && r.stderr != "" || !kept && r.stderr != "-:1: "+warning || r.status != 0 {
				t.Errorf("-R of a line with %s: %+v", what, r)
			}
			// The form written where the kernel keeps no ports. This kernel may refuse the
			// flow, but the line and those behind it are accepted.
			must(t, ns, "-F", "connection tracking table has been emptied.")
			bare := "-A -t 1000 -u UNSET -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p " + name + "\n"
			r = runTo(t, ns, "-R -", "-A -t 1000 "+tcp4+"\n"+bare, nil)
			if r.status == exitUsage || !kept && r.stderr != "" {
				t.Errorf("-R of %s%+v", bare, r)
			}
			if n := entries(t, ns); n < 1 {
				t.Errorf("%d flows after -R of %s%+v", n, bare, r)
			}
		})
	}
	// A command line and a flow of a protocol that every kernel knows need their ports.
	ns := netnstest.New(t, "ports")
	if r := run(t, ns, "-I -t 5 -p udplite -s 192.0.2.1 -d 192.0.2.2"); r.status != 2 || !strings.HasPrefix(r.stderr, onStderr("you have to specify `--sport' and `--dport'")) {
		t.Errorf("-I of UDP-Lite without ports: %+v", r)
	}
	if r := runTo(t, ns, "-R -", "-A -t 5 -p udp -s 192.0.2.1 -d 192.0.2.2\n", nil); r.status != 2 {
		t.Errorf("-R of UDP without ports: %+v", r)
	}
}

// Where no rule uses labels, the kernel has no room for them: -U and -A of a flow that
// exists print that, with conntrack-tools\' counts and statuses, and so does -I, whose flow
// the kernel creates without labels.
func TestNoRoomForLabels(t *testing.T) {
	ns := netnstest.New(t, "noroom")
	file := filepath.Join(t.TempDir(), "labels")
	if err := os.WriteFile(file, []byte("1 one\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ns.Track()
	must(t, ns, "-I -t 1000 "+udp4, "1 flow entries have been created.")
	must(t, ns, "-I -t 1000 "+udp6, "1 flow entries have been created.")
	r := run(t, ns, "-U -p udp --label-add one --labelmap "+file)
	want := "WARNING: 2 flows were not updated: No space left on device (" + noRoomForLabels + ").\n" + onStderr("0 flow entries have been updated.")
	if r.status != 1 || r.stderr != want {
		t.Errorf("-U: %+v, want %s", r, want)
	}
	withLabel := `{"proto":17,"original":{"src":"192.0.2.1","dst":"192.0.2.2","sport":1000,"dport":53},"timeout":1000,"labels":[1]}` + "\n"
	r = runTo(t, ns, "-R -", withLabel, nil)
	want = onStderr("-:1: Operation failed: No space left on device ("+noRoomForLabels+")") + onStderr("-: 0 lines were carried out, 1 refused, 0 not tried")
	if r.status != 1 || r.stderr != want {
		t.Errorf("-R of a flow that exists: %+v, want %s", r, want)
	}
	must(t, ns, "-F", "connection tracking table has been emptied.")
	r = runTo(t, ns, "-R -", withLabel, nil)
	if want := "-:1: WARNING: the flow has no labels: " + noRoomForLabels + ".\n"; r.status != 0 || r.stderr != want {
		t.Errorf("-R: %+v, want %s", r, want)
	}
}

// An SCTP tag is the same in every input and output form: as a number of --orig-vtag and
// -o save, which is conntrack-tools', as one of JSON, which is RFC 9260's, and in the
// kernel's attribute. The two numbers differ by the order of their bytes on
// little-endian machines, as docs/json.md says.
func TestVerificationTags(t *testing.T) {
	const command, answer = 1, 67305985
	wire := uint32(command)
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		wire = bits.ReverseBytes32(wire)
	}
	ns := netnstest.New(t, "vtag")
	const line = "-p sctp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2"
	must(t, ns, "-I -t 1000 "+line+" --state ESTABLISHED --orig-vtag 1 --reply-vtag 67305985", "1 flow entries have been created.")
	check := func(how string) {
		t.Helper()
		ns.Do(func() {
			conn, err := nl.Dial(nl.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := ctnetlink.DumpFlows(t.Context(), conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
				if f.SCTPVtagOrig != wire || ctnetlink.CommandVtag(f.SCTPVtagReply) != answer {
					t.Errorf("%s: the kernel has %#x, %#x", how, f.SCTPVtagOrig, f.SCTPVtagReply)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
		for form, want := range map[string]string{"save": " --orig-vtag 1 --reply-vtag 67305985", "json": `"vtag_original":` + strconv.FormatUint(uint64(wire), 10) + ","} {
			if out := must(t, ns, "-L -o "+form, "1 flow entries have been shown."); !strings.Contains(out, want) {
				t.Errorf("%s: -o %s writes %s, want %s", how, form, out, want)
			}
		}
		if theirs := ns.Must("/usr/sbin/conntrack", "-L", "-o", "save"); !strings.Contains(theirs, " --orig-vtag 1 --reply-vtag 67305985") {
			t.Errorf("%s: Debian's conntrack saves %s", how, theirs)
		}
	}
	check("-I")
	for _, form := range []string{"save", "json"} {
		saved := must(t, ns, "-L -o "+form, "1 flow entries have been shown.")
		must(t, ns, "-F", "connection tracking table has been emptied.")
		if r := runTo(t, ns, "-R -", saved, nil); r.status != 0 || r.stderr != "" {
			t.Fatalf("-R of %s%+v", saved, r)
		}
		check("-R of -o " + form)
	}
	must(t, ns, "-U -p sctp --orig-vtag 5", "1 flow entries have been updated.")
	must(t, ns, "-U -p sctp --orig-vtag 1", "1 flow entries have been updated.")
	check("-U")
}
