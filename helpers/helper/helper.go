// Package helper is what a user-space helper is written with: the packet that it
// reads, and the answer that it gives. A helper is one folder below helpers with
// one pure function from Packet to Answer; sockets, expectations in the kernel,
// free ports and checksums are the business of package helpers.
//
// Nothing here does any I/O, and nothing may: what a helper does can be tested,
// and fuzzed, with bytes alone.
package helper

import (
	"net/netip"
	"slices"
	"time"
)

// Helper describes a user-space helper. It is a value that never changes; what
// it remembers of a flow is in the flow's private data.
type Helper struct {
	// Name is that of the kernel's helper object, at most 15 bytes, and of its
	// only policy.
	Name string
	// Protocols are the layer-4 protocols that it reads: IPPROTO_TCP,
	// IPPROTO_UDP or both. An object of the kernel is for one of them.
	Protocols []uint8
	// Families are the layer-3 protocols over which it expects anything: nl.FamilyIPv4,
	// nl.FamilyIPv6 or both. An object of the kernel is for one of them.
	Families []uint8
	// PrivateLen is the number of bytes, at most 32, that the kernel keeps for
	// each flow. It is part of the kernel's object and equal to conntrack-tools',
	// so that an object which one program made serves the other.
	PrivateLen int
	// ExpectMax and ExpectTimeout are the policy where the configuration has no
	// other: expectations that a flow may have at a time, and their life in whole
	// seconds.
	ExpectMax     uint32
	ExpectTimeout time.Duration
	// Read reads one packet of a flow that has this helper and says in a what is
	// to be done. It is called with an empty Answer, for every packet in the
	// order of the queue, from one goroutine; it keeps neither p nor a. Whatever
	// it does not understand it leaves alone: an empty Answer accepts the packet
	// as it is.
	Read func(p *Packet, a *Answer)

	// Ours marks a helper that conntrack-tools does not have. The tests that compare
	// with its programs leave it out, and docs/differences.md lists it.
	Ours bool
	// Doc is what the pages about helpers are generated from.
	Doc Doc
}

// Doc is a helper's row in docs/helpers.md.
type Doc struct {
	Port    uint16 // of the service
	NAT     bool   // expected flows are translated as the announcing flow is
	Reads   string // the messages that announce a flow
	Expects string // the flows that they announce
	// Rule is the iptables rule that assigns the helper. Empty is the usual one, which
	// matches the first of Protocols and Port.
	Rule string
}

// Supports reports whether the helper expects anything over that layer-3 protocol.
func (h *Helper) Supports(family uint8) bool { return slices.Contains(h.Families, family) }

// Direction is that of a packet in its flow.
type Direction uint8

// Original is the direction of a flow's first packet.
const (
	Original Direction = iota
	Reply
)

// Other returns the opposite direction.
func (d Direction) Other() Direction { return 1 - d }

// Info is the state of a packet in its flow, as the kernel has it (enum
// ip_conntrack_info).
type Info uint32

// Values of Info.
const (
	Established      Info = 0 // original direction, after an answer was seen
	Related          Info = 1 // first packet of an expected flow
	New              Info = 2 // original direction, no answer yet
	EstablishedReply Info = 3
	RelatedReply     Info = 4
)

// Direction returns the packet's direction.
func (i Info) Direction() Direction {
	if i >= EstablishedReply {
		return Reply
	}
	return Original
}

// Answer is what a helper wants done. An empty one accepts the packet.
type Answer struct {
	// Drop discards the packet, and with it everything else here and what was
	// changed of the private data: its sender may send it again, and then it is
	// read as for the first time. A packet that OnRefusal drops is the same.
	Drop bool
	// Timeout, if not zero, becomes the flow's timeout, in whole seconds.
	Timeout time.Duration
	// Expect are the expectations to be made before the packet goes on, at most
	// ExpectMax of the policy at a time; the kernel drops the oldest beyond.
	// Where one cannot be made, OnRefusal decides about the packet. One with more
	// than MaxExpect passes without any of them.
	Expect []Expectation
	// OnRefusal says what becomes of a packet whose expectations the kernel does
	// not take. DropPacket lets TCP send it again; the default accepts it.
	OnRefusal Refusal
}

// MaxExpect is how many expectations a packet may announce. No protocol here has
// use for more than three; each costs requests to the kernel, dozens if somebody
// has taken the ports, and the packet's sender decides how many there are.
const MaxExpect = 8

// Refusal is what becomes of a packet when an expectation could not be made.
type Refusal uint8

// Values of Answer.OnRefusal.
const (
	AcceptPacket Refusal = iota
	DropPacket
)

// Reset empties a and keeps its memory.
func (a *Answer) Reset() {
	clear(a.Expect)
	*a = Answer{Expect: a.Expect[:0]}
}

// Expectation is a flow that a packet announces, as it will arrive at the
// firewall. Its addresses are of the family of the flow that announces it.
type Expectation struct {
	Protocol uint8 // IPPROTO_TCP or IPPROTO_UDP
	// Src is where it comes from: an invalid address is any, port 0 is any.
	Src netip.AddrPort
	// Dst is where it goes, without an exception: the kernel compares all of it.
	Dst netip.AddrPort
	// Permanent expectations stay after a match, until they expire
	// (NF_CT_EXPECT_PERMANENT).
	Permanent bool
	// Helper names the helper of the expected flow, "" for none.
	Helper string
	// NAT says how the expected flow is translated if the announcing flow is; nil
	// leaves that to the firewall's rules.
	NAT *NAT
	// Announced is where the packet has Dst's port, and address, as text or
	// number. If the announcing flow is translated, what stands there is replaced,
	// and Dst's port may become another one that is free. Needs NAT.
	Announced *Announced
}

// NAT is the translation of an expected flow after the pattern of the flow that
// announced it: the kernel's nat-follow-master. Its source becomes what the
// announcing flow's tuple of the direction opposite to Dir has as destination,
// its destination that tuple's source, its destination port Port.
type NAT struct {
	// Dir is the direction that the kernel keeps with the expectation
	// (CTA_EXPECT_NAT_DIR): that of the expected flow in terms of the announcing
	// one, so commonly the opposite of the packet's.
	Dir Direction
	// Port is the one on which the receiving host waits.
	Port uint16
	// Follow names another function of the kernel for it, "" for
	// nat-follow-master. Where the module that brings it is not loaded,
	// nat-follow-master takes its place.
	Follow string
	// Addr is the address of the receiving host, for functions other than
	// nat-follow-master: sip makes it the destination of the expected flow, and
	// leaves alone a source that the announcing flow does not know.
	Addr netip.Addr
}

// Announced is a part of a packet's payload that tells the port of an
// expectation, and its address.
type Announced struct {
	At, Len int // offset in Packet.Payload, and length, of what is replaced
	// Append appends what stands there instead. The address is where the other
	// host sees the receiving one: the destination of the flow's tuple of the
	// opposite direction.
	Append func(dst []byte, to netip.AddrPort) []byte
	// Fix, if not nil, mends what else depends on the length: it may change
	// payload, the new one, in place. grown is how many bytes longer it is than
	// the old, negative if shorter.
	Fix func(payload []byte, grown int)
}
