package node

import (
	"context"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// batchDatagrams is how many datagrams go to the link with one system call.
const batchDatagrams = 64

// transmit sends everything that the protocol has queued. Datagrams are as full as the
// queue allows, and no message waits for others.
func (n *Node) transmit() {
	if n.machine == nil {
		return
	}
	n.held = false
	defer n.noteLag()
	if n.machine.Pending() == 0 && n.packer.Datagrams() == 0 {
		n.freeReleased()
		return
	}
	for {
		if n.links.busy() {
			// Held objects are encoded when they are sent, with their contents then.
			n.held = n.machine.Pending() > 0
			break
		}
		s, ok := n.machine.Next()
		if !ok {
			break
		}
		n.packer.Add(n.encode(n.packer.Buffer(), &s))
		if n.packer.Datagrams() > batchDatagrams {
			n.flushPacker()
		}
	}
	n.flushPacker()
	n.machine.Sent(n.sched.Now())
	n.freeReleased()
}

// noteLag records since when messages have been waiting without a break.
func (n *Node) noteLag() {
	waiting := n.machine.Stats().Transmit > 0
	if waiting && !n.behind {
		n.behindSince = n.sched.Now()
	}
	n.behind = waiting
}

func (n *Node) flushPacker() {
	if n.packer.Datagrams() > 0 {
		n.links.send(n.packer)
		n.packer.Reset()
	}
}

// encode appends the message of s. An object that is gone, or that the protocol cannot
// say, leaves no message and no number.
func (n *Node) encode(dst []byte, s *proto.Send) []byte {
	if s.Control {
		return wire.AppendNotice(dst, s.Header, &s.Notice)
	}
	out, err := n.encodeObject(dst, s)
	if err != nil {
		n.machine.Withheld(s.Object)
		return dst
	}
	n.replica.Sent++
	return out
}

// The message types of the states of an object.
var (
	flowTypes   = [...]wire.Type{cache.New: wire.FlowNew, cache.Alive: wire.FlowUpdate, cache.Dead: wire.FlowDelete}
	expectTypes = [...]wire.Type{cache.New: wire.ExpectNew, cache.Alive: wire.ExpectUpdate, cache.Dead: wire.ExpectDelete}
)

func (n *Node) encodeObject(dst []byte, s *proto.Send) ([]byte, error) {
	h, header := cache.Handle(s.Object.Handle), s.Header
	if s.Object.Table == proto.Expects {
		state, ok := n.internal.expects.State(h)
		if !ok || !n.internal.expects.Load(h, &n.expect) {
			return dst, errGone
		}
		if !n.saysExpect(&n.expect) {
			return dst, errUnsaid
		}
		header.Type = expectTypes[state]
		if state == cache.Dead {
			if living := n.internal.expects.Find(&n.expect); living != 0 {
				n.machine.Changed(proto.Object{Table: proto.Expects, Handle: uint64(living)})
			}
		}
		return n.encoder.AppendExpect(dst, header, &n.expect)
	}
	state, ok := n.internal.flows.State(h)
	if !ok || !n.internal.flows.Load(h, &n.flow) {
		return dst, errGone
	}
	if !n.saysFlow(&n.flow) {
		return dst, errUnsaid
	}
	header.Type = flowTypes[state]
	if state == cache.Dead {
		// A flow with the same tuple may live already. The peer must learn of it after
		// this end, which may be sent a second time.
		if living := n.internal.flows.Find(&n.flow); living != 0 {
			n.machine.Changed(proto.Object{Table: proto.Flows, Handle: uint64(living)})
		}
	}
	return n.encoder.AppendFlow(dst, header, &n.flow)
}

// errGone reports an object that was flushed while its message waited.
const errGone = wire.IncompleteError("it is gone from the cache")

// errUnsaid reports an object that version 1 of the protocol cannot express.
const errUnsaid = wire.IncompleteError("the protocol has no place for it")

// freeReleased frees dead objects that every peer knows to be dead.
func (n *Node) freeReleased() {
	for {
		o, ok := n.machine.NextReleased()
		if !ok {
			return
		}
		n.release(o)
	}
}

// linkBusy reports whether messages that bypass the cache should wait: the link's queue is
// filling up, and messages that do not fit are lost.
func (n *Node) linkBusy() bool { return n.bypass && n.links.busy() }

// waitForLink waits, beside the loop, until the link can take more.
func (n *Node) waitForLink(ctx context.Context) error {
	for {
		jammed := false
		if err := n.sched.Do(ctx, func() { jammed = n.linkBusy() }); err != nil || !jammed {
			return err
		}
		select {
		case <-time.After(heldPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// bypassEvent forwards an event as it is (DisableInternalCache).
func (n *Node) bypassEvent(m *nl.Message, from origin) {
	f := &n.flow
	if ctnetlink.IsDelete(m) {
		n.countTraffic(f)
	}
	if from != foreign {
		return
	}
	typ := wire.FlowUpdate
	switch {
	case ctnetlink.IsDelete(m):
		typ = wire.FlowDelete
		n.bypassed.flows.Destroyed++
	case ctnetlink.IsNew(m):
		typ = wire.FlowNew
		n.bypassed.flows.Created++
	default:
		n.bypassed.flows.Updated++
	}
	n.sendFlow(typ, f)
}

// bypassExpect is bypassEvent for expectations.
func (n *Node) bypassExpect(m *nl.Message, from origin) {
	if from != foreign || !n.wantsExpect(&n.expect) {
		return
	}
	typ := wire.ExpectUpdate
	switch {
	case ctnetlink.IsDelete(m):
		typ = wire.ExpectDelete
		n.bypassed.expects.Destroyed++
	case ctnetlink.IsNew(m):
		typ = wire.ExpectNew
		n.bypassed.expects.Created++
	default:
		n.bypassed.expects.Updated++
	}
	n.sendExpect(typ, &n.expect)
}

// sendFlow and sendExpect send a message that bypasses the queue.
func (n *Node) sendFlow(typ wire.Type, f *ctnetlink.Flow) {
	if !n.saysFlow(f) {
		return
	}
	header := n.notrack.Unqueued()
	header.Type = typ
	buf, err := n.encoder.AppendFlow(n.packer.Buffer(), header, f)
	n.sendUnqueued(buf, err)
}

func (n *Node) sendExpect(typ wire.Type, x *ctnetlink.Expect) {
	if !n.saysExpect(x) {
		return
	}
	header := n.notrack.Unqueued()
	header.Type = typ
	buf, err := n.encoder.AppendExpect(n.packer.Buffer(), header, x)
	n.sendUnqueued(buf, err)
}

// sendUnqueued sends the message that buf ends with, or takes its number back.
func (n *Node) sendUnqueued(buf []byte, err error) {
	if err != nil {
		n.notrack.Withheld(proto.Object{})
		return
	}
	n.packer.Add(buf)
	n.replica.Sent++
	if n.packer.Datagrams() > batchDatagrams {
		n.flushPacker()
	}
}
