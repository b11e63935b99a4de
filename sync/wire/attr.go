package wire

import (
	"bytes"
	"encoding/binary"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// attrHeaderLen is the size of an attribute's length and number.
const attrHeaderLen = 4

// PayloadError is the reason why the attributes of a message, and with them the whole message,
// are refused. It counts as Counters.BadPayload.
type PayloadError string

func (e PayloadError) Error() string { return "malformed payload: " + string(e) }

// Reasons to refuse a message's attributes. The C daemon checks only the first three.
// A flow that fails the others cannot be committed, and one without addresses crashes a
// C daemon that dumps its cache.
const (
	ErrAttrLength PayloadError = "attribute length is beyond the message or below 4"
	ErrAttrNumber PayloadError = "unknown attribute number"
	ErrAttrSize   PayloadError = "attribute has the wrong size for its number"
	ErrAttrValue  PayloadError = "attribute value is out of range"
	ErrNoAddress  PayloadError = "no addresses"
	ErrNoProto    PayloadError = "no layer-4 protocol"
	ErrNoPorts    PayloadError = "no ports, or no ICMP type, code and identifier"
	ErrFamily     PayloadError = "addresses of two families"
)

// IncompleteError names what a flow or expectation lacks that a receiver needs.
type IncompleteError string

func (e IncompleteError) Error() string { return "cannot be replicated: " + string(e) }

// Reasons for Encoder's methods to refuse an object.
const (
	ErrIncompleteTuple  IncompleteError = "addresses, protocol or ports are unknown"
	ErrIncompleteExpect IncompleteError = "master, expected tuple or mask are unknown"
)

// attrSize is the size rule of one attribute number: the payload's exact size, or with
// atMost the largest size.
type attrSize struct {
	size   int
	atMost bool
}

func (s attrSize) accepts(n int) bool { return n == s.size || s.atMost && n < s.size }

// nextAttr splits one attribute off b. At the end ok is false; up to 4 trailing bytes,
// too few for an attribute with a payload, are ignored. sizes is the table of the number
// space.
func nextAttr(b []byte, sizes []attrSize) (num int, payload, rest []byte, ok bool, err error) {
	if len(b) <= attrHeaderLen {
		return 0, nil, nil, false, nil
	}
	n := int(binary.BigEndian.Uint16(b))
	num = int(binary.BigEndian.Uint16(b[2:]))
	if n < attrHeaderLen || n > len(b) {
		return 0, nil, nil, false, ErrAttrLength
	}
	if num >= len(sizes) {
		return 0, nil, nil, false, ErrAttrNumber
	}
	payload = b[attrHeaderLen:n]
	if !sizes[num].accepts(len(payload)) {
		return 0, nil, nil, false, ErrAttrSize
	}
	return num, payload, b[min(align4(n), len(b)):], true, nil
}

func align4(n int) int { return (n + 3) &^ 3 }

func appendAttr(dst []byte, num uint16, payload int) []byte {
	return append(dst, byte((attrHeaderLen+payload)>>8), byte(attrHeaderLen+payload), byte(num>>8), byte(num))
}

func appendU8(dst []byte, num uint16, v uint8) []byte {
	return append(appendAttr(dst, num, 1), v, 0, 0, 0)
}

func appendU16(dst []byte, num, v uint16) []byte {
	return append(appendAttr(dst, num, 2), byte(v>>8), byte(v), 0, 0)
}

// appendU16LE appends one of the three attributes that the C daemon byte-swaps twice.
func appendU16LE(dst []byte, num, v uint16) []byte {
	return append(appendAttr(dst, num, 2), byte(v), byte(v>>8), 0, 0)
}

func appendU32(dst []byte, num uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(appendAttr(dst, num, 4), v)
}

func appendPorts(dst []byte, num uint16, src, dst16 uint16) []byte {
	return append(appendAttr(dst, num, 4), byte(src>>8), byte(src), byte(dst16>>8), byte(dst16))
}

// appendAddrs appends a tuple's two addresses as num4 or num6, according to the family.
func appendAddrs(dst []byte, num4, num6 uint16, t *ctnetlink.Tuple) []byte {
	num, n := num4, 4
	if t.Family == nl.FamilyIPv6 {
		num, n = num6, 16
	}
	dst = appendAttr(dst, num, 2*n)
	dst = append(dst, t.Src[:n]...)
	return append(dst, t.Dst[:n]...)
}

// appendAddr appends one address as num4 or num6, according to the family.
func appendAddr(dst []byte, num4, num6 uint16, family uint8, a *ctnetlink.Addr) []byte {
	if family == nl.FamilyIPv6 {
		return append(appendAttr(dst, num6, 16), a[:]...)
	}
	return append(appendAttr(dst, num4, 4), a[:4]...)
}

// appendText appends text with its final NUL, padded.
func appendText(dst []byte, num uint16, text []byte) []byte {
	n := len(text) + 1
	dst = append(appendAttr(dst, num, n), text...)
	for i := len(text); i < align4(n); i++ {
		dst = append(dst, 0)
	}
	return dst
}

// parseAddrs stores two addresses, 4 or 16 bytes each.
func parseAddrs(t *ctnetlink.Tuple, p []byte) {
	n := len(p) / 2
	t.Src, t.Dst = ctnetlink.Addr{}, ctnetlink.Addr{}
	copy(t.Src[:], p[:n])
	copy(t.Dst[:], p[n:])
	t.Family = familyOf(n)
	t.Has |= ctnetlink.TupleAddrs
}

func familyOf(addrLen int) uint8 {
	if addrLen == 16 {
		return nl.FamilyIPv6
	}
	return nl.FamilyIPv4
}

func parseProto(t *ctnetlink.Tuple, p []byte) {
	t.Proto = p[0]
	t.Has |= ctnetlink.TupleProto
}

func parsePorts(t *ctnetlink.Tuple, p []byte) {
	t.SrcPort = binary.BigEndian.Uint16(p)
	t.DstPort = binary.BigEndian.Uint16(p[2:])
	t.Has |= ctnetlink.TuplePorts
}

// parseText copies NUL-terminated text into dst, zeroes the rest of dst, and returns the
// text's length. It returns -1 if the NUL is missing or dst is too small for text and NUL.
func parseText(dst, p []byte) int {
	n := bytes.IndexByte(p, 0)
	if n < 0 || n >= len(dst) {
		return -1
	}
	clear(dst[copy(dst, p[:n]):])
	return n
}

// hasWirePorts reports whether flows of the protocol carry a PORT attribute: all that
// have ports except UDP-Lite, whose ports the C daemon does not send.
func hasWirePorts(proto uint8) bool {
	switch proto {
	case ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoSCTP, ctnetlink.ProtoDCCP:
		return true
	}
	return false
}
