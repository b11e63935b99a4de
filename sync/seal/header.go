package seal

import "encoding/binary"

// Version is the version of the datagrams, in the upper half of their first byte. Datagrams
// of version 1 begin with 0x10 or 0x1a.
const Version = 2

// HeaderLen and TagLen are what a sealed datagram has beside its payload. A plain datagram
// has no tag.
const (
	HeaderLen = 28
	TagLen    = 16
)

// Kind says what a datagram carries.
type Kind uint8

// The kinds, in the lower half of a datagram's first byte.
const (
	Plain     Kind = iota // messages in the clear
	Sealed                // messages, sealed
	Challenge             // a challenge (see Session), sealed where the sender has a key
)

// BootID identifies a life of a sender. It is random, and with the counter it makes the nonce
// of a datagram.
type BootID [16]byte

// Header is the start of a datagram. All of it is authenticated where the datagram is sealed.
//
//	0  version (4 bits), kind (4 bits)     1  number of the key; 0 for none
//	2  number of the sending node, 1..16   3  flags, which this package only carries
//	4  boot id                            20  counter, 8 bytes, big endian
type Header struct {
	Kind    Kind
	Key     uint8
	Node    uint8
	Flags   uint8
	Boot    BootID
	Counter uint64
}

// Append appends the header's bytes.
func (h *Header) Append(dst []byte) []byte {
	dst = append(dst, Version<<4|uint8(h.Kind), h.Key, h.Node, h.Flags)
	dst = append(dst, h.Boot[:]...)
	return binary.BigEndian.AppendUint64(dst, h.Counter)
}

// ParseHeader reads the header of a datagram. ok is false if b is too short or has another
// version or an unknown kind.
func ParseHeader(b []byte) (h Header, ok bool) {
	if len(b) < HeaderLen || b[0]>>4 != Version || Kind(b[0]&0xf) > Challenge {
		return Header{}, false
	}
	h = Header{Kind: Kind(b[0] & 0xf), Key: b[1], Node: b[2], Flags: b[3], Counter: binary.BigEndian.Uint64(b[20:])}
	copy(h.Boot[:], b[4:])
	return h, true
}

// IsVersion2 reports whether a datagram begins as one of version 2.
func IsVersion2(b []byte) bool { return len(b) > 0 && b[0]>>4 == Version }
