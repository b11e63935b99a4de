package cache

import (
	"encoding/binary"
	"hash/maphash"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// record is the part that every flow has: 64 bytes without a pointer. Rare attributes
// are in the tail (tail.go). Records store what peers, dumps and commits need: not
// counters, references, TCP flags, the time of an event or helpers' private data.
type record struct {
	has  ctnetlink.Attr // the flow's attributes and the bits below
	addr [16]byte
	// addr, IPv4: source and destination of the original tuple, then either
	// those of the reply tuple (recReply) or the addresses of NATSrc and NATDst
	// (recNAT). IPv6: the number of the original addresses' pair, four bytes.
	tail            uint32 // reference into the tails; 0: none
	status, timeout uint32
	mark, id        uint32
	secmark         uint32
	orig, other     l4 // other: the reply tuple's, or the ports of NATSrc and NATDst
	zone, origZone  uint16
	proto           uint8
	state           [3]uint8 // TCP: state, window scales; SCTP: state; DCCP: state, role
}

// l4 is the layer-4 part of a tuple: two ports, or ICMP's id and type<<8|code.
type l4 struct{ a, b uint16 }

// Bits of record.has beyond the flow's own. The two groups of l4 presence bits hold
// as many bits as l4Of returns; the presence of NAT shares the second.
const (
	recIPv6       ctnetlink.Attr = 1 << (40 + iota)
	recReply                     // a reply tuple of the usual form, stored here
	recTailReply                 // a reply tuple in the tail
	recMaster                    // a master tuple in the tail
	recOrigZone                  // Orig has a zone
	recNAT                       // NATSrc and NATDst, where present, are stored here
	recNoSynproxy                // Synproxy is present and all zero, so not in the tail

	recOrigShift  = 50
	recOtherShift = 54
	recOrigBits   = 7 << recOrigShift
	recOtherBits  = 15 << recOtherShift
)

const (
	natAttrs = ctnetlink.HasNATSrc | ctnetlink.HasNATDst

	// hotAttrs are the attributes that a record has room for.
	hotAttrs = ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasMark | ctnetlink.HasID | ctnetlink.HasSecmark | ctnetlink.HasZone |
		ctnetlink.HasTCPState | ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply |
		ctnetlink.HasSCTPState | ctnetlink.HasDCCPState | ctnetlink.HasDCCPRole
	// coldAttrs are the attributes that may need a tail.
	coldAttrs = ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply | ctnetlink.HasTimestampStart | ctnetlink.HasTimestampStop |
		ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply | ctnetlink.HasSynproxy | natAttrs |
		ctnetlink.HasLabels | ctnetlink.HasHelper | ctnetlink.HasSecctx
)

// kept returns the attributes in has that a record of this protocol stores.
func kept(has ctnetlink.Attr, proto uint8) ctnetlink.Attr {
	return has & (hotAttrs | coldAttrs) &^ ctnetlink.ForeignAttrs(proto)
}

// l4Of returns the layer-4 part of t and the presence bits of its up to three fields.
func l4Of(t *ctnetlink.Tuple) (p l4, bits ctnetlink.Attr) {
	if ctnetlink.IsICMP(t.Proto) {
		if t.Has&ctnetlink.TupleICMPID != 0 {
			p.a, bits = t.ICMPID, 1
		}
		if t.Has&ctnetlink.TupleICMPType != 0 {
			p.b, bits = uint16(t.ICMPType)<<8, bits|2
		}
		if t.Has&ctnetlink.TupleICMPCode != 0 {
			p.b, bits = p.b|uint16(t.ICMPCode), bits|4
		}
		return p, bits
	}
	if t.Has&ctnetlink.TupleSrcPort != 0 {
		p.a, bits = t.SrcPort, 1
	}
	if t.Has&ctnetlink.TupleDstPort != 0 {
		p.b, bits = t.DstPort, bits|2
	}
	return p, bits
}

// setL4 is the inverse of l4Of. The protocol of t must be set.
func setL4(t *ctnetlink.Tuple, p l4, bits ctnetlink.Attr) {
	if ctnetlink.IsICMP(t.Proto) {
		t.ICMPID, t.ICMPType, t.ICMPCode = p.a, uint8(p.b>>8), uint8(p.b)
		t.Has |= ctnetlink.TupleICMPID*ctnetlink.TupleAttr(bits&1) |
			ctnetlink.TupleICMPType*ctnetlink.TupleAttr(bits>>1&1) | ctnetlink.TupleICMPCode*ctnetlink.TupleAttr(bits>>2&1)
		return
	}
	t.SrcPort, t.DstPort = p.a, p.b
	t.Has |= ctnetlink.TupleSrcPort*ctnetlink.TupleAttr(bits&1) | ctnetlink.TupleDstPort*ctnetlink.TupleAttr(bits>>1&1)
}

// whole is the set of fields of a complete tuple, without its layer-4 part and zone.
const whole = ctnetlink.TupleSrc | ctnetlink.TupleDst | ctnetlink.TupleProto

// key is the identity of a flow among nodes. Unlike ctnetlink.FlowKey it has no id, which
// only one kernel knows, and an absent field equals zero, because version 1 of the wire
// cannot tell them apart.
type key struct {
	src, dst       ctnetlink.Addr
	l4             l4
	zone, origZone uint16
	proto          uint8
	ipv6           bool
}

// keyOf returns the key of a flow with this original tuple and CTA_ZONE; ok is
// false if the tuple lacks addresses or protocol.
func keyOf(t *ctnetlink.Tuple, zone uint16) (k key, ok bool) {
	if t.Has&whole != whole || t.Family != nl.FamilyIPv4 && t.Family != nl.FamilyIPv6 {
		return k, false
	}
	k = key{src: t.Src, dst: t.Dst, zone: zone, proto: t.Proto, ipv6: t.Family == nl.FamilyIPv6}
	k.l4, _ = l4Of(t)
	if t.Has&ctnetlink.TupleZone != 0 {
		k.origZone = t.Zone
	}
	return k, true
}

func keyOfFlow(f *ctnetlink.Flow) (key, bool) {
	var zone uint16
	if f.Has&ctnetlink.HasZone != 0 {
		zone = f.Zone
	}
	return keyOf(&f.Orig, zone)
}

// hash is keyed by the table's seed, so that nobody can choose tuples that collide.
func (k *key) hash(seed maphash.Seed) uint32 {
	var buf [42]byte
	b := buf[:18]
	if k.ipv6 {
		b = buf[:42]
		copy(b[10:], k.src[:])
		copy(b[26:], k.dst[:])
	} else {
		copy(b[10:], k.src[:4])
		copy(b[14:], k.dst[:4])
	}
	// The protocol takes one byte of two, so that keys of the two lengths differ.
	binary.LittleEndian.PutUint16(b, k.l4.a)
	binary.LittleEndian.PutUint16(b[2:], k.l4.b)
	binary.LittleEndian.PutUint16(b[4:], k.zone)
	binary.LittleEndian.PutUint16(b[6:], k.origZone)
	b[8] = k.proto
	h := maphash.Bytes(seed, b)
	return uint32(h) ^ uint32(h>>32)
}

// plainReply reports whether the record alone can store the reply tuple: its family and
// protocol are those of the original tuple, it has no zone, and over IPv6 it is not
// translated.
func plainReply(f *ctnetlink.Flow) bool {
	r := &f.Reply
	return r.Has&(whole|ctnetlink.TupleZone) == whole && r.Family == f.Orig.Family && r.Proto == f.Orig.Proto &&
		(r.Family == nl.FamilyIPv4 || r.Src == f.Orig.Dst && r.Dst == f.Orig.Src)
}

// setReply stores a plain reply tuple.
func (r *record) setReply(t *ctnetlink.Tuple) {
	p, bits := l4Of(t)
	r.other = p
	r.has = r.has&^recOtherBits | recReply | bits<<recOtherShift
	if r.has&recIPv6 == 0 {
		copy(r.addr[8:], t.Src[:4])
		copy(r.addr[12:], t.Dst[:4])
	}
}

// setNAT stores f's NAT attributes in place of a reply tuple (IPv4 only).
func (r *record) setNAT(f *ctnetlink.Flow) {
	r.has |= recNAT
	for i, n := range [...]*ctnetlink.NAT{&f.NATSrc, &f.NATDst} {
		if f.Has&(ctnetlink.HasNATSrc<<i) == 0 {
			continue
		}
		r.has = r.has&^(3<<(recOtherShift+2*i)) | ctnetlink.HasNATSrc<<i
		at := r.addr[8+4*i:][:4]
		clear(at)
		if n.HasAddr {
			copy(at, n.Addr[:4])
			r.has |= 1 << (recOtherShift + 2*i)
		}
		port := &r.other.a
		if i == 1 {
			port = &r.other.b
		}
		*port = 0
		if n.HasPort {
			*port = n.Port
			r.has |= 2 << (recOtherShift + 2*i)
		}
	}
}

func (r *record) loadNAT(f *ctnetlink.Flow) {
	for i, n := range [...]*ctnetlink.NAT{&f.NATSrc, &f.NATDst} {
		*n = ctnetlink.NAT{
			HasAddr: r.has>>(recOtherShift+2*i)&1 != 0,
			HasPort: r.has>>(recOtherShift+2*i)&2 != 0,
		}
		copy(n.Addr[:4], r.addr[8+4*i:])
		n.Port = r.other.a
		if i == 1 {
			n.Port = r.other.b
		}
	}
}

// setHot stores the attributes of f that the record has room for.
func (r *record) setHot(f *ctnetlink.Flow) {
	has := kept(f.Has, r.proto) & hotAttrs
	r.has |= has
	if has&ctnetlink.HasStatus != 0 {
		r.status = f.Status
	}
	if has&ctnetlink.HasTimeout != 0 {
		r.timeout = f.Timeout
	}
	if has&ctnetlink.HasMark != 0 {
		r.mark = f.Mark
	}
	if has&ctnetlink.HasID != 0 {
		r.id = f.ID
	}
	if has&ctnetlink.HasSecmark != 0 {
		r.secmark = f.Secmark
	}
	if has&ctnetlink.HasTCPState != 0 {
		r.state[0] = f.TCPState
	}
	if has&ctnetlink.HasTCPWScaleOrig != 0 {
		r.state[1] = f.TCPWScaleOrig
	}
	if has&ctnetlink.HasTCPWScaleReply != 0 {
		r.state[2] = f.TCPWScaleRepl
	}
	if has&ctnetlink.HasSCTPState != 0 {
		r.state[0] = f.SCTPState
	}
	if has&ctnetlink.HasDCCPState != 0 {
		r.state[0] = f.DCCPState
	}
	if has&ctnetlink.HasDCCPRole != 0 {
		r.state[1] = f.DCCPRole
	}
}

// loadHot is the inverse of setHot.
func (r *record) loadHot(f *ctnetlink.Flow) {
	f.Status, f.Timeout, f.Mark, f.ID, f.Secmark, f.Zone = r.status, r.timeout, r.mark, r.id, r.secmark, r.zone
	switch r.proto {
	case ctnetlink.ProtoTCP:
		f.TCPState, f.TCPWScaleOrig, f.TCPWScaleRepl = r.state[0], r.state[1], r.state[2]
	case ctnetlink.ProtoSCTP:
		f.SCTPState = r.state[0]
	case ctnetlink.ProtoDCCP:
		f.DCCPState, f.DCCPRole = r.state[0], r.state[1]
	}
}
