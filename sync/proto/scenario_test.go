package proto

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/sync/wire"
)

var rewrite = flag.Bool("rewrite", false, "write what the scenarios do into their files")

// TestScenarios runs the files in testdata/scenarios. A file consists of commands, one per
// line, and after "----" their results up to an empty line. Lines with "#" are comments.
//
//	node NAME MODE [first=N] [window=N] [resend=N] [resync]   starts a machine,
//	                                 again if there is one of that name
//	change NAME OBJECT…              objects are f1, f2 … (flows) and e1 … (expectations)
//	delete NAME OBJECT…
//	drop NAME OBJECT…                the cache was flushed
//	resync NAME                      requests a resync
//	incomplete NAME N                N events are lost
//	bulk NAME OBJECT…                sends a bulk of these objects
//	wait DURATION                    lets time pass
//	deliver [N]                      the first N messages on the network arrive, or all
//	lose [N]                         the first N messages are lost, or all
//	copy                             the first message arrives, and stays on the network
//	late                             the first message goes to the end
//	inject NAME FROM LINK HEADER     a message from an address: "A 192.0.2.9 0 NEW 17"
//	unacknowledged NAME              lists the resend queue
//	receipt NAME                     what it has received of what the peer has
//	stats NAME
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScenario(t, string(text))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s differs; -rewrite writes it anew:\n%s", file, firstDifference(string(text), got))
			}
		})
	}
}

// firstDifference returns the first lines in which two texts differ.
func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	show := func(lines []string) string {
		return strings.Join(lines[min(i, len(lines)):min(i+5, len(lines))], "\n")
	}
	return fmt.Sprintf("line %d\n-- want\n%s\n-- got\n%s", i+1, show(w), show(g))
}

// runScenario returns the text with the actual results.
func runScenario(t *testing.T, text string) string {
	sc := &scenario{t: t}
	var out strings.Builder
	inResult := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case inResult && line != "":
			continue
		case line == "----":
			fmt.Fprintf(&out, "----\n%s", sc.out.String())
			sc.out.Reset()
			inResult = true
			continue
		case !inResult && line != "" && !strings.HasPrefix(line, "#"):
			sc.command(strings.Fields(line))
		}
		inResult = false
		fmt.Fprintln(&out, line)
	}
	return out.String()
}

type scenario struct {
	t     *testing.T
	out   strings.Builder
	now   time.Duration
	nodes []*actor
	net   []flight
}

// actor is a machine and the states of its objects.
type actor struct {
	name   string
	addr   netip.Addr
	m      Receiver
	states map[Object]wire.Type
}

// flight is a message on the network.
type flight struct {
	from *actor
	h    wire.Header
	what string
}

func (sc *scenario) printf(format string, args ...any) { fmt.Fprintf(&sc.out, format+"\n", args...) }

func (sc *scenario) node(name string) *actor {
	for _, n := range sc.nodes {
		if n.name == name {
			return n
		}
	}
	sc.t.Fatalf("no node %q", name)
	return nil
}

func (sc *scenario) command(words []string) {
	args := words[1:]
	switch words[0] {
	case "node":
		sc.start(args)
	case "change", "delete", "drop", "bulk":
		sc.objects(words[0], sc.node(args[0]), args[1:])
	case "resync":
		sc.node(args[0]).m.RequestResync(sc.now)
	case "incomplete":
		sc.node(args[0]).m.SetIncomplete(sc.now, uint32(sc.number(args[1])))
	case "wait":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			sc.t.Fatal(err)
		}
		sc.wait(d)
	case "deliver", "lose":
		n := len(sc.net)
		if len(args) > 0 {
			n = sc.number(args[0])
		}
		for range n {
			f := sc.net[0]
			sc.net = sc.net[1:]
			if words[0] == "deliver" {
				sc.arrive(f)
			}
		}
	case "copy":
		sc.arrive(sc.net[0])
	case "late":
		sc.net = append(sc.net[1:], sc.net[0])
	case "inject":
		sc.receive(sc.node(args[0]), sc.number(args[2]), netip.MustParseAddr(args[1]), sc.header(args[3:]), "")
	case "unacknowledged":
		for u := range sc.node(args[0]).m.(*FTFW).Unacknowledged() {
			if u.Control {
				sc.printf("control %d %s", u.Seq, flagNames(u.Flags))
			} else {
				sc.printf("object %d", u.Seq)
			}
		}
	case "receipt":
		r := sc.node(args[0]).m.(*FTFW).Receipt(sc.now)
		sc.printf("%s: %s, %d gaps, %v late", args[0], [...]string{"no copy", "requested", "granted", "arrived"}[r.Copy], r.Gaps, r.Late)
	case "stats":
		sc.printf("%+v", sc.node(args[0]).m.Stats())
	default:
		sc.t.Fatalf("unknown command %q", words)
	}
	for _, n := range sc.nodes {
		sc.pump(n)
	}
}

