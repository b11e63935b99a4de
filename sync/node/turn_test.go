package node

import (
	"context"
	"sync"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/sync/link"
	"ctbox/sync/proto"
	"ctbox/sync/sched"
)

// sleeping is a node whose loop runs and has nothing to do.
func sleeping(t *testing.T, mode Mode) *Node {
	n := unwired(mode)
	n.cfg.General.EventIterationLimit = 100
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		if err := n.sched.Run(ctx, func() {}, func() {}); err != nil {
			t.Errorf("the loop ended by %v", err)
		}
	})
	t.Cleanup(func() { cancel(); loop.Wait() })
	return n
}

// turnOnce does what is due, as the loop does in one turn.
func (n *Node) turnOnce(t *testing.T) {
	t.Helper()
	if err := n.sched.Turn(); err != nil {
		t.Fatal(err)
	}
}

// taskCount is the number of tasks that run.
func (n *Node) taskCount() (running int) {
	n.sched.Tasks(func(*sched.Task) { running++ })
	return running
}

// A link that is closed by the loop, which holds the lock then, does not wait for its
// reader.
func TestReaderGivesUpWithItsLink(t *testing.T) {
	n := unwired(ModeFTFW)
	ended, returned := make(chan struct{}), make(chan struct{})
	go func() {
		n.deliver(&link.Batch{}, ended)
		close(returned)
	}()
	close(ended)
	select {
	case <-returned:
	case <-time.After(10 * time.Second):
		t.Fatal("the reader still waits for the lock")
	}
}

// While a run of events is being followed, and others have the lock in between, nobody
// takes the next run: the order of a flow's events matters.
func TestEventsAreFollowedInOrder(t *testing.T) {
	n := unwired(ModeFTFW)
	n.arrived.Store(true)
	if !n.mayTakeEvents() || (eventSource{n}).Due() > n.sched.Now() {
		t.Error("waiting events are not followed")
	}
	n.following = true
	if n.mayTakeEvents() || (eventSource{n}).Due() != sched.Never {
		t.Error("a second run is begun in the middle of one")
	}
}

// Orders to tell everything, one upon the other, become one bulk and one more.
func TestBulksDoNotPileUp(t *testing.T) {
	n := unwired(ModeNOTRACK)
	n.machine = proto.NewNoTrack(0, 1, false)
	all := flows(10 * sliceLen)
	for i := range all {
		n.internal.flows.Put(&all[i], 0)
	}
	rounds := func() int {
		n.startBulk()
		for range 100 {
			n.startBulk()
		}
		waiting := n.sched.Steps()
		n.sched.RunSteps()
		return waiting
	}
	if got := rounds(); got != 2 { // flows and expectations
		t.Errorf("%d walks over the caches wait", got)
	}
	n.sched.SetNow(time.Minute)
	if err := (protocolSource{n}).Run(); err != nil {
		t.Fatal(err)
	}
	if n.sched.Steps() != 2 {
		t.Errorf("%d walks over the caches for what was asked for in the middle of the first", n.sched.Steps())
	}
}

// So do those of a node without an internal cache, for which the kernel's tables are read.
func TestLiveBulksDoNotPileUp(t *testing.T) {
	n := committing(t, nil, caches{})
	over, cancel := context.WithCancel(context.Background())
	cancel() // nothing is read
	running := 0
	if err := n.sched.Do(t.Context(), func() {
		n.sched.SetContext(over)
		n.bypass = true
		for range 100 {
			n.startBulk()
		}
		running = n.taskCount()
	}); err != nil {
		t.Fatal(err)
	}
	if running != 1 {
		t.Errorf("the kernel's tables are read %d times at once", running)
	}
	netnstest.Eventually(t, time.Minute, "the bulk ends", func() (ended bool) {
		if err := n.sched.Do(t.Context(), func() { ended = n.taskCount() == 0 }); err != nil {
			t.Fatal(err)
		}
		return ended
	})
	if err := n.sched.Do(t.Context(), func() {
		if n.machine.Tick(n.sched.Now()+time.Hour)&proto.BulkWanted == 0 {
			t.Error("what was asked for in the middle of a bulk is forgotten")
		}
	}); err != nil {
		t.Fatal(err)
	}
}
