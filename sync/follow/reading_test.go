package follow

import (
	"context"
	"errors"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/owner"
	"ctbox/sync/sched"
)

// A flow that ends while the kernel's table is read must not be brought back by
// the part of the table that was read before.
func TestDumpDoesNotReviveTheDead(t *testing.T) {
	fo := unwired()
	all := flowtest.Flows(4)
	fo.flowSeen(&all[1], owner.ByKernel, fo.cache.Flows.Replace)
	fo.beginDump()
	fo.flowEnded(&all[0], true) // not cached yet
	fo.flowEnded(&all[1], true)
	fo.flowEnded(&all[2], true)
	fo.recordBegin(&all[2]) // the same tuple in the same place of the kernel's memory
	for i := range all {
		fo.mergeFlow(&all[i], refill{send: true})
	}
	fo.endDump()
	for i, want := range []bool{false, false, true, true} {
		if got := fo.cache.Flows.Find(&all[i]) != 0; got != want {
			t.Errorf("flow %d is cached: %v, want %v", i, got, want)
		}
	}
	if fo.ends != nil {
		t.Error("what ended is remembered after the dump")
	}
}

// A reading of the kernel's table does not undo what an event has changed meanwhile. What the
// event did not carry comes from the table.
func TestDumpDoesNotUndoEvents(t *testing.T) {
	fo := unwired()
	f := flowtest.Flows(1)[0]
	f.Has |= ctnetlink.HasMark | ctnetlink.HasLabels
	f.Mark, f.LabelsLen = 1, ctnetlink.LabelWords
	f.Labels.SetBit(5)
	old := f
	fo.beginDump()
	event := ctnetlink.Flow{Orig: f.Orig, Reply: f.Reply, Has: ctnetlink.HasID | ctnetlink.HasStatus | ctnetlink.HasMark, ID: f.ID, Status: ctnetlink.StatusConfirmed, Mark: 2}
	fo.flowSeen(&event, owner.ByKernel, fo.cache.Flows.Put)
	fo.mergeFlow(&old, refill{send: true})
	fo.endDump()
	var got ctnetlink.Flow
	fo.cache.Flows.Load(fo.cache.Flows.Find(&f), &got)
	if got.Mark != 2 || !got.Labels.Bit(5) {
		t.Errorf("mark %d, label 5 set %v; want the event's mark 2 and the table's label", got.Mark, got.Labels.Bit(5))
	}
	again := f
	fo.beginDump()
	fo.mergeFlow(&again, refill{})
	fo.endDump()
	if fo.cache.Flows.Load(fo.cache.Flows.Find(&f), &got); got.Mark != 1 {
		t.Errorf("mark %d after a dump without events, want what it shows, 1", got.Mark)
	}
}

// A dump may show a flow whose event is still under way, in the place of one that has changed
// meanwhile: it comes with all of its attributes.
func TestDumpShowsTheNextFlow(t *testing.T) {
	fo := unwired()
	old := flowtest.Flows(1)[0]
	old.Has |= ctnetlink.HasMark | ctnetlink.HasID
	old.ID = 10
	next := old
	next.ID, next.Mark = 11, 7
	fo.beginDump()
	fo.flowSeen(&old, owner.ByKernel, fo.cache.Flows.Put)
	fo.mergeFlow(&next, refill{})
	var got ctnetlink.Flow
	if h := fo.cache.Flows.Find(&next); !fo.cache.Flows.Load(h, &got) || got.ID != 11 || got.Has&ctnetlink.HasMark == 0 || got.Mark != 7 {
		t.Errorf("the cache has %+v", got)
	}
	fo.endDump()
}

// The same for expectations, which have no id.
func TestDumpDoesNotReviveExpectations(t *testing.T) {
	fo := unwired()
	fo.expectSync = true
	master := flowtest.Flows(1)[0]
	fo.flowSeen(&master, owner.ByKernel, fo.cache.Flows.Replace)
	expects := make([]ctnetlink.Expect, 2)
	for i := range expects {
		e := &expects[i]
		e.Master, e.Tuple, e.Mask = master.Orig, master.Orig, master.Orig
		e.Tuple.DstPort = uint16(2000 + i)
	}
	fo.beginDump()
	fo.recordExpectEnd(&expects[0])
	fo.recordExpectEnd(&expects[1])
	fo.recordExpectBegin(&expects[1])
	for i := range expects {
		fo.mergeExpect(&expects[i], refill{})
	}
	fo.endDump()
	for i, want := range []bool{false, true} {
		if got := fo.cache.Expects.Find(&expects[i]) != 0; got != want {
			t.Errorf("expectation %d is cached: %v, want %v", i, got, want)
		}
	}
	fo.mergeExpect(&expects[0], refill{})
	if fo.cache.Expects.Find(&expects[0]) == 0 {
		t.Error("what ended is remembered after the dump")
	}
}

