package wire

import (
	"encoding/binary"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Compact messages are those of version 2. Each is a type (1), the length of its body (1) and
// the body. A flow's body, of which an end has only the first three parts, the zones and the epoch:
//
//	form (1)      bits 0-1  0 TCP, 1 UDP, 2 ICMP or ICMPv6, 3 another protocol
//	              bit 2     IPv6
//	              bit 3     the reply tuple is not the original one inverted
//	              bit 4     timeout     bit 5  mark     bit 6  state of TCP
//	              bit 7     attributes
//	protocol (1)  of another protocol
//	key           source, destination (4 or 16 each); ports, keys, or ICMP id, type, code (4)
//	status        as a varint (encoding/binary), without IPS_DYING
//	TCP state (1)
//	timeout       seconds, as a varint
//	mark (4)
//	reply         which (1): bit 0 source, 1 destination, 2 and 3 the two halves of what
//	              the key has for layer 4; each as it is in the reply tuple
//	attributes    type (1), length (1), value; a receiver skips those that it does not know
//	              if the top bit of the type is set, and refuses the flow otherwise
//
// Numbers are in network order. What is absent has no byte.
const (
	compactProtoMask = 3
	compactIPv6      = 1 << 2
	compactReply     = 1 << 3
	compactTimeout   = 1 << 4
	compactMark      = 1 << 5
	compactTCPState  = 1 << 6
	compactAttrs     = 1 << 7
)

// The protocols that a form names.
const (
	compactTCP = iota
	compactUDP
	compactICMP
	compactOther
)

// Parts of a reply tuple.
const (
	replySrc = 1 << iota
	replyDst
	replyFirst
	replySecond
)

// compactAttr is the type of an attribute of a compact message. Numbers are never reused.
type compactAttr uint8

// The attributes of a flow, with the size of the value. Attributes with the top bit may be
// skipped.
const (
	compactZone      compactAttr = 1 // of both directions (2)
	compactZoneOrig  compactAttr = 2 // of the original direction (2)
	compactZoneReply compactAttr = 3 // of the reply direction (2)
	compactMaster    compactAttr = 4 // form, protocol and key of the master's original tuple
	compactSeqAdj    compactAttr = 5 // original and reply: position, offset before, offset after (24)
	compactSCTP      compactAttr = 6 // state (1), verification tags (4, 4)
	compactDCCP      compactAttr = 7 // state (1), role (1)
	compactSynproxy  compactAttr = 8 // ISN, ITS, offset of timestamps (12)
	compactEpoch     compactAttr = 9 // of the flow's owner (4), not 0, at most MaxEpoch

	compactWScale compactAttr = 0x80 | 1 // original, reply (2); 0xff for absent
	compactLabels compactAttr = 0x80 | 2 // words (4 each), at most 4
	compactHelper compactAttr = 0x80 | 3 // name, at most 15
	compactStart  compactAttr = 0x80 | 4 // nanoseconds since the epoch (8)
)

type compactSize struct{ least, most uint8 }

// compactSizes are the smallest and the largest size of each attribute's value; both are 0 for
// an unknown attribute.
var compactSizes = [256]compactSize{
	compactZone: {2, 2}, compactZoneOrig: {2, 2}, compactZoneReply: {2, 2}, compactMaster: {10, 38},
	compactSeqAdj: {24, 24}, compactSCTP: {9, 9}, compactDCCP: {2, 2}, compactSynproxy: {12, 12}, compactEpoch: {4, 4},
	compactWScale: {2, 2}, compactLabels: {4, 4 * ctnetlink.LabelWords}, compactHelper: {1, ctnetlink.NameLen - 1}, compactStart: {8, 8},
}

// MaxCompactBody is the longest body of a compact message, with an epoch.
const MaxCompactBody = 255

// MaxEpoch is the largest epoch of a flow.
const MaxEpoch = 1<<30 - 1

// AppendCompactFlow appends the body of a compact message about f, for an end only what
// identifies f. Translations are those of the reply tuple. A flow whose addresses, protocol or
// ports are unknown gives an IncompleteError and dst unchanged.
func (e Encoder) AppendCompactFlow(dst []byte, f *ctnetlink.Flow, end bool) ([]byte, error) {
	if !complete(&f.Orig) {
		return dst, ErrIncompleteTuple
	}
	form := len(dst)
	dst = appendCompactKey(dst, &f.Orig)
	if !end {
		dst = e.appendCompactState(dst, form, f)
	}
	attrs := len(dst)
	dst = appendCompactZones(dst, f)
	if !end {
		dst = e.appendCompactAttrs(dst, f)
	}
	if len(dst) > attrs {
		dst[form] |= compactAttrs
	}
	return dst, nil
}

// AppendCompactEpoch appends an epoch, at most MaxEpoch, to the body of a compact message about a
// flow, which begins at its form. Epoch 0 has no byte.
func AppendCompactEpoch(body []byte, epoch uint32) []byte {
	if epoch == 0 {
		return body
	}
	body[0] |= compactAttrs
	return binary.BigEndian.AppendUint32(appendCompactAttr(body, compactEpoch, 4), epoch)
}

// appendCompactKey appends a form and the key of a tuple.
func appendCompactKey(dst []byte, t *ctnetlink.Tuple) []byte {
	form, proto := byte(compactOther), true
	switch {
	case t.Proto == ctnetlink.ProtoTCP:
		form, proto = compactTCP, false
	case t.Proto == ctnetlink.ProtoUDP:
		form, proto = compactUDP, false
	case t.Proto == ctnetlink.ProtoICMP && t.Family == nl.FamilyIPv4, t.Proto == ctnetlink.ProtoICMPv6 && t.Family == nl.FamilyIPv6:
		form, proto = compactICMP, false
	}
	n := 4
	if t.Family == nl.FamilyIPv6 {
		form |= compactIPv6
		n = 16
	}
	dst = append(dst, form)
	if proto {
		dst = append(dst, t.Proto)
	}
	dst = append(dst, t.Src[:n]...)
	dst = append(dst, t.Dst[:n]...)
	if first, second, ok := layer4(t); ok {
		dst = binary.BigEndian.AppendUint16(dst, first)
		dst = binary.BigEndian.AppendUint16(dst, second)
	}
	return dst
}

// layer4 returns the two halves of what a tuple has for layer 4; ok is false for protocols
// that have neither ports nor keys nor ICMP's fields.
func layer4(t *ctnetlink.Tuple) (first, second uint16, ok bool) {
	switch {
	case ctnetlink.IsICMP(t.Proto):
		return t.ICMPID, uint16(t.ICMPType)<<8 | uint16(t.ICMPCode), true
	case hasPortsOrKeys(t.Proto):
		return t.SrcPort, t.DstPort, true
	}
	return 0, 0, false
}

func setLayer4(t *ctnetlink.Tuple, first, second uint16) {
	if ctnetlink.IsICMP(t.Proto) {
		t.ICMPID, t.ICMPType, t.ICMPCode = first, uint8(second>>8), uint8(second)
		t.Has |= ctnetlink.TupleICMP
		return
	}
	t.SrcPort, t.DstPort = first, second
	t.Has |= ctnetlink.TuplePorts
}

// appendCompactState appends status, state, timeout, mark and reply tuple, and notes in the
// form at an offset of dst which of them there are.
func (e Encoder) appendCompactState(dst []byte, form int, f *ctnetlink.Flow) []byte {
	status := uint32(0)
	if f.Has&ctnetlink.HasStatus != 0 {
		status = f.Status &^ ctnetlink.StatusDying
	}
	dst = binary.AppendUvarint(dst, uint64(status))
	if f.Orig.Proto == ctnetlink.ProtoTCP && f.Has&ctnetlink.HasTCPState != 0 {
		dst[form] |= compactTCPState
		dst = append(dst, f.TCPState)
	}
	if f.Has&ctnetlink.HasTimeout != 0 && !e.OmitTimeout {
		dst[form] |= compactTimeout
		dst = binary.AppendUvarint(dst, uint64(f.Timeout))
	}
	if f.Has&ctnetlink.HasMark != 0 && f.Mark != 0 {
		dst[form] |= compactMark
		dst = binary.BigEndian.AppendUint32(dst, f.Mark)
	}
	if f.Reply.Has&ctnetlink.TupleAddrs != ctnetlink.TupleAddrs || f.Reply.Family != f.Orig.Family {
		return dst
	}
	plain := f.Orig.Inverted()
	which := len(dst)
	dst = append(dst, 0)
	n := 4
	if f.Orig.Family == nl.FamilyIPv6 {
		n = 16
	}
	if f.Reply.Src != plain.Src {
		dst[which] |= replySrc
		dst = append(dst, f.Reply.Src[:n]...)
	}
	if f.Reply.Dst != plain.Dst {
		dst[which] |= replyDst
		dst = append(dst, f.Reply.Dst[:n]...)
	}
	if first, second, ok := layer4(&f.Reply); ok && f.Reply.Proto == f.Orig.Proto {
		plainFirst, plainSecond, _ := layer4(&plain)
		if first != plainFirst {
			dst[which] |= replyFirst
			dst = binary.BigEndian.AppendUint16(dst, first)
		}
		if second != plainSecond {
			dst[which] |= replySecond
			dst = binary.BigEndian.AppendUint16(dst, second)
		}
	}
	if dst[which] == 0 {
		return dst[:which]
	}
	dst[form] |= compactReply
	return dst
}

func appendCompactAttr(dst []byte, attr compactAttr, length int) []byte {
	return append(dst, byte(attr), byte(length))
}

// appendCompactZones appends the zones, which are a part of a flow's identity.
func appendCompactZones(dst []byte, f *ctnetlink.Flow) []byte {
	if f.Has&ctnetlink.HasZone != 0 && f.Zone != 0 {
		dst = binary.BigEndian.AppendUint16(appendCompactAttr(dst, compactZone, 2), f.Zone)
	}
	if f.Orig.Has&ctnetlink.TupleZone != 0 {
		dst = binary.BigEndian.AppendUint16(appendCompactAttr(dst, compactZoneOrig, 2), f.Orig.Zone)
	}
	if f.Reply.Has&ctnetlink.TupleZone != 0 {
		dst = binary.BigEndian.AppendUint16(appendCompactAttr(dst, compactZoneReply, 2), f.Reply.Zone)
	}
	return dst
}

func (e Encoder) appendCompactAttrs(dst []byte, f *ctnetlink.Flow) []byte {
	if complete(&f.Master) && f.Master.Family == f.Orig.Family {
		start := len(dst)
		dst = appendCompactKey(appendCompactAttr(dst, compactMaster, 0), &f.Master)
		dst[start+1] = byte(len(dst) - start - 2)
	}
	if both := ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply; f.Has&both != 0 {
		dst = appendCompactAttr(dst, compactSeqAdj, 24)
		for _, a := range [...]struct {
			has ctnetlink.Attr
			adj ctnetlink.SeqAdj
		}{{ctnetlink.HasSeqAdjOrig, f.SeqAdjOrig}, {ctnetlink.HasSeqAdjReply, f.SeqAdjReply}} {
			if f.Has&a.has == 0 {
				a.adj = ctnetlink.SeqAdj{}
			}
			dst = binary.BigEndian.AppendUint32(dst, a.adj.CorrectionPos)
			dst = binary.BigEndian.AppendUint32(dst, a.adj.OffsetBefore)
			dst = binary.BigEndian.AppendUint32(dst, a.adj.OffsetAfter)
		}
	}
	switch f.Orig.Proto {
	case ctnetlink.ProtoTCP:
		const scales = ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply
		if e.WindowTracking && f.Has&scales != 0 {
			dst = append(appendCompactAttr(dst, compactWScale, 2),
				present(f, ctnetlink.HasTCPWScaleOrig, f.TCPWScaleOrig, absentScale), present(f, ctnetlink.HasTCPWScaleReply, f.TCPWScaleRepl, absentScale))
		}
	case ctnetlink.ProtoSCTP:
		if f.Has&ctnetlink.HasSCTPState != 0 {
			dst = append(appendCompactAttr(dst, compactSCTP, 9), f.SCTPState)
			dst = binary.BigEndian.AppendUint32(dst, present(f, ctnetlink.HasSCTPVtagOrig, f.SCTPVtagOrig, 0))
			dst = binary.BigEndian.AppendUint32(dst, present(f, ctnetlink.HasSCTPVtagReply, f.SCTPVtagReply, 0))
		}
	case ctnetlink.ProtoDCCP:
		if f.Has&ctnetlink.HasDCCPState != 0 {
			dst = append(appendCompactAttr(dst, compactDCCP, 2), f.DCCPState, present(f, ctnetlink.HasDCCPRole, f.DCCPRole, 0))
		}
	}
	if f.Has&ctnetlink.HasSynproxy != 0 && f.Synproxy != (ctnetlink.Synproxy{}) {
		// The kernel sends zeros for each flow that a commit has created.
		dst = appendCompactAttr(dst, compactSynproxy, 12)
		dst = binary.BigEndian.AppendUint32(dst, f.Synproxy.ISN)
		dst = binary.BigEndian.AppendUint32(dst, f.Synproxy.ITS)
		dst = binary.BigEndian.AppendUint32(dst, f.Synproxy.TSOff)
	}
	if words := f.Labels[:min(int(f.LabelsLen), ctnetlink.LabelWords)]; f.Has&ctnetlink.HasLabels != 0 && anySet(words) {
		dst = appendCompactAttr(dst, compactLabels, 4*len(words))
		for _, w := range words {
			dst = binary.BigEndian.AppendUint32(dst, w)
		}
	}
	if name := f.Helper.Bytes(); f.Has&ctnetlink.HasHelper != 0 && len(name) > 0 {
		name = name[:min(len(name), ctnetlink.NameLen-1)]
		dst = append(appendCompactAttr(dst, compactHelper, len(name)), name...)
	}
	if f.Has&ctnetlink.HasTimestampStart != 0 {
		dst = binary.BigEndian.AppendUint64(appendCompactAttr(dst, compactStart, 8), f.TimestampStart)
	}
	return dst
}

// absentScale stands for a window scale that is not known.
const absentScale = 0xff

// present returns the value of an attribute of f, or absent.
func present[T uint8 | uint32](f *ctnetlink.Flow, has ctnetlink.Attr, v, absent T) T {
	if f.Has&has == 0 {
		return absent
	}
	return v
}

// compactReader reads the parts of a body. After a part that is cut off bad is set, and all
// further parts are zero.
type compactReader struct {
	rest  []byte
	bad   bool
	epoch uint32 // of the flow whose attributes were read
}

func (r *compactReader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.rest, r.bad = nil, true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *compactReader) u8() uint8 {
	if b := r.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *compactReader) u16() uint16 {
	if b := r.bytes(2); len(b) == 2 {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *compactReader) u32() uint32 {
	if b := r.bytes(4); len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a varint of at most 32 bits in its shortest form.
func (r *compactReader) varint() uint32 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > 1<<32-1 || n > 1 && r.rest[n-1] == 0 {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[n:]
	return uint32(v)
}

func (r *compactReader) addr(a *ctnetlink.Addr, family uint8) {
	n := 4
	if family == nl.FamilyIPv6 {
		n = 16
	}
	*a = ctnetlink.Addr{}
	copy(a[:], r.bytes(n))
}

// key reads a form and a key.
func (r *compactReader) key(t *ctnetlink.Tuple) (form byte) {
	form = r.u8()
	t.Family = nl.FamilyIPv4
	if form&compactIPv6 != 0 {
		t.Family = nl.FamilyIPv6
	}
	switch form & compactProtoMask {
	case compactTCP:
		t.Proto = ctnetlink.ProtoTCP
	case compactUDP:
		t.Proto = ctnetlink.ProtoUDP
	case compactICMP:
		t.Proto = ctnetlink.ProtoICMP
		if t.Family == nl.FamilyIPv6 {
			t.Proto = ctnetlink.ProtoICMPv6
		}
	default:
		t.Proto = r.u8()
	}
	r.addr(&t.Src, t.Family)
	r.addr(&t.Dst, t.Family)
	t.Has = ctnetlink.TupleAddrs | ctnetlink.TupleProto
	if _, _, ok := layer4(t); ok {
		first := r.u16()
		setLayer4(t, first, r.u16())
	}
	return form
}

// ParseCompactFlow decodes the body of a compact message about a flow into f, which it resets
// first, and returns its epoch. An end has no more than what identifies the flow, and the epoch.
// Translations are in f.Reply, which a flow always has. Every error is a PayloadError; f is then
// undefined.
func ParseCompactFlow(body []byte, f *ctnetlink.Flow, end bool) (epoch uint32, err error) {
	f.Reset()
	r := compactReader{rest: body}
	form := r.key(&f.Orig)
	f.Reply = f.Orig.Inverted()
	if !end {
		if err := r.state(form, f); err != nil {
			return 0, err
		}
	} else if form&^(compactProtoMask|compactIPv6|compactAttrs) != 0 {
		return 0, ErrAttrValue
	}
	if form&compactAttrs == 0 && len(r.rest) > 0 {
		return 0, ErrAttrLength
	}
	for !r.bad && len(r.rest) > 0 {
		if err := r.attr(f); err != nil {
			return 0, err
		}
	}
	if r.bad {
		return 0, ErrAttrLength
	}
	return r.epoch, nil
}

// state reads what appendCompactState has appended.
func (r *compactReader) state(form byte, f *ctnetlink.Flow) error {
	f.Status = r.varint()
	f.Has |= ctnetlink.HasStatus
	if form&compactTCPState != 0 {
		if f.Orig.Proto != ctnetlink.ProtoTCP {
			return ErrAttrValue
		}
		if err := storeState(f, &f.TCPState, r.u8(), maxTCPState, ctnetlink.HasTCPState); err != nil {
			return err
		}
	}
	if form&compactTimeout != 0 {
		f.Timeout = r.varint()
		f.Has |= ctnetlink.HasTimeout
	}
	if form&compactMark != 0 {
		f.Mark = r.u32()
		f.Has |= ctnetlink.HasMark
	}
	if form&compactReply == 0 {
		return nil
	}
	which := r.u8()
	if which == 0 || which >= replySecond<<1 {
		return ErrAttrValue
	}
	if which&replySrc != 0 {
		r.addr(&f.Reply.Src, f.Orig.Family)
	}
	if which&replyDst != 0 {
		r.addr(&f.Reply.Dst, f.Orig.Family)
	}
	first, second, ok := layer4(&f.Reply)
	if which&(replyFirst|replySecond) != 0 && !ok {
		return ErrAttrValue
	}
	if which&replyFirst != 0 {
		first = r.u16()
	}
	if which&replySecond != 0 {
		second = r.u16()
	}
	if ok {
		setLayer4(&f.Reply, first, second)
	}
	return nil
}

// cutAttr takes an attribute off the rest. value is nil for one that is to be skipped.
func (r *compactReader) cutAttr(sizes *[256]compactSize) (attr compactAttr, value []byte, err error) {
	attr = compactAttr(r.u8())
	value = r.bytes(int(r.u8()))
	size := sizes[attr]
	switch {
	case r.bad:
		return attr, nil, ErrAttrLength
	case size.most == 0 && attr&0x80 != 0:
		return attr, nil, nil
	case size.most == 0:
		return attr, nil, ErrAttrNumber
	case len(value) < int(size.least) || len(value) > int(size.most):
		return attr, nil, ErrAttrSize
	}
	return attr, value, nil
}

// attr reads one attribute of a flow.
func (r *compactReader) attr(f *ctnetlink.Flow) error {
	attr, value, err := r.cutAttr(&compactSizes)
	if err != nil || value == nil {
		return err
	}
	v := compactReader{rest: value}
	switch attr {
	case compactZone:
		f.Zone = v.u16()
		f.Has |= ctnetlink.HasZone
	case compactZoneOrig:
		f.Orig.Zone = v.u16()
		f.Orig.Has |= ctnetlink.TupleZone
	case compactZoneReply:
		f.Reply.Zone = v.u16()
		f.Reply.Has |= ctnetlink.TupleZone
	case compactMaster:
		if form := v.key(&f.Master); v.bad || len(v.rest) > 0 || form&^(compactProtoMask|compactIPv6) != 0 {
			return ErrAttrValue
		}
		if f.Master.Family != f.Orig.Family {
			return ErrFamily
		}
	case compactSeqAdj:
		f.SeqAdjOrig = ctnetlink.SeqAdj{CorrectionPos: v.u32(), OffsetBefore: v.u32(), OffsetAfter: v.u32()}
		f.SeqAdjReply = ctnetlink.SeqAdj{CorrectionPos: v.u32(), OffsetBefore: v.u32(), OffsetAfter: v.u32()}
		f.Has |= ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply
	case compactSCTP:
		if f.Orig.Proto != ctnetlink.ProtoSCTP {
			return ErrAttrValue
		}
		if err := storeState(f, &f.SCTPState, v.u8(), maxSCTPState, ctnetlink.HasSCTPState); err != nil {
			return err
		}
		f.SCTPVtagOrig, f.SCTPVtagReply = v.u32(), v.u32()
		f.Has |= ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply
	case compactDCCP:
		if f.Orig.Proto != ctnetlink.ProtoDCCP {
			return ErrAttrValue
		}
		if err := storeState(f, &f.DCCPState, v.u8(), maxDCCPState, ctnetlink.HasDCCPState); err != nil {
			return err
		}
		return storeState(f, &f.DCCPRole, v.u8(), maxDCCPRole, ctnetlink.HasDCCPRole)
	case compactSynproxy:
		f.Synproxy = ctnetlink.Synproxy{ISN: v.u32(), ITS: v.u32(), TSOff: v.u32()}
		f.Has |= ctnetlink.HasSynproxy
	case compactEpoch:
		if r.epoch = v.u32(); r.epoch > MaxEpoch {
			return ErrAttrValue
		}
	case compactWScale:
		storeScale(f, &f.TCPWScaleOrig, v.u8(), ctnetlink.HasTCPWScaleOrig)
		storeScale(f, &f.TCPWScaleRepl, v.u8(), ctnetlink.HasTCPWScaleReply)
	case compactLabels:
		if len(value)%4 != 0 {
			return ErrAttrSize
		}
		f.Labels, f.LabelsLen = ctnetlink.Labels{}, uint8(len(value)/4)
		for i := range f.LabelsLen {
			f.Labels[i] = v.u32()
		}
		f.Has |= ctnetlink.HasLabels
	case compactHelper:
		f.Helper = ctnetlink.Name{}
		copy(f.Helper[:], value)
		f.Has |= ctnetlink.HasHelper
	case compactStart:
		f.TimestampStart = binary.BigEndian.Uint64(value)
		f.Has |= ctnetlink.HasTimestampStart
	}
	return nil
}

// storeScale stores a window scale of a TCP flow, reduced to the largest that a kernel takes.
func storeScale(f *ctnetlink.Flow, to *uint8, v uint8, has ctnetlink.Attr) {
	if v == absentScale || f.Orig.Proto != ctnetlink.ProtoTCP {
		return
	}
	*to = min(v, ctnetlink.MaxWindowScale)
	f.Has |= has
}
