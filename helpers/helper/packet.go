package helper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Packet is a packet of a flow with a helper, as the kernel queues it: after destination
// NAT and before source NAT. It is reused, so a helper must not keep any of it.
type Packet struct {
	// Flow is the packet's flow: tuples, status and, for an expected flow, master.
	Flow *ctnetlink.Flow
	// Info is the packet's state in its flow.
	Info Info
	// Payload follows the TCP or UDP header and ends where the IP header says that the
	// packet ends. A helper only reads it.
	Payload []byte
	// Private is the flow's private data, PrivateLen bytes, all zero for a new flow. A
	// helper changes it in place, and gets it back with the flow's next packet.
	Private []byte
	// Protocol is IPPROTO_TCP or IPPROTO_UDP.
	Protocol uint8
	// Seq is the TCP sequence number of Payload's first byte, as the sender counts.
	Seq uint32

	ip      []byte // from the network header to the end of the packet, no further
	l4      int    // offset of the layer-4 header in ip
	payload int    // and of Payload
	// redirected: the checksum's pseudo header has other addresses than the IP header.
	redirected bool
}

// Dir returns the packet's direction in its flow.
func (p *Packet) Dir() Direction { return p.Info.Direction() }

// IPv6 reports whether p is an IPv6 packet.
func (p *Packet) IPv6() bool { return p.Flow.Family() == nl.FamilyIPv6 }

// NATed reports whether the source or the destination of the flow is translated.
func (p *Packet) NATed() bool {
	return p.Flow.Status&(ctnetlink.StatusSrcNAT|ctnetlink.StatusDstNAT) != 0
}

// Src and Dst return the ends of the flow's tuple of that direction: Src(Original) is the
// end that opened the flow, and Dst(Reply) the same end as the other side sees it through
// NAT.
func (p *Packet) Src(d Direction) netip.AddrPort {
	t := p.tuple(d)
	return netip.AddrPortFrom(address(t.Family, t.Src), t.SrcPort)
}

// Dst is described at Src.
func (p *Packet) Dst(d Direction) netip.AddrPort {
	t := p.tuple(d)
	return netip.AddrPortFrom(address(t.Family, t.Dst), t.DstPort)
}

func (p *Packet) tuple(d Direction) *ctnetlink.Tuple {
	if d == Reply {
		return &p.Flow.Reply
	}
	return &p.Flow.Orig
}

func address(family uint8, a ctnetlink.Addr) netip.Addr {
	if family == nl.FamilyIPv6 {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte(a[:4]))
}

// Reasons why a packet cannot be read by a helper.
var (
	errNoIPv4Header = errors.New("no room for IPv4 header")
	errNoIPv6Header = errors.New("no room for IPv6 header")
	errNotIPv4      = errors.New("not IPv4, skipping")
	errNotIPv6      = errors.New("not IPv6, skipping")
	errNotTCPUDP    = errors.New("not TCP/UDP, skipping")
	errFragment     = errors.New("fragment, skipping")
	errLength       = errors.New("length of the IP header exceeds the packet, skipping")
	errExtensions   = errors.New("broken IPv6 extension header, skipping")
	errNoTCPHeader  = errors.New("no room for TCP header, skip")
	errNoUDPHeader  = errors.New("no room for UDP header, skip")
	errUDPLength    = errors.New("length of the UDP header does not fit the packet, skipping")
)