func (sc *scenario) number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		sc.t.Fatal(err)
	}
	return n
}

func (sc *scenario) start(args []string) {
	first, window, resend := 1000*(len(sc.nodes)+1), 3, 0
	startup := false
	for _, a := range args[2:] {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "first":
			first = sc.number(value)
		case "window":
			window = sc.number(value)
		case "resend":
			resend = sc.number(value)
		case "resync":
			startup = true
		default:
			sc.t.Fatalf("unknown setting %q", a)
		}
	}
	var m Receiver
	switch args[1] {
	case "ftfw":
		m = NewFTFW(sc.now, FTFWConfig{FirstSeq: wire.Seq(first), Window: window, Resend: resend, StartupResync: startup})
	case "notrack":
		m = NewNoTrack(sc.now, wire.Seq(first), startup)
	case "alarm":
		m = NewAlarm(wire.Seq(first), 60*time.Second, 1)
	default:
		sc.t.Fatalf("unknown mode %q", args[1])
	}
	i := slices.IndexFunc(sc.nodes, func(n *actor) bool { return n.name == args[0] })
	if i < 0 {
		i = len(sc.nodes)
		sc.nodes = append(sc.nodes, &actor{name: args[0], addr: address(i)})
	}
	sc.nodes[i].m = m
	sc.nodes[i].states = map[Object]wire.Type{}
}

func (sc *scenario) objects(what string, n *actor, names []string) {
	var objects []Object
	for _, name := range names {
		o := Object{Table: Flows, Handle: uint64(sc.number(name[1:]))}
		if name[0] == 'e' {
			o.Table = Expects
		}
		objects = append(objects, o)
	}
	if what == "bulk" && !n.m.BeginBulk(sc.now) {
		sc.printf("%s: no bulk", n.name)
		return
	}
	for _, o := range objects {
		_, known := n.states[o]
		switch what {
		case "change":
			n.states[o] = wire.FlowNew
			if known {
				n.states[o] = wire.FlowUpdate
			}
			n.m.Changed(o)
		case "delete":
			n.states[o] = wire.FlowDelete
			n.m.Deleted(o)
		case "drop":
			delete(n.states, o)
			n.m.Dropped(o)
		case "bulk":
			if !known {
				n.states[o] = wire.FlowNew
			}
			n.m.Bulk(o)
		}
	}
	if what == "bulk" {
		n.m.EndBulk()
	}
}

// wait lets time pass from one deadline to the next.
func (sc *scenario) wait(d time.Duration) {
	end := sc.now + d
	for {
		next := end
		for _, n := range sc.nodes {
			next = min(next, n.m.Deadline())
		}
		sc.now = max(sc.now, next)
		for _, n := range sc.nodes {
			if n.m.Deadline() <= sc.now {
				if e := n.m.Tick(sc.now); e != 0 {
					sc.printf("%v %s: %s", sc.now, n.name, eventNames(e))
				}
				sc.pump(n)
			}
		}
		if sc.now >= end {
			return
		}
	}
}

