package conntrack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// natRules make the namespace able to translate and to label.
const natRules = `table inet t {
	chain post { type nat hook postrouting priority 100; }
	chain pre { type nat hook prerouting priority -100; }
	chain out { type filter hook output priority 0; ct label set 1; }
}`

// TestRestore saves a table of every kind of flow as JSON, empties it, loads it
// and has the same table.
func TestRestore(t *testing.T) {
	ns := netnstest.New(t, "restore")
	ns.NFT(natRules)
	file := filepath.Join(t.TempDir(), "labels")
	if err := os.WriteFile(file, []byte("1 one\n127 last\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"-I -t 1000 -m 5 -u SEEN_REPLY,ASSURED " + tcp4,
		"-I -t 1000 -m 4294967295 -w 5 " + udp6,
		"-I -t 1000 -u FIXED_TIMEOUT " + icmp4,
		"-I -t 1000 -p icmpv6 -s 2001:db8::1 -d 2001:db8::2 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 9",
		"-I -t 1000 -p gre -s 192.0.2.1 -d 192.0.2.2 --srckey 16 --dstkey 77",
		"-I -t 1000 -p 200 -s 192.0.2.1 -d 192.0.2.2 --reply-zone 3",
		"-I -t 1000 -p udplite -s 192.0.2.1 -d 192.0.2.2 --sport 3 --dport 4 --orig-zone 3",
		"-I -t 1000 -p sctp -s 192.0.2.1 -d 192.0.2.2 --sport 5 --dport 6 --state ESTABLISHED --orig-vtag 16909060 --reply-vtag 2",
		"-I -t 1000 -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2 --state TIME_WAIT -g 192.0.2.3:80 -n 192.0.2.4:4000",
		"-I -t 1000 -p udp -s 2001:db8::1 -d 2001:db8::2 --sport 1 --dport 2 -n 2001:db8::4",
	} {
		must(t, ns, line, "1 flow entries have been created.")
	}
	must(t, ns, "-U -p tcp --label-add one,last --labelmap "+file, "2 flow entries have been updated.")
	const shown = "10 flow entries have been shown."
	saved := must(t, ns, "-L -o json", shown)
	before := lasting(must(t, ns, "-L -o json", shown))
	must(t, ns, "-F", "connection tracking table has been emptied.")
	if r := runTo(t, ns, "-R -", saved, nil); r.status != 0 || r.stderr != "" {
		t.Fatalf("-R: %+v", r)
	}
	if after := lasting(must(t, ns, "-L -o json", shown)); !slices.Equal(after, before) {
		for i := range after {
			if after[i] != before[i] {
				t.Errorf("restored\n%s\nnot\n%s", after[i], before[i])
			}
		}
	}
	// Once more, over the flows that are there now.
	if r := runTo(t, ns, "-R -", saved, nil); r.status != 0 || r.stderr != "" {
		t.Errorf("-R over the flows of the file: %+v", r)
	}
	if after := lasting(must(t, ns, "-L -o json", shown)); !slices.Equal(after, before) {
		t.Errorf("after -R over the flows of the file:\n%s", strings.Join(after, "\n"))
	}

	// The same events as a stream take the flows away again.
	gone := strings.ReplaceAll(saved, `{"family"`, `{"event":"destroy","family"`)
	r := runTo(t, ns, "-R -", gone, nil)
	if n := entries(t, ns); n != 0 || r.status != 0 || strings.Count(r.stdout, "\n") != 10 {
		t.Errorf("%d flows left: %+v", n, r)
	}
	if r = runTo(t, ns, "-R -", gone, nil); r.status != 0 || r.stdout != "" || r.stderr != "" {
		t.Errorf("-R of what is gone: %+v", r)
	}
}

// A ping behind NAT has another id on the other side, which no -I can ask for: unless it
// is restored, replies match no flow.
func TestRestoreTranslatedPing(t *testing.T) {
	ns := netnstest.New(t, "ping")
	ns.NFT(natRules)
	const reply = `"reply":{"src":"192.0.2.2","dst":"192.0.2.4","icmp_type":0,"icmp_code":0,"icmp_id":99}`
	saved := `{"family":"ipv4","proto":1,"original":{"src":"192.0.2.5","dst":"192.0.2.2","icmp_type":8,"icmp_code":0,"icmp_id":7},` +
		reply + `,"timeout":999,"status":["CONFIRMED","SRC_NAT","SRC_NAT_DONE","DST_NAT_DONE"]}` + "\n"
	if r := runTo(t, ns, "-R -", saved, nil); r.status != 0 || r.stderr != "" {
		t.Fatalf("-R: %+v", r)
	}
	if out := must(t, ns, "-L -o json", "1 flow entries have been shown."); !strings.Contains(out, reply) {
		t.Errorf("restored %s, want its %s", out, reply)
	}
}

// lasting returns JSON lines without the members that a restored flow does not keep, sorted.
func lasting(out string) []string {
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i, line := range lines {
		for _, member := range []string{"id", "use", "timeout"} {
			before, rest, _ := strings.Cut(line, `"`+member+`":`)
			_, after, _ := strings.Cut(rest, ",")
			line = before + after
		}
		lines[i] = line
	}
	slices.Sort(lines)
	return lines
}

// TestRestoreSave does the same with lines that Debian's conntrack has saved.
func TestRestoreSave(t *testing.T) {
	ns := netnstest.New(t, "restoresave")
	ns.NFT(natRules)
	for _, line := range []string{
		"-I -t 1000 -u SEEN_REPLY,ASSURED " + tcp4,
		"-I -t 1000 -w 5 " + udp6,
		"-I -t 1000 " + icmp4,
		"-I -t 1000 -p sctp -s 192.0.2.1 -d 192.0.2.2 --sport 5 --dport 6 --state ESTABLISHED --orig-vtag 16909060 --reply-vtag 2",
		"-I -t 1000 -p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2 --state TIME_WAIT -g 192.0.2.3:80",
	} {
		must(t, ns, line, "1 flow entries have been created.")
	}
	saved := ns.Must("/usr/sbin/conntrack", "-L", "-o", "save")
	if ours := must(t, ns, "-L -o save", "5 flow entries have been shown."); sameSecond(ours) != sameSecond(saved) {
		t.Errorf("saved\n%s\nnot\n%s", ours, saved)
	}
	must(t, ns, "-F", "connection tracking table has been emptied.")
	if r := runTo(t, ns, "-R -", saved, nil); r.status != 0 || r.stderr != "" {
		t.Fatalf("-R: %+v", r)
	}
	if again := ns.Must("/usr/sbin/conntrack", "-L", "-o", "save"); sameSecond(again) != sameSecond(saved) {
		t.Errorf("restored\n%s\nnot\n%s", again, saved)
	}
}

// TestRestoreRelated restores flows that precede their masters.
func TestRestoreRelated(t *testing.T) {
	ns := netnstest.New(t, "related")
	const control = `{"proto":6,"original":{"src":"192.0.2.1","dst":"192.0.2.2","sport":1000,"dport":21},"timeout":1000,"state":"ESTABLISHED","helper":"ftp"}` + "\n"
	data := func(port, control int) string {
		return fmt.Sprintf(`{"proto":6,"original":{"src":"192.0.2.2","dst":"192.0.2.1","sport":20,"dport":%d},`+
			`"master":{"src":"192.0.2.1","dst":"192.0.2.2","sport":%d,"dport":21},"timeout":1000,"state":"ESTABLISHED","status":["EXPECTED","CONFIRMED"]}`+"\n", port, control)
	}
	r := runTo(t, ns, "-R -", data(5000, 1000)+data(5001, 9)+control, nil)
	if r.status != 0 || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	out := must(t, ns, "-L -o json", "3 flow entries have been shown.")
	if strings.Count(out, `"EXPECTED"`) != 1 || strings.Count(out, `"helper":"ftp"`) != 1 {
		t.Errorf("%s", out)
	}
}

func TestLoadRefused(t *testing.T) {
	ns := netnstest.New(t, "refused")
	file := filepath.Join(t.TempDir(), "flows")
	load := func(lines ...string) ran {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return run(t, ns, "-R "+file)
	}
	// Nothing is carried out when a line is wrong.
	good := "-I -t 1000 " + udp4
	for _, bad := range []string{"-I -t 1000 -p udp -s nowhere", "-X", "-L", `{"proto":17}`,
		// Deletions that name more than one flow.
		`{"event":"destroy","proto":17,"original":{"src":"192.0.2.1","dst":"192.0.2.2"}}`,
		`{"event":"destroy","proto":17,"original":{"src":"192.0.2.1","dst":"192.0.2.2","sport":1000}}`,
		`{"event":"destroy","original":{"src":"192.0.2.1","dst":"192.0.2.2"}}`,
		`{"event":"destroy","proto":1,"original":{"src":"192.0.2.1","dst":"192.0.2.2","icmp_type":8}}`,
		`{"event":"destroy","proto":33,"original":{"src":"192.0.2.1"}}`, `{"event":"lost","messages":3}`, "-I expect"} {
		r := load(good, "# a comment", bad)
		if r.status != 2 || !strings.HasPrefix(r.stderr, messagePrefix+file+":3: ") {
			t.Errorf("%s: %+v", bad, r)
		}
	}
	if n := entries(t, ns); n != 0 {
		t.Fatalf("%d flows from files with a wrong line", n)
	}

	r := load(good, "-I -t 1000 "+tcp4, "", good, "-I -t 1000 "+udp6)
	want := onStderr(file+":4: Operation failed: Such conntrack exists, try -U to update") +
		onStderr(file+": 3 lines were carried out, 1 refused, 0 not tried")
	if r.status != 1 || r.stderr != want {
		t.Errorf("%+v\nwant %s", r, want)
	}
	r = load("-F", good, "-U -u EXPECTED", "-I -t 1000 "+udp6)
	want = onStderr("connection tracking table has been emptied.") +
		onStderr(file+":3: Operation failed: Device or resource busy") +
		onStderr(file+": 2 lines were carried out, 1 refused, 1 not tried")
	if r.status != 1 || r.stderr != want {
		t.Errorf("%+v\nwant %s", r, want)
	}
	if r = run(t, ns, "-R "+file+"nix"); r.status != 2 || !strings.HasPrefix(r.stderr, messagePrefix+"Failed to open file "+file+"nix for reading\n") {
		t.Errorf("%+v", r)
	}
}

// TestLoadInterrupted ends a load between two lines, the second of which waits for the
// first: lines that were not sent are not counted as carried out.
func TestLoadInterrupted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "flows")
	if err := os.WriteFile(file, []byte("-I -t 1000 "+udp4+"\n-F\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// The context is asked for each line during the check and again when the line is
	// carried out; the next call comes from sending the first line's batch.
	ctx := &endingContext{Context: context.Background(), after: 4}
	var stdout, stderr bytes.Buffer
	status := -1
	netnstest.New(t, "interrupted").Do(func() {
		status = Run(ctx, []string{"conntrack", "-R", file}, strings.NewReader(""), &stdout, &stderr)
	})
	want := onStderr(file + ": interrupted; at least 0 of 2 lines were carried out")
	if status != exitFailed || stderr.String() != want || stdout.Len() > 0 {
		t.Errorf("status %d\n%s%s\nwant %s", status, stdout.String(), stderr.String(), want)
	}
}

// endingContext ends after a number of calls of Err.
type endingContext struct {
	context.Context
	asked atomic.Int64
	after int64
}

func (c *endingContext) Err() error {
	if c.asked.Add(1) > c.after {
		return context.Canceled
	}
	return nil
}

// TestLoadOrder checks that each line sees the effects of those before it, and that no
// line's options apply to the next.
func TestLoadOrder(t *testing.T) {
	ns := netnstest.New(t, "order")
	r := runTo(t, ns, "-R -", strings.Join([]string{
		"-I -t 1000 " + udp4,
		"-I -t 1000 " + tcp4,
		"-U -p udp -m 1",
		"-U -p tcp -m 2",
		"-U -m 7 -s 203.0.113.9",
		"-D -p udp -o id",
		"-D -p udp",
		"-I -t 1000 " + udp4,
		"-D -p tcp -o save",
	}, "\n"), nil)
	if r.status != 0 || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	lines := strings.Split(r.stdout, "\n")
	if len(lines) != 5 || !strings.Contains(lines[0], "udp ") || !strings.Contains(lines[0], " mark=1 ") ||
		!strings.Contains(lines[1], "tcp ") || !strings.Contains(lines[1], " mark=2 ") ||
		!strings.Contains(lines[2], " mark=1 use=") || !strings.Contains(lines[2], " id=") ||
		!strings.HasPrefix(lines[3], "-D -t ") {
		t.Errorf("%s", r.stdout)
	}
	if left := table(t, ns); len(left) != 1 || !strings.Contains(left[0], "udp ") || !strings.Contains(left[0], " mark=0 ") {
		t.Errorf("left: %q", left)
	}
}

// TestDeleteID checks that a deletion with another flow's id deletes nothing.
func TestDeleteID(t *testing.T) {
	ns := netnstest.New(t, "id")
	must(t, ns, "-I -t 1000 "+udp4, "1 flow entries have been created.")
	ns.Do(func() {
		conn, err := nl.Dial(nl.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var request ctnetlink.Flow
		if _, err := ctnetlink.DumpFlows(t.Context(), conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
			setIdentity(&request, f)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		request.ID++
		if err := conn.Do(t.Context(), nl.Request{Type: ctnetlink.TypeFlowDelete, Family: nl.FamilyIPv4, Attrs: request.Append}, nil); err == nil {
			t.Error("a flow was deleted by another one's id")
		}
		request.ID--
		if err := conn.Do(t.Context(), nl.Request{Type: ctnetlink.TypeFlowDelete, Family: nl.FamilyIPv4, Attrs: request.Append}, nil); err != nil {
			t.Error(err)
		}
	})
}

// TestCheckParts checks that a long file, which is checked in parts, has the same commands
// and the same first error as when it is read from the first line.
func TestCheckParts(t *testing.T) {
	var good strings.Builder
	for i := range 30000 {
		fmt.Fprintf(&good, "-I -t 1000 -p udp -s 192.0.2.1 -d 198.51.100.%d --sport %d --dport 53 # text\n", i%200, i)
		if i%100 == 0 {
			good.WriteString("\n# nothing\n")
		}
	}
	for _, bad := range []struct {
		at   int // line after which a wrong one stands; 0: none
		want string
	}{{0, ""}, {1, ":2: "}, {15299, ":15300: "}, {30599, ":30600: "}, {-1, ""}} {
		text := good.String()
		if bad.at > 0 {
			lines := strings.SplitAfter(text, "\n")
			text = strings.Join(slices.Insert(lines, bad.at, "-X\n", "-Y\n"), "")
		}
		if bad.at < 0 {
			text = strings.TrimSuffix(text, "\n")
		}
		l, err := OpenLoadFile("-", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		p := NewParser(io.Discard, false)
		n, err := l.Check(t.Context(), p, "conntrack", newReadJSON)
		counted := 0
		errEach := l.Each(p, "conntrack", newReadJSON(), func(int, *Command) error { counted++; return nil })
		switch {
		case (err == nil) != (errEach == nil) || err != nil && err.Error() != errEach.Error():
			t.Errorf("wrong line %d: %v, from the first line %v", bad.at, err, errEach)
		case err != nil && !strings.Contains(err.Error(), bad.want):
			t.Errorf("wrong line %d: %v", bad.at, err)
		case err == nil && n != counted:
			t.Errorf("%d commands, from the first line %d", n, counted)
		}
		l.Close()
	}
}
