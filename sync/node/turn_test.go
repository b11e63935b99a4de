package node

import (
	"context"
	"sync"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/sync/link"
	"ctbox/sync/proto"
)

// sleeping is a node whose loop runs and has nothing to do.
func sleeping(t *testing.T, mode Mode) *Node {
	n := unwired(mode)
	n.cfg.General.EventIterationLimit = 100
	n.turn, n.calls, n.ready = make(chan struct{}, 1), make(chan func()), make(chan struct{}, 1)
	n.turn <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		if err := n.loop(ctx); err != context.Canceled {
			t.Errorf("the loop ended by %v", err)
		}
	})
	t.Cleanup(func() { cancel(); loop.Wait() })
	return n
}

// A link that is closed by the loop, which has the turn then, does not wait for a turn
// of its reader's.
func TestReaderGivesUpWithItsLink(t *testing.T) {
	n := unwired(ModeFTFW)
	n.turn = make(chan struct{}, 1)
	n.turn <- struct{}{}
	ended, returned := make(chan struct{}), make(chan struct{})
	go func() {
		n.deliver(&link.Batch{}, ended)
		close(returned)
	}()
	close(ended)
	select {
	case <-returned:
	case <-time.After(10 * time.Second):
		t.Fatal("the reader still waits for its turn")
	}
}

// What a reader's turn leaves to be done wakes the loop, which slept for longer.
func TestReaderWakesTheLoop(t *testing.T) {
	n := sleeping(t, ModeNone)
	done := make(chan struct{})
	if !n.takeTurn(nil) {
		t.Fatal("no turn")
	}
	n.inSlices(func() bool { close(done); return false })
	n.leaveTurn()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the loop sleeps on")
	}
}

// While somebody is in the middle of a run of events, and has let others have the turn,
// nobody may take the next run: the order of a flow's events is what they mean.
func TestEventsAreFollowedInOrder(t *testing.T) {
	n := unwired(ModeFTFW)
	n.waiting = true
	if !n.mayTakeEvents() || n.wait() != 0 {
		t.Error("waiting events are not followed")
	}
	n.following = true
	if n.mayTakeEvents() || n.wait() == 0 {
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
		waiting := len(n.chores)
		for len(n.chores) > 0 {
			n.chore()
		}
		return waiting
	}
	if got := rounds(); got != 2 { // flows and expectations
		t.Errorf("%d walks over the caches wait", got)
	}
	n.now = n.start.Add(time.Minute)
	n.due()
	if len(n.chores) != 2 {
		t.Errorf("%d walks over the caches for what was asked for in the middle of the first", len(n.chores))
	}
}

// So do those of a node without an internal cache, for which the kernel's tables are read.
func TestLiveBulksDoNotPileUp(t *testing.T) {
	n := committing(t, nil, caches{})
	over, cancel := context.WithCancel(context.Background())
	cancel() // nothing is read
	running := 0
	if err := n.do(t.Context(), func() {
		n.ctx, n.bypass = over, true
		for range 100 {
			n.startBulk()
		}
		running = len(n.tasks)
	}); err != nil {
		t.Fatal(err)
	}
	if running != 1 {
		t.Errorf("the kernel's tables are read %d times at once", running)
	}
	netnstest.Eventually(t, time.Minute, "the bulk ends", func() (ended bool) {
		if err := n.do(t.Context(), func() { ended = len(n.tasks) == 0 }); err != nil {
			t.Fatal(err)
		}
		return ended
	})
	if err := n.do(t.Context(), func() {
		if n.machine.Tick(n.clock()+time.Hour)&proto.BulkWanted == 0 {
			t.Error("what was asked for in the middle of a bulk is forgotten")
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// serve lets those who wait have the turn, a reader as well as a call.
func TestServe(t *testing.T) {
	n := unwired(ModeFTFW)
	n.turn, n.calls = make(chan struct{}, 1), make(chan func())
	n.turn <- struct{}{}
	served := make(chan string, 2)
	go func() { n.calls <- func() { served <- "call" } }()
	go func() {
		n.takeTurn(nil)
		served <- "reader"
		<-n.turn
	}()
	deadline := time.After(10 * time.Second)
	for left := 2; left > 0; {
		n.serve()
		select {
		case <-served:
			left--
		case <-deadline:
			t.Fatal("somebody was not served")
		default:
		}
	}
}

// A reader in the middle of a run of events, who has let the loop have the turn, gets it
// back also from a loop that has ended by then: the node's end waits for the reader.
func TestEndLetsAReaderFinish(t *testing.T) {
	n := unwired(ModeStats)
	n.internal = caches{}
	n.turn, n.calls, n.ready = make(chan struct{}, 1), make(chan func()), make(chan struct{}, 1)
	n.stopped = make(chan struct{})
	n.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	ended, finished := make(chan error, 1), make(chan struct{})
	go func() { ended <- n.Run(ctx) }()
	n.takeTurn(nil)
	n.following = true
	cancel()
	go func() {
		defer close(finished)
		for over := false; !over; {
			n.serve()
			select {
			case <-n.stopped:
				over = true
			default:
			}
		}
		n.serve()
		n.following = false
		n.leaveTurn()
	}()
	deadline := time.After(20 * time.Second)
	for left := 2; left > 0; left-- {
		select {
		case <-finished:
			finished = nil // once
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-deadline:
			t.Fatal("the reader waits for the turn, and the node's end for the reader")
		}
	}
}
