package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// change makes the machine send changes of objects first to last.
func change(m *FTFW, first, last int) {
	for i := first; i <= last; i++ {
		m.Changed(Object{Flows, uint64(i)})
	}
	drain(m)
}

// from makes the machine receive a message from the peer.
func from(m *FTFW, now time.Duration, h wire.Header) Events {
	_, events := m.Receive(now, 0, address(1), h)
	return events
}

func TestMakeRoom(t *testing.T) {
	m := greeted(300)
	change(m, 1, 10)
	m.Deleted(Object{Flows, 3})
	m.Deleted(Object{Flows, 7})
	drain(m)
	for i, want := range []struct {
		handle  uint64
		givenUp uint64
	}{{3, 9}, {7, 10}} {
		if _, ok := m.NextReleased(); ok {
			t.Fatal("a slot is released that a peer may ask for")
		}
		if !m.MakeRoom() {
			t.Fatalf("no room for object %d", i)
		}
		if o, ok := m.NextReleased(); !ok || o.Handle != want.handle || m.Stats().GivenUp != want.givenUp {
			t.Errorf("released %+v (%v), given up %d; want %+v", o, ok, m.Stats().GivenUp, want)
		}
	}
	if m.MakeRoom() {
		t.Error("room where nothing has ended")
	}
}

func TestSetLimits(t *testing.T) {
	m := greeted(300)
	m.SetLimits(2, 4)
	change(m, 1, 10)
	if st := m.Stats(); st.Resend != 4 || st.ResendLimit != 4 || st.GivenUp != 6 {
		t.Errorf("of 10 messages: %+v", st)
	}
	for seq := wire.Seq(2); seq < 10; seq += 2 {
		change(m, 1, 1)
		before := m.Stats().Controls
		from(m, 0, wire.Header{Type: wire.FlowNew, Seq: seq})
		from(m, 0, wire.Header{Type: wire.FlowNew, Seq: seq + 1})
		if n := m.Stats().Controls - before; n != 1 {
			t.Errorf("%d acknowledgements queued after messages %d and %d, the new window", n, seq, seq+1)
		}
	}
}

// A NACK for messages that were given up causes a bulk. One for messages that are still
// queued or were never sent does not.
func TestNackForGivenUpMessages(t *testing.T) {
	for _, c := range []struct {
		name   string
		from   wire.Seq // relative to the first of the ten changes
		to     wire.Seq
		wanted bool
	}{
		{"all of it is there", 8, 9, false},
		{"all of it is gone", 0, 1, true},
		{"a part is gone", 4, 8, true},
		{"never sent", 2, 10, false},
	} {
		m := greeted(300)
		m.SetLimits(300, 4)
		first := m.seq
		change(m, 1, 10)
		events := from(m, time.Minute, wire.Header{Type: wire.Control, Flags: wire.Nack, Seq: 2, From: first + c.from, To: first + c.to})
		if wanted := events&BulkWanted != 0; wanted != c.wanted {
			t.Errorf("%s: everything wanted: %v", c.name, wanted)
		}
	}
	m := greeted(300)
	first := m.seq
	change(m, 1, 10)
	if from(m, time.Minute, wire.Header{Type: wire.Control, Flags: wire.Nack, Seq: 2, From: first, To: first + 9})&BulkWanted != 0 {
		t.Error("everything is wanted where nothing is gone")
	}
}

// A resync request that was given up is repeated.
func TestGivenUpRequest(t *testing.T) {
	m := greeted(300)
	m.SetLimits(300, 4)
	m.RequestResync(0)
	drain(m)
	if m.Tick(time.Hour)&ResyncSent != 0 {
		t.Error("a request that is on its way is made again")
	}
	change(m, 1, 10)
	if m.Tick(2*time.Hour)&ResyncSent == 0 {
		t.Error("a request that is given up is not made again")
	}
}

// A running C daemon answers a request that came with our HELLO before its HELLO_BACK. That
// answer may be incomplete, so the request is repeated.
func TestRequestBeforeHello(t *testing.T) {
	for _, back := range []bool{false, true} {
		m := NewFTFW(0, FTFWConfig{StartupResync: true})
		drain(m)
		h := wire.Header{Type: wire.FlowNew, Seq: 500}
		if back {
			h.Flags = wire.HelloBack
		}
		from(m, 0, h)
		from(m, 0, wire.Header{Type: wire.Control, Flags: wire.Ack | wire.HelloBack, Seq: 501})
		asked := m.Tick(time.Minute)&ResyncSent != 0
		if asked == back {
			t.Errorf("greeted by its first message: %v, asked again: %v", back, asked)
		}
	}
}

func TestMarksOfAnotherBulk(t *testing.T) {
	m := greeted(300)
	mark := func(seq wire.Seq, flag wire.Flags, number wire.Seq) Events {
		return from(m, time.Hour, wire.Header{Type: wire.Control, Flags: wire.Alive | flag, Seq: seq, From: number})
	}
	if mark(2, wire.BulkEnd, 7)&BulkComplete != 0 {
		t.Error("an end without a beginning")
	}
	if mark(3, wire.BulkBegin, 8)&BulkBegan == 0 {
		t.Error("no beginning")
	}
	if mark(4, wire.BulkEnd, 7)&BulkComplete != 0 {
		t.Error("the end of another bulk")
	}
	if mark(5, wire.BulkBegin, 9)&BulkBegan == 0 || mark(6, wire.BulkEnd, 9)&BulkComplete == 0 {
		t.Error("the next bulk does not count")
	}
}

// A bulk that overflows the resend queue is repeated with half the window. A bulk that
// succeeds restores the window.
func TestBulkOverflow(t *testing.T) {
	const objects = 8000
	m := greeted(300)
	m.SetLimits(300, 6000)
	peer := wire.Seq(1)
	acknowledge := func(now time.Duration) {
		peer++
		from(m, now, wire.Header{Type: wire.Control, Flags: wire.Ack, Seq: peer, From: 0, To: m.seq - 1})
	}
	now := time.Duration(0)
	bulk := func() (sent int) {
		now += time.Minute
		m.Tick(now)
		m.BeginBulk(now)
		for i := range objects {
			m.Bulk(Object{Flows, uint64(i + 1)})
		}
		m.EndBulk()
		for {
			if _, ok := m.Next(); !ok {
				return sent
			}
			sent++
		}
	}
	before := bulk()
	change(m, objects+1, objects+6000) // displaces everything that the bulk has sent
	acknowledge(now)
	for drain(m); m.Pending() > 0; drain(m) {
		acknowledge(now)
	}
	acknowledge(now)
	after := bulk()
	if before < 4000 || after > before/2+10 || after < before/4 {
		t.Errorf("%d messages sent at once, %d after an overflow", before, after)
	}
}

// Queued reports what is to be sent, and not what was sent or waits.
func TestQueued(t *testing.T) {
	m := NewFTFW(0, FTFWConfig{})
	m.SetDelays([Classes]time.Duration{ClassTCP: time.Minute})
	changed, waiting, dropped := Object{Handle: 1}, Object{Handle: 2}, Object{Table: Expects, Handle: 1}
	m.Changed(changed)
	m.Changed(dropped)
	m.Wait(0, waiting, ClassTCP)
	if !m.Queued(changed) || !m.Queued(dropped) || m.Queued(waiting) || m.Queued(Object{Handle: 3}) {
		t.Error("before the transmission")
	}
	m.Dropped(dropped)
	for _, ok := m.Next(); ok; _, ok = m.Next() {
	}
	if m.Queued(changed) || m.Queued(dropped) {
		t.Error("after the transmission")
	}
}
