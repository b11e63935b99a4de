package replicate

import (
	"time"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
)

// With the clause Delay new flows wait in the internal cache before they are announced. The
// protocol's machine keeps them in order (proto.Machine.Wait); here is decided which wait, and
// when a wait ends early.
//
// Flows that were not seen to begin wait from when they are first seen, except those of the first
// reading and those that a commit has made, which are not announced at all.

// delaysOf returns the delays of a configuration.
func delaysOf(d *conf.Delay) [proto.Classes]time.Duration {
	return [proto.Classes]time.Duration{proto.ClassTCP: d.TCP, proto.ClassUDP: d.UDP, proto.ClassOther: d.Default}
}

// waits reports whether h waits before it is announced, and begins the wait of a new flow. f is what
// an event or a reading reports of it.
func (r *Replicator) waits(h cache.Handle, f *ctnetlink.Flow) bool {
	d := &r.cfg.Delay
	if !d.Active() {
		return false
	}
	o := flowObject(h)
	state, _ := r.internal.Flows.State(h)
	if state != cache.New && !r.machine.Waits(o) {
		return false
	}
	if f.Master.Has != 0 {
		r.endWait(r.internal.Flows.FindTuple(&f.Master, zoneOf(f)))
	}
	if urgent(d, f) {
		return false
	}
	if state == cache.New {
		r.machine.Wait(r.sched.Now(), o, classOf(f))
	}
	return true
}

// urgent reports whether a flow does not wait, or waits no longer.
func urgent(d *conf.Delay, f *ctnetlink.Flow) bool {
	switch {
	case f.Master.Has != 0 || f.Status&ctnetlink.StatusExpected != 0:
	case f.Has&ctnetlink.HasHelper != 0 && len(f.Helper.Bytes()) > 0:
	case d.Assured && f.Status&ctnetlink.StatusAssured != 0:
	case d.MinPackets > 0 && packets(f) >= uint64(d.MinPackets):
	default:
		return false
	}
	return true
}

// packets returns how many packets the flow has had, at least. Readings of the kernel's table show
// counters where net.netfilter.nf_conntrack_acct is on. Events show none, but whether there was a
// reply.
func packets(f *ctnetlink.Flow) (n uint64) {
	if f.Has&ctnetlink.HasCountersOrig != 0 {
		n += f.CountersOrig.Packets
	}
	if f.Has&ctnetlink.HasCountersReply != 0 {
		n += f.CountersReply.Packets
	}
	if f.Status&ctnetlink.StatusSeenReply != 0 {
		n = max(n, 2)
	}
	return n
}

func classOf(f *ctnetlink.Flow) proto.Class {
	switch f.Orig.Proto {
	case ctnetlink.ProtoTCP:
		return proto.ClassTCP
	case ctnetlink.ProtoUDP:
		return proto.ClassUDP
	}
	return proto.ClassOther
}

func zoneOf(f *ctnetlink.Flow) uint16 {
	if f.Has&ctnetlink.HasZone != 0 {
		return f.Zone
	}
	return 0
}

// endWait announces h if it waits.
func (r *Replicator) endWait(h cache.Handle) {
	if h != 0 && r.machine.Waits(flowObject(h)) {
		r.announceFlow(h)
	}
}

// endWaitOfMaster announces the flow that an expectation belongs to, if it waits: a peer drops an
// expectation whose master it does not know.
func (r *Replicator) endWaitOfMaster(expect cache.Handle) {
	if r.cfg.Delay.Active() && r.internal.Expects.Load(expect, &r.expect) {
		r.endWait(r.internal.Flows.FindMaster(&r.expect))
	}
}

// endWaits announces flows that have waited long enough, a slice in each turn of the loop.
func (r *Replicator) endWaits() {
	for range sliceLen {
		o, ok := r.machine.NextWaited(r.sched.Now())
		if !ok {
			return
		}
		r.announceFlow(cache.Handle(o.Handle))
	}
}
