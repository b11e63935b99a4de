package node

import (
	"context"
	"sync"
	"testing"
	"time"

	"ctbox/sync/link"
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
