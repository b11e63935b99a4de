package proto

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/sync/wire"
)

// streamEnd is one of two nodes. Its flows are f1, f2 ..., with numbers as contents.
type streamEnd struct {
	t       *testing.T
	now     *time.Duration
	node    uint8
	m       *Stream
	boot    byte
	counter uint64
	flows   map[int]int // what it announces
	dead    map[int]bool
	copy    map[int]int // what it has of the other
	events  Events
	from    uint8 // whose datagram is being received
}

// letter is a datagram.
type letter struct {
	from     uint8
	boot     byte
	counter  uint64
	position wire.Seq
	sends    []Send
	contents []int
}

// newStreamEnds returns nodes 1 and 2, which have received everything of each other. Node 1
// announces f1, and its next message has the number 103.
func newStreamEnds(t *testing.T) (a, b *streamEnd) {
	now := new(time.Duration)
	a, b = &streamEnd{t: t, now: now, node: 1, flows: map[int]int{1: 10}}, &streamEnd{t: t, now: now, node: 2, flows: map[int]int{}}
	a.start(100)
	b.start(500)
	for range 12 {
		b.get(a.send())
		a.get(b.send())
	}
	a.pass(time.Second, b) // the last acknowledgements
	b.get(a.send())
	a.get(b.send())
	b.has("f1=10")
	a.is("next new", a.m.Position(), wire.Seq(103))
	return a, b
}

// start is the beginning of a life of the node.
func (e *streamEnd) start(first wire.Seq) {
	e.boot, e.counter = e.boot+1, 0
	e.copy, e.dead = map[int]int{}, map[int]bool{}
	e.m = NewStream(*e.now, StreamConfig{
		ID: uint64(e.node)<<8 | uint64(e.boot), First: first, Node: e.node, Resend: 8, Peers: []uint8{3 - e.node},
	})
}

func (e *streamEnd) change(flow, contents int) {
	e.flows[flow] = contents
	e.m.Changed(Object{Flows, uint64(flow)})
}

func (e *streamEnd) end(flow int) {
	e.dead[flow] = true
	e.m.Deleted(Object{Flows, uint64(flow)})
}

// send returns all that is due as one datagram.
func (e *streamEnd) send() letter {
	e.counter++
	l := letter{from: e.node, boot: e.boot, counter: e.counter, position: e.m.Position()}
	for {
		s, ok := e.m.Next()
		if !ok {
			break
		}
		l.sends = append(l.sends, s)
		l.contents = append(l.contents, e.flows[int(s.Object.Handle)])
		if e.dead[int(s.Object.Handle)] {
			l.contents[len(l.contents)-1] = -1
		}
	}
	e.m.Sent(*e.now)
	for _, ok := e.m.NextReleased(); ok; _, ok = e.m.NextReleased() {
	}
	return l
}

// get receives a datagram.
func (e *streamEnd) get(l letter) (late bool) {
	if !e.m.Arrived(*e.now, l.from, [16]byte{l.boot}, l.counter) {
		return true
	}
	e.from = l.from
	e.take(&wire.StreamMessage{Type: wire.Position, From: l.position})
	for i, s := range l.sends {
		msg := s.Message
		msg.Number, msg.Again = s.Header.Seq, s.Again
		if s.Control {
			e.take(&msg)
			continue
		}
		msg.Type = wire.StreamFlowUpdate
		if e.take(&msg) != Apply {
			continue
		}
		if flow := int(s.Object.Handle); l.contents[i] < 0 {
			delete(e.copy, flow)
		} else {
			e.copy[flow] = l.contents[i]
		}
	}
	return false
}

func (e *streamEnd) take(msg *wire.StreamMessage) Verdict {
	verdict, events := e.m.Receive(*e.now, e.from, msg)
	e.events |= events
	if events&BulkWanted != 0 && e.m.BeginBulk(*e.now) {
		for flow := range e.flows {
			if !e.dead[flow] {
				e.m.Bulk(Object{Flows, uint64(flow)})
			}
		}
		e.m.EndBulk()
	}
	return verdict
}

