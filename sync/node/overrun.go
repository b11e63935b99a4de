package node

import (
	"fmt"
	"time"
)

// Overruns in quick succession mean that the machine is busy, and a
// resynchronisation would make it busier: each that follows another within
// overrunCalm doubles the delay.
const (
	overrunCalm    = time.Minute
	maxResyncDelay = 8 * time.Minute
)

// A commit makes events faster than anything else, and whoever reads the internal cache
// after it expects what was committed there. What is lost by its end, or shortly after,
// when the last of its events are looked at, is looked for soon; that says nothing of how
// busy the machine is otherwise.
const (
	commitBurst  = 5 * time.Second
	commitResync = time.Second
)

// overrun deals with events that the kernel had to drop: a larger buffer for the
// next burst, and a resynchronisation for what was lost in this one.
func (n *Node) overrun(lost uint64) {
	n.kernel.Overruns++
	n.kernel.Lost += lost
	n.sayLost(lost)
	n.growBuffer()
	n.resyncLater()
}

// resyncLater has the kernel's tables read again after NetlinkOverrunResync, or, if a
// commit is the cause, when that is over.
func (n *Node) resyncLater() {
	g := &n.cfg.General
	if g.NetlinkOverrunResync == 0 || n.internal.flows == nil {
		return
	}
	now := n.clock()
	if n.committing || n.commits.Count > 0 && n.now.Sub(n.commitEnded) < commitBurst {
		if at := now + commitResync; n.timers.resync == 0 || at < n.timers.resync {
			n.timers.resync = at
		}
		return
	}
	if n.overrunDelay == 0 || now-n.lastOverrun > overrunCalm+n.overrunDelay {
		n.overrunDelay = g.NetlinkOverrunResync
	} else if n.timers.resync == 0 {
		n.overrunDelay = min(2*n.overrunDelay, max(maxResyncDelay, g.NetlinkOverrunResync))
	}
	n.lastOverrun = now
	// A resynchronisation that waits already is put off no further: under
	// steady overruns it would never come.
	if n.timers.resync == 0 {
		n.timers.resync = now + n.overrunDelay
	}
}

// resync reads the kernel's tables again, and tells what is new.
func (n *Node) resync() {
	if n.committing {
		n.timers.resync = n.clock() + commitResync
		return
	}
	n.startRefill(refill{tables: Flows | n.expectTables(), send: true, sweep: true}, n.retryRefill)
}

// lostQuiet is the least time between two lines about lost events. Under a steady
// overload there would be hundreds in a second, which is the wrong moment for them.
const lostQuiet = time.Second

// sayLost names the number of lost events, those not named yet included.
func (n *Node) sayLost(lost uint64) {
	n.unsaidLost += lost
	if now := n.clock(); n.saidLost == 0 || now-n.saidLost >= lostQuiet {
		n.log.Warn(fmt.Sprintf("the kernel dropped %s%d events: its buffer was full", n.atLeast, n.unsaidLost))
		n.saidLost, n.unsaidLost = now, 0
		n.timers.lost = 0
	} else if n.timers.lost == 0 {
		n.timers.lost = n.saidLost + lostQuiet
	}
}

// growBuffer doubles the event socket's buffer, up to the configured maximum.
func (n *Node) growBuffer() {
	limit := uint64(n.cfg.General.NetlinkBufferSizeMaxGrowth)
	if 2*n.kernel.BufferSize > limit {
		if !n.grownOut {
			n.grownOut = true
			n.notice("netlink event socket buffer size cannot be doubled further since it will exceed " +
				"NetlinkBufferSizeMaxGrowth. We are likely to be losing events, this may lead to " +
				"unsynchronized replicas. Please, consider increasing netlink socket buffer size via " +
				"NetlinkBufferSize and NetlinkBufferSizeMaxGrowth clauses in conntrackd.conf")
		}
		return
	}
	// The kernel doubles what it is given.
	if err := n.events.SetBuffer(int(n.kernel.BufferSize)); err != nil {
		n.log.Error("grow the netlink event buffer: " + err.Error())
		return
	}
	n.kernel.BufferSize = uint64(n.events.Buffer())
	n.notice(fmt.Sprintf("netlink event socket buffer size has been doubled to %d bytes", n.kernel.BufferSize))
}
