package nl

import (
	"encoding/binary"
	"strconv"
)

// be and native are the two byte orders of nfnetlink: attribute payloads and
// headers.
var (
	be     = binary.BigEndian
	native = binary.NativeEndian
)

const (
	attrHeader   = 4
	attrNested   = 0x8000
	attrTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

func align4(n int) int { return (n + 3) &^ 3 }

// attrs walks netlink attributes. After next returned false, bad tells whether
// the bytes ended in the middle of an attribute.
type attrs struct {
	rest []byte
	typ  uint16
	val  []byte
	bad  bool
}

func (a *attrs) next() bool {
	b := a.rest
	if len(b) < attrHeader {
		// Up to three bytes may be padding.
		return false
	}
	n := int(native.Uint16(b))
	if n < attrHeader || n > len(b) {
		a.bad = true
		return false
	}
	a.typ = native.Uint16(b[2:]) & attrTypeMask
	a.val = b[attrHeader:n]
	a.rest = b[min(align4(n), len(b)):]
	return true
}

// AttrError is a message of the kernel that this package can't read: an
// attribute too short for its type, or bytes that are no attributes at all.
type AttrError struct {
	Object string // "flow", "original tuple", …
	Attr   uint16 // number within Object; 0 when the attributes' framing is broken
	Len    int    // bytes of the attribute's payload
}

func (e *AttrError) Error() string {
	if e.Attr == 0 {
		return "decode " + e.Object + ": broken netlink attribute"
	}
	return "decode " + e.Object + ": attribute " + strconv.Itoa(int(e.Attr)) +
		" has only " + strconv.Itoa(e.Len) + " bytes"
}

func (a *attrs) short(object string) error {
	return &AttrError{Object: object, Attr: a.typ, Len: len(a.val)}
}

// end is the error, if any, with which a walk over object ended.
func (a *attrs) end(object string) error {
	if a.bad {
		return &AttrError{Object: object}
	}
	return nil
}

func appendAttrHeader(dst []byte, typ uint16, payload int) []byte {
	dst = native.AppendUint16(dst, uint16(attrHeader+payload))
	return native.AppendUint16(dst, typ)
}

func appendU8(dst []byte, typ uint16, v uint8) []byte {
	return append(appendAttrHeader(dst, typ, 1), v, 0, 0, 0)
}

func appendU16(dst []byte, typ uint16, v uint16) []byte {
	return append(be.AppendUint16(appendAttrHeader(dst, typ, 2), v), 0, 0)
}

func appendU32(dst []byte, typ uint16, v uint32) []byte {
	return be.AppendUint32(appendAttrHeader(dst, typ, 4), v)
}

func appendU64(dst []byte, typ uint16, v uint64) []byte {
	return be.AppendUint64(appendAttrHeader(dst, typ, 8), v)
}

// appendBytes appends an attribute of any length, padded with zeros.
func appendBytes(dst []byte, typ uint16, v []byte) []byte {
	dst = append(appendAttrHeader(dst, typ, len(v)), v...)
	for n := len(v); n&3 != 0; n++ {
		dst = append(dst, 0)
	}
	return dst
}

// appendString appends a text with the final NUL that the kernel expects.
func appendString(dst []byte, typ uint16, v []byte) []byte {
	dst = append(appendAttrHeader(dst, typ, len(v)+1), v...)
	dst = append(dst, 0)
	for n := len(v) + 1; n&3 != 0; n++ {
		dst = append(dst, 0)
	}
	return dst
}

// beginNest opens a nested attribute; endNest, given the offset it returned,
// closes it.
func beginNest(dst []byte, typ uint16) ([]byte, int) {
	return appendAttrHeader(dst, typ|attrNested, 0), len(dst)
}

func endNest(dst []byte, at int) []byte {
	native.PutUint16(dst[at:], uint16(len(dst)-at))
	return dst
}