// pass lets time pass at both.
func (e *streamEnd) pass(d time.Duration, other *streamEnd) {
	*e.now += d
	for _, n := range []*streamEnd{e, other} {
		n.events |= n.m.Tick(*e.now)
	}
}

// text returns a datagram's messages but for STATEs, acknowledgements of all, and notices.
func (l letter) text() string {
	var out []string
	for _, s := range l.sends {
		m := &s.Message
		switch {
		case !s.Control && s.Again:
			out = append(out, fmt.Sprintf("AGAIN %d f%d", s.Header.Seq, s.Object.Handle))
		case !s.Control:
			out = append(out, fmt.Sprintf("%d f%d", s.Header.Seq, s.Object.Handle))
		case m.Type == wire.Void:
			out = append(out, fmt.Sprintf("VOID %d %d", m.From, m.To))
		case m.Type == wire.LostRange:
			out = append(out, fmt.Sprintf("LOST %d %d", m.From, m.To))
		case m.Type == wire.StreamAck && len(m.Ranges) > 0:
			out = append(out, fmt.Sprintf("ACK %d %v", m.From, m.Ranges))
		case m.Type == wire.Ask:
			out = append(out, "ASK")
		case m.Type == wire.StreamBulkBegin:
			out = append(out, fmt.Sprintf("%d BEGIN", s.Header.Seq))
		case m.Type == wire.StreamBulkEnd:
			out = append(out, fmt.Sprintf("%d END", s.Header.Seq))
		}
	}
	return strings.Join(out, ", ")
}

func (e *streamEnd) is(what string, got, want any) {
	e.t.Helper()
	if got != want {
		e.t.Fatalf("node %d: %s: got %v, want %v", e.node, what, got, want)
	}
}

// says checks and returns the next datagram.
func (e *streamEnd) says(want string) letter {
	e.t.Helper()
	l := e.send()
	e.is("it says", l.text(), want)
	return l
}

// has checks the copy.
func (e *streamEnd) has(want string) {
	e.t.Helper()
	var out []string
	for _, flow := range slices.Sorted(maps.Keys(e.copy)) {
		out = append(out, fmt.Sprintf("f%d=%d", flow, e.copy[flow]))
	}
	e.is("its copy", strings.Join(out, " "), want)
}

func (e *streamEnd) whole(want bool) {
	e.t.Helper()
	e.is("whole", e.m.Whole(3-e.node), want)
}

func TestStreamLossInTheMiddle(t *testing.T) {
	a, b := newStreamEnds(t)
	a.change(2, 20)
	a.says("103 f2")
	a.change(3, 30)
	b.get(a.says("104 f3"))
	b.has("f1=10 f3=30")
	b.whole(false)
	a.get(b.says("ACK 103 [{103 103}]"))
	b.get(a.says("AGAIN 103 f2"))
	b.has("f1=10 f2=20 f3=30")
	b.whole(true)
}

func TestStreamLossOfTheLast(t *testing.T) {
	a, b := newStreamEnds(t)
	a.change(2, 20)
	a.says("103 f2")
	b.whole(true)
	a.pass(time.Second, b)
	b.get(a.says("")) // its STATE
	b.whole(false)
	l := b.says("ACK 103 [{103 103}]") // it is lost, too
	a.pass(gapInterval-1, b)
	b.says("")
	a.pass(1, b)
	a.get(b.says("ACK 103 [{103 103}]"))
	b.get(a.says("AGAIN 103 f2"))
	b.has("f1=10 f2=20")
	b.whole(true)
	a.is("the late acknowledgement", a.get(l), true)
}

func TestStreamChangedWhileMissing(t *testing.T) {
	a, b := newStreamEnds(t)
	a.change(2, 20)
	a.says("103 f2")
	a.change(3, 30)
	b.get(a.says("104 f3"))
	nack := b.says("ACK 103 [{103 103}]")
	a.change(2, 21)
	a.change(4, 40)
	a.get(nack)
	b.get(a.says("105 f2, 106 f4, VOID 103 103"))
	b.has("f1=10 f2=21 f3=30 f4=40")
	b.whole(true)
}

