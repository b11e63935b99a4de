package wire

import (
	"bytes"
	"encoding/binary"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// An expectation's body in a message of version 2. An end has only what identifies the
// expectation: form, the three tuples and the zone.
//
//	form (1)      bits 0-1  protocol of the expected tuple, as in a flow's form
//	              bit 2     IPv6, for all tuples
//	              bit 3     translation   bit 4  timeout   bit 5  class   bit 6  flags
//	              bit 7     attributes
//	protocol (1)  of another protocol
//	tuple         the key of the expected tuple
//	mask          likewise: the bits of the key that must match; the protocol must be equal
//	master        form (1), protocol, key of the master's original tuple
//	flags, class, timeout, each as a varint
//	translation   direction (1), protocol (1), source address (4 or 16), first half of what the
//	              key has for layer 4 (2)
//	attributes    as those of a flow, with numbers of their own
const (
	compactExpectNAT   = 1 << 3
	compactExpectClass = 1 << 5
	compactExpectFlags = 1 << 6
)

// The attributes of an expectation.
const (
	compactExpectZone   compactAttr = 1 // (2)
	compactExpectHelper compactAttr = 2 // name, at most 15
	compactExpectFn     compactAttr = 3 // name of the kernel's function, at most 31
)

var compactExpectSizes = [256]compactSize{
	compactExpectZone: {2, 2}, compactExpectHelper: {1, ctnetlink.NameLen - 1}, compactExpectFn: {1, ctnetlink.FnLen - 1},
}

// AppendCompactExpect appends the body of a message of version 2 about x, for an end only what
// identifies x. It carries all that a kernel keeps of an expectation but its id. An expectation
// whose tuples are incomplete, or of more than one family, gives an IncompleteError and dst
// unchanged.
func (e Encoder) AppendCompactExpect(dst []byte, x *ctnetlink.Expect, end bool) ([]byte, error) {
	mask := x.Mask
	mask.Proto = x.Tuple.Proto
	family := x.Tuple.Family
	if !complete(&x.Tuple) || !complete(&mask) || !complete(&x.Master) || mask.Family != family || x.Master.Family != family {
		return dst, ErrIncompleteExpect
	}
	form := len(dst)
	dst = appendCompactKey(dst, &x.Tuple)
	n := addrLen(family)
	dst = append(append(dst, mask.Src[:n]...), mask.Dst[:n]...)
	if first, second, ok := layer4(&mask); ok {
		dst = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(dst, first), second)
	}
	dst = appendCompactKey(dst, &x.Master)
	if !end {
		dst = e.appendExpectState(dst, form, x)
	}
	attrs := len(dst)
	if x.Has&ctnetlink.ExpectHasZone != 0 && x.Zone != 0 {
		dst = binary.BigEndian.AppendUint16(appendCompactAttr(dst, compactExpectZone, 2), x.Zone)
	}
	if !end {
		if name := x.Helper.Bytes(); x.Has&ctnetlink.ExpectHasHelper != 0 && len(name) > 0 {
			name = name[:min(len(name), ctnetlink.NameLen-1)]
			dst = append(appendCompactAttr(dst, compactExpectHelper, len(name)), name...)
		}
		if name := x.FnBytes(); x.Has&ctnetlink.ExpectHasFn != 0 && len(name) > 0 {
			name = name[:min(len(name), ctnetlink.FnLen-1)]
			dst = append(appendCompactAttr(dst, compactExpectFn, len(name)), name...)
		}
	}
	if len(dst) > attrs {
		dst[form] |= compactAttrs
	}
	return dst, nil
}

