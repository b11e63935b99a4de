package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// addGroup adds nodes that share a multicast group, each with its own flows.
func (s *sim) addGroup(n int, make func(time.Duration, wire.Seq) Receiver) []*daemon {
	var group []*daemon
	for i := range n {
		d := s.addDaemon(make)
		d.base = uint16(1000 * i)
		group = append(group, d)
	}
	return group
}

func newNoTrack(now time.Duration, first wire.Seq) Receiver { return NewNoTrack(now, first, true) }

// TestNoTrackReplicates checks that on a network without losses all nodes have all flows.
func TestNoTrackReplicates(t *testing.T) {
	forSeeds(t, func(s *sim) {
		group := s.addGroup(2+s.rng.IntN(3), newNoTrack)
		s.boot(3 * time.Second)
		s.run(4 * time.Second)
		// Flows from before the daemon started are sent on request.
		for _, d := range group {
			d.m.RequestResync(s.now)
		}
		s.trouble(10*time.Second, 60, 0)
		s.run(30 * time.Second)
		for _, d := range group {
			s.same("the others' flows", s.others(d), d.external())
			if st := d.m.Stats(); st.Lost != 0 || st.Before != 0 {
				t.Errorf("node %d counts %d lost and %d late of none", d.id, st.Lost, st.Before)
			}
		}
	})
}

// TestNoTrackBulkRepairs checks that the next bulk brings everything that was lost. Flows that
// ended meanwhile may stay.
func TestNoTrackBulkRepairs(t *testing.T) {
	forSeeds(t, func(s *sim) {
		group := s.addGroup(2+s.rng.IntN(3), newNoTrack)
		s.boot(3 * time.Second)
		s.faults = randomFaults(s)
		s.trouble(10*time.Second, 60, s.rng.IntN(4))
		s.run(20 * time.Second)
		s.faults = faults{}
		s.run(30 * time.Second)
		group[0].m.RequestResync(s.now)
		s.run(40 * time.Second)
		s.covers("the others' flows", s.others(group[0]), group[0].external())
	})
}

// TestAlarmConverges checks that, after any losses, all nodes hold exactly what the other
// kernels have once the longest refresh period and timeout have passed.
func TestAlarmConverges(t *testing.T) {
	forSeeds(t, func(s *sim) {
		group := s.addGroup(2+s.rng.IntN(3), func(_ time.Duration, first wire.Seq) Receiver {
			return NewAlarm(first, 5*time.Second, s.rng.Uint64())
		})
		s.boot(3 * time.Second)
		s.faults = randomFaults(s)
		s.trouble(10*time.Second, 40, s.rng.IntN(4))
		s.run(20 * time.Second)
		s.faults = faults{}
		s.run(20*time.Second + simCacheTimeout + 6*time.Second)
		for _, d := range group {
			s.same("the others' flows", s.others(d), d.external())
		}
	})
}
