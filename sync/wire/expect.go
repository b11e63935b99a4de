package wire

import (
	"encoding/binary"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Attribute numbers of expectations (docs/sync-protocol.md); flows number theirs apart.
const (
	expMasterIPv4  = 0
	expMasterIPv6  = 1
	expMasterProto = 2
	expMasterPorts = 3
	expTupleIPv4   = 4
	expTupleIPv6   = 5
	expTupleProto  = 6
	expTuplePorts  = 7
	expMaskIPv4    = 8
	expMaskIPv6    = 9
	expMaskProto   = 10
	expMaskPorts   = 11
	expTimeout     = 12
	expFlags       = 13
	expClass       = 14
	expNATIPv4     = 15
	expNATPorts    = 16
	expNATProto    = 17
	expNATDir      = 18
	expHelper      = 19
	expFn          = 20
)

var expectSizes = [...]attrSize{
	expMasterIPv4: {size: 8}, expMasterIPv6: {size: 32}, expMasterProto: {size: 1}, expMasterPorts: {size: 4},
	expTupleIPv4: {size: 8}, expTupleIPv6: {size: 32}, expTupleProto: {size: 1}, expTuplePorts: {size: 4},
	expMaskIPv4: {size: 8}, expMaskIPv6: {size: 32}, expMaskProto: {size: 1}, expMaskPorts: {size: 4},
	expTimeout: {size: 4}, expFlags: {size: 4}, expClass: {size: 4},
	expNATIPv4: {size: 8}, expNATPorts: {size: 4}, expNATProto: {size: 1}, expNATDir: {size: 4},
	expHelper: {size: 12, atMost: true}, expFn: {size: 28, atMost: true},
}

// maxFnName is the longest name of an expectation function that a C daemon accepts.
const maxFnName = 27

// AppendExpect appends the message with header h and expectation x, attributes
// in the C daemon's order. Names that a C daemon refuses are left out. There is
// no attribute for the zone, and none for a translated IPv6 address: the
// receiver of an IPv6 expectation with NAT gets port and direction.
//
// An expectation whose master, tuple or mask is incomplete gives an IncompleteError and
// dst unchanged.
func (e Encoder) AppendExpect(dst []byte, h Header, x *ctnetlink.Expect) ([]byte, error) {
	ports := hasWirePorts(x.Master.Proto)
	if !expectTuples(x, ports) {
		return dst, ErrIncompleteExpect
	}
	start := len(dst)
	dst = appendHeader(dst, h, 0)
	for _, t := range [...]struct {
		tuple      *ctnetlink.Tuple
		addr4      uint16
		addr6      uint16
		proto, l4p uint16
	}{
		{&x.Master, expMasterIPv4, expMasterIPv6, expMasterProto, expMasterPorts},
		{&x.Tuple, expTupleIPv4, expTupleIPv6, expTupleProto, expTuplePorts},
		{&x.Mask, expMaskIPv4, expMaskIPv6, expMaskProto, expMaskPorts},
	} {
		dst = appendAddrs(dst, t.addr4, t.addr6, t.tuple)
		dst = appendU8(dst, t.proto, t.tuple.Proto)
		if ports {
			dst = appendPorts(dst, t.l4p, t.tuple.SrcPort, t.tuple.DstPort)
		}
	}
	if x.Has&ctnetlink.ExpectHasTimeout != 0 && !e.OmitTimeout {
		dst = appendU32(dst, expTimeout, x.Timeout)
	}
	var flags uint32
	if x.Has&ctnetlink.ExpectHasFlags != 0 {
		flags = x.Flags
	}
	dst = appendU32(dst, expFlags, flags)
	if x.Has&ctnetlink.ExpectHasClass != 0 {
		dst = appendU32(dst, expClass, x.Class)
	}
	if x.Has&ctnetlink.ExpectHasNAT != 0 {
		dst = appendExpectNAT(dst, x, ports)
	}
	if x.Has&ctnetlink.ExpectHasHelper != 0 {
		if name := x.Helper.Bytes(); len(name) > 0 && len(name) <= maxHelperName {
			dst = appendText(dst, expHelper, name)
		}
	}
	if x.Has&ctnetlink.ExpectHasFn != 0 {
		if name := x.FnBytes(); len(name) > 0 && len(name) <= maxFnName {
			dst = appendText(dst, expFn, name)
		}
	}
	setLength(dst, start)
	return dst, nil
}

// appendExpectNAT appends the expected flow's translation. Only the source half of the
// tuple has a meaning; the other half is sent as zeroes.
func appendExpectNAT(dst []byte, x *ctnetlink.Expect, ports bool) []byte {
	t := &x.NATTuple
	if t.Family == nl.FamilyIPv4 {
		dst = append(appendAttr(dst, expNATIPv4, 8), t.Src[:4]...)
		dst = append(dst, 0, 0, 0, 0)
	}
	dst = appendU8(dst, expNATProto, t.Proto)
	if ports {
		dst = appendPorts(dst, expNATPorts, t.SrcPort, 0)
	}
	return appendU32(dst, expNATDir, x.NATDir)
}

// expectTuples reports whether x's three tuples are complete, with ports where the
// master's protocol has them, and of one family.
func expectTuples(x *ctnetlink.Expect, ports bool) bool {
	need := ctnetlink.TupleAddrs | ctnetlink.TupleProto
	if ports {
		need |= ctnetlink.TuplePorts
	}
	family := x.Master.Family
	return x.Master.Has&x.Tuple.Has&x.Mask.Has&need == need && family != nl.FamilyUnspec &&
		x.Tuple.Family == family && x.Mask.Family == family
}

// ParseExpect decodes the attributes of an expectation message into x, which it
// resets first. Every error is a PayloadError; x is then undefined.
func ParseExpect(body []byte, x *ctnetlink.Expect) error {
	x.Reset()
	nat := natSeen(0)
	for {
		num, p, rest, ok, err := nextAttr(body, expectSizes[:])
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		body = rest
		if err := storeExpectAttr(x, num, p, &nat); err != nil {
			return err
		}
	}
	for _, t := range [...]*ctnetlink.Tuple{&x.Master, &x.Tuple, &x.Mask} {
		if t.Has&ctnetlink.TupleAddrs == 0 {
			return ErrNoAddress
		}
		if t.Has&ctnetlink.TupleProto == 0 {
			return ErrNoProto
		}
		if t.Family != x.Master.Family {
			return ErrFamily
		}
	}
	if !expectTuples(x, hasWirePorts(x.Master.Proto)) {
		return ErrNoPorts
	}
	return finishExpectNAT(x, nat)
}

// natSeen records which NAT attributes a message had.
type natSeen uint8

const (
	natAddr natSeen = 1 << iota
	natProto
	natDir
)

func storeExpectAttr(x *ctnetlink.Expect, num int, p []byte, nat *natSeen) error {
	switch num {
	case expMasterIPv4, expMasterIPv6:
		parseAddrs(&x.Master, p)
	case expMasterProto:
		parseProto(&x.Master, p)
	case expMasterPorts:
		parsePorts(&x.Master, p)
	case expTupleIPv4, expTupleIPv6:
		parseAddrs(&x.Tuple, p)
	case expTupleProto:
		parseProto(&x.Tuple, p)
	case expTuplePorts:
		parsePorts(&x.Tuple, p)
	case expMaskIPv4, expMaskIPv6:
		parseAddrs(&x.Mask, p)
	case expMaskProto:
		parseProto(&x.Mask, p)
	case expMaskPorts:
		parsePorts(&x.Mask, p)
	case expTimeout:
		x.Timeout = binary.BigEndian.Uint32(p)
		x.Has |= ctnetlink.ExpectHasTimeout
	case expFlags:
		x.Flags = binary.BigEndian.Uint32(p)
		x.Has |= ctnetlink.ExpectHasFlags
	case expClass:
		x.Class = binary.BigEndian.Uint32(p)
		x.Has |= ctnetlink.ExpectHasClass
	case expNATIPv4:
		parseAddrs(&x.NATTuple, p)
		*nat |= natAddr
	case expNATPorts:
		parsePorts(&x.NATTuple, p)
	case expNATProto:
		parseProto(&x.NATTuple, p)
		*nat |= natProto
	case expNATDir:
		x.NATDir = binary.BigEndian.Uint32(p)
		*nat |= natDir
	case expHelper:
		switch n := parseText(x.Helper[:], p); {
		case n < 0:
			return ErrAttrValue
		case n > 0:
			x.Has |= ctnetlink.ExpectHasHelper
		}
	case expFn:
		switch n := parseText(x.Fn[:], p); {
		case n < 0:
			return ErrAttrValue
		case n > 0:
			x.Has |= ctnetlink.ExpectHasFn
		}
	}
	return nil
}

// finishExpectNAT completes the translation. A kernel needs the whole tuple; the wire
// has no IPv6 address, and the unspecified address stands in for it, as in the
// expectations of helpers that translate only the port.
func finishExpectNAT(x *ctnetlink.Expect, nat natSeen) error {
	if nat&(natProto|natDir) != natProto|natDir {
		x.NATTuple, x.NATDir = ctnetlink.Tuple{}, 0
		return nil
	}
	if x.NATDir > 1 {
		return ErrAttrValue
	}
	t := &x.NATTuple
	if nat&natAddr != 0 && t.Family != x.Master.Family {
		return ErrFamily
	}
	t.Family = x.Master.Family
	t.Has |= ctnetlink.TupleAddrs
	if hasPortsOrKeys(t.Proto) {
		t.Has |= ctnetlink.TuplePorts
	}
	x.Has |= ctnetlink.ExpectHasNAT
	return nil
}
