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
	"ctbox/nl"
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
	}
	if grown := len(v.Payload) - len(q.Payload); v.Payload != nil && v.Expect == nil && grown != 0 && h.adjusts() {
		if err := h.adjust(grown); err != nil {
			h.warn("helper `" + p.helper.Name + "': adjust sequence numbers: " + err.Error())
			h.takeBack()
			h.Stats.Dropped.Add(1)
			h.queues.Answer(&nfqueue.Verdict{Queue: q.Queue, ID: q.ID, Drop: true})
			return
		}
	} else if p.change.Has != 0 || v.Expect != nil || v.Payload != nil {
		v.Flow = &p.change
	}
	if p.private != p.before {
		h.private.store(&p.flow, p.view.Private)
	}
	h.queues.Answer(v)
}

// adjusts reports whether the sequence numbers behind a packet of another length are adjusted
// here: those of IPv6, because the kernel (nf_ct_tcp_seqadj_set, seen with Linux 6.1) takes the
// packet's number from where it would be if IPv6 had no header, and the connection stalls.
func (h *Host) adjusts() bool {
	return h.packet.view.IPv6() && h.packet.view.Protocol == unix.IPPROTO_TCP
}

// adjust has the kernel adjust the sequence numbers behind the packet, which has grown by so
// many bytes, and makes the changes of the flow with the same request. The verdict must have
// none, or the kernel adjusts them itself.
func (h *Host) adjust(grown int) error {
	p := &h.packet
	change := p.change
	change.Orig = p.flow.Orig
	change.Orig.Zone, change.Orig.Has = 0, change.Orig.Has&^ctnetlink.TupleZone
	key := ctnetlink.Flow{Orig: change.Orig}
	if p.flow.Has&ctnetlink.HasZone != 0 && p.flow.Zone != 0 {
		key.Zone, key.Has = p.flow.Zone, ctnetlink.HasZone
		change.Zone, change.Has = key.Zone, change.Has|key.Has
	}
	// The offsets that came with the packet may be older than the last verdict.
	var now ctnetlink.Flow
	get := nl.Request{Type: ctnetlink.TypeFlowGet, Family: key.Orig.Family, Attrs: key.Append}
	if err := h.expect.conn.Do(h.ctx, get, func(m *nl.Message) error { return now.Decode(m.Attrs) }); err != nil {
		return err
	}
	var s ctnetlink.SeqAdj
	if p.view.Dir() == helper.Original {
		change.Has |= ctnetlink.HasSeqAdjOrig
		if now.Has&ctnetlink.HasSeqAdjOrig != 0 {
			s = now.SeqAdjOrig
		}
	} else {
		change.Has |= ctnetlink.HasSeqAdjReply
		if now.Has&ctnetlink.HasSeqAdjReply != 0 {
			s = now.SeqAdjReply
		}
	}
	// A packet that is sent again has been counted.
	if s.OffsetBefore == s.OffsetAfter || int32(p.view.Seq-s.CorrectionPos) > 0 {
		s = ctnetlink.SeqAdj{CorrectionPos: p.view.Seq, OffsetBefore: s.OffsetAfter, OffsetAfter: s.OffsetAfter + uint32(grown)}
	}
	change.SeqAdjOrig, change.SeqAdjReply = s, s // Has says which
	set := nl.Request{Type: ctnetlink.TypeFlowNew, Family: key.Orig.Family, Attrs: change.Append}
	return h.expect.conn.Do(h.ctx, set, nil)
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
	if p.answer.Forget {
		if err := h.expect.forget(h.ctx, &p.view); err != nil {
			h.warn("helper `" + p.helper.Name + "': remove expectations: " + err.Error())
		}
	}
	if n := p.answer.Count(); n > helper.MaxExpect {
		h.warn("helper `" + p.helper.Name + "': a packet announces more than " + strconv.Itoa(helper.MaxExpect) + " flows, none is expected")
		return true
	}
	for i := range p.answer.Expect {
		w := &p.answer.Expect[i]
		h.Stats.Expectations.Add(uint64(w.Span()))
		port, err := h.makeExpectation(w, v)
		if err != nil {
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
			p.edits = w.AppendEdits(p.edits, netip.AddrPortFrom(to, port))
		}
	}
	p.edits = append(p.edits, p.answer.Edits...)
	if len(p.edits) == 0 {
		return true
	}
	helper.SortEdits(p.edits)
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

// makeExpectation creates w in the kernel and returns its port, the first one of several. The
// expectation travels with the verdict where ctnetlink cannot create it or its reply is not
// needed: for the first packet of a flow, which ctnetlink does not know yet; for an expected
// flow with a helper, which ctnetlink refuses since Linux 6.18; and if the packet passes in any
// case, which saves a request. An existing expectation of the flow is refreshed then. Otherwise
// ctnetlink creates it and reports whether the kernel took it.
func (h *Host) makeExpectation(w *helper.Expectation, v *nfqueue.Verdict) (port uint16, err error) {
	p, e := &h.packet, &h.expect
	e.build(&p.view, w)
	confirmed := p.flow.Status&ctnetlink.StatusConfirmed != 0
	free := w.Announced != nil && p.view.NATed()
	together := !confirmed || w.Helper != "" || p.answer.OnRefusal == helper.AcceptPacket && !free
	switch {
	case together && v.Expect == nil && w.Span() == 1:
		if free {
			if err := e.find(h.ctx); err != nil {
				return 0, err
			}
		}
		e.sent = e.x
		v.Expect = &e.sent
		return e.x.Tuple.DstPort, nil
	case !confirmed:
		return 0, errOneOnly
	}
	before := len(p.made)
	if w.Span() == 1 {
		if err = e.create(h.ctx, free); err == nil {
			p.made = append(p.made, e.x)
		}
	} else {
		p.made, err = e.createRun(h.ctx, p.made, w.Span(), free)
	}
	if err != nil {
		return 0, err
	}
	return p.made[before].Tuple.DstPort, nil
}
