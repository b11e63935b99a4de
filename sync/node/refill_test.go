package node

import (
	"errors"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
)

// Another flow may have the id of one that ended while the table is read: it is a hash of
// 32 bits. In another zone there may be one of the same tuple, too.
func TestDumpTellsEndedFlowsApart(t *testing.T) {
	n := unwired(ModeFTFW)
	all := flows(3)
	ended, sameID, zoned := all[0], all[1], all[0]
	sameID.ID = ended.ID
	zoned.Has |= ctnetlink.HasZone
	zoned.Zone = 7
	n.beginDump()
	n.flowEnded(&ended, true)
	for _, f := range []ctnetlink.Flow{ended, sameID, zoned} {
		n.mergeFlow(&f, refill{})
	}
	n.endDump()
	for _, c := range []struct {
		name string
		flow ctnetlink.Flow
		want bool
	}{{"the flow that ended", ended, false}, {"another one with its id", sameID, true}, {"one in another zone", zoned, true}} {
		if got := n.internal.flows.Find(&c.flow) != 0; got != c.want {
			t.Errorf("%s is cached: %v, want %v", c.name, got, c.want)
		}
	}
	if n.timers.resync.Pending() {
		t.Error("another reading is scheduled")
	}
}

// What ends or changes beyond the room that there is for it makes another reading
// necessary: this one may have brought it back.
func TestTooManyEndsAreReadAgain(t *testing.T) {
	f := flows(1)[0]
	for _, c := range []struct {
		name string
		fill func(*ends)
		over func(*Node)
	}{
		{"ended flows", func(e *ends) {
			for i := range uint32(maxEnded) {
				e.flows[endedKey{id: i + 1}] = struct{}{}
			}
		}, func(n *Node) { n.flowEnded(&f, true) }},
		{"changed flows", func(e *ends) {
			for i := range uint64(maxChanged) {
				e.changed[1<<40+cache.Handle(i)] = 0
			}
		}, func(n *Node) { n.flowSeen(&f, foreign, n.internal.flows.Replace) }},
		{"ended expectations", func(e *ends) {
			for i := range uint32(maxEnded) {
				e.expects[expectKey{tuple: ctnetlink.Tuple{SrcPort: uint16(i), DstPort: uint16(i >> 16)}}] = struct{}{}
			}
		}, func(n *Node) { n.recordExpectEnd(&ctnetlink.Expect{Zone: 1}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := unwired(ModeFTFW)
			n.beginDump()
			c.fill(n.ends)
			n.endDump()
			if n.timers.resync.Pending() {
				t.Fatal("another reading is scheduled though all had room")
			}
			n.beginDump()
			c.fill(n.ends)
			c.over(n)
			n.endDump()
			if !n.timers.resync.Pending() {
				t.Error("no other reading is scheduled")
			}
		})
	}
}

func TestInterruptedReadingIsRepeated(t *testing.T) {
	for _, c := range []struct {
		interrupted int
		err         error
		whole       bool
		readings    int
	}{
		{0, nil, true, 1}, {1, nil, true, 2}, {mostReadings - 1, nil, true, mostReadings},
		{mostReadings, nil, false, mostReadings}, {0, errGone, false, 1}, {2, errGone, false, 3},
	} {
		readings := 0
		whole, err := readWhole(func() (nl.DumpInfo, error) {
			readings++
			if readings > c.interrupted {
				return nl.DumpInfo{}, c.err
			}
			return nl.DumpInfo{Interrupted: true}, nil
		})
		if whole != c.whole || !errors.Is(err, c.err) || readings != c.readings {
			t.Errorf("%+v: %v, %v after %d readings", c, whole, err, readings)
		}
	}
}

// The first reading comes within a second of an overrun, later ones are put off longer
// and longer, and after a quiet time it begins anew.
func TestReadingsAfterOverruns(t *testing.T) {
	n := unwired(ModeFTFW)
	n.cfg.General.NetlinkOverrunResync = 30 * time.Second
	n.grownOut = true
	overrun := func(after time.Duration) time.Duration {
		n.sched.SetNow(n.sched.Now() + after)
		n.overrun(1)
		n.overrun(1) // of the same burst
		delay := n.timers.resync.Due() - n.sched.Now()
		n.timers.resync.Stop() // it was read
		return delay
	}
	if got := overrun(0); got > time.Second {
		t.Errorf("the first reading comes after %v", got)
	}
	for _, want := range []time.Duration{30, 60, 120, 240, 480, 480} {
		if got := overrun(time.Second); got != want*time.Second {
			t.Errorf("the next reading comes after %v, want %d s", got, want)
		}
	}
	if got := overrun(time.Hour); got > time.Second {
		t.Errorf("after a quiet hour a reading comes after %v", got)
	}
	if n.kernel.Missing != 16 {
		t.Errorf("%d events are missing", n.kernel.Missing)
	}
	n.cfg.General.NetlinkOverrunResync = 0
	if n.overrun(1); n.timers.resync.Pending() {
		t.Error("the table is read though NetlinkOverrunResync is off")
	}
}

// A small buffer of an old file becomes the default at the first overrun, and goes on
// from there if the file allows it. NetlinkBufferSizeFixed leaves what the file says.
func TestBufferGrows(t *testing.T) {
	const kib, mib = 1 << 10, 1 << 20
	for _, c := range []struct {
		name       string
		size, most uint32
		fixed      bool
		want       []uint64 // at the start and after each overrun
	}{
		{"nothing said", 0, 0, false, []uint64{8 * mib, 8 * mib}},
		{"small", 64 * kib, 128 * kib, false, []uint64{64 * kib, 8 * mib, 8 * mib}},
		{"no maximum", 64 * kib, 0, false, []uint64{64 * kib, 8 * mib, 8 * mib}},
		{"larger maximum", 2 * mib, 32 * mib, false, []uint64{2 * mib, 8 * mib, 16 * mib, 32 * mib, 32 * mib}},
		{"larger than the default", 16 * mib, 32 * mib, false, []uint64{16 * mib, 32 * mib, 32 * mib}},
		{"above the maximum", 4 * mib, 2 * mib, false, []uint64{8 * mib, 8 * mib}},
		{"small and fixed", 64 * kib, 128 * kib, true, []uint64{64 * kib, 128 * kib, 128 * kib}},
		{"fixed without a maximum", 64 * kib, 0, true, []uint64{2 * uint64(systemBuffer())}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := unwired(ModeStats)
			n.burstBuffer = 8 * mib
			g := &n.cfg.General
			g.NetlinkBufferSize, g.NetlinkBufferSizeMaxGrowth, g.NetlinkBufferSizeFixed = c.size, c.most, c.fixed
			var err error
			netnstest.New(t, "buffer").Do(func() { err = n.subscribe() })
			if err != nil {
				t.Fatal(err)
			}
			defer n.events.Close()
			for i, want := range c.want {
				if i > 0 {
					n.overrun(1)
				}
				if got := uint64(n.events.Buffer()); got != want || n.kernel.BufferSize != want {
					t.Errorf("after %d overruns the buffer has %d bytes, the status %d, want %d", i, got, n.kernel.BufferSize, want)
				}
			}
		})
	}
}

// While events are missing each reading replicates what it finds, also one that would
// only fill the cache: the next reading would not find it again.
func TestReadingsReplicateWhileEventsAreMissing(t *testing.T) {
	n := unwired(ModeFTFW)
	all := flows(2)
	n.mergeFlow(&all[0], refill{})
	if got := n.machine.Pending(); got != 0 {
		t.Errorf("%d changes are replicated", got)
	}
	n.kernel.Missing = 1
	n.mergeFlow(&all[0], refill{})
	n.mergeFlow(&all[1], refill{})
	if got := n.machine.Pending(); got != 1 {
		t.Errorf("%d changes are replicated while events are missing, want the new flow", got)
	}
}