// appendExpectState appends flags, class, timeout and translation, and notes in the form at an
// offset of dst which of them there are.
func (e Encoder) appendExpectState(dst []byte, form int, x *ctnetlink.Expect) []byte {
	if x.Has&ctnetlink.ExpectHasFlags != 0 {
		dst[form] |= compactExpectFlags
		dst = binary.AppendUvarint(dst, uint64(x.Flags))
	}
	if x.Has&ctnetlink.ExpectHasClass != 0 {
		dst[form] |= compactExpectClass
		dst = binary.AppendUvarint(dst, uint64(x.Class))
	}
	if x.Has&ctnetlink.ExpectHasTimeout != 0 && !e.OmitTimeout {
		dst[form] |= compactTimeout
		dst = binary.AppendUvarint(dst, uint64(x.Timeout))
	}
	// A tuple without addresses, or with those of the other family, translates nothing.
	if t := &x.NATTuple; x.Has&ctnetlink.ExpectHasNAT != 0 && t.Family == x.Tuple.Family {
		dst[form] |= compactExpectNAT
		dst = append(dst, byte(min(x.NATDir, 1)), t.Proto)
		dst = append(dst, t.Src[:addrLen(t.Family)]...)
		first, _, _ := layer4(t)
		dst = binary.BigEndian.AppendUint16(dst, first)
	}
	return dst
}

// addrLen returns the length of an address.
func addrLen(family uint8) int {
	if family == nl.FamilyIPv6 {
		return 16
	}
	return 4
}

// ParseCompactExpect decodes the body of a message of version 2 about an expectation into x,
// which it resets first. An end gives what identifies the expectation. Every error is a
// PayloadError; x is then undefined.
func ParseCompactExpect(body []byte, x *ctnetlink.Expect) error {
	x.Reset()
	r := compactReader{rest: body}
	form := r.key(&x.Tuple)
	x.Mask = x.Tuple
	r.addr(&x.Mask.Src, x.Mask.Family)
	r.addr(&x.Mask.Dst, x.Mask.Family)
	if _, _, ok := layer4(&x.Mask); ok {
		first := r.u16()
		setLayer4(&x.Mask, first, r.u16())
	}
	if master := r.key(&x.Master); master&^(compactProtoMask|compactIPv6) != 0 {
		return ErrAttrValue
	}
	if x.Master.Family != x.Tuple.Family {
		return ErrFamily
	}
	if form&compactExpectFlags != 0 {
		x.Flags = r.varint()
		x.Has |= ctnetlink.ExpectHasFlags
	}
	if form&compactExpectClass != 0 {
		x.Class = r.varint()
		x.Has |= ctnetlink.ExpectHasClass
	}
	if form&compactTimeout != 0 {
		x.Timeout = r.varint()
		x.Has |= ctnetlink.ExpectHasTimeout
	}
	if form&compactExpectNAT != 0 {
		r.translation(x)
		if x.NATDir > 1 {
			return ErrAttrValue
		}
	}
	if form&compactAttrs == 0 && len(r.rest) > 0 {
		return ErrAttrLength
	}
	for !r.bad && len(r.rest) > 0 {
		if err := r.expectAttr(x); err != nil {
			return err
		}
	}
	if r.bad {
		return ErrAttrLength
	}
	return nil
}

// translation reads the translation of an expected flow.
func (r *compactReader) translation(x *ctnetlink.Expect) {
	t := &x.NATTuple
	x.NATDir = uint32(r.u8())
	t.Family, t.Proto = x.Tuple.Family, r.u8()
	r.addr(&t.Src, t.Family)
	t.Has = ctnetlink.TupleAddrs | ctnetlink.TupleProto
	first := r.u16()
	if _, _, ok := layer4(t); ok {
		setLayer4(t, first, 0)
	}
	x.Has |= ctnetlink.ExpectHasNAT
}

// expectAttr reads one attribute of an expectation.
func (r *compactReader) expectAttr(x *ctnetlink.Expect) error {
	attr, value, err := r.cutAttr(&compactExpectSizes)
	if err != nil || value == nil {
		return err
	}
	if attr != compactExpectZone && bytes.IndexByte(value, 0) >= 0 {
		return ErrAttrValue
	}
	switch attr {
	case compactExpectZone:
		x.Zone = binary.BigEndian.Uint16(value)
		x.Has |= ctnetlink.ExpectHasZone
	case compactExpectHelper:
		x.Helper = ctnetlink.Name{}
		copy(x.Helper[:], value)
		x.Has |= ctnetlink.ExpectHasHelper
	case compactExpectFn:
		x.Fn = [ctnetlink.FnLen]byte{}
		copy(x.Fn[:], value)
		x.Has |= ctnetlink.ExpectHasFn
	}
	return nil
}