// Another flow may have the id of one that ended while the table is read: it is a hash of
// 32 bits. In another zone there may be one of the same tuple, too.
func TestDumpTellsEndedFlowsApart(t *testing.T) {
	fo := unwired()
	all := flowtest.Flows(3)
	ended, sameID, zoned := all[0], all[1], all[0]
	sameID.ID = ended.ID
	zoned.Has |= ctnetlink.HasZone
	zoned.Zone = 7
	fo.beginDump()
	fo.flowEnded(&ended, true)
	for _, f := range []ctnetlink.Flow{ended, sameID, zoned} {
		fo.mergeFlow(&f, refill{})
	}
	fo.endDump()
	for _, c := range []struct {
		name string
		flow ctnetlink.Flow
		want bool
	}{{"the flow that ended", ended, false}, {"another one with its id", sameID, true}, {"one in another zone", zoned, true}} {
		if got := fo.cache.Flows.Find(&c.flow) != 0; got != c.want {
			t.Errorf("%s is cached: %v, want %v", c.name, got, c.want)
		}
	}
	if fo.timers.resync.Pending() {
		t.Error("another reading is scheduled")
	}
}

// What ends or changes beyond the room that there is for it makes another reading
// necessary: this one may have brought it back.
func TestTooManyEndsAreReadAgain(t *testing.T) {
	f := flowtest.Flows(1)[0]
	for _, c := range []struct {
		name string
		fill func(*ends)
		over func(*follower)
	}{
		{"ended flows", func(e *ends) {
			for i := range uint32(maxEnded) {
				e.flows[ctnetlink.FlowKey{ID: i + 1}] = struct{}{}
			}
		}, func(fo *follower) { fo.flowEnded(&f, true) }},
		{"changed flows", func(e *ends) {
			for i := range uint64(maxChanged) {
				e.changed[1<<40+cache.Handle(i)] = change{}
			}
		}, func(fo *follower) { fo.flowSeen(&f, owner.ByKernel, fo.cache.Flows.Replace) }},
		{"ended expectations", func(e *ends) {
			for i := range uint32(maxEnded) {
				e.expects[expectKey{tuple: ctnetlink.Tuple{SrcPort: uint16(i), DstPort: uint16(i >> 16)}}] = struct{}{}
			}
		}, func(fo *follower) { fo.recordExpectEnd(&ctnetlink.Expect{Zone: 1}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			fo := unwired()
			fo.beginDump()
			c.fill(fo.ends)
			fo.endDump()
			if fo.timers.resync.Pending() {
				t.Fatal("another reading is scheduled though all had room")
			}
			fo.beginDump()
			c.fill(fo.ends)
			c.over(fo)
			fo.endDump()
			if !fo.timers.resync.Pending() {
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
		{mostReadings, nil, false, mostReadings}, {0, errBroken, false, 1}, {2, errBroken, false, 3},
	} {
		readings := 0
		whole, err := ReadWhole(func() (nl.DumpInfo, error) {
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

// While events are missing each reading replicates what it finds, also one that would
// only fill the cache: the next reading would not find it again.
func TestReadingsReplicateWhileEventsAreMissing(t *testing.T) {
	fo := unwired()
	all := flowtest.Flows(2)
	fo.mergeFlow(&all[0], refill{})
	if got := fo.announced(); got != 0 {
		t.Errorf("%d changes are replicated", got)
	}
	fo.status.Missing = 1
	fo.mergeFlow(&all[0], refill{})
	fo.mergeFlow(&all[1], refill{})
	if got := fo.announced(); got != 1 {
		t.Errorf("%d changes are replicated while events are missing, want the new flow", got)
	}
}

// Tables that can't be read, for want of a socket say, are read again later.
func TestFailedRefillIsTriedAgain(t *testing.T) {
	fo := sleeping(t)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var began time.Duration
	if err := fo.sched.Do(t.Context(), func() {
		fo.sched.SetContext(ended)
		began = fo.sched.Now()
		fo.resync()
	}); err != nil {
		t.Fatal(err)
	}
	again := time.Duration(0)
	netnstest.Eventually(t, time.Minute, "the refill ends", func() (over bool) {
		if err := fo.sched.Do(t.Context(), func() { over, again = !fo.refilling, fo.timers.resync.Due() }); err != nil {
			t.Fatal(err)
		}
		return over
	})
	if again < began+refillRetry || again == sched.Never {
		t.Errorf("begun at %v, to be tried again at %v", began, again)
	}
}

// A reading leaves out what is to be skipped, but not what the cache has.
func TestReadingsSkip(t *testing.T) {
	all := flowtest.Flows(3)
	fo := unwiredWith(Config{Skip: func(f *ctnetlink.Flow) bool { return f.Orig.SrcPort < all[2].Orig.SrcPort }})
	fo.cache.Flows.Put(&all[0], 0)
	fo.cache.Flows.BeginSweep()
	for i := range all {
		fo.mergeFlow(&all[i], refill{})
	}
	for i, want := range []bool{true, false, true} {
		if h := fo.cache.Flows.Find(&all[i]); (h != 0) != want || fo.cache.Flows.Unseen(h) {
			t.Errorf("flow %d: in the cache %v, want %v; unseen %v", i, h != 0, want, fo.cache.Flows.Unseen(h))
		}
	}
}
