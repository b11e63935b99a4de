package commit

import (
	"sync"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"
	"ctbox/sync/wire"
)

// Standby keeps in this kernel what the peers announce, beside the copies of it (HotStandby), so
// that a takeover has nothing to commit. It leaves alone what is in the internal cache: that is
// this kernel's own. Its fields are guarded by the lock of its scheduler, except where noted, and its
// methods need it.
//
// A flow that no packet passes has standbyTimeout in the kernel, which a walk over the copies
// renews. The first packet gives it the kernel's own timeout, which an update of the peer
// does not change, and a renewal only makes longer. What the kernel has lost or refused, the walk
// brings back. A flow whose owner has vanished thus stays for as long as its copy does.
//
// With several peers the owner may be a node that no packet passes any more, because routing has moved
// the flow here. Such a flow ends for the owner when its kernel has waited for packets in vain. So an
// end deletes only what no packet has passed here; the rest is left to the kernel.
type Standby struct {
	*Injector
	internal *cache.Flows
	copies   Copies
	timer    *sched.Timer
	gather   *sched.Timer // hands over the slice being filled
	pace     pace
	walk     walk
	flow     ctnetlink.Flow // reused

	mu      sync.Mutex
	waiting []order // for their masters; guarded by mu
}

const (
	standbyTimeout = time.Hour
	// renewalWalk is how long a walk over the copies takes. In two walks, which is the most between two
	// renewals of a flow, half of its timeout passes.
	renewalWalk   = standbyTimeout / 4
	renewalPeriod = time.Second / 4
)

// gathering is how long orders gather to a slice. The kernel's time for a small one is mostly that of
// the system calls.
const gathering = 20 * time.Millisecond

// A flow that comes before its master is tried again each renewalPeriod, so often. The master has
// usually been announced just before or behind it.
const (
	maxWaiting = 1024
	maxLate    = 8
)

// Copies is what the peers announce. The functions are called with the lock held.
type Copies struct {
	// All returns the copies, which are neither changed nor kept.
	All func() []Source
	// Owns reports whether an entry of a node's copy, which is f, is to be in the kernel: the node owns f.
	Owns func(node uint8, h cache.Handle, f *ctnetlink.Flow) bool
	// Announced reports whether a peer announces a flow.
	Announced func(orig *ctnetlink.Tuple, zone uint16) bool
}

// NewStandby returns a Standby, which does nothing before Run. internal is this kernel's own flows.
func NewStandby(s *sched.Scheduler, log daemonlog.Log, cfg *conf.Sync, internal *cache.Flows, copies Copies) (*Standby, error) {
	i, err := NewInjector(s, log, cfg)
	if err != nil {
		return nil, err
	}
	b := &Standby{Injector: i, internal: internal, copies: copies}
	b.Reconfigure(cfg)
	i.late = b.late
	b.gather = s.NewTimer(i.Hand)
	b.timer = s.NewTimer(b.renew)
	b.timer.After(renewalPeriod)
	return b, nil
}

// Reconfigure puts another Sync in force.
func (b *Standby) Reconfigure(cfg *conf.Sync) {
	b.restore = newRestorer(cfg)
	b.restore.timeout = standbyTimeout
}

// Hand has the slice being filled handed over, soon.
func (b *Standby) Hand() {
	if len(b.next) > 0 && !b.gather.Pending() {
		b.gather.After(gathering)
	}
}

// Flow brings a peer's change of a flow into the kernel, after it was made in the copy.
func (b *Standby) Flow(change wire.Type, f *ctnetlink.Flow) {
	b.order(change, f, change == wire.FlowDelete && b.several())
}

// several reports whether there are several peers.
func (b *Standby) several() bool { return len(b.copies.All()) > 1 }

// Expect does nothing: expectations are committed at a takeover.
func (b *Standby) Expect(wire.Type, *ctnetlink.Expect) {}

// Withdrawn removes a flow that has left the copy of a peer and has not ended, unless another peer
// announces it.
func (b *Standby) Withdrawn(f *ctnetlink.Flow) {
	if !b.Announced(f) {
		b.order(wire.FlowDelete, f, b.several())
	}
}

// Adopt makes a flow of this kernel one of those that the Standby keeps, which the caller has removed from
// the internal cache, or deletes it from the kernel if no peer announces it. With several peers it
// gets standbyTimeout even if its own is longer: only packets that pass from now on count.
func (b *Standby) Adopt(f *ctnetlink.Flow) {
	if b.Announced(f) {
		several := b.several()
		if o := b.order(wire.FlowUpdate, f, !several); o != nil {
			o.untimed = !several
		}
	} else {
		b.order(wire.FlowDelete, f, false)
	}
}

// Announced reports whether a peer announces f.
func (b *Standby) Announced(f *ctnetlink.Flow) bool {
	zone := uint16(0)
	if f.Has&ctnetlink.HasZone != 0 {
		zone = f.Zone
	}
	return b.copies.Announced(&f.Orig, zone)
}

// order adds an order to the slice being filled, unless the internal cache has the flow. It is the
// caller's to change until the next one.
func (b *Standby) order(change wire.Type, f *ctnetlink.Flow, renewal bool) *order {
	if b.internal.Find(f) != 0 {
		return nil
	}
	o := b.add(change)
	b.restore.flow(&o.flow, f, 0)
	// With it packets would not restore the kernel's own timeout.
	o.flow.Status &^= ctnetlink.StatusFixedTimeout
	detach(&o.flow)
	o.untimed, o.renewal, o.late = true, renewal, 0
	return o
}

