package node

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/sched"
)

// numbered sets f to one of four billion flows.
func numbered(f *ctnetlink.Flow, i uint32) {
	*f = flowtest.TCP("192.0.2.1", "198.51.100.1")
	binary.BigEndian.PutUint32(f.Orig.Src[:], i)
	f.Reply = ctnetlink.Tuple{}
}

// batches is a table that notes how much of it is handed out at once.
type batches struct {
	table[ctnetlink.Flow]
	largest *int
}

func (s batches) Next(c *cache.Cursor, batch []cache.Handle) (int, bool) {
	got, more := s.table.Next(c, batch)
	*s.largest = max(*s.largest, got)
	return got, more
}

// A client that stands still in the middle of a million flows holds up nothing: peers'
// messages are applied, events are followed, and other clients have their dumps. What
// was there from beginning to end is handed out exactly once.
func TestDumpOfAMillionFlowsStallsNothing(t *testing.T) {
	const million = 1_000_000
	external := cache.NewSide(cache.Config{})
	var f ctnetlink.Flow
	for i := range uint32(million) {
		numbered(&f, i)
		external.Flows.Put(&f, 0)
	}
	n := sleeping(t, external)
	largest := 0
	dump := func(each func(*Entry) error) error {
		return dumpTable(t.Context(), n, &sched.Task{}, batches{external.Flows, &largest}, func(_ cache.Handle, f *ctnetlink.Flow, e *Entry) bool { e.Flow = f; return true }, each)
	}
	standing, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	times := make([]uint8, million)
	go func() {
		handed := 0
		done <- dump(func(e *Entry) error {
			if handed++; handed == million/2 {
				close(standing)
				<-goOn
			}
			if i := binary.BigEndian.Uint32(e.Flow.Orig.Src[:]); i < million {
				times[i]++
			}
			return nil
		})
	}()
	<-standing
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range uint32(1000) {
		if err := n.sched.Do(ctx, func() {
			numbered(&f, million+i)
			external.Flows.Put(&f, n.sched.Now())
		}); err != nil {
			t.Fatalf("flow %d of a peer meanwhile: %v", i, err)
		}
	}
	others := 0
	tasks := func() (running int) {
		if err := n.sched.Do(ctx, func() { running = n.taskCount() }); err != nil {
			t.Error(err)
		}
		return running
	}
	if err := n.Dump(ctx, External, cache.FlowTable, 0, func(*Entry) error {
		if others++; others == 1 && tasks() != 1 {
			t.Error("the dump is not among the tasks")
		}
		return nil
	}); err != nil || others != million+1000 {
		t.Errorf("another client meanwhile: %d flows, %v", others, err)
	}
	if n := tasks(); n != 0 {
		t.Errorf("%d tasks after the dump", n)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i, n := range times {
		if n != 1 {
			t.Fatalf("flow %d was handed out %d times", i, n)
		}
	}
	if largest > sliceLen {
		t.Errorf("the loop copied %d flows at once", largest)
	}
}
