package proto

import (
	"time"

	"ctbox/sync/wire"
)

// announcer decides when an ALIVE with a notice is due. Only idle nodes send ordinary
// ALIVEs, but a notice matters most to the peer of a busy node.
type announcer struct {
	incomplete uint32
	announced  uint32 // the number when an ALIVE was last due
	repeat     int    // remaining announcements that this node is complete again
	on         bool   // announce lost events
	held       bool   // announce how many entries the peer should hold
	committed  bool   // announce the last commit
	bulk       bool   // announce that a bulk is under way
	due        time.Duration
}

// completeRepeats is how often a node announces that it is complete again, because a lost
// ALIVE is not resent.
const completeRepeats = 3

// set records the number of lost events. A number that has grown to twice the last one is
// announced at once, because one that is far too small would mislead.
func (a *announcer) set(now time.Duration, lost uint32) {
	if lost == a.incomplete {
		return
	}
	if lost == 0 || a.incomplete == 0 || lost/2 >= a.announced {
		a.due = now
	}
	a.incomplete, a.repeat, a.on = lost, completeRepeats, true
}

// deadline returns when a notice is due.
func (a *announcer) deadline() time.Duration {
	if !a.on && !a.held && !a.committed && !a.bulk {
		return None
	}
	return a.due
}

// tick reports whether an ALIVE is to be queued now.
func (a *announcer) tick(now time.Duration) bool {
	if now < a.deadline() {
		return false
	}
	a.due, a.announced = now+aliveInterval, a.incomplete
	return true
}

// fill sets what an ALIVE that leaves now announces in n.
func (a *announcer) fill(n *wire.Notice) {
	if !a.on {
		return
	}
	n.Has |= wire.HasIncomplete
	n.Incomplete = a.incomplete
	if a.incomplete == 0 {
		a.repeat--
		a.on = a.repeat > 0
	}
}
