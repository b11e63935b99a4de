package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// forge sends d control messages in its peer's name, with the next numbers.
func (s *sim) forge(d *daemon, hs ...wire.Header) {
	next := d.m.(*FTFW).peer.last + 1
	var b []byte
	for i, h := range hs {
		h.Type, h.Seq = wire.Control, next+wire.Seq(i)
		b = wire.AppendControl(b, h)
	}
	s.logf("forged, to %d: %s", d.id, describe(b))
	d.datagram(1-d.id, b)
}

// settledPair is two nodes that have each other's flows.
func settledPair(s *sim) (a, b *daemon) {
	a, b = s.addDaemon(randomFTFW(s, 131072)), s.addDaemon(randomFTFW(s, 131072))
	for range 200 {
		s.change(a)
		s.change(b)
	}
	s.boot(0)
	s.run(30 * time.Second)
	s.same("a at b, before", a.table, b.external())
	return a, b
}

// TestForgedBulkRemovesNothing forges the marks around a bulk, with the numbers that the
// peer would use next. They remove nothing from the external cache, however often they
// come. The peer's own messages then seem late, and what is lost for that reason is resent.
func TestForgedBulkRemovesNothing(t *testing.T) {
	forSeeds(t, func(s *sim) {
		a, b := settledPair(s)
		if t.Failed() {
			return
		}
		s.faults.loss = s.rng.IntN(10)
		for i := range 1 + s.rng.IntN(4) {
			number := wire.Seq(s.rng.Uint32())
			if s.chance(50) {
				number = b.m.(*FTFW).resync.bulk + 1
			}
			s.forge(b, wire.Header{Flags: wire.Alive | wire.BulkBegin, From: number, To: number},
				wire.Header{Flags: wire.Alive | wire.BulkEnd, From: number, To: number})
			if i == 0 {
				s.same("a at b, just after", a.table, b.external())
			}
			s.covers("a at b, just after", a.table, b.external())
			s.run(s.now + s.randomTime(8*time.Second))
		}
		s.trouble(s.now+5*time.Second, 20, 0)
		s.run(s.now + 5*time.Second)
		s.faults = faults{}
		s.run(s.now + quiet)
		s.same("a at b", a.table, b.external())
		s.same("b at a", b.table, a.external())
	})
}

// TestForgedAcknowledgement makes the sender believe that everything has arrived, so that
// it resends nothing. The numbers of entries show the loss.
func TestForgedAcknowledgement(t *testing.T) {
	asked := 0
	forSeeds(t, func(s *sim) {
		a, b := settledPair(s)
		if t.Failed() {
			return
		}
		s.faults.loss = 100
		for range 1 + s.rng.IntN(100) {
			s.change(a)
		}
		s.run(s.now + s.randomTime(time.Second))
		s.forge(a, wire.Header{Flags: wire.Ack, From: a.m.(*FTFW).seq - 150, To: a.m.(*FTFW).seq - 1})
		s.faults = faults{}
		s.run(s.now + quiet)
		// What changed without coming or going leaves the numbers as they are.
		want, got := a.table, b.external()
		if len(want) != len(got) {
			t.Errorf("b has %d flows of %d", len(got), len(want))
		}
		if b.asked > 0 {
			asked++
			s.same("a at b", want, got)
		}
	})
	if asked == 0 && *seedFlag == 0 {
		t.Error("no seed led to a resync")
	}
}

// TestAgreementRequestsNothing checks that loss, delay and steady change, which make the
// numbers differ briefly, cause no resync.
func TestAgreementRequestsNothing(t *testing.T) {
	forSeeds(t, func(s *sim) {
		a, b := settledPair(s)
		s.faults = faults{loss: s.rng.IntN(11), duplicate: s.rng.IntN(5), delay: s.randomTime(30 * time.Millisecond)}
		bulks := a.m.Stats().Bulks + b.m.Stats().Bulks
		for at := time.Duration(0); at < 35*time.Second; at += 30*time.Millisecond + s.randomTime(30*time.Millisecond) {
			s.after(at, func() { s.change(a); s.change(b) })
		}
		s.run(s.now + 40*time.Second)
		if n := a.m.Stats().Bulks + b.m.Stats().Bulks - bulks; a.asked+b.asked > 0 || n > 0 {
			t.Errorf("asked %d times, %d bulks", a.asked+b.asked, n)
		}
	})
}
