package control

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctbox/sync/commit"
	"ctbox/sync/node"
	"ctbox/sync/owner"
)

// selected returns the Selection of options and values.
func selected(t testing.TB, words ...string) *Selection {
	t.Helper()
	s := new(Selection)
	for i := 0; i < len(words); i += 2 {
		if err := s.Set(words[i], words[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestConditions(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		option, value string
		want          owner.Selector
		err           bool
	}{
		{"--nat-src", "203.0.113.7", owner.Selector{NATSrc: netip.MustParseAddr("203.0.113.7")}, false},
		{"--nat-src", "::ffff:203.0.113.7", owner.Selector{NATSrc: netip.MustParseAddr("203.0.113.7")}, false},
		{"--nat-src", "2001:db8::7", owner.Selector{NATSrc: netip.MustParseAddr("2001:db8::7")}, false},
		{"--nat-src", "203.0.113.0/24", owner.Selector{}, true},
		{"--nat-src", "fe80::1%eth0", owner.Selector{}, true},
		{"--nat-src", "fw1", owner.Selector{}, true},
		{"--nat-src", "", owner.Selector{}, true},
		{"--src", "192.0.2.0/24", owner.Selector{Src: prefix("192.0.2.0/24")}, false},
		{"--src", "192.0.2.9/24", owner.Selector{Src: prefix("192.0.2.0/24")}, false},
		{"--src", "192.0.2.9", owner.Selector{Src: prefix("192.0.2.9/32")}, false},
		{"--src", "::ffff:192.0.2.9", owner.Selector{Src: prefix("192.0.2.9/32")}, false},
		{"--src", "2001:db8::/32", owner.Selector{Src: prefix("2001:db8::/32")}, false},
		{"--src", "2001:db8::1", owner.Selector{Src: prefix("2001:db8::1/128")}, false},
		{"--src", "0.0.0.0/0", owner.Selector{Src: prefix("0.0.0.0/0")}, false},
		{"--src", "::ffff:192.0.2.0/120", owner.Selector{}, true},
		{"--src", "192.0.2.0/33", owner.Selector{}, true},
		{"--src", "192.0.2.0/", owner.Selector{}, true},
		{"--src", "192.0.2", owner.Selector{}, true},
		{"--src", "fe80::1%eth0", owner.Selector{}, true},
		{"--zone", "0", owner.Selector{HasZone: true}, false},
		{"--zone", "65535", owner.Selector{HasZone: true, Zone: 65535}, false},
		{"--zone", "65536", owner.Selector{}, true},
		{"--zone", "-1", owner.Selector{}, true},
		{"--zone", "", owner.Selector{}, true},
		{"--mark", "7", owner.Selector{HasMark: true, Mark: 7, Mask: 1<<32 - 1}, false},
		{"--mark", "0x10/0xf0", owner.Selector{HasMark: true, Mark: 0x10, Mask: 0xf0}, false},
		{"--mark", "0/1", owner.Selector{HasMark: true, Mask: 1}, false},
		{"--mark", "0xffffffff", owner.Selector{HasMark: true, Mark: 1<<32 - 1, Mask: 1<<32 - 1}, false},
		{"--mark", "0x100000000", owner.Selector{}, true},
		{"--mark", "0x11/0xf0", owner.Selector{}, true}, // no flow could have it
		{"--mark", "1/", owner.Selector{}, true},
		{"--mark", "/1", owner.Selector{}, true},
		{"--mark", "one", owner.Selector{}, true},
		{"--owner", "fw1", owner.Selector{}, false},
		{"--owner", strings.Repeat("x", 63), owner.Selector{}, false},
		{"--owner", strings.Repeat("x", 64), owner.Selector{}, true},
		{"--owner", "", owner.Selector{}, true},
		{"--owner", "fw 1", owner.Selector{}, true},
		{"--owner", "fw1\n--zone 1", owner.Selector{}, true},
		{"--dst", "192.0.2.1", owner.Selector{}, true},
	} {
		var s Selection
		err := s.Set(c.option, c.value)
		if (err != nil) != c.err || err == nil && s.Selector != c.want {
			t.Errorf("%s %q: %+v, %v", c.option, c.value, s.Selector, err)
		}
		if err != nil {
			if text := err.Error(); !strings.Contains(text, c.option) || strings.Contains(text, "\n") {
				t.Errorf("%s %q: the error is %q", c.option, c.value, text)
			}
			continue
		}
		if s.Empty() || s.OnlyOwner() != (c.option == "--owner") {
			t.Errorf("%s %q: empty %v, only an owner %v", c.option, c.value, s.Empty(), s.OnlyOwner())
		}
		if back, err := parseSelection(s.text); err != nil || back != s {
			t.Errorf("%s %q arrives as %+v, %v", c.option, c.value, back, err)
		}
		if err := s.Set(c.option, c.value); err == nil || err.Error() != c.option+" is there twice" {
			t.Errorf("%s twice: %v", c.option, err)
		}
	}
	if len(selected(t, "--owner", strings.Repeat("x", 63), "--nat-src", "2001:db8:1111:2222:3333:4444:5555:6666", "--zone", "65535",
		"--mark", "0xffffffff/0xffffffff", "--src", "2001:db8:1111:2222:3333:4444:5555:6666/128").text) > maxSelection {
		t.Error("the longest Selection is too long")
	}
}

// A Selection reaches the node with the request that it belongs to.
func TestSelections(t *testing.T) {
	d := serve(t, &Server{Peers: func() []string { return []string{"fw2", "fw3"} }})
	src := netip.MustParsePrefix("192.0.2.0/24")
	for _, c := range []struct {
		request Request
		words   []string
		asked   string
		want    owner.Selector
		err     string
	}{
		{CommitAll | WithOutcome, []string{"--owner", "fw2"}, "commit-both", owner.Selector{Node: 2}, ""},
		{CommitFlows | WithOutcome, []string{"--owner", "3", "--src", "192.0.2.0/24"}, "commit-flows", owner.Selector{Node: 3, Src: src}, ""},
		{CommitExpects | WithOutcome, []string{"--zone", "0"}, "commit-expects", owner.Selector{HasZone: true}, ""},
		{CommitAll, []string{"--mark", "1"}, "commit-both", owner.Selector{HasMark: true, Mark: 1, Mask: 1<<32 - 1}, ""},
		{CommitAll | WithOutcome | AsJSON, []string{"--src", "192.0.2.0/24"}, "commit-both", owner.Selector{Src: src}, ""},
		{DumpExternal, []string{"--owner", "fw3"}, "dump-external-flows-of-3", owner.Selector{}, ""},
		{DumpExternalXML, []string{"--owner", "fw3"}, "dump-external-flows-of-3", owner.Selector{}, ""},
		{DumpExternalExp | WithOutcome | AsJSON, []string{"--owner", "2"}, "dump-external-expects-of-2", owner.Selector{}, ""},

		{CommitAll | WithOutcome, []string{"--owner", "fw1"}, "", owner.Selector{}, "--owner: fw1 is no peer of this node. Its peers are: fw2, fw3"},
		{DumpExternal, []string{"--owner", "fw1"}, "", owner.Selector{}, "--owner: fw1 is no peer of this node. Its peers are: fw2, fw3"},
		{DumpInternal, []string{"--owner", "fw2"}, "", owner.Selector{}, "the daemon does not know this request with a selection"},
		{DumpExternal, []string{"--zone", "1"}, "", owner.Selector{}, "the daemon does not know this request with a selection"},
		{FlushKernelFlows, []string{"--owner", "fw2"}, "", owner.Selector{}, "the daemon does not know this request with a selection"},
		{Kill, []string{"--owner", "fw2"}, "", owner.Selector{}, "the daemon does not know this request with a selection"},
		{Selected, []string{"--owner", "fw2"}, "", owner.Selector{}, "the daemon does not know this request with a selection"},
	} {
		d.node.set(func(f *fake) { f.took = owner.Selector{} })
		_, err := d.askFor(t, c.request, selected(t, c.words...))
		if (err != nil) != (c.err != "") || err != nil && !errors.Is(err, Outcome(c.err)) {
			t.Errorf("request %d, %q: %v", c.request, c.words, err)
		}
		got := d.node.all()
		d.node.set(func(f *fake) {
			if got != c.asked || f.took != c.want {
				t.Errorf("request %d, %q asked for %q, %+v", c.request, c.words, got, f.took)
			}
		})
	}
	plain := serve(t, &Server{})
	_, err := plain.askFor(t, CommitAll|WithOutcome, selected(t, "--owner", "fw1"))
	if want := "--owner: fw1 is no peer of this node. Its configuration has no Cluster clause, which names them"; !errors.Is(err, Outcome(want)) {
		t.Errorf("without a Cluster: %v", err)
	}
}

// Whose flows a commit has taken is the answer to a client of ctbox, and not to one of
// conntrack-tools.
func TestCommitAnswer(t *testing.T) {
	d := serve(t, &Server{})
	result := commit.Result{Taken: []commit.Taken{{Node: 2, Name: "fw2", Heard: 400 * time.Millisecond, Flows: 3}}, Kept: []string{"fw3"}}
	d.node.set(func(f *fake) { f.commit = result })
	const want = "fw2: heard 0.4 s ago, no hole, never proven equal: 3 flows taken\nfw3 keeps its flows\n"
	for r, want := range map[Request]string{CommitAll: "", CommitFlows: "", CommitAll | WithOutcome: want, CommitFlows | WithOutcome: want} {
		if text, err := d.ask(t, r); text != want || err != nil {
			t.Errorf("request %d: %q, %v", r, text, err)
		}
	}
	if text, err := d.askFor(t, CommitAll, selected(t, "--owner", "2")); text != want || err != nil {
		t.Errorf("with a Selection: %q, %v", text, err)
	}
	d.node.set(func(f *fake) { f.commit.Missing = 7 }) // the answer is complete before the remark
	if text, err := d.ask(t, CommitAll|WithOutcome); text != want || !errors.Is(err, Remark("7 events of the peer were lost and not yet made up\n")) {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := d.ask(t, CommitAll|WithOutcome|AsJSON); !strings.HasPrefix(text, `{"took":0,"missing":7,"taken":[{"node":2,"name":"fw2",`) ||
		!errors.Is(err, Remark("7 events of the peer were lost and not yet made up\n")) {
		t.Errorf("%q, %v", text, err)
	}
	d.node.set(func(f *fake) { f.err = node.ErrUnsupported })
	if text, err := d.askFor(t, CommitAll, selected(t, "--owner", "2")); text != "" || err != nil {
		t.Errorf("nothing to commit in this mode: %q, %v", text, err)
	}
}

// A daemon that does not know Selected closes the connection, even if it has not read what
// follows.
func TestSelectionForAnOldDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	read := make(chan uint32, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		var number uint32
		binary.Read(conn, binary.NativeEndian, &number)
		conn.Close()
		read <- number
	}()
	if err := Ask(t.Context(), path, CommitAll|WithOutcome, selected(t, "--owner", "fw1"), io.Discard); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	// Neither a daemon of conntrack-tools nor an older one of ctbox has this number.
	if n := <-read; n != uint32(WithOutcome|70) {
		t.Errorf("the number is %d", n)
	}
}

// What is no Selection is refused, and the server goes on.
func TestMalformedSelections(t *testing.T) {
	d := serve(t, &Server{ReadTimeout: time.Hour})
	number := func(n ...uint32) (b []byte) {
		for _, n := range n {
			b = binary.NativeEndian.AppendUint32(b, n)
		}
		return b
	}
	for _, c := range []struct {
		sent []byte
		want string
	}{
		{number(uint32(Selected)), ""},
		{number(uint32(Selected), uint32(CommitAll)), ""},
		{number(uint32(Selected), uint32(CommitAll), 5), ""},
		{number(uint32(Selected), uint32(CommitAll), maxSelection+1), ""},
		{number(uint32(Selected), uint32(CommitAll), 1<<32-1), ""},
		{append(number(uint32(Selected), uint32(CommitAll), 5), "--zo\n"...), "\x00this is no selection"},
		{append(number(uint32(Selected), uint32(CommitAll), 7), "--zone "...), "\x00this is no selection"},
		{append(number(uint32(Selected), uint32(CommitAll), 9), "--zone x\n"...), "\x00--zone takes a number from 0 to 65535, found \"x\""},
		{append(number(uint32(Selected), uint32(CommitAll), 8), "--dst x\n"...), "\x00unknown selector \"--dst\""},
	} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(c.sent)
		conn.CloseWrite()
		var got bytes.Buffer
		io.Copy(&got, conn) // a reset is an answer, too
		conn.Close()
		if got.String() != c.want || d.node.all() != "" {
			t.Errorf("%q: %q", c.sent, &got)
		}
	}
}

// A client that sends half a Selection is dropped in time.
func TestHalfASelection(t *testing.T) {
	d := serve(t, &Server{ReadTimeout: 20 * time.Millisecond})
	conn, err := net.Dial("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(binary.NativeEndian.AppendUint32(nil, uint32(Selected)))
	if n, _ := conn.Read(make([]byte, 1)); n != 0 {
		t.Error("it is answered")
	}
}

// Whatever is read as a question is what a client has sent.
func FuzzQuestion(f *testing.F) {
	for _, s := range []*Selection{nil, selected(f, "--owner", "fw1"), selected(f, "--mark", "1/3", "--zone", "7"), selected(f, "--src", "192.0.2.0/24", "--nat-src", "2001:db8::1")} {
		f.Add(appendRequest(nil, CommitAll|WithOutcome, s))
		f.Add(appendRequest(nil, DumpExternal, s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := readQuestion(bytes.NewReader(data))
		if err != nil {
			return
		}
		s, err := parseSelection(q.selection)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			return
		}
		if q.Request == Selected || s.Empty() {
			return
		}
		if sent := appendRequest(nil, q.Request, &s); !bytes.HasPrefix(data, sent) {
			t.Errorf("%q is %q", data, sent)
		}
	})
}
