package replicate

import (
	"fmt"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// agreement is what this node holds of a peer, beside what the peer says that it has announced.
type agreement struct {
	sweep   proto.Sweep
	numbers proto.Agreement // FT-FW only
	bulk    uint64          // number of the peer's last bulk that began
	busy    bool            // with what a bulk has left out
	flushed bool            // the copy was emptied here, and no bulk has come since
	// refused is how many entries could not be stored when the last bulk began.
	refused uint64
}

// beginExternalSweep and endExternalSweep enclose everything that the peer has: what it
// did not announce in between is gone there, and the message that announced the end was lost.
func (r *Replicator) beginExternalSweep(p *peerCopy) {
	p.bulk++
	p.busy = false
	p.refused = r.refusedOf(p)
	p.sweep.Begin()
	if p.Flows != nil {
		p.Flows.BeginSweep()
		p.Expects.BeginSweep()
	}
}

func (r *Replicator) endExternalSweep(p *peerCopy, unasked bool) {
	p.lost = false
	if p.Flows == nil {
		return
	}
	p.flushed = false
	p.busy = true
	left := 0
	r.eachLeftOut(p, func(flows, expects []cache.Handle) { left += len(flows) + len(expects) }, func() {
		p.busy = false
		switch p.sweep.Judge(left, unasked) {
		case proto.Remove:
			r.removeLeftOut(p)
		case proto.Ask:
			text := "everything that " + r.nameOf(p) + " has"
			if unasked {
				text += ", which was not asked for,"
			}
			r.log.Warn(fmt.Sprintf("%s leaves out %d of %d entries: they stay until it has been asked for again", text, left, p.len()))
			r.requestResyncOf(p)
		}
	})
}

// requestResyncOf asks the peer whose copy is p for everything that it has.
func (r *Replicator) requestResyncOf(p *peerCopy) {
	now := r.sched.Now()
	if m, ok := r.machine.(interface {
		RequestResyncOf(now time.Duration, node uint8)
	}); ok {
		m.RequestResyncOf(now, p.node)
		return
	}
	r.machine.RequestResync(now)
}

// removeLeftOut removes what the last bulk has left out.
func (r *Replicator) removeLeftOut(p *peerCopy) {
	p.busy = true
	removed := 0
	r.eachLeftOut(p, func(flows, expects []cache.Handle) {
		for _, h := range flows {
			if p.Flows.Load(h, &r.flow) {
				r.leaveExternal(p, h, &r.flow)
			}
		}
		for _, h := range expects {
			p.Expects.Delete(h)
		}
		removed += len(flows) + len(expects)
	}, func() {
		p.busy = false
		r.log.Notice(fmt.Sprintf("removed %d entries from the external cache that %s no longer has", removed, r.nameOf(p)))
	})
}

// eachLeftOut walks in slices over what the last bulk has left out, then calls ended. If
// another bulk begins meanwhile, what that one has not announced yet counts as left out:
// the walk ends then, and the one after that bulk finds the rest.
func (r *Replicator) eachLeftOut(p *peerCopy, do func(flows, expects []cache.Handle), ended func()) {
	bulk := p.bulk
	handles := make([]cache.Handle, sliceLen)
	var flows, expects cache.Cursor
	r.sched.Step(func() bool {
		if bulk != p.bulk {
			return false
		}
		got, more := p.Flows.NextUnseen(&flows, handles)
		do(handles[:got], nil)
		return more
	})
	r.sched.Step(func() bool {
		if bulk != p.bulk {
			return false
		}
		got, more := p.Expects.NextUnseen(&expects, handles)
		do(nil, handles[:got])
		if !more {
			ended()
		}
		return more
	})
}

// refusedOf counts entries of a peer that this node could not store.
func (r *Replicator) refusedOf(p *peerCopy) uint64 {
	refused := p.bad
	if !r.cluster.speaks() {
		refused = r.received.BadPayload
	}
	if p.Flows != nil {
		refused += p.Flows.Stats().CreateFailed + p.Expects.Stats().CreateFailed
	}
	return refused
}

// compareHeld compares how many entries the peer says that it has announced with how many
// are here. It leaves out what is about to change: a bulk that is expected or under way,
// and caches that were flushed here.
func (r *Replicator) compareHeld(notice *wire.Notice) {
	m, p := r.ftfw, r.external
	if m == nil || p.Flows == nil {
		return
	}
	if p.busy || p.flushed || !m.Settled() {
		p.numbers.Pause()
		return
	}
	announced, here := int(notice.HeldFlows)+int(notice.HeldExpects), p.len()
	waited := p.sweep.Waiting()
	if p.sweep.Announced(announced, here) == proto.Remove {
		r.removeLeftOut(p)
		return
	}
	if waited {
		r.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: what its last bulk left out stays", announced, here))
	}
	if !p.numbers.Compare(r.sched.Now(), announced, here) {
		return
	}
	if refused := r.refusedOf(p) - p.refused; refused > 0 {
		r.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: %d could not be stored", announced, here, refused))
		return
	}
	r.log.Warn(fmt.Sprintf("the peer has announced %d entries and %d are here: everything is asked for", announced, here))
	r.log.Notice("resync requested")
	m.RequestResync(r.sched.Now())
}
