package helpers

import (
	"bytes"
	"errors"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/nfqueue"
)

// Stats counts what happens to packets.
type Stats struct {
	Packets      atomic.Uint64 // read from the queues
	Unread       atomic.Uint64 // packets accepted because no helper could read them
	Dropped      atomic.Uint64 // packets dropped by their helper
	Rewritten    atomic.Uint64 // packets sent on with another payload
	Expectations atomic.Uint64 // expectations given to the kernel
	Refused      atomic.Uint64 // expectations known to be refused by the kernel
	Verdicts     atomic.Uint64 // verdicts refused by the kernel because of their attributes
	Overruns     atomic.Uint64 // times that the receive buffer was full
}

// packet is the packet being processed, and the buffers of its answer. It is reused for
// the next packet.
type packet struct {
	flow    ctnetlink.Flow
	helper  *helper.Helper
	view    helper.Packet
	answer  helper.Answer
	private [maxPrivate]byte
	before  [maxPrivate]byte
	edits   []helper.Edit
	made    []ctnetlink.Expect // through ctnetlink
	payload []byte
	change  ctnetlink.Flow
	verdict nfqueue.Verdict
}

// batch waits for packets, reads those that have arrived, and answers them.
func (h *Host) batch() (short bool, err error) {
	short, err = h.queues.Read(h.readPacket, h.readRefusal)
	h.flush()
	h.private.next(short)
	return short, err
}

func (h *Host) receive(q *nfqueue.Packet) {
	h.Stats.Packets.Add(1)
	h.answer(q)
	if h.queues.Full() {
		h.flush()
	}
}

func (h *Host) refusal(err error) {
	h.Stats.Verdicts.Add(1)
	if !errors.Is(err, unix.ENOENT) { // the packet is gone, with its interface for example
		h.warn("kernel refused verdict: " + err.Error())
	}
}

func (h *Host) flush() {
	if err := h.queues.Flush(); err != nil {
		h.warn(err.Error())
	}
}

// Reasons to accept a packet unread, in conntrack-tools' words.
var (
	errNoPayload = errors.New("packet with no payload")
	errNoCT      = errors.New("no CT attached to this packet")
	errBadCT     = errors.New("cannot convert message to CT")
	errTruncated = errors.New("truncated packet, skipping")
	errNoHelper  = errors.New("no helper is configured for this packet's flow")
)

// answer sends the verdict of one packet. A packet that cannot be read is accepted.
func (h *Host) answer(q *nfqueue.Packet) {
	if err := h.open(q); err != nil {
		h.Stats.Unread.Add(1)
		h.warn(err.Error())
		h.queues.Answer(&nfqueue.Verdict{Queue: q.Queue, ID: q.ID})
		return
	}
	p := &h.packet
	p.view.Private = h.private.load(&p.private, &p.flow, p.helper.PrivateLen)
	p.before = p.private
	p.answer.Reset()
	p.helper.Read(&p.view, &p.answer)

	v := &p.verdict
	*v = nfqueue.Verdict{Queue: q.Queue, ID: q.ID}
	p.change.Has = 0
	if p.answer.Drop || !h.announce(q, v) {
		// The private data stays unchanged, so that the retransmission is read like this packet.
		h.Stats.Dropped.Add(1)
		h.queues.Answer(&nfqueue.Verdict{Queue: q.Queue, ID: q.ID, Drop: true})
		return
	}
	if p.answer.Timeout > 0 {
		p.change.Timeout = uint32(p.answer.Timeout / time.Second)
		p.change.Has |= ctnetlink.HasTimeout
	}
	if p.private != p.before {
		p.change.Helper, p.change.HelperInfo = p.flow.Helper, p.view.Private
		p.change.Has |= ctnetlink.HasHelper | ctnetlink.HasHelperInfo
		h.private.store(&p.flow, p.view.Private)
	}
	if p.change.Has != 0 || v.Expect != nil || v.Payload != nil {
		v.Flow = &p.change
	}
	h.queues.Answer(v)
}