// Parse sets p to the packet in b, which begins with the network header. etherType is the
// layer-3 protocol (0x0800, 0x86dd). Parse skips IPv6 extension headers, and refuses
// fragments and headers whose lengths exceed b; the error gives the reason. The caller sets
// Flow, Info and Private.
func (p *Packet) Parse(b []byte, etherType uint16) error {
	p.ip, p.Payload, p.Seq, p.redirected = nil, nil, 0, false
	var err error
	switch etherType {
	case unix.ETH_P_IP:
		err = p.parseIPv4(b)
	case unix.ETH_P_IPV6:
		err = p.parseIPv6(b)
	default:
		return fmt.Errorf("unknown layer 3 protocol (%d), skipping", etherType)
	}
	if err != nil {
		return err
	}
	l4 := p.ip[p.l4:]
	switch p.Protocol {
	case unix.IPPROTO_TCP:
		if len(l4) < 20 {
			return errNoTCPHeader
		}
		size := int(l4[12]>>4) * 4
		if size < 20 || size > len(l4) {
			return errNoTCPHeader
		}
		p.Seq = binary.BigEndian.Uint32(l4[4:])
		if l4[13]&tcpSYN != 0 {
			p.Seq++ // the SYN has a number of its own
		}
		p.payload = p.l4 + size
	case unix.IPPROTO_UDP:
		if len(l4) < 8 {
			return errNoUDPHeader
		}
		size := int(binary.BigEndian.Uint16(l4[4:]))
		if size < 8 || size > len(l4) {
			return errUDPLength
		}
		p.payload = p.l4 + 8
		p.ip = p.ip[:p.l4+size]
	default:
		return errNotTCPUDP
	}
	p.Payload = p.ip[p.payload:]
	return nil
}

const tcpSYN = 0x02

func (p *Packet) parseIPv4(b []byte) error {
	if len(b) < 20 {
		return errNoIPv4Header
	}
	if b[0]>>4 != 4 {
		return errNotIPv4
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || header > len(b) {
		return errNoIPv4Header
	}
	if total < header || total > len(b) {
		return errLength
	}
	const moreFragments, offset = 0x2000, 0x1fff
	if binary.BigEndian.Uint16(b[6:])&(moreFragments|offset) != 0 {
		return errFragment
	}
	p.ip, p.l4, p.Protocol = b[:total], header, b[9]
	p.redirected = sourceRouted(b[20:header])
	return nil
}

// sourceRouted reports whether IPv4 options have a source route that is not at its end
// (RFC 791, section 3.1), or cannot be read. The destination in the header is then the
// next stop, not the host that the checksum is for.
func sourceRouted(options []byte) bool {
	const end, nop, loose, strict = 0, 1, 131, 137
	for len(options) > 0 && options[0] != end {
		if options[0] == nop {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return true
		}
		size := int(options[1])
		// The pointer counts from 1 and is past the length when the route is used up.
		if kind := options[0]; (kind == loose || kind == strict) && (size < 3 || int(options[2]) <= size) {
			return true
		}
		options = options[size:]
	}
	return false
}

func (p *Packet) parseIPv6(b []byte) error {
	const header = 40
	if len(b) < header {
		return errNoIPv6Header
	}
	if b[0]>>4 != 6 {
		return errNotIPv6
	}
	total := header + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return errLength
	}
	b = b[:total]
	next, at := b[6], header
	for {
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if at+8 > len(b) {
				return errExtensions
			}
			size := (int(b[at+1]) + 1) * 8
			if at+size > len(b) {
				return errExtensions
			}
			// Segments left: the header's destination is the next stop (RFC 8200,
			// section 8.1; also Mobile IPv6's type 2 and segment routing's type 4).
			if next == unix.IPPROTO_ROUTING && b[at+3] != 0 || next == unix.IPPROTO_DSTOPTS && homeAddress(b[at+2:at+size]) {
				p.redirected = true
			}
			next, at = b[at], at+size
		case unix.IPPROTO_FRAGMENT:
			return errFragment
		default:
			p.ip, p.l4, p.Protocol = b, at, next
			return nil
		}
	}
}

// homeAddress reports whether destination options have a Home Address option (RFC 6275,
// section 6.3), or cannot be read. The checksum has that address as its source.
func homeAddress(options []byte) bool {
	const pad1, home = 0, 0xc9
	for len(options) > 0 {
		switch {
		case options[0] == pad1:
			options = options[1:]
			continue
		case options[0] == home, len(options) < 2, int(options[1])+2 > len(options):
			return true
		}
		options = options[int(options[1])+2:]
	}
	return false
}
