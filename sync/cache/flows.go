package cache

import (
	"bytes"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Flows is a table of flows: the internal cache, filled by the kernel, the external
// cache, filled by the peers, or the cache of statistics mode.
type Flows struct {
	objects
	records slab[record]

	pairs     slab[[2]ctnetlink.Addr] // original addresses of IPv6 flows
	pairSlots slots

	tails    tails
	epochs   epochs
	contexts contexts
	scratch  ctnetlink.Flow // for merging
	tailBuf  [tailLargest]byte
}

// NewFlows returns an empty table.
func NewFlows(c Config) *Flows {
	return &Flows{objects: newObjects(c)}
}

// Put inserts f, or merges it into the existing flow: attributes present in f
// overwrite, the others stay, the original tuple stays, and the flow becomes Alive. Put
// serves UPDATE events, entries of a dump, and updates from a peer.
//
// The reply tuple is overwritten too: it does not change during the life of a flow, so
// a different one belongs to another flow whose beginning was lost. For the same reason
// Put acts as Replace where a known id changes.
func (t *Flows) Put(f *ctnetlink.Flow, now time.Duration) (Handle, Outcome) {
	k, ok := keyOfFlow(f)
	if !ok {
		t.stats.CreateFailed++
		return 0, Malformed
	}
	hash := k.hash(t.seed)
	slot := t.find(&k, hash)
	if slot == 0 {
		return t.create(&k, hash, f, now)
	}
	r := t.records.at(slot)
	if r.has&f.Has&ctnetlink.HasID != 0 && r.id != f.ID {
		return t.renew(slot, f, now)
	}
	changed := t.merge(r, f)
	t.markUpdated(slot, now)
	if !changed {
		return t.handle(slot), Unchanged
	}
	t.dirty.mark(slot)
	return t.handle(slot), Updated
}

// Replace inserts f, or replaces everything but the handle of the existing flow; the
// flow is New. Replace serves NEW events and new flows from a peer. The statistics count
// one flow that ended and one that began.
func (t *Flows) Replace(f *ctnetlink.Flow, now time.Duration) (Handle, Outcome) {
	k, ok := keyOfFlow(f)
	if !ok {
		t.stats.CreateFailed++
		return 0, Malformed
	}
	hash := k.hash(t.seed)
	if slot := t.find(&k, hash); slot != 0 {
		return t.renew(slot, f, now)
	}
	return t.create(&k, hash, f, now)
}

// Update inserts f, or replaces the contents of the existing flow, which goes on: it becomes Alive.
// Update serves updates from a peer that sends whole flows, of which Put would keep what is
// no longer there.
func (t *Flows) Update(f *ctnetlink.Flow, now time.Duration) (Handle, Outcome) {
	k, ok := keyOfFlow(f)
	if !ok {
		t.stats.CreateFailed++
		return 0, Malformed
	}
	hash := k.hash(t.seed)
	slot := t.find(&k, hash)
	if slot == 0 {
		return t.create(&k, hash, f, now)
	}
	t.store(t.records.at(slot), f)
	t.markUpdated(slot, now)
	t.dirty.mark(slot)
	return t.handle(slot), Updated
}

// Find returns the handle of the flow with f's original tuple and zone, or 0.
func (t *Flows) Find(f *ctnetlink.Flow) Handle {
	k, ok := keyOfFlow(f)
	return t.lookup(&k, ok)
}

// FindTuple returns the handle of the flow with this original tuple and zone, or 0.
func (t *Flows) FindTuple(orig *ctnetlink.Tuple, zone uint16) Handle {
	k, ok := keyOf(orig, zone)
	return t.lookup(&k, ok)
}

// FindMaster returns the handle of the flow that an expectation belongs to, or 0. The zone of an
// expectation is the one that its master has in the original direction, alone or of both.
func (t *Flows) FindMaster(e *ctnetlink.Expect) Handle {
	zone := expectZone(e)
	h := t.FindTuple(&e.Master, zone)
	if h != 0 || zone == 0 {
		return h
	}
	master := e.Master
	master.Has, master.Zone = master.Has|ctnetlink.TupleZone, zone
	return t.FindTuple(&master, 0)
}

func (t *Flows) lookup(k *key, ok bool) Handle {
	if !ok {
		return 0
	}
	slot := t.find(k, k.hash(t.seed))
	if slot == 0 {
		return 0
	}
	return t.handle(slot)
}

// Load sets f to the flow that h refers to, dead or not, and reports whether there is
// one. Attributes that the table does not store are absent.
func (t *Flows) Load(h Handle, f *ctnetlink.Flow) bool {
	slot := t.slot(h)
	if slot == 0 {
		return false
	}
	f.Reset()
	t.load(t.records.at(slot), f)
	return true
}

// IsSame reports whether f, which has the tuple of the flow that h refers to, is that flow: the
// kernel's ids, where both have one, are equal.
func (t *Flows) IsSame(h Handle, f *ctnetlink.Flow) bool {
	slot := t.slot(h)
	if slot == 0 {
		return false
	}
	r := t.records.at(slot)
	return r.has&f.Has&ctnetlink.HasID == 0 || r.id == f.ID
}

// Release frees a dead flow and reports whether h referred to one.
func (t *Flows) Release(h Handle) bool {
	slot := t.slot(h)
	if slot == 0 || t.heads.at(slot).state != Dead {
		return false
	}
	r := t.records.at(slot)
	t.tails.free(r.tail)
	if r.has&recIPv6 != 0 {
		t.freePair(le.Uint32(r.addr[:]))
	}
	if t.remove(slot) {
		t.records.shrink(slot)
		t.epochs.shrink(slot)
	}
	return true
}

// Delete kills and releases a flow that nothing else refers to.
func (t *Flows) Delete(h Handle) bool { return t.Kill(h) && t.Release(h) }

// Flush removes all flows, dead ones too, and invalidates their handles. Flows that
// were not dead count as destroyed.
func (t *Flows) Flush() {
	t.flush()
	t.records = slab[record]{}
	t.pairs, t.pairSlots = slab[[2]ctnetlink.Addr]{}, slots{}
	t.tails, t.epochs = tails{}, epochs{}
}

// Bytes returns the memory in bytes of the table's objects and index.
func (t *Flows) Bytes() int {
	return t.objects.bytes() + t.records.bytes() + t.pairs.bytes() + t.tails.bytes() + t.epochs.bytes()
}

func (t *Flows) find(k *key, hash uint32) uint32 {
	for slot := *t.index.bucket(hash); slot != 0; {
		h := t.heads.at(slot)
		if h.hash == hash && t.is(t.records.at(slot), k) {
			return slot
		}
		slot = h.next
	}
	return 0
}

func (t *Flows) is(r *record, k *key) bool {
	if r.orig != k.l4 || r.proto != k.proto || r.zone != k.zone || r.origZone != k.origZone ||
		(r.has&recIPv6 != 0) != k.ipv6 {
		return false
	}
	if k.ipv6 {
		p := t.pairs.at(le.Uint32(r.addr[:]))
		return p[0] == k.src && p[1] == k.dst
	}
	return [4]byte(r.addr[:4]) == [4]byte(k.src[:4]) && [4]byte(r.addr[4:8]) == [4]byte(k.dst[:4])
}

func (t *Flows) create(k *key, hash uint32, f *ctnetlink.Flow, now time.Duration) (Handle, Outcome) {
	if t.Full() {
		t.stats.CreateFailed++
		t.stats.NoSpace++
		return 0, Full
	}
	slot, grow := t.insert(hash, now)
	if grow {
		t.records.grow(slot)
	}
	t.epochs.set(slot, 0)
	r := t.records.at(slot)
	*r = record{orig: k.l4, zone: k.zone, origZone: k.origZone, proto: k.proto}
	if k.ipv6 {
		r.has = recIPv6
		le.PutUint32(r.addr[:], t.newPair(k))
	} else {
		copy(r.addr[:4], k.src[:4])
		copy(r.addr[4:8], k.dst[:4])
	}
	t.store(r, f)
	return t.handle(slot), Created
}

func (t *Flows) renew(slot uint32, f *ctnetlink.Flow, now time.Duration) (Handle, Outcome) {
	t.replace(slot, now)
	t.store(t.records.at(slot), f)
	return t.handle(slot), Replaced
}

func (t *Flows) newPair(k *key) uint32 {
	slot, grow := t.pairSlots.take()
	if grow {
		t.pairs.grow(slot)
	}
	*t.pairs.at(slot) = [2]ctnetlink.Addr{k.src, k.dst}
	return slot
}

func (t *Flows) freePair(slot uint32) {
	if t.pairSlots.give(slot) {
		t.pairs.shrink(slot)
	}
}

// store makes r, whose key is set, hold f. What r held besides is lost; its tail is
// used again or freed.
func (t *Flows) store(r *record, f *ctnetlink.Flow) {
	_, bits := l4Of(&f.Orig)
	r.has = r.has&recIPv6 | bits<<recOrigShift
	r.status, r.timeout, r.mark, r.id, r.secmark = 0, 0, 0, 0, 0
	r.state = [3]uint8{}
	r.other = l4{}
	if r.has&recIPv6 == 0 {
		clear(r.addr[8:])
	}
	if f.Orig.Has&ctnetlink.TupleZone != 0 {
		r.has |= recOrigZone
	}
	r.setHot(f)
	r.has |= kept(f.Has, r.proto) & coldAttrs
	switch {
	case f.Reply.Has == 0:
		if r.has&natAttrs != 0 && r.has&recIPv6 == 0 {
			r.setNAT(f)
		}
	case plainReply(f):
		r.setReply(&f.Reply)
	default:
		r.has |= recTailReply
	}
	if f.Master.Has != 0 {
		r.has |= recMaster
	}
	if r.has&ctnetlink.HasSynproxy != 0 && f.Synproxy == (ctnetlink.Synproxy{}) {
		r.has |= recNoSynproxy
	}
	if r.has&ctnetlink.HasSecctx != 0 && !t.contexts.known(f.Secctx) {
		r.has &^= ctnetlink.HasSecctx
	}
	r.tail = t.tails.put(r.tail, t.appendTail(t.tailBuf[:0], r, f))
}

// load is store's inverse, into a flow that was reset.
func (t *Flows) load(r *record, f *ctnetlink.Flow) {
	f.Has = r.has & (hotAttrs | coldAttrs)
	o := &f.Orig
	o.Has, o.Proto, o.Family = whole, r.proto, nl.FamilyIPv4
	setL4(o, r.orig, r.has&recOrigBits>>recOrigShift)
	if r.has&recOrigZone != 0 {
		o.Has |= ctnetlink.TupleZone
		o.Zone = r.origZone
	}
	if r.has&recIPv6 != 0 {
		o.Family = nl.FamilyIPv6
		p := t.pairs.at(le.Uint32(r.addr[:]))
		o.Src, o.Dst = p[0], p[1]
	} else {
		copy(o.Src[:4], r.addr[:4])
		copy(o.Dst[:4], r.addr[4:8])
	}
	if r.has&recReply != 0 {
		p := &f.Reply
		p.Has, p.Proto, p.Family = whole, r.proto, o.Family
		setL4(p, r.other, r.has&recOtherBits>>recOtherShift)
		if r.has&recIPv6 != 0 {
			p.Src, p.Dst = o.Dst, o.Src
		} else {
			copy(p.Src[:4], r.addr[8:12])
			copy(p.Dst[:4], r.addr[12:16])
		}
	}
	r.loadHot(f)
	if r.has&recNAT != 0 {
		r.loadNAT(f)
	}
	if r.has&(coldAttrs|recTailReply|recMaster) != 0 {
		t.cutTail(t.tails.at(r.tail), r, f)
	}
}

// merge overwrites r with the attributes present in f and reports whether anything but
// the timeout changed.
func (t *Flows) merge(r *record, f *ctnetlink.Flow) (changed bool) {
	before := *r
	r.setHot(f)
	if !r.cold(f) {
		switch {
		case f.Reply.Has != 0:
			r.setReply(&f.Reply)
		case f.Has&natAttrs != 0:
			r.setNAT(f)
		}
	} else {
		s := &t.scratch
		s.Reset()
		t.load(r, s)
		mergeCold(s, f)
		var old [tailLargest]byte
		tail := old[:copy(old[:], t.tails.at(r.tail))]
		t.store(r, s)
		changed = !bytes.Equal(tail, t.tails.at(r.tail))
		before.tail = r.tail
	}
	before.timeout = r.timeout
	return changed || before != *r
}

// cold reports whether merging f into r may need the tail.
func (r *record) cold(f *ctnetlink.Flow) bool {
	attrs := kept(f.Has, r.proto) & coldAttrs
	if r.has&recNoSynproxy != 0 && f.Synproxy == (ctnetlink.Synproxy{}) {
		attrs &^= ctnetlink.HasSynproxy
	}
	if r.has&recNAT != 0 && f.Reply.Has == 0 {
		attrs &^= natAttrs
	}
	return attrs != 0 || f.Master.Has != 0 ||
		f.Reply.Has != 0 && (r.has&recReply == 0 || !plainReply(f))
}

// mergeCold overwrites in s the tuples and attributes of f that a record has no room
// for.
func mergeCold(s, f *ctnetlink.Flow) {
	has := f.Has & coldAttrs
	s.Has |= has
	if f.Reply.Has != 0 {
		s.Reply = f.Reply
	}
	if f.Master.Has != 0 {
		s.Master = f.Master
	}
	if has&ctnetlink.HasSCTPVtagOrig != 0 {
		s.SCTPVtagOrig = f.SCTPVtagOrig
	}
	if has&ctnetlink.HasSCTPVtagReply != 0 {
		s.SCTPVtagReply = f.SCTPVtagReply
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		s.TimestampStart = f.TimestampStart
	}
	if has&ctnetlink.HasTimestampStop != 0 {
		s.TimestampStop = f.TimestampStop
	}
	if has&ctnetlink.HasSeqAdjOrig != 0 {
		s.SeqAdjOrig = f.SeqAdjOrig
	}
	if has&ctnetlink.HasSeqAdjReply != 0 {
		s.SeqAdjReply = f.SeqAdjReply
	}
	if has&ctnetlink.HasSynproxy != 0 {
		s.Synproxy = f.Synproxy
	}
	if has&ctnetlink.HasNATSrc != 0 {
		s.NATSrc = f.NATSrc
	}
	if has&ctnetlink.HasNATDst != 0 {
		s.NATDst = f.NATDst
	}
	if has&ctnetlink.HasLabels != 0 {
		s.Labels, s.LabelsLen = f.Labels, f.LabelsLen
	}
	if has&ctnetlink.HasHelper != 0 {
		s.Helper = f.Helper
	}
	if has&ctnetlink.HasSecctx != 0 {
		s.Secctx = append(s.Secctx[:0], f.Secctx...)
	}
}
