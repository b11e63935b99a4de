package replicate

import (
	"context"
	"time"

	"ctbox/internal/daemonlog"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// batchDatagrams is how many datagrams go to the link with one system call.
const batchDatagrams = 64

// Transmit sends everything that the protocol has queued. Datagrams are as full as the
// queue allows, and no message waits for others.
func (r *Replicator) Transmit() {
	r.held = false
	defer r.noteLag()
	if r.injector != nil {
		r.injector.Hand()
	}
	if r.cluster.speaks() {
		r.cluster.transmit()
		return
	}
	r.cluster.sendChallenges()
	if r.machine.Pending() == 0 && r.packer.Datagrams() == 0 {
		r.freeReleased()
		return
	}
	for {
		if r.links.busy() {
			// Held objects are encoded when they are sent, with their contents then.
			r.held = r.machine.Pending() > 0
			break
		}
		s, ok := r.machine.Next()
		if !ok {
			break
		}
		r.packer.Add(r.encode(r.packer.Buffer(), &s))
		if r.packer.Datagrams() > batchDatagrams {
			r.flushPacker()
		}
	}
	r.flushPacker()
	r.machine.Sent(r.sched.Now())
	r.freeReleased()
}

// noteLag records since when messages have been waiting without a break.
func (r *Replicator) noteLag() {
	waiting := r.machine.Stats().Transmit > 0
	if waiting && !r.behind {
		r.behindSince = r.sched.Now()
	}
	r.behind = waiting
}

func (r *Replicator) flushPacker() {
	if r.packer.Datagrams() > 0 {
		r.links.send(r.packer)
		r.packer.Reset()
	}
}

// encode appends the message of s. An object that is gone, or that the protocol cannot
// say, leaves no message and no number.
func (r *Replicator) encode(dst []byte, s *proto.Send) []byte {
	if s.Control {
		if s.Header.CarriesNotice() {
			r.fillNotice(&s.Notice)
		}
		return wire.AppendNotice(dst, s.Header, &s.Notice)
	}
	out, err := r.encodeObject(dst, s)
	if err != nil {
		r.machine.Withheld(s.Object)
		return dst
	}
	r.replica.Sent++
	return out
}

// The message types of the states of an object.
var (
	flowTypes   = [...]wire.Type{cache.New: wire.FlowNew, cache.Alive: wire.FlowUpdate, cache.Dead: wire.FlowDelete}
	expectTypes = [...]wire.Type{cache.New: wire.ExpectNew, cache.Alive: wire.ExpectUpdate, cache.Dead: wire.ExpectDelete}
)

func (r *Replicator) encodeObject(dst []byte, s *proto.Send) ([]byte, error) {
	h, header := cache.Handle(s.Object.Handle), s.Header
	if s.Object.Table == proto.Expects {
		state, ok := r.internal.Expects.State(h)
		if !ok || !r.internal.Expects.Load(h, &r.expect) {
			return dst, errGone
		}
		if !r.saysExpect(&r.expect) {
			return dst, errUnsaid
		}
		header.Type = expectTypes[state]
		if state == cache.Dead {
			if living := r.internal.Expects.Find(&r.expect); living != 0 {
				r.machine.Changed(expectObject(living))
			}
		}
		return r.encoder.AppendExpect(dst, header, &r.expect)
	}
	state, ok := r.internal.Flows.State(h)
	if !ok || !r.internal.Flows.Load(h, &r.flow) {
		return dst, errGone
	}
	if !r.saysFlow(&r.flow) {
		return dst, errUnsaid
	}
	header.Type = flowTypes[state]
	if state == cache.Dead {
		// A flow with the same tuple may live already. The peer must learn of it after
		// this end, which may be sent a second time.
		// One that waits has never been announced, so this end can't remove it.
		if living := r.internal.Flows.Find(&r.flow); living != 0 && !r.machine.Waits(flowObject(living)) {
			r.machine.Changed(flowObject(living))
		}
	}
	return r.encoder.AppendFlow(dst, header, &r.flow)
}

// errGone reports an object that was flushed while its message waited.
const errGone = wire.IncompleteError("it is gone from the cache")

// errUnsaid reports an object that version 1 of the protocol cannot express.
const errUnsaid = wire.IncompleteError("the protocol has no place for it")

// freeReleased frees dead objects that every peer knows to be dead.
func (r *Replicator) freeReleased() {
	for {
		o, ok := r.machine.NextReleased()
		if !ok {
			return
		}
		r.release(o)
	}
}

// Busy reports whether messages that bypass the cache should wait: the link's queue is
// filling up, and messages that do not fit are lost.
func (r *Replicator) Busy() bool { return r.forwards && r.links.busy() }

// waitForLink waits, without the lock, until the link can take more.
func (r *Replicator) waitForLink(ctx context.Context) error {
	for {
		busy := false
		if err := r.sched.Do(ctx, func() { busy = r.Busy() }); err != nil || !busy {
			return err
		}
		select {
		case <-time.After(heldPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Bulk sends the whole internal cache to the peers, slice by slice (-B, or when a peer has
// asked for it).
func (r *Replicator) Bulk() {
	if r.filling || r.cluster.awaitsCopies() {
		// A peer that starts together with this node asks before the kernel's table
		// has been read here: a bulk now would be empty.
		r.bulkWaits = true
		return
	}
	if !r.machine.BeginBulk(r.sched.Now()) {
		return
	}
	if r.forwards {
		// The kernel's own tables are sent, every flow and then every expectation as new.
		r.source.ReadLive(
			func(f *ctnetlink.Flow) { r.sendFlow(wire.FlowNew, f) },
			func(e *ctnetlink.Expect) { r.sendExpect(wire.ExpectNew, e) },
			r.waitForLink, r.machine.EndBulk)
		return
	}
	r.log.Notice("sending bulk update")
	handles := make([]cache.Handle, sliceLen)
	var flows, expects cache.Cursor
	machine := r.machine
	r.sched.Step(func() bool {
		if r.machine != machine {
			return false // another version of the protocol has a bulk of its own
		}
		got, more := r.internal.Flows.Next(&flows, handles)
		r.bulk(proto.Flows, handles[:got])
		return more
	})
	r.sched.Step(func() bool {
		if r.machine != machine {
			return false
		}
		got, more := r.internal.Expects.Next(&expects, handles)
		r.bulk(proto.Expects, handles[:got])
		if !more {
			r.machine.EndBulk()
		}
		return more
	})
}

func (r *Replicator) bulk(table proto.Table, handles []cache.Handle) {
	for _, h := range handles {
		if table == proto.Expects {
			r.endWaitOfMaster(h)
		}
		if o := (proto.Object{Table: table, Handle: uint64(h)}); r.cluster.mayAnnounce(o) {
			r.machine.Bulk(o)
		}
	}
}

// ForwardFlow sends an event as it is (DisableInternalCache).
func (r *Replicator) ForwardFlow(change cache.State, f *ctnetlink.Flow) {
	countChange(&r.forwarded.flows, change)
	r.sendFlow(flowTypes[change], f)
}

// ForwardExpect is ForwardFlow for expectations.
func (r *Replicator) ForwardExpect(change cache.State, e *ctnetlink.Expect) {
	countChange(&r.forwarded.expects, change)
	r.sendExpect(expectTypes[change], e)
}

func countChange(s *cache.TableStatus, change cache.State) {
	switch change {
	case cache.New:
		s.Created++
	case cache.Alive:
		s.Updated++
	case cache.Dead:
		s.Destroyed++
	}
}

// sendFlow and sendExpect send a message that bypasses the queue.
func (r *Replicator) sendFlow(typ wire.Type, f *ctnetlink.Flow) {
	if !r.saysFlow(f) {
		return
	}
	header := r.notrack.Unqueued()
	header.Type = typ
	buf, err := r.encoder.AppendFlow(r.packer.Buffer(), header, f)
	r.sendUnqueued(buf, err)
}

func (r *Replicator) sendExpect(typ wire.Type, x *ctnetlink.Expect) {
	if !r.saysExpect(x) {
		return
	}
	header := r.notrack.Unqueued()
	header.Type = typ
	buf, err := r.encoder.AppendExpect(r.packer.Buffer(), header, x)
	r.sendUnqueued(buf, err)
}

// sendUnqueued sends the message that buf ends with, or takes its number back.
func (r *Replicator) sendUnqueued(buf []byte, err error) {
	if err != nil {
		r.notrack.Withheld(proto.Object{})
		return
	}
	r.packer.Add(buf)
	r.replica.Sent++
	if r.packer.Datagrams() > batchDatagrams {
		r.flushPacker()
	}
}

// unsayableTexts say, once each, what is not replicated because the protocol has no place
// for it.
var unsayableTexts = [wire.Reasons]string{
	wire.OneWayZone:   "flows whose zone is of one direction are not replicated: the protocol would make them flows without a zone",
	wire.GREKeys:      "GRE flows with keys (PPTP) are not replicated: the protocol would make them flows without keys",
	wire.UDPLitePorts: "UDP-Lite flows are not replicated: the protocol would make them flows without ports",
	wire.ICMPID:       "ICMP flows whose identifier is translated are not replicated: the protocol has no place for the translation",
	wire.ExpectZone:   "expectations in a zone are not replicated: the protocol would make them expectations without one",
	wire.ExpectNAT6:   "expectations whose IPv6 address is translated are not replicated: the protocol has no place for the translation",
}

// saysFlow reports whether the protocol can say what f is. What it cannot is counted.
func (r *Replicator) saysFlow(f *ctnetlink.Flow) bool {
	why := wire.UnsayableFlow(f)
	if why == wire.Sayable {
		return true
	}
	if r.unsaid(why) {
		r.log.Warn(unsayableTexts[why], daemonlog.EntryKey, daemonlog.FlowLine(f))
	}
	return false
}

// saysExpect is saysFlow for an expectation.
func (r *Replicator) saysExpect(x *ctnetlink.Expect) bool {
	why := wire.UnsayableExpect(x)
	if why == wire.Sayable {
		return true
	}
	if r.unsaid(why) {
		r.log.Warn(unsayableTexts[why], daemonlog.EntryKey, daemonlog.ExpectLine(x))
	}
	return false
}

// unsaid counts a message that is not sent, and reports whether it is the first for its
// reason.
func (r *Replicator) unsaid(why wire.Unsayable) bool {
	r.replica.Unsaid[why]++
	return r.replica.Unsaid[why] == 1
}
