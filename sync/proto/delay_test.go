package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// randomDelays returns delays of up to three seconds; a class may have none.
func randomDelays(s *sim) (d [Classes]time.Duration) {
	for c := range d {
		d[c] = time.Duration(s.rng.IntN(4)) * time.Second
	}
	return d
}

// delayed gives the nodes delays, and others at random times until end, as reloads do.
func delayed(s *sim, end time.Duration, nodes ...*daemon) {
	for _, d := range nodes {
		d.delays = randomDelays(s)
		for range s.rng.IntN(4) {
			s.after(s.randomTime(end), func() {
				d.delays = randomDelays(s)
				if d.up {
					d.m.SetDelays(d.delays)
				}
			})
		}
	}
}

// TestDelayConverges checks with delays, which daemon.checkWait verifies for each message, that
// no flow that lives longer is lost, whatever the network does and whenever nodes start again or
// change their delays.
func TestDelayConverges(t *testing.T) {
	forSeeds(t, func(s *sim) {
		a, b := s.addDaemon(randomFTFW(s, 8, 60, 131072)), s.addDaemon(randomFTFW(s, 8, 60, 131072))
		delayed(s, 15*time.Second, a, b)
		s.boot(3 * time.Second)
		s.faults = randomFaults(s)
		s.trouble(15*time.Second, 120, s.rng.IntN(4))
		s.run(20 * time.Second)
		s.faults = faults{}
		s.run(20*time.Second + quiet)
		s.same("a at b", a.table, b.external())
		s.same("b at a", b.table, a.external())
		if waiting := a.m.Stats().Waiting + b.m.Stats().Waiting; waiting != 0 {
			t.Errorf("%d flows wait for ever", waiting)
		}
	})
}

// TestDelayWithCDaemon is TestDelayConverges with a C daemon as the peer, which starts once.
func TestDelayWithCDaemon(t *testing.T) {
	forSeeds(t, func(s *sim) {
		a, c := s.addDaemon(randomFTFW(s, 131072)), s.addCDaemon(uint32(2+s.rng.IntN(10)), 131072)
		delayed(s, 15*time.Second, a)
		a.boot()
		c.boot()
		s.run(4 * time.Second)
		c.requestResync()
		s.faults = randomFaults(s)
		s.trouble(15*time.Second, 120, 0)
		s.run(20 * time.Second)
		s.faults = faults{}
		s.run(20*time.Second + quiet)
		s.same("a at c", a.table, c.external())
		s.same("c at a", c.table, a.external())
	})
}

// TestDelayInGroups is TestDelayConverges for the modes without acknowledgements.
func TestDelayInGroups(t *testing.T) {
	forSeeds(t, func(s *sim) {
		group := s.addGroup(3, newNoTrack)
		if s.chance(50) {
			s.nodes = nil
			group = s.addGroup(3, func(_ time.Duration, first wire.Seq) Receiver { return NewAlarm(first, 5*time.Second, s.rng.Uint64()) })
		}
		delayed(s, 15*time.Second, group...)
		s.boot(3 * time.Second)
		s.run(4 * time.Second)
		for _, d := range group {
			d.m.RequestResync(s.now)
		}
		s.trouble(15*time.Second, 120, 0)
		s.run(20*time.Second + simCacheTimeout + 6*time.Second)
		for _, d := range group {
			s.same("the others' flows", s.others(d), d.external())
		}
	})
}

// TestWait covers what a simulation does not show.
func TestWait(t *testing.T) {
	o := func(i uint64) Object { return Object{Flows, 7<<32 | i} }
	for _, m := range []Receiver{greeted(300), NewNoTrack(0, 1, false), NewAlarm(1, time.Minute, 1)} {
		m.SetDelays([Classes]time.Duration{3 * time.Second, 0, 5 * time.Second})
		m.Wait(0, o(1), ClassTCP)
		m.Wait(50*time.Millisecond, o(2), ClassTCP)
		m.Wait(0, o(3), ClassOther)
		m.Wait(0, o(4), ClassUDP)
		if st := m.Stats(); st.Waiting != 3 || st.Transmit != 1 || m.Pending() != 1 {
			t.Errorf("%T: %d wait and %d are queued of 3 and 1", m, st.Waiting, st.Transmit)
		}
		drain(m)

		// A bulk leaves them out.
		if m.BeginBulk(0) {
			m.Bulk(o(1))
			m.EndBulk()
			drain(m)
		}
		if !m.Waits(o(1)) || m.Waits(o(4)) {
			t.Errorf("%T: the bulk took a waiting flow", m)
		}

		// One that ends is released at once.
		m.Deleted(o(3))
		if got, ok := m.NextReleased(); !ok || got != o(3) || m.Pending() != 0 {
			t.Errorf("%T: released %v %v with %d pending", m, got, ok, m.Pending())
		}

		if _, ok := m.NextWaited(3*time.Second - 1); ok {
			t.Errorf("%T: due before its time", m)
		}
		if got, ok := m.NextWaited(3 * time.Second); !ok || got != o(1) {
			t.Errorf("%T: %v %v is due first", m, got, ok)
		}
		m.Changed(o(1))
		if _, ok := m.NextWaited(3*time.Second + 50*time.Millisecond - 1); ok {
			t.Errorf("%T: the second is due before its time", m)
		}
		drain(m)

		// A flow in the place of one that the peers hold does not wait; a replaced one that
		// waits begins anew.
		m.Wait(4*time.Second, o(1), ClassTCP)
		m.Wait(4*time.Second, o(2), ClassTCP)
		if m.Waits(o(1)) || !m.Waits(o(2)) || m.Stats().Waiting != 1 {
			t.Errorf("%T: replaced flows wait %v and %v", m, m.Waits(o(1)), m.Waits(o(2)))
		}
		if _, ok := m.NextWaited(7*time.Second - 1); ok {
			t.Errorf("%T: the replaced flow kept the old one's time", m)
		}

		// Without a delay nothing waits any more.
		m.SetDelays([Classes]time.Duration{})
		if got, ok := m.NextWaited(4 * time.Second); !ok || got != o(2) || m.Deadline() > 4*time.Second {
			t.Errorf("%T: %v %v still waits", m, got, ok)
		}
		m.Dropped(o(2))
		if st := m.Stats(); st.Waiting != 0 {
			t.Errorf("%T: a dropped flow waits", m)
		}
	}
}

// shortFlows has n flows begin and end before their delay.
func shortFlows(m Receiver, n int) {
	for i := range n {
		m.Wait(0, Object{Flows, uint64(i + 1)}, ClassTCP)
	}
	for i := range n {
		m.Deleted(Object{Flows, uint64(i + 1)})
	}
	for {
		if _, ok := m.NextReleased(); !ok {
			return
		}
	}
}

func TestWaitAllocations(t *testing.T) {
	m := greeted(300)
	m.SetDelays([Classes]time.Duration{time.Second})
	run := func() { shortFlows(m, 20000) }
	run()
	if n := testing.AllocsPerRun(5, run); n > 0 {
		t.Errorf("%v allocations for 20,000 short flows", n)
	}
	if m.Pending() > 0 {
		t.Errorf("%d messages for flows that ended while they waited", m.Pending())
	}
}

// BenchmarkWait is a flow that begins and ends before its delay.
func BenchmarkWait(b *testing.B) {
	const batch = 100000
	m := greeted(300)
	m.SetDelays([Classes]time.Duration{time.Second})
	b.ReportAllocs()
	for i := 0; i < b.N; i += batch {
		shortFlows(m, batch)
	}
}