// pump puts the machine's messages on the network.
func (sc *scenario) pump(n *actor) {
	any := false
	for {
		s, ok := n.m.Next()
		if !ok {
			break
		}
		any = true
		what := ""
		if !s.Control {
			s.Header.Type = n.states[s.Object]
			if s.Object.Table == Expects {
				s.Header.Type += wire.ExpectNew
			}
			what = objectName(s.Object)
		}
		if s.Notice.Has&wire.HasIncomplete != 0 {
			what = fmt.Sprint("incomplete ", s.Notice.Incomplete)
		}
		if s.Notice.Has&wire.HasHeld != 0 {
			what = strings.TrimSpace(fmt.Sprint(what, " held ", s.Notice.HeldFlows, "+", s.Notice.HeldExpects))
		}
		if s.Notice.Has&wire.HasBulk != 0 {
			what = strings.TrimSpace(what + " bulk")
		}
		sc.printf("%v %s sends %s", sc.now, n.name, strings.TrimSpace(describeHeader(s.Header)+" "+what))
		sc.net = append(sc.net, flight{n, s.Header, what})
	}
	if any {
		n.m.Sent(sc.now)
	}
	for {
		o, ok := n.m.NextReleased()
		if !ok {
			return
		}
		sc.printf("%v %s has %s back", sc.now, n.name, objectName(o))
		delete(n.states, o)
	}
}

func objectName(o Object) string { return fmt.Sprintf("%c%d", "fe"[o.Table], o.Handle) }

// arrive delivers a message to all other nodes.
func (sc *scenario) arrive(f flight) {
	for _, n := range sc.nodes {
		if n != f.from {
			sc.receive(n, 0, f.from.addr, f.h, f.what)
		}
	}
}

func (sc *scenario) receive(n *actor, link int, from netip.Addr, h wire.Header, what string) {
	v, e := n.m.Receive(sc.now, link, from, h)
	if m, ok := n.m.(*FTFW); ok && what != "" && h.CarriesNotice() {
		m.Noticed()
	}
	text := [...]string{"apply", "handled", "ignore", "bad header", "bad type"}[v]
	if e != 0 {
		text += ", " + eventNames(e)
	}
	sc.printf("%v %s gets %s: %s", sc.now, n.name, strings.TrimSpace(describeHeader(h)+" "+what), text)
}

func eventNames(e Events) string {
	var out []string
	for i, name := range []string{"bulk wanted", "resync received", "resync sent", "bulk began", "bulk complete", "peer started", "third node", "bulk unasked"} {
		if e&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, ", ")
}

func flagNames(f wire.Flags) string {
	return strings.Fields(describeHeader(wire.Header{Type: wire.Control, Flags: f}))[0]
}

// header is describeHeader's inverse: "ACK|HELLO 7 3..5", or "type=15,flags=0x1 7".
func (sc *scenario) header(words []string) wire.Header {
	h := wire.Header{Type: wire.Control, Seq: wire.Seq(sc.number(words[1]))}
	for word := range strings.SplitSeq(words[0], "|") {
		switch i := slices.Index([]string{"NEW", "UPD", "DEL", "ENEW", "EUPD", "EDEL"}, word); {
		case i >= 0:
			h.Type = wire.Type(i)
		case strings.HasPrefix(word, "type="):
			h.Type = wire.Type(sc.number(word[5:]))
		case strings.HasPrefix(word, "flags="):
			h.Flags |= wire.Flags(sc.number(word[6:]))
		default:
			flag, ok := map[string]wire.Flags{"ACK": wire.Ack, "NACK": wire.Nack, "RESYNC": wire.Resync, "ALIVE": wire.Alive,
				"HELLO": wire.Hello, "HELLO_BACK": wire.HelloBack, "BULK_BEGIN": wire.BulkBegin, "BULK_END": wire.BulkEnd}[word]
			if !ok {
				sc.t.Fatalf("unknown word %q", word)
			}
			h.Flags |= flag
		}
	}
	if len(words) > 2 {
		from, to, _ := strings.Cut(words[2], "..")
		h.From, h.To = wire.Seq(sc.number(from)), wire.Seq(sc.number(to))
	}
	return h
}
