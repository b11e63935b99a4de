// Package helper defines user-space helpers: the packet that a helper reads and the answer
// that it returns. A helper is one package below helpers with one pure function from Packet
// to Answer; package helpers does the sockets, the kernel's expectations, free ports and
// checksums.
//
// Neither this package nor a helper does any I/O, so both are tested and fuzzed with bytes
// alone.
package helper

import (
	"net/netip"
	"slices"
	"time"
)

// Helper describes a user-space helper. It never changes; a helper's state for a flow is in
// the flow's private data.
type Helper struct {
	// Name is the name of the kernel's helper object, at most 15 bytes, and of its only
	// policy.
	Name string
	// Protocols are the layer-4 protocols that it reads: IPPROTO_TCP, IPPROTO_UDP or both.
	// Each has a helper object of its own in the kernel.
	Protocols []uint8
	// Families are the layer-3 protocols over which it expects flows: nl.FamilyIPv4,
	// nl.FamilyIPv6 or both. Each has a helper object of its own in the kernel.
	Families []uint8
	// PrivateLen is the size of a flow's private data in the kernel, at most 32 bytes. It is
	// part of the helper object, and the same as in conntrack-tools, so that an object
	// which one program created serves the other.
	PrivateLen int
	// ExpectMax and ExpectTimeout are the default policy: the number of expectations that a
	// flow may have at a time, and their lifetime in whole seconds.
	ExpectMax     uint32
	ExpectTimeout time.Duration
	// Read reads one packet of a flow with this helper and fills in a, which is empty. It is
	// called for every packet in the order of the queue, from one goroutine, and must keep
	// neither p nor a. It leaves a empty for packets that it does not understand: they are
	// accepted unchanged.
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

// Supports reports whether the helper expects flows over that layer-3 protocol.
func (h *Helper) Supports(family uint8) bool { return slices.Contains(h.Families, family) }

// Direction is the direction of a packet in its flow.
type Direction uint8

// Original is the direction of a flow's first packet.
const (
	Original Direction = iota
	Reply
)

// Other returns the opposite direction.
func (d Direction) Other() Direction { return 1 - d }

// Info is the state of a packet in its flow (the kernel's enum ip_conntrack_info).
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

// Answer is a helper's answer to a packet. The empty Answer accepts the packet unchanged.
type Answer struct {
	// Drop drops the packet. The rest of the answer and changes of the private data are
	// discarded, so that a retransmission is read like the first transmission. The same
	// goes for a packet that OnRefusal drops.
	Drop bool
	// Timeout is the flow's new timeout in whole seconds; zero leaves it.
	Timeout time.Duration
	// Expect are the expectations to create before the packet is accepted. Beyond the
	// policy's ExpectMax the kernel drops the oldest. If one cannot be created, OnRefusal
	// decides about the packet. With more than MaxExpect the packet is accepted and none
	// is created.
	Expect []Expectation
	// OnRefusal is the verdict on a packet whose expectations the kernel refuses. The
	// default accepts it; DropPacket makes TCP retransmit it.
	OnRefusal Refusal
	// Edits are changes of the payload that depend on no expectation, in any order. They must
	// not overlap each other or an Announced part. If the flow is not translated there are none.
	Edits []Edit
	// Forget removes the flow's expectations that no flow has met yet, before those of Expect
	// are created.
	Forget bool
}

// MaxExpect is how many expectations a packet may announce, one for each port. The packet's
// sender chooses the number, and each costs requests to the kernel, dozens if its ports are
// taken. RTSP needs most of them: two for each stream of a session.
const MaxExpect = 8

// Count returns how many expectations of the kernel a has.
func (a *Answer) Count() (n int) {
	for i := range a.Expect {
		n += a.Expect[i].Span()
	}
	return n
}

// Refusal is the verdict on a packet whose expectation could not be created.
type Refusal uint8

// Values of Answer.OnRefusal.
const (
	AcceptPacket Refusal = iota
	DropPacket
)

// Reset empties a and keeps its memory for reuse.
func (a *Answer) Reset() {
	clear(a.Expect)
	clear(a.Edits)
	*a = Answer{Expect: a.Expect[:0], Edits: a.Edits[:0]}
}

// Expectation is a flow that a packet announces, as it will arrive at the firewall. Its
// addresses have the family of the announcing flow.
type Expectation struct {
	Protocol uint8 // IPPROTO_TCP or IPPROTO_UDP
	// Src is the source: an invalid address matches any, and so does port 0.
	Src netip.AddrPort
	// Dst is the destination: the kernel compares all of it.
	Dst netip.AddrPort
	// Ports is the number of consecutive ports that are expected, from Dst's; 0 is one. The
	// kernel gets an expectation for each. If one of several is taken, all are replaced by
	// free ports, of which the first is even: RTP's and RTCP's (RFC 3550, section 11).
	Ports int
	// Permanent keeps the expectation after a match, until it expires
	// (NF_CT_EXPECT_PERMANENT).
	Permanent bool
	// Helper names the helper of the expected flow; "" if it has no helper.
	Helper string
	// NAT is the translation of the expected flow if the announcing flow is translated; nil
	// leaves it to the firewall's rules.
	NAT *NAT
	// Announced is the part of the packet with Dst's port, and address. If the announcing
	// flow is translated, this part is rewritten, and if Dst's port is taken, a free one
	// replaces it. Needs NAT.
	Announced *Announced
}

// Span returns the number of ports that e is about.
func (e *Expectation) Span() int { return max(e.Ports, 1) }

// NAT is the translation of an expected flow as its announcing flow is translated: the
// kernel's nat-follow-master. With T the announcing flow's tuple of the direction opposite
// to Dir, the source becomes T's destination, the destination T's source, and the
// destination port Port.
type NAT struct {
	// Dir is the direction of the expected flow relative to the announcing one
	// (CTA_EXPECT_NAT_DIR), usually the opposite of the packet's.
	Dir Direction
	// Port is the port on which the receiving host listens, the first one of several.
	Port uint16
	// Follow names another NAT function of the kernel; "" is nat-follow-master, which also
	// replaces a function whose module is not loaded.
	Follow string
	// Addr is the address of the receiving host, for functions other than
	// nat-follow-master: sip makes it the destination of the expected flow, and leaves
	// the source unless it is an address of the announcing flow.
	Addr netip.Addr
}

// Announced is the part of a packet's payload with the port, and address, of an
// expectation.
type Announced struct {
	At, Len int // offset and length of the part in Packet.Payload
	// Append appends the replacement. to is the receiving host as the other side sees it:
	// the destination of the flow's tuple of the opposite direction, with the first port that
	// was free. Append may note the port in the flow's private data.
	Append func(dst []byte, to netip.AddrPort) []byte
	// Fix, if not nil, corrects fields that depend on the length. It changes payload, the
	// new one, in place. grown is by how many bytes it is longer than the old one, negative
	// if it is shorter.
	Fix func(payload []byte, grown int)
	// Next is another part of the packet with the same port, or nil.
	Next *Announced
}
