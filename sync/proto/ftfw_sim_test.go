package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// quiet is long enough for the slowest repetition of a resync request.
const quiet = 4 * time.Minute

// randomFTFW draws a configuration.
func randomFTFW(s *sim, resendSizes ...int) func(time.Duration, wire.Seq) Receiver {
	pick := func(of ...int) int { return of[s.rng.IntN(len(of))] }
	window := pick(1, 2, 3, 10, 300)
	resend := pick(resendSizes...)
	startup := s.chance(50)
	return func(now time.Duration, first wire.Seq) Receiver {
		return NewFTFW(now, FTFWConfig{FirstSeq: first, Window: window, Resend: resend, StartupResync: startup})
	}
}

func randomFaults(s *sim) faults {
	f := faults{}
	if s.chance(80) {
		f.loss = s.rng.IntN(40)
	}
	if s.chance(50) {
		f.duplicate = s.rng.IntN(30)
	}
	if s.chance(50) {
		f.garble = s.rng.IntN(20)
	}
	switch s.rng.IntN(3) {
	case 0:
		f.delay = 5 * time.Millisecond
	case 1:
		f.delay = 300 * time.Millisecond
	}
	return f
}

// runSettling lets time pass until end and calls check now and then, except in the first
// seconds: what was lost last is noticed with the next message.
func (s *sim) runSettling(end time.Duration, check func()) {
	s.run(s.now + 2*time.Second)
	for s.now < end && !s.t.Failed() {
		check()
		s.run(s.now + time.Duration(50+s.rng.IntN(1000))*time.Millisecond)
	}
}

// believes checks that d holds what other's kernel has if its receipt says so.
func (s *sim) believes(what string, d *daemon, other simNode) {
	if r := d.m.(*FTFW).Receipt(s.now); r.Copy == CopyArrived && r.Gaps == 0 {
		s.covers(what+", by the receipt", other.kernel(), d.external())
	}
}

// arrived checks that d knows that it has everything.
func (s *sim) arrived(d *daemon) {
	if r := d.m.(*FTFW).Receipt(s.now); r.Copy != CopyArrived || r.Gaps != 0 {
		s.t.Errorf("node %d has everything, and its receipt is %+v", d.id, r)
	}
}

// TestFTFWConverges checks that after any faults and restarts, each node holds exactly what
// the other's kernel has, once the network has been quiet for a while.
func TestFTFWConverges(t *testing.T) {
	forSeeds(t, func(s *sim) {
		a, b := s.addDaemon(randomFTFW(s, 8, 16, 60, 131072)), s.addDaemon(randomFTFW(s, 8, 16, 60, 131072))
		for _, d := range []*daemon{a, b} {
			d.links = 1 + s.rng.IntN(3)
		}
		s.boot(3 * time.Second)
		s.faults = randomFaults(s)
		s.trouble(15*time.Second, 60, s.rng.IntN(5))
		s.run(20 * time.Second)
		s.logf("quiet")
		s.faults = faults{}
		s.runSettling(20*time.Second+quiet, func() {
			s.believes("a at b", b, a)
			s.believes("b at a", a, b)
		})
		if t.Failed() {
			return
		}
		s.same("a at b", a.table, b.external())
		s.same("b at a", b.table, a.external())
		s.arrived(a)
		s.arrived(b)
		for _, d := range []*daemon{a, b} {
			if st := d.m.Stats(); st.Resend > 8 {
				t.Errorf("node %d: %d messages in the resend queue after quiet", d.id, st.Resend)
			}
		}
	})
}

// TestFTFWConvergesWithCDaemon checks that between a node of ctbox and a C daemon on a lossy
// network no change stays lost in either direction, once both are up.
func TestFTFWConvergesWithCDaemon(t *testing.T) {
	forSeeds(t, func(s *sim) {
		ours, c := s.addDaemon(randomFTFW(s, 131072)), s.addCDaemon(uint32(2+s.rng.IntN(10)), 131072)
		ours.boot()
		c.boot()
		s.run(4 * time.Second)
		c.requestResync()
		s.faults = randomFaults(s)
		s.trouble(15*time.Second, 60, 0)
		s.run(20 * time.Second)
		s.logf("quiet")
		s.faults = faults{}
		s.runSettling(20*time.Second+quiet, func() { s.believes("the C daemon's at ours", ours, c) })
		if t.Failed() {
			return
		}
		s.same("the C daemon's at ours", c.table, ours.external())
		s.arrived(ours)
		s.same("ours at the C daemon", ours.table, c.external())
		if len(c.rs) > 20 {
			t.Errorf("%d messages in the C daemon's resend queue after quiet", len(c.rs))
		}
	})
}

