package node

import "time"

// The turn is the right to the node's state. The loop has it while it works and lays it
// down while it sleeps; then whoever reads something, the kernel's events or a link,
// takes it and deals with what it has read in its own goroutine. To hand that to the
// loop would wake a second thread each time, which costs more than the few flows that a
// read brings. What is left to do after a reader's turn is the loop's: the reader sets
// the time at which it wakes up.

// takeTurn gives a reader the turn until it calls leaveTurn, if ended is not closed
// before.
func (n *Node) takeTurn(ended <-chan struct{}) bool {
	select {
	case n.turn <- struct{}{}:
		n.now = time.Now()
		return true
	case <-ended:
		return false
	}
}

// tryTurn is takeTurn without waiting.
func (n *Node) tryTurn() bool {
	select {
	case n.turn <- struct{}{}:
		n.now = time.Now()
		return true
	default:
		return false
	}
}

// leaveTurn sends what has come of a reader's turn and ends it.
func (n *Node) leaveTurn() {
	n.transmit()
	n.arm()
	<-n.turn
}

// serve lets calls and received datagrams in between two batches of events
// (EventIterationLimit).
func (n *Node) serve() {
	select {
	case call := <-n.calls:
		call()
	default:
	}
	// A channel serves those who wait in order, so that one of them has had its turn
	// when this comes back.
	<-n.turn
	n.turn <- struct{}{}
}

// letFinish is for the loop's end: it waits for a reader that is in the middle of a run of
// events and let the loop have the turn there. Nobody can end that reader before.
func (n *Node) letFinish() {
	for n.following {
		<-n.turn
		n.turn <- struct{}{}
	}
}

// arm sets the time at which the loop wakes up. Deadlines mostly move away; a timer
// that goes off too early costs less than one that is set anew each time.
func (n *Node) arm() {
	if at := n.clock() + n.wait(); at < n.armed {
		n.wake.Reset(at - n.clock())
		n.armed = at
	}
}