func TestStreamEndIsKeptUntilAcknowledged(t *testing.T) {
	a, b := newStreamEnds(t)
	a.end(1)
	a.says("103 f1")
	a.is("kept", a.m.Stats().Resend, 1)
	a.pass(time.Second, b)
	b.get(a.says(""))
	a.get(b.says("ACK 103 [{103 103}]"))
	b.get(a.says("AGAIN 103 f1"))
	b.has("")
	a.pass(time.Second, b)
	a.get(b.says(""))
	a.is("kept", a.m.Stats().Resend, 0)
	a.is("holds", a.m.Holds(Object{Flows, 1}), false)
}

func TestStreamSilentPeer(t *testing.T) {
	a, b := newStreamEnds(t)
	a.change(2, 20)
	a.says("103 f2")
	a.is("follows", a.m.Follows(2), true)
	for range 10 {
		a.pass(time.Second, b)
		a.says("")
		b.says("")
	}
	a.is("follows", a.m.Follows(2), false)
	a.is("kept", a.m.Stats().Resend, 0)
	a.change(3, 30)
	a.says("104 f3")
	a.pass(time.Second, b)
	b.get(a.says(""))
	a.get(b.says("ACK 103 [{103 104}]"))
	a.is("follows", a.m.Follows(2), true)
	b.get(a.says("LOST 103 104"))
	b.whole(true)
	b.is("incomplete", b.m.Incomplete(1), true)
	a.get(b.says("ASK"))
	l := a.send()
	b.get(l)
	b.has("f1=10 f2=20 f3=30")
	b.is("incomplete", b.m.Incomplete(1), false)
	b.is("complete bulk", b.events&BulkComplete, BulkComplete)
}

func TestStreamFullResendList(t *testing.T) {
	a, b := newStreamEnds(t)
	for flow := 2; flow < 14; flow++ {
		a.change(flow, 10*flow)
	}
	a.send() // 103 to 114, lost
	a.is("kept", a.m.Stats().Resend, 8)
	a.pass(time.Second, b)
	b.get(a.says(""))
	a.get(b.says("ACK 103 [{103 114}]"))
	l := a.send()
	a.is("says the rest", strings.HasSuffix(l.text(), "LOST 103 106"), true)
	b.get(l)
	b.whole(true)
	b.is("incomplete", b.m.Incomplete(1), true)
}

func TestStreamReceiverRestarts(t *testing.T) {
	a, b := newStreamEnds(t)
	b.start(900)
	a.events = 0
	a.get(b.send())
	a.is("started", a.events&PeerStarted, PeerStarted)
	a.is("follows", a.m.Follows(2), false)
	a.m.StateDue()
	b.get(a.send())
	b.has("")
	b.is("incomplete", b.m.Incomplete(1), true)
	a.pass(bulkInterval, b)
	a.get(b.says("ASK, 900 BEGIN, 901 END"))
	a.is("follows", a.m.Follows(2), true)
	b.get(a.says("103 BEGIN, 104 f1, 105 END"))
	b.has("f1=10")
	b.is("incomplete", b.m.Incomplete(1), false)
}

func TestStreamSenderRestarts(t *testing.T) {
	a, b := newStreamEnds(t)
	delete(a.flows, 1)
	a.start(50)
	a.change(2, 20)
	b.events = 0
	b.get(a.says("50 f2"))
	b.is("started", b.events&PeerStarted, PeerStarted)
	b.has("f1=10 f2=20")
	b.is("incomplete", b.m.Incomplete(1), true) // f1 is left over
	a.get(b.says("ASK"))
	b.events = 0
	b.get(a.says("ASK, 51 BEGIN, 52 f2, 53 END"))
	b.is("events", b.events&(BulkBegan|BulkComplete|BulkUnasked), BulkBegan|BulkComplete)
	b.whole(true)
	b.is("incomplete", b.m.Incomplete(1), false)
}

