// Package wire encodes and decodes the state replication protocol (docs/sync-protocol.md):
// version 1, which conntrack-tools' conntrackd speaks, and version 2, whose types begin with
// Stream and whose functions have Compact in their names.
//
// A message of version 1 is a header of 8 bytes (16 for acknowledgements, negative
// acknowledgements, resync requests and the marks around a bulk) and, for data,
// attributes: length, number, payload, padding to 4. An ALIVE of ctbox may have a
// body, see Notice. Messages follow each other without separators, in a datagram or
// in a TCP stream.
//
// Encoding appends to the caller's buffer, decoding fills the caller's ctnetlink.Flow or
// ctnetlink.Expect, so neither allocates. The package has no sockets and no clock; which
// message to send when is up to package proto.
//
// Byte order: everything is big-endian except, in version 1, three 16-bit attributes, the translated
// ports and the ICMP identifier. The C daemon byte-swaps those twice, so that they are
// little-endian on the little-endian machines where it runs; this package reads and
// writes them little-endian on every machine.
package wire

import "encoding/binary"

// Version is the protocol's version, the high nibble of a message's first byte.
const Version = 1

// Type is the low nibble of a message's first byte: what the message carries.
type Type uint8

// Message types. An update of a flow or expectation that the receiver does not know
// creates it.
const (
	FlowNew      Type = 0
	FlowUpdate   Type = 1
	FlowDelete   Type = 2
	ExpectNew    Type = 3
	ExpectUpdate Type = 4
	ExpectDelete Type = 5
	Control      Type = 10
)

// IsFlow reports whether messages of type t carry a flow.
func (t Type) IsFlow() bool { return t <= FlowDelete }

// IsExpect reports whether messages of type t carry an expectation.
func (t Type) IsExpect() bool { return t >= ExpectNew && t <= ExpectDelete }

// Flags is the header's second byte.
type Flags uint8

// Header flags. Hello and HelloBack may be set on any message, the others belong to
// control messages. BulkBegin and BulkEnd are ctbox's own: they accompany Alive, where a
// C daemon ignores them.
const (
	BulkBegin Flags = 0x01 // everything I have follows
	Resync    Flags = 0x02 // send me everything
	Nack      Flags = 0x04 // sequence numbers From to To are missing here
	Ack       Flags = 0x08 // sequence numbers From to To have arrived here
	Alive     Flags = 0x10 // a sign of life
	Hello     Flags = 0x20 // I have just started
	HelloBack Flags = 0x40 // answer to a Hello
	BulkEnd   Flags = 0x80 // that was everything
)

// ranged are the control flags whose header carries From and To.
const ranged = Resync | Nack | Ack

// HeaderLen and RangedHeaderLen are the sizes of the two headers in bytes.
const (
	HeaderLen       = 8
	RangedHeaderLen = 16
)

// Seq is a message's sequence number. A process numbers all messages that it sends, of
// any type and over any link, starting from the time of its start; numbers wrap around.
type Seq uint32

// Before reports whether s was assigned before t, for numbers less than 2^31 apart, also
// across the wrap-around.
func (s Seq) Before(t Seq) bool { return int32(s-t) < 0 }

// After reports whether s was assigned after t.
func (s Seq) After(t Seq) bool { return t.Before(s) }

// Header is a message's header without its length and version.
type Header struct {
	Type  Type
	Flags Flags
	Seq   Seq
	// From and To are the first and last sequence number, both included, of a
	// control message with Ack or Nack; both are 0 with Resync. With BulkBegin
	// and BulkEnd they number the bulk.
	From, To Seq
}

// Ranged reports whether the header has From and To, and so 16 bytes.
func (h Header) Ranged() bool { return h.Type == Control && (h.Flags&ranged != 0 || h.IsMark()) }

// IsMark reports whether the message is the beginning or end of a bulk.
func (h Header) IsMark() bool {
	return h.Type == Control && h.Flags&Alive != 0 && h.Flags&(BulkBegin|BulkEnd) != 0
}

// Kind is the class of a message by which a receiver acts.
type Kind uint8

// Kinds of messages. KindInvalid is any combination of type and flags without a meaning.
const (
	KindInvalid Kind = iota
	KindData
	KindAck
	KindNack
	KindResync
	KindAlive
)

// Kind classifies the message. Where several control flags are set the first in
// the order Ack, Nack, Resync, Alive decides, as in the C daemon. Hello and HelloBack do
// not matter here: messages of any kind may have them.
func (h Header) Kind() Kind {
	switch {
	case h.Type <= ExpectDelete && h.Flags&^(Hello|HelloBack) == 0:
		return KindData
	case h.Type != Control:
		return KindInvalid
	case h.Flags&Ack != 0:
		return KindAck
	case h.Flags&Nack != 0:
		return KindNack
	case h.Flags&Resync != 0:
		return KindResync
	case h.Flags&Alive != 0:
		return KindAlive
	}
	return KindInvalid
}

// AppendControl appends the control message that h describes. h.Type must be
// Control.
func AppendControl(dst []byte, h Header) []byte {
	if !h.Ranged() {
		return appendHeader(dst, h, HeaderLen)
	}
	dst = appendHeader(dst, h, RangedHeaderLen)
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.From))
	return binary.BigEndian.AppendUint32(dst, uint32(h.To))
}

// appendHeader appends the part that all headers share. length is that of the
// whole message in bytes, this header included.
func appendHeader(dst []byte, h Header, length uint16) []byte {
	dst = append(dst, Version<<4|byte(h.Type), byte(h.Flags))
	dst = binary.BigEndian.AppendUint16(dst, length)
	return binary.BigEndian.AppendUint32(dst, uint32(h.Seq))
}

// setLength fills in the length of the message that starts at start and ends
// with msg.
func setLength(msg []byte, start int) {
	binary.BigEndian.PutUint16(msg[start+2:], uint16(len(msg)-start))
}
