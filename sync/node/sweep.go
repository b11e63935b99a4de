package node

import (
	"fmt"

	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// agreement is what this node holds of its FT-FW peer, beside what the peer says that it
// has announced.
type agreement struct {
	sweep   proto.Sweep
	numbers proto.Agreement
	bulk    uint64 // number of the peer's last bulk that began
	busy    bool   // with what a bulk has left out
	flushed bool   // the external caches were emptied here, and no bulk has come since
	// refused is how many entries could not be stored when the last bulk began.
	refused uint64
}

// beginExternalSweep and endExternalSweep enclose everything that the peer has: what it
// did not announce in between is gone there, and the message that said so was lost.
func (n *Node) beginExternalSweep() {
	a := &n.agreement
	a.bulk++
	a.busy = false
	a.refused = n.refused()
	a.sweep.Begin()
	if n.external.flows != nil {
		n.external.flows.BeginSweep()
		n.external.expects.BeginSweep()
	}
}

func (n *Node) endExternalSweep(unasked bool) {
	if n.external.flows == nil {
		return
	}
	n.agreement.flushed = false
	n.agreement.busy = true
	left := 0
	n.eachLeftOut(func(flows, expects []cache.Handle) { left += len(flows) + len(expects) }, func() {
		n.agreement.busy = false
		switch n.agreement.sweep.Judge(left, unasked) {
		case proto.Remove:
			n.removeLeftOut()
		case proto.Ask:
			text := "everything that the peer has"
			if unasked {
				text += ", which was not asked for,"
			}
			n.log.Warn(fmt.Sprintf("%s leaves out %d of %d entries: they stay until it has been asked for again", text, left, n.externalLen()))
			n.machine.RequestResync(n.sched.Now())
		}
	})
}

// removeLeftOut removes what the last bulk has left out.
func (n *Node) removeLeftOut() {
	n.agreement.busy = true
	removed := 0
	n.eachLeftOut(func(flows, expects []cache.Handle) {
		for _, h := range flows {
			if n.external.flows.Load(h, &n.flow) {
				n.endExternal(h, &n.flow)
			}
		}
		for _, h := range expects {
			n.external.expects.Delete(h)
		}
		removed += len(flows) + len(expects)
	}, func() {
		n.agreement.busy = false
		n.notice(fmt.Sprintf("removed %d entries from the external cache that the peer no longer has", removed))
	})
}

// eachLeftOut walks in slices over what the last bulk has left out, then calls ended. If
// another bulk begins meanwhile, what that one has not announced yet counts as left out:
// the walk ends then, and the one after that bulk finds the rest.
func (n *Node) eachLeftOut(do func(flows, expects []cache.Handle), ended func()) {
	bulk := n.agreement.bulk
	handles := make([]cache.Handle, sliceLen)
	var flows, expects cache.Cursor
	n.sched.Step(func() bool {
		if bulk != n.agreement.bulk {
			return false
		}
		got, more := n.external.flows.NextUnseen(&flows, handles)
		do(handles[:got], nil)
		return more
	})
	n.sched.Step(func() bool {
		if bulk != n.agreement.bulk {
			return false
		}
		got, more := n.external.expects.NextUnseen(&expects, handles)
		do(nil, handles[:got])
		if !more {
			ended()
		}
		return more
	})
}

func (n *Node) externalLen() int { return n.external.flows.Len() + n.external.expects.Len() }

// refused counts entries of the peer that this node could not store.
func (n *Node) refused() uint64 {
	refused := n.received.BadPayload
	if n.external.flows != nil {
		refused += n.external.flows.Stats().CreateFailed + n.external.expects.Stats().CreateFailed
	}
	return refused
}

// compareHeld compares how many entries the peer says that it has announced with how many
// are here. It leaves out what is about to change: a bulk that is expected or under way,
// and caches that were flushed here.
func (n *Node) compareHeld(notice *wire.Notice) {
	m, ok := n.machine.(*proto.FTFW)
	a := &n.agreement
	if !ok || n.external.flows == nil {
		return
	}
	if a.busy || a.flushed || !m.Settled() {
		a.numbers.Pause()
		return
	}
	announced, here := int(notice.HeldFlows)+int(notice.HeldExpects), n.externalLen()
	waited := a.sweep.Waiting()
	if a.sweep.Announced(announced, here) == proto.Remove {
		n.removeLeftOut()
		return
	}
	if waited {
		n.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: what its last bulk left out stays", announced, here))
	}
	if !a.numbers.Compare(n.sched.Now(), announced, here) {
		return
	}
	if refused := n.refused() - a.refused; refused > 0 {
		n.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: %d could not be stored", announced, here, refused))
		return
	}
	n.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: everything is asked for", announced, here))
	n.notice("resync requested")
	m.RequestResync(n.sched.Now())
}