func TestStreamBootRenewal(t *testing.T) {
	a, b := newStreamEnds(t)
	a.change(2, 20)
	before := a.says("103 f2")
	a.boot, a.counter = a.boot+1, 0
	a.change(2, 21)
	b.events = 0
	b.get(a.says("104 f2"))
	b.is("started", b.events&PeerStarted, Events(0))
	b.is("the datagram of the former boot id is late", b.get(before), true)
	b.has("f1=10 f2=21")
	a.get(b.says("ACK 103 [{103 103}]"))
	b.get(a.says("VOID 103 103"))
	b.whole(true)
}

func TestStreamFlushIsNoticed(t *testing.T) {
	a, b := newStreamEnds(t)
	a.m.Dropped(Object{Flows, 1})
	delete(a.flows, 1)
	a.change(2, 20)
	b.get(a.says("104 f2")) // 103 has no message
	b.is("complete", b.m.Complete(1), false)
	a.get(b.says("ACK 103 [{103 103}]"))
	b.get(a.says("LOST 103 103"))
	b.is("incomplete", b.m.Incomplete(1), true)
	b.m.Proven(1)
	b.is("incomplete", b.m.Incomplete(1), false)
}

func TestStreamWithdrawn(t *testing.T) {
	a, b := newStreamEnds(t)
	o := Object{Flows, 1}
	a.m.Withdrawn(o)
	s, ok := a.m.Next()
	for ok && s.Control {
		s, ok = a.m.Next()
	}
	a.is("withdrawn", ok && s.Withdrawn && s.Object == o, true)
	a.is("holds", a.m.Holds(o), false)
	a.m.Receive(0, 2, &wire.StreamMessage{Type: wire.StreamAck, Node: 1, Stream: a.m.config.ID, From: a.m.Position()})
	got, ok := a.m.NextReleased()
	a.is("released", ok && got == o, true)
	a.m.BeginBulk(0) // it may be announced again
	a.m.Bulk(o)
	a.m.EndBulk()
	for s, ok = a.m.Next(); ok && s.Control; s, ok = a.m.Next() {
	}
	a.is("announced again", ok && !s.Withdrawn && s.Object == o && a.m.Holds(o), true)
	a.m.Deleted(o)
	for s, ok = a.m.Next(); ok && s.Control; s, ok = a.m.Next() {
	}
	a.is("its end", ok && !s.Withdrawn && s.Object == o, true)
	a.m.Receive(0, 2, &wire.StreamMessage{Type: wire.StreamAck, Node: 1, Stream: a.m.config.ID, From: a.m.Position()})
	_, ok = a.m.NextReleased()
	a.is("released at its end", ok, true)
	a.m.Deleted(o)
	a.is("nothing more to say", a.m.Pending(), 0)
	_, ok = a.m.NextReleased()
	a.is("released", ok, true)
	b.whole(true)
}

// What a Stream does not know itself is its owner's, without a change of the stream.
func TestStreamLeavesQuestionsToItsOwner(t *testing.T) {
	_, b := newStreamEnds(t)
	stats, position := b.m.Stats(), b.m.Position()
	if !b.m.Arrived(*b.now, 1, [16]byte{1}, 1000) {
		t.Fatal("the datagram is late")
	}
	for _, m := range []wire.StreamMessage{
		{Type: wire.Take, Question: 7, Nodes: 1<<1 | 1<<15},
		{Type: wire.Mine, Node: 2, Question: 7, Flags: wire.MineOwn, Nodes: 1},
		{Type: wire.Mine, Node: 3, Question: 8},
	} {
		if verdict, events := b.m.Receive(*b.now, 1, &m); verdict != Handled || events != 0 {
			t.Errorf("type %d: verdict %d, events %b", m.Type, verdict, events)
		}
		if m.Type.Numbered() {
			t.Errorf("type %d is numbered", m.Type)
		}
	}
	if b.m.Stats() != stats || b.m.Position() != position {
		t.Errorf("%+v at %d, was %+v at %d", b.m.Stats(), b.m.Position(), stats, position)
	}
}