// TestFTFWRestartsWithCDaemon checks that with restarts nothing is missing or outdated once a
// bulk was requested. A C daemon keeps flows that ended while it did not run.
func TestFTFWRestartsWithCDaemon(t *testing.T) {
	forSeeds(t, func(s *sim) {
		ours, c := s.addDaemon(randomFTFW(s, 131072)), s.addCDaemon(uint32(2+s.rng.IntN(10)), 131072)
		s.boot(3 * time.Second)
		s.faults = randomFaults(s)
		s.trouble(15*time.Second, 60, 1+s.rng.IntN(4))
		s.run(20 * time.Second)
		s.logf("quiet")
		s.faults = faults{}
		s.run(50 * time.Second)
		c.requestResync()
		ours.m.RequestResync(s.now)
		s.run(20*time.Second + quiet)
		if t.Failed() {
			return
		}
		s.covers("the C daemon's at ours", c.table, ours.external())
		s.covers("ours at the C daemon", ours.table, c.external())
	})
}

// TestFTFWStartsAfterCDaemon checks that a node that starts requests a resync, because a
// running C daemon sends nothing to it unasked.
func TestFTFWStartsAfterCDaemon(t *testing.T) {
	forSeeds(t, func(s *sim) {
		ours, c := s.addDaemon(randomFTFW(s, 131072)), s.addCDaemon(uint32(2+s.rng.IntN(10)), 131072)
		for range 20 {
			s.change(c)
		}
		ours.boot()
		c.boot()
		s.run(4*time.Second + s.randomTime(time.Second)) // its HELLO has been answered
		ours.crash()
		s.run(s.now + s.randomTime(5*time.Second))
		s.faults.loss = s.rng.IntN(30)
		ours.boot()
		s.run(s.now + 10*time.Second)
		s.faults = faults{}
		s.run(s.now + quiet)
		s.same("the C daemon's at ours", c.table, ours.external())
	})
}

// TestThirdNode checks that a third node does not disturb the pair, and is counted and
// reported once.
func TestThirdNode(t *testing.T) {
	forSeeds(t, func(s *sim) {
		a, b := s.addDaemon(randomFTFW(s, 131072)), s.addDaemon(randomFTFW(s, 131072))
		third := s.addDaemon(randomFTFW(s, 131072))
		s.after(0, a.boot)
		s.after(0, b.boot)
		s.after(s.randomTime(3*time.Second)+3*time.Second, third.boot)
		s.run(2 * time.Second)
		s.faults.loss = s.rng.IntN(10)
		s.trouble(15*time.Second, 60, 0)
		s.run(20 * time.Second)
		s.faults = faults{}
		s.run(20*time.Second + quiet)
		if t.Failed() {
			return
		}
		s.same("a at b", a.table, b.external())
		s.same("b at a", b.table, a.external())
		for _, d := range []*daemon{a, b} {
			if st := d.m.Stats(); d.strange != 1 || st.ThirdNode < 10 || st.Third != address(third.id) {
				t.Errorf("node %d: third node said %d times, counted %d, is %v", d.id, d.strange, st.ThirdNode, st.Third)
			}
		}
	})
}

// TestGarbage delivers garbled messages with any numbers and flags. The queues must stay
// bounded, which every step checks.
func TestGarbage(t *testing.T) {
	forSeeds(t, func(s *sim) {
		s.addDaemon(randomFTFW(s, 8, 131072))
		s.addDaemon(randomFTFW(s, 8, 131072))
		s.boot(time.Second)
		s.faults = faults{loss: 5, garble: 30, forge: true, delay: 10 * time.Millisecond}
		s.trouble(15*time.Second, 60, 2)
		s.run(30 * time.Second)
	})
}

// TestWindowOfOne checks that two nodes that acknowledge every message come to rest.
func TestWindowOfOne(t *testing.T) {
	one := func(now time.Duration, first wire.Seq) Receiver {
		return NewFTFW(now, FTFWConfig{FirstSeq: first, Window: 1, StartupResync: true})
	}
	for _, peer := range []string{"ours", "C"} {
		s := newSim(t, 1)
		d := s.addDaemon(one)
		if peer == "C" {
			s.addCDaemon(1, 131072)
		} else {
			s.addDaemon(one)
		}
		s.boot(0)
		s.faults.loss = 20
		s.trouble(10*time.Second, 50, 0)
		s.run(15 * time.Second)
		s.faults = faults{}
		s.run(20 * time.Second)
		before := s.sent
		s.run(30 * time.Second)
		if n := s.sent - before; n > 60 {
			t.Errorf("with %s: %d datagrams in 10 s of quiet", peer, n)
		}
		if st := d.m.Stats(); st.Resend > 100 {
			t.Errorf("with %s: %d messages wait for acknowledgement", peer, st.Resend)
		}
	}
}
