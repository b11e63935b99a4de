package proto

import (
	"time"

	"ctbox/sync/wire"
)

// announcer decides when an ALIVE with a notice is due. Ordinary ALIVEs are sent by
// idle nodes only; what a notice says matters most to the peer of a busy one.
type announcer struct {
	incomplete uint32
	announced  uint32 // what an ALIVE was last due for
	repeat     int    // how often "complete again" is still to be announced
	on         bool   // there is something to announce about lost events
	held       bool   // and about the entries that the peer holds
	committed  bool   // and about the last commit
	due        time.Duration
}

// completeRepeats is how often a node announces that it is complete again: an ALIVE
// that is lost is not sent again.
const completeRepeats = 3

// set notes the number of lost events. One that has grown to twice what the peer knows is
// announced at once, for a number far too small would mislead.
func (a *announcer) set(now time.Duration, lost uint32) {
	if lost == a.incomplete {
		return
	}
	if lost == 0 || a.incomplete == 0 || lost/2 >= a.announced {
		a.due = now
	}
	a.incomplete, a.repeat, a.on = lost, completeRepeats, true
}

// deadline is when a notice is due.
func (a *announcer) deadline() time.Duration {
	if !a.on && !a.held && !a.committed {
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

// fill puts into n what an ALIVE that leaves now has to announce.
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
