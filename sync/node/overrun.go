package node

import (
	"fmt"
	"math"
	"time"
)

// The tables are read firstResync after an overrun, when the burst is probably over; until
// then the peer's copy is incomplete. Overruns in quick succession mean that the machine is
// busy, and reading makes it busier: after an overrun that follows another within
// overrunCalm the reading waits for NetlinkOverrunResync, and twice as long after each
// further one.
const (
	firstResync    = 500 * time.Millisecond
	overrunCalm    = time.Minute
	maxResyncDelay = 8 * time.Minute
	usualResync    = 30 * time.Second // the default of NetlinkOverrunResync
)

// A commit causes events faster than anything else, and the internal cache is expected to
// have what was committed. Events lost during a commit, or shortly after it, lead to a
// reading soon, and do not count as a sign of a busy machine.
const (
	commitBurst  = 5 * time.Second
	commitResync = time.Second
)

// overrun reacts to events that the kernel dropped: with a larger buffer for the next
// burst, and a reading of the tables for what was lost in this one.
func (n *Node) overrun(lost uint64) {
	n.kernel.Overruns++
	n.kernel.Lost += lost
	n.eventsLost(lost)
	n.logLost(lost)
	n.growBuffer()
	n.resyncLater()
}

// eventsLost counts lost events that no reading of the tables has made up for, and
// announces them to the peers, whose copies lack them.
func (n *Node) eventsLost(events uint64) {
	n.kernel.Missing += events
	n.announceMissing()
}

// eventsMadeUp subtracts the events that were missing when a complete reading began.
func (n *Node) eventsMadeUp(events uint64) {
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

// scheduleResync schedules a reading of the kernel's tables: soon, or after delay and more
// where readings have been scheduled lately. A reading that is scheduled already is not
// postponed: under steady overruns it would never come. If a commit is the cause, the
// reading follows the commit.
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

// lostPeriod is the least time between two log lines about lost events. Under a steady
// overload there would be hundreds in a second.
const lostPeriod = time.Second

// logLost logs the number of lost events, at once or with those that follow.
func (n *Node) logLost(lost uint64) {
	if n.limits.lost.AdmitN(struct{}{}, struct{}{}, lost) {
		n.warnLost(struct{}{}, lost)
	}
}

func (n *Node) warnLost(_ struct{}, lost uint64) {
	n.log.Warn(fmt.Sprintf("the kernel dropped %s%d events: its buffer was full", n.atLeast, lost))
}
