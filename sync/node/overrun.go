package node

import (
	"fmt"
	"math"
	"time"
)

// The tables are read firstResync after an overrun: so long until a burst is over, and
// until then the peer's copy is incomplete. Overruns in quick succession mean that the
// machine is busy, and reading would make it busier: after one that follows another
// within overrunCalm the reading waits for NetlinkOverrunResync, and after each further
// one twice as long.
const (
	firstResync    = 500 * time.Millisecond
	overrunCalm    = time.Minute
	maxResyncDelay = 8 * time.Minute
	usualResync    = 30 * time.Second // the default of NetlinkOverrunResync
)

// A commit makes events faster than anything else, and a reader of the internal cache
// expects there what was committed. What is lost by its end, or shortly after, when the
// last of its events are looked at, is looked for soon; that says nothing of how busy the
// machine is otherwise.
const (
	commitBurst  = 5 * time.Second
	commitResync = time.Second
)

// overrun deals with events that the kernel had to drop: a larger buffer for the
// next burst, and a resynchronisation for what was lost in this one.
func (n *Node) overrun(lost uint64) {
	n.kernel.Overruns++
	n.kernel.Lost += lost
	n.miss(lost)
	n.sayLost(lost)
	n.growBuffer()
	n.resyncLater()
}

// miss counts events that are lost until a reading of the kernel's tables makes up for
// them, and has the peers know: what they hold lacks these.
func (n *Node) miss(events uint64) {
	n.kernel.Missing += events
	n.announceMissing()
}

// madeUp says that events that were missing when a reading began are missing no more.
func (n *Node) madeUp(events uint64) {
	n.kernel.Missing -= events
	n.announceMissing()
}

func (n *Node) announceMissing() {
	if n.machine != nil {
		n.machine.SetIncomplete(n.sched.Now(), uint32(min(n.kernel.Missing, math.MaxUint32)))
	}
}

// resyncLater schedules a reading of the kernel's tables for events that were lost,
// unless NetlinkOverrunResync is off.
func (n *Node) resyncLater() {
	if delay := n.cfg.General.NetlinkOverrunResync; delay != 0 && n.internal.flows != nil {
		n.scheduleResync(delay)
	}
}

// scheduleResync schedules a reading of the kernel's tables: soon, or, where one was
// scheduled lately, after delay and more. A reading that is scheduled already is put off
// no further: under steady overruns it would never come. If a commit is the cause, the
// reading comes when that is over.
func (n *Node) scheduleResync(delay time.Duration) {
	now := n.sched.Now()
	if n.committing || n.commits.Count > 0 && now-n.commitEnded < commitBurst {
		n.timers.resync.Set(min(n.timers.resync.Due(), now+commitResync))
		return
	}
	calm := n.overrunDelay == 0 || now-n.lastOverrun > overrunCalm+n.overrunDelay
	n.lastOverrun = now
	switch {
	case calm:
		n.overrunDelay = firstResync
	case !n.timers.resync.Pending():
		n.overrunDelay = min(max(2*n.overrunDelay, delay), max(maxResyncDelay, delay))
	}
	if !n.timers.resync.Pending() {
		n.timers.resync.Set(now + n.overrunDelay)
	}
}

// resync reads the kernel's tables again and replicates what is new.
func (n *Node) resync() {
	if n.committing {
		n.timers.resync.After(commitResync)
		return
	}
	n.startRefill(refill{tables: Flows | n.expectTables(), send: true, all: n.untold, sweep: true}, n.retryRefill)
}

// lostPeriod is how often the log names lost events. Under a steady overload there would
// be hundreds of lines in a second, which is the wrong moment for them.
const lostPeriod = time.Second

// sayLost logs the number of lost events, at once or with those that follow.
func (n *Node) sayLost(lost uint64) {
	if n.limits.lost.AdmitN(struct{}{}, struct{}{}, lost) {
		n.warnLost(struct{}{}, lost)
	}
}

func (n *Node) warnLost(_ struct{}, lost uint64) {
	n.log.Warn(fmt.Sprintf("the kernel dropped %s%d events: its buffer was full", n.atLeast, lost))
}
