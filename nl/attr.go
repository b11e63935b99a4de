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
	// AttrHeaderLen is the size of struct nlattr.
	AttrHeaderLen = 4

	attrNested   = 0x8000
	attrTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
)

// Align rounds n up to the alignment of netlink messages and attributes.
func Align(n int) int { return (n + 3) &^ 3 }

// Attrs walks netlink attributes:
//
//	for a := (nl.Attrs{Rest: b}); a.Next(); {
//		switch a.Type { … }
//	}
//
// Value points into Rest.
type Attrs struct {
	Rest  []byte // not read yet
	Type  uint16 // of the current attribute, without its flag bits
	Value []byte // its payload
	Bad   bool   // the bytes ended in the middle of an attribute
}

// Next reads the next attribute and reports whether there was one.
func (a *Attrs) Next() bool {
	b := a.Rest
	if len(b) < AttrHeaderLen {
		// Up to three bytes may be padding.
		return false
	}
	n := int(native.Uint16(b))
	if n < AttrHeaderLen || n > len(b) {
		a.Bad = true
		return false
	}
	a.Type = native.Uint16(b[2:]) & attrTypeMask
	a.Value = b[AttrHeaderLen:n]
	a.Rest = b[min(Align(n), len(b)):]
	return true
}

// AttrError reports a message from the kernel that can't be decoded: an attribute
// too short for its type, or bytes that are not attributes at all.
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

// Short returns the error for a current attribute that is too short for its type.
func (a *Attrs) Short(object string) error {
	return &AttrError{Object: object, Attr: a.Type, Len: len(a.Value)}
}

// End returns the error, if any, with which a walk over object ended.
func (a *Attrs) End(object string) error {
	if a.Bad {
		return &AttrError{Object: object}
	}
	return nil
}

// AppendAttrHeader appends the header of an attribute with a payload of that many
// bytes, which the caller appends, padded to 4.
func AppendAttrHeader(dst []byte, typ uint16, payload int) []byte {
	dst = native.AppendUint16(dst, uint16(AttrHeaderLen+payload))
	return native.AppendUint16(dst, typ)
}

// AppendU8 appends an attribute of one byte.
func AppendU8(dst []byte, typ uint16, v uint8) []byte {
	return append(AppendAttrHeader(dst, typ, 1), v, 0, 0, 0)
}

// AppendU16 appends an attribute of 16 bits in network order.
func AppendU16(dst []byte, typ uint16, v uint16) []byte {
	return append(be.AppendUint16(AppendAttrHeader(dst, typ, 2), v), 0, 0)
}

// AppendU32 appends an attribute of 32 bits in network order.
func AppendU32(dst []byte, typ uint16, v uint32) []byte {
	return be.AppendUint32(AppendAttrHeader(dst, typ, 4), v)
}

// AppendU64 appends an attribute of 64 bits in network order.
func AppendU64(dst []byte, typ uint16, v uint64) []byte {
	return be.AppendUint64(AppendAttrHeader(dst, typ, 8), v)
}

// AppendBytes appends an attribute of any length, padded with zeros.
func AppendBytes(dst []byte, typ uint16, v []byte) []byte {
	dst = append(AppendAttrHeader(dst, typ, len(v)), v...)
	for n := len(v); n&3 != 0; n++ {
		dst = append(dst, 0)
	}
	return dst
}

// AppendString appends a text with the final NUL that the kernel expects.
func AppendString(dst []byte, typ uint16, v []byte) []byte {
	dst = append(AppendAttrHeader(dst, typ, len(v)+1), v...)
	dst = append(dst, 0)
	for n := len(v) + 1; n&3 != 0; n++ {
		dst = append(dst, 0)
	}
	return dst
}

// BeginNest opens a nested attribute; EndNest, given the offset it returned,
// closes it.
func BeginNest(dst []byte, typ uint16) ([]byte, int) {
	return AppendAttrHeader(dst, typ|attrNested, 0), len(dst)
}

// EndNest closes the nested attribute that BeginNest opened at offset at.
func EndNest(dst []byte, at int) []byte {
	native.PutUint16(dst[at:], uint16(len(dst)-at))
	return dst
}
