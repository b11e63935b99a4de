package replicate

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
// did not announce in between is gone there, and the message that announced the end was lost.
func (r *Replicator) beginExternalSweep() {
	a := &r.agreement
	a.bulk++
	a.busy = false
	a.refused = r.refused()
	a.sweep.Begin()
	if r.external.Flows != nil {
		r.external.Flows.BeginSweep()
		r.external.Expects.BeginSweep()
	}
}

func (r *Replicator) endExternalSweep(unasked bool) {
	r.copyLost = false
	if r.external.Flows == nil {
		return
	}
	r.agreement.flushed = false
	r.agreement.busy = true
	left := 0
	r.eachLeftOut(func(flows, expects []cache.Handle) { left += len(flows) + len(expects) }, func() {
		r.agreement.busy = false
		switch r.agreement.sweep.Judge(left, unasked) {
		case proto.Remove:
			r.removeLeftOut()
		case proto.Ask:
			text := "everything that the peer has"
			if unasked {
				text += ", which was not asked for,"
			}
			r.log.Warn(fmt.Sprintf("%s leaves out %d of %d entries: they stay until it has been asked for again", text, left, r.externalLen()))
			r.machine.RequestResync(r.sched.Now())
		}
	})
}

// removeLeftOut removes what the last bulk has left out.
func (r *Replicator) removeLeftOut() {
	r.agreement.busy = true
	removed := 0
	r.eachLeftOut(func(flows, expects []cache.Handle) {
		for _, h := range flows {
			if r.external.Flows.Load(h, &r.flow) {
				r.endExternal(h, &r.flow)
			}
		}
		for _, h := range expects {
			r.external.Expects.Delete(h)
		}
		removed += len(flows) + len(expects)
	}, func() {
		r.agreement.busy = false
		r.log.Notice(fmt.Sprintf("removed %d entries from the external cache that the peer no longer has", removed))
	})
}

// eachLeftOut walks in slices over what the last bulk has left out, then calls ended. If
// another bulk begins meanwhile, what that one has not announced yet counts as left out:
// the walk ends then, and the one after that bulk finds the rest.
func (r *Replicator) eachLeftOut(do func(flows, expects []cache.Handle), ended func()) {
	bulk := r.agreement.bulk
	handles := make([]cache.Handle, sliceLen)
	var flows, expects cache.Cursor
	r.sched.Step(func() bool {
		if bulk != r.agreement.bulk {
			return false
		}
		got, more := r.external.Flows.NextUnseen(&flows, handles)
		do(handles[:got], nil)
		return more
	})
	r.sched.Step(func() bool {
		if bulk != r.agreement.bulk {
			return false
		}
		got, more := r.external.Expects.NextUnseen(&expects, handles)
		do(nil, handles[:got])
		if !more {
			ended()
		}
		return more
	})
}

func (r *Replicator) externalLen() int { return r.external.Flows.Len() + r.external.Expects.Len() }

// refused counts entries of the peer that this node could not store.
func (r *Replicator) refused() uint64 {
	refused := r.received.BadPayload
	if r.external.Flows != nil {
		refused += r.external.Flows.Stats().CreateFailed + r.external.Expects.Stats().CreateFailed
	}
	return refused
}

// compareHeld compares how many entries the peer says that it has announced with how many
// are here. It leaves out what is about to change: a bulk that is expected or under way,
// and caches that were flushed here.
func (r *Replicator) compareHeld(notice *wire.Notice) {
	m, a := r.ftfw, &r.agreement
	if m == nil || r.external.Flows == nil {
		return
	}
	if a.busy || a.flushed || !m.Settled() {
		a.numbers.Pause()
		return
	}
	announced, here := int(notice.HeldFlows)+int(notice.HeldExpects), r.externalLen()
	waited := a.sweep.Waiting()
	if a.sweep.Announced(announced, here) == proto.Remove {
		r.removeLeftOut()
		return
	}
	if waited {
		r.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: what its last bulk left out stays", announced, here))
	}
	if !a.numbers.Compare(r.sched.Now(), announced, here) {
		return
	}
	if refused := r.refused() - a.refused; refused > 0 {
		r.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: %d could not be stored", announced, here, refused))
		return
	}
	r.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: everything is asked for", announced, here))
	r.log.Notice("resync requested")
	m.RequestResync(r.sched.Now())
}