// open decodes q into h.packet.
func (h *Host) open(q *nfqueue.Packet) error {
	p := &h.packet
	switch {
	case q.Payload == nil:
		return errNoPayload
	case q.Truncated:
		return errTruncated
	case q.CT == nil || !q.HasInfo:
		return errNoCT
	}
	if err := p.view.Parse(q.Payload, q.EtherType); err != nil {
		return err
	}
	if err := p.flow.Decode(q.CT); err != nil {
		return errBadCT
	}
	const needed = ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts
	if o, r := &p.flow.Orig, &p.flow.Reply; o.Has&needed != needed || r.Has&needed != needed ||
		o.Family != r.Family || o.Proto != p.view.Protocol || r.Proto != p.view.Protocol {
		return errBadCT
	}
	if p.flow.Has&ctnetlink.HasStatus == 0 {
		p.flow.Status = 0
	}
	p.view.Flow, p.view.Info = &p.flow, helper.Info(q.Info)
	// The flow names its helper: two helpers may share a queue, and the packets of an
	// expected flow may come through the queue of another protocol's object.
	p.helper = nil
	if p.flow.Has&ctnetlink.HasHelper != 0 {
		p.helper = h.byName[object{p.flow.Helper, p.view.Protocol}]
	}
	if p.helper == nil {
		p.helper = h.byQueue[q.Queue]
	}
	if p.helper == nil {
		return errNoHelper
	}
	return nil
}

// announce creates the answer's expectations, and adds to v those that travel with the
// verdict. It reports whether the packet is to be accepted.
func (h *Host) announce(q *nfqueue.Packet, v *nfqueue.Verdict) bool {
	p := &h.packet
	p.edits, p.made = p.edits[:0], p.made[:0]
	if n := len(p.answer.Expect); n > helper.MaxExpect {
		h.warn("helper `" + p.helper.Name + "': a packet announces more than " + strconv.Itoa(helper.MaxExpect) + " flows, none is expected")
		return true
	}
	for i := range p.answer.Expect {
		w := &p.answer.Expect[i]
		h.Stats.Expectations.Add(1)
		if err := h.makeExpectation(w, v); err != nil {
			h.Stats.Refused.Add(1)
			h.warn("helper `" + p.helper.Name + "': expectation refused: " + err.Error())
			if p.answer.OnRefusal == helper.DropPacket {
				h.takeBack()
				return false
			}
			continue
		}
		if w.Announced != nil && p.view.NATed() {
			to := p.view.Dst(p.view.Dir().Other()).Addr()
			p.edits = append(p.edits, w.Edit(netip.AddrPortFrom(to, h.expect.x.Tuple.DstPort)))
		}
	}
	if len(p.edits) == 0 {
		return true
	}
	var err error
	if p.payload, err = p.view.Rewrite(p.payload[:0], p.edits); err != nil {
		h.warn("helper `" + p.helper.Name + "': cannot rewrite packet: " + err.Error())
		h.takeBack()
		return false // it would announce an unreachable address
	}
	if !bytes.Equal(p.payload, q.Payload) {
		h.Stats.Rewritten.Add(1)
		v.Payload = p.payload
	}
	return true
}

// takeBack removes the expectations of a packet that is dropped.
func (h *Host) takeBack() {
	for _, x := range h.packet.made {
		h.expect.x = x
		if err := h.expect.remove(h.ctx); err != nil && !errors.Is(err, unix.ENOENT) {
			h.warn("remove expectation: " + err.Error())
		}
	}
}

var errOneOnly = errors.New("only one expectation can go with the first packet of a flow")

// makeExpectation creates w in the kernel. The expectation travels with the verdict where
// ctnetlink cannot create it or its reply is not needed: for the first packet of a flow,
// which ctnetlink does not know yet; for an expected flow with a helper, which ctnetlink
// refuses since Linux 6.18; and if the packet passes in any case, which saves a request. An
// existing expectation of the flow is refreshed then. Otherwise ctnetlink creates it and
// reports whether the kernel took it.
func (h *Host) makeExpectation(w *helper.Expectation, v *nfqueue.Verdict) error {
	p, e := &h.packet, &h.expect
	e.build(&p.view, w)
	confirmed := p.flow.Status&ctnetlink.StatusConfirmed != 0
	free := w.Announced != nil && p.view.NATed()
	together := !confirmed || w.Helper != "" || p.answer.OnRefusal == helper.AcceptPacket && !free
	switch {
	case together && v.Expect == nil:
		if free {
			if err := e.find(h.ctx); err != nil {
				return err
			}
		}
		e.sent = e.x
		v.Expect = &e.sent
		return nil
	case !confirmed:
		return errOneOnly
	}
	err := e.create(h.ctx, free)
	if err == nil {
		p.made = append(p.made, e.x)
	}
	return err
}