func TestStreamClaim(t *testing.T) {
	a, b := newStreamEnds(t)
	object := func(flow int) Object { return Object{Flows, uint64(flow)} }
	announces := func(flow int, want bool) {
		t.Helper()
		a.is(fmt.Sprintf("f%d announced", flow), a.m.Announces(object(flow)), want)
	}
	announces(1, true)
	a.flows[2] = 20
	a.m.Unannounced(object(2))
	announces(2, false)
	a.m.Claim(object(2))
	announces(2, true)
	a.change(3, 30) // later, and more urgent
	a.says("103 f3, 104 f2")
	announces(2, true)
	a.m.Withdrawn(object(2))
	announces(2, false)
	a.m.Claim(object(2)) // before the withdrawal was sent
	announces(2, true)
	b.get(a.says("105 f2"))
	a.end(2)
	announces(2, false)

	// The end of a claimed flow that was not sent yet is sent: the peers hold it as another node's.
	a.flows[4] = 40
	a.m.Claim(object(4))
	a.end(4)
	a.says("106 f2, 107 f4")

	a.flows[5] = 50
	a.m.Claim(object(5))
	a.m.DropClaims()
	announces(5, false)
	a.is("overlooked", a.m.Overlooked(object(5)), false)
	a.says("")
}

// Claims are pending at once, also after a bulk: what has nothing pending does not send.
func TestStreamClaimIsPending(t *testing.T) {
	a, b := newStreamEnds(t)
	a.m.BeginBulk(*a.now)
	a.m.EndBulk()
	b.get(a.send())
	a.is("pending after the bulk", a.m.Pending(), 0)
	for flow := 2; flow < 5; flow++ {
		a.flows[flow] = flow
		a.m.Claim(Object{Flows, uint64(flow)})
	}
	a.is("pending claims", a.m.Pending(), 3)
}

// Everything is requested of one peer or of all, but of none that is not known.
func TestStreamRequestsEverythingOfOnePeer(t *testing.T) {
	m := NewStream(0, StreamConfig{ID: 1, Node: 1, Peers: []uint8{2, 3, 4}})
	now := time.Second
	for _, node := range []uint8{2, 3} {
		m.Arrived(now, node, [16]byte{node}, 1)
		m.Receive(now, node, &wire.StreamMessage{Type: wire.Position, From: 100})
		m.Receive(now, node, &wire.StreamMessage{Type: wire.StreamState, Stream: uint64(node)})
	}
	asked := func() (nodes []uint8) {
		for s, ok := m.Next(); ok; s, ok = m.Next() {
			if s.Control && s.Message.Type == wire.Ask {
				nodes = append(nodes, s.Message.Node)
			}
		}
		m.Sent(now)
		return nodes
	}
	asked() // what the beginning of their streams leads to
	for _, c := range []struct {
		what string
		do   func()
		want []uint8
	}{
		{"of fw2", func() { m.RequestResyncOf(now, 2) }, []uint8{2}},
		{"of fw3", func() { m.RequestResyncOf(now, 3) }, []uint8{3}},
		{"of an unknown one", func() { m.RequestResyncOf(now, 4) }, nil},
		{"of no peer", func() { m.RequestResyncOf(now, 9) }, nil},
		{"of all", func() { m.RequestResync(now) }, []uint8{2, 3}},
	} {
		c.do()
		if got := asked(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %d were asked, want %d", c.what, got, c.want)
		}
	}
}

func TestStreamNewPeerDoesNotWait(t *testing.T) {
	a, _ := newStreamEnds(t) // a bulk was sent a second ago
	c := &streamEnd{t: t, now: a.now, node: 3, flows: map[int]int{}}
	c.start(700)
	a.m.SetPeers([]uint8{2, 3})
	c.m.SetPeers([]uint8{1})
	a.m.StateDue()
	c.get(a.send())
	a.get(c.says("ASK"))
	c.get(a.says("ASK, 103 BEGIN, 104 f1, 105 END"))
	c.has("f1=10")
	c.is("incomplete", c.m.Incomplete(1), false)
}