// renew is called each renewalPeriod. It orders the renewals that are due, and what has waited for
// masters.
func (b *Standby) renew() {
	b.timer.After(renewalPeriod)
	b.mu.Lock()
	waiting := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	for i := range waiting {
		w := &waiting[i]
		if b.internal.Find(&w.flow) == 0 && b.Announced(&w.flow) {
			*b.add(w.typ) = *w
		}
	}
	if !b.Full() {
		held := 0
		copies := b.copies.All()
		for _, c := range copies {
			held += c.Side.Flows.Len()
		}
		if b.walk.next(copies, b.pace.due(b.sched.Now(), held), &b.flow, func(node uint8, h cache.Handle) {
			if b.copies.Owns(node, h, &b.flow) {
				b.order(wire.FlowUpdate, &b.flow, true)
			}
		}) {
			b.pace.begin(held)
		}
	}
	b.Hand()
}

// late notes an order whose flow has no master yet, and reports whether it did. It is called without
// the lock.
func (b *Standby) late(o *order) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o.late >= maxLate || len(b.waiting) >= maxWaiting {
		return false
	}
	b.waiting = append(b.waiting, *o)
	b.waiting[len(b.waiting)-1].late++
	return true
}

// pace says how many flows a walk that takes renewalWalk visits at a time.
type pace struct {
	last time.Duration
	most int           // entries when the walk began
	left time.Duration // of a flow's share of the time
}

// begin begins another walk over so many entries.
func (p *pace) begin(held int) { p.most = held }

// due returns how many of the entries, of which there are so many now, are due since the last call.
// A table that has shrunk may have lost those that were visited: the walk does not slow down.
func (p *pace) due(now time.Duration, held int) int {
	passed := min(now-p.last, 2*renewalPeriod)
	p.last = now
	p.most = max(p.most, held)
	p.left += passed * time.Duration(p.most)
	n := p.left / renewalWalk
	p.left -= n * renewalWalk
	return int(n)
}

// walk is a position in the copies.
type walk struct {
	node    int // index of the copy
	cursor  cache.Cursor
	handles [injectSlice]cache.Handle
}

// next calls visit for the next n flows, after it has loaded each into f, and reports whether the walk
// has come to its end, where the next one begins.
func (w *walk) next(copies []Source, n int, f *ctnetlink.Flow, visit func(node uint8, h cache.Handle)) (ended bool) {
	for n > 0 {
		if w.node >= len(copies) {
			w.node, w.cursor = 0, cache.Cursor{}
			return true
		}
		table := copies[w.node].Side.Flows
		got, more := table.Next(&w.cursor, w.handles[:min(n, len(w.handles))])
		for _, h := range w.handles[:got] {
			if table.Load(h, f) {
				visit(copies[w.node].Node, h)
			}
		}
		if n -= got; !more {
			w.node++
			w.cursor = cache.Cursor{}
		}
	}
	return false
}

// passed reports whether packets have passed a flow of the Standby's with this timeout in the kernel
// since it was made or renewed: they give it the kernel's own timeout, which is hardly ever in the range.
func passed(seconds uint32) bool {
	left := time.Duration(seconds) * time.Second
	return left > standbyTimeout || left < standbyTimeout-2*renewalWalk-time.Minute
}

// judgeLooks decides what a renewal or an end does with the flow that the kernel has: one that another
// flow has taken the place of is made anew, and one whose timeout is not longer than Standby's is extended. What
// has ended is deleted if no packet has passed.
func (i *Injector) judgeLooks(orders []order, b *nl.Batch, again *[]trial) error {
	of := b.Tag.([]trial)
	return b.Answers(func(index int, m *nl.Message) error {
		t := of[index]
		o := &orders[t.order]
		if err := i.seen.Decode(m.Attrs); err != nil {
			return nil // a look again in the next walk
		}
		switch {
		case o.typ == wire.FlowDelete:
			if !passed(i.seen.Timeout) {
				*again = append(*again, trial{order: t.order, attempt: plain})
			}
		case !o.sameReply(&i.seen.Reply):
			*again = append(*again, trial{order: t.order, attempt: anew})
		case i.seen.Timeout < o.flow.Timeout:
			*again = append(*again, trial{order: t.order, attempt: extension})
		}
		return nil
	})
}

// sameReply reports whether the kernel's reply tuple of an order's flow has the addresses and ports that
// the flow was to get.
func (o *order) sameReply(seen *ctnetlink.Tuple) bool {
	want := o.flow.Reply
	ports := ctnetlink.HasPorts(want.Proto)
	if o.flow.Has&ctnetlink.HasNATSrc != 0 {
		want.Dst, want.DstPort = o.flow.NATSrc.Addr, o.flow.NATSrc.Port
	}
	if o.flow.Has&ctnetlink.HasNATDst != 0 {
		want.Src, want.SrcPort = o.flow.NATDst.Addr, o.flow.NATDst.Port
	}
	return want.Src == seen.Src && want.Dst == seen.Dst &&
		(!ports || want.SrcPort == seen.SrcPort && want.DstPort == seen.DstPort)
}
