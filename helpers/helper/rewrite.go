package helper

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"ctbox/nl/nfqueue"
)

// Edit replaces a part of a packet's payload.
type Edit struct {
	At, Len int    // offset and length of the part in the old payload
	Text    []byte // the replacement
	Fix     func(payload []byte, grown int)
}

// AppendEdits appends the changes of the payload that announce to.
func (e *Expectation) AppendEdits(dst []Edit, to netip.AddrPort) []Edit {
	for a := e.Announced; a != nil; a = a.Next {
		dst = append(dst, Edit{At: a.At, Len: a.Len, Text: a.Append(nil, to), Fix: a.Fix})
	}
	return dst
}

// SortEdits puts edits into the order of their offsets, as AppendPayload needs them.
func SortEdits(edits []Edit) {
	slices.SortStableFunc(edits, func(a, b Edit) int { return a.At - b.At })
}

// Errors of Rewrite.
var (
	ErrEdit    = errors.New("parts to be replaced overlap or lie outside of the packet")
	ErrTooLong = errors.New("rewritten packet is longer than 65531 bytes")
	// ErrRedirected is about a packet whose IP header does not have the addresses of its ends.
	ErrRedirected = errors.New("its checksum is for other addresses than its IP header's (source route, routing header or home address)")
)

// AppendPayload appends payload with the edits applied. The edits must be in the order of
// their offsets. The Fix functions run afterwards, each with the growth of the whole payload.
func AppendPayload(dst, payload []byte, edits []Edit) ([]byte, error) {
	start, done := len(dst), 0
	for _, e := range edits {
		if e.At < done || e.Len < 0 || e.At > len(payload)-e.Len {
			return dst[:start], ErrEdit
		}
		dst = append(append(dst, payload[done:e.At]...), e.Text...)
		done = e.At + e.Len
	}
	dst = append(dst, payload[done:]...)
	for _, e := range edits {
		if e.Fix != nil {
			e.Fix(dst[start:], len(dst)-start-len(payload))
		}
	}
	return dst, nil
}

// Rewrite appends the packet with the edits applied to its payload, and sets the lengths
// and checksums to match. p must have been parsed. A UDP packet that came without a
// checksum gets one. A packet with a source route, a routing header with segments left or
// a Home Address option is refused: the addresses in its header are not those of its
// checksum, nor those that NAT has to agree with.
func (p *Packet) Rewrite(dst []byte, edits []Edit) ([]byte, error) {
	if p.redirected {
		return dst, ErrRedirected
	}
	start := len(dst)
	dst = append(dst, p.ip[:p.payload]...)
	dst, err := AppendPayload(dst, p.Payload, edits)
	if err != nil {
		return dst[:start], err
	}
	b := dst[start:]
	if len(b) > nfqueue.MaxPacket {
		return dst[:start], ErrTooLong
	}
	var pseudo uint32 // of the pseudo header's addresses
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		header := b[:int(b[0]&0xf)*4]
		binary.BigEndian.PutUint16(header[10:], 0)
		binary.BigEndian.PutUint16(header[10:], ^fold(sum(0, header)))
		pseudo = sum(0, b[12:20])
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		pseudo = sum(0, b[8:40])
	}
	l4 := b[p.l4:]
	at := 16 // of the checksum in a TCP header
	if p.Protocol == unix.IPPROTO_UDP {
		at = 6
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	binary.BigEndian.PutUint16(l4[at:], 0)
	check := ^fold(sum(uint32(fold(pseudo))+uint32(p.Protocol)+uint32(len(l4)), l4))
	if check == 0 && p.Protocol == unix.IPPROTO_UDP {
		check = 0xffff // 0 means no checksum (RFC 768)
	}
	binary.BigEndian.PutUint16(l4[at:], check)
	return dst, nil
}

// sum adds the 16-bit words of b (RFC 1071). The sum of a packet of at most
// 65535 bytes fits.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
