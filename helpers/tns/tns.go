// Package tns is the helper for Oracle's SQL*Net, whose packets are TNS. The
// protocol is not published; Ian Redfern's "Oracle Protocol" describes it. A
// listener may answer a client's request to connect with a REDIRECT to another
// port, as in
//
//	(ADDRESS=(PROTOCOL=tcp)(DEV=8)(HOST=192.0.2.1)(PORT=32771))
//
// and the client connects there. The text is in the REDIRECT packet or, if that
// packet is empty, in the DATA packet that follows.
package tns

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper reads connections to a listener, commonly on port 1521.
var Helper = &helper.Helper{
	Name:          "tns",
	Protocols:     []uint8{unix.IPPROTO_TCP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	PrivateLen:    1,
	ExpectMax:     1,
	ExpectTimeout: 300 * time.Second,
	Read:          read,
	Doc: helper.Doc{
		Port: 1521, NAT: true,
		Reads:   "Oracle's REDIRECT",
		Expects: "the connection to the redirected port",
	},
}

// A packet has a header of eight bytes: its length, a checksum, type, flags and
// a checksum of the header, numbers of two bytes in network order. A checksum of 0,
// the usual case, means no checksum. In REDIRECT the length of the text follows, in
// DATA two bytes of flags.
const (
	checkAt       = 2
	typeAt        = 4
	headerCheckAt = 6
	dataLenAt     = 8
	dataAt        = 10

	headerLen    = 8
	typeRedirect = 5
	typeData     = 6
)

// The private data is one byte: whether the text of a REDIRECT is still to come.
const (
	ordinary   = 0
	textToCome = 1
)

func read(p *helper.Packet, a *helper.Answer) {
	// Acknowledgements without payload may arrive between REDIRECT and DATA.
	if p.Info != helper.EstablishedReply || len(p.Payload) == 0 {
		return
	}
	toCome := p.Private[0] == textToCome
	p.Private[0] = ordinary
	for at := 0; at < len(p.Payload); {
		packet := p.Payload[at:]
		if len(packet) < headerLen {
			return
		}
		length := int(binary.BigEndian.Uint16(packet))
		if length < headerLen {
			return
		}
		if length < len(packet) { // otherwise it goes on in the next segment
			packet = packet[:length]
		}
		text := packet[min(dataAt, len(packet)):]
		redirect := packet[typeAt] == typeRedirect && len(packet) >= dataAt
		if redirect {
			n := int(binary.BigEndian.Uint16(packet[dataLenAt:]))
			text = text[:min(n, len(text))]
		}
		if redirect && len(text) > 0 || toCome && packet[typeAt] == typeData {
			readText(p, a, at, text, redirect)
			return // a redirect is the last packet
		}
		toCome = redirect
		at += len(packet)
	}
	if toCome {
		p.Private[0] = textToCome
	}
}

// readText reads the destination of a redirect in the packet at offset at of the payload.
func readText(p *helper.Packet, a *helper.Answer, at int, text []byte, redirect bool) {
	text, _, _ = bytes.Cut(text, []byte{0}) // the client's connect data may follow
	host, port, ok := scan(text)
	if !ok {
		return
	}
	addr := helper.Addr(text[host.start:host.end])
	n, digits := helper.Number(text[port.start:port.end], 65535)
	if !addr.IsValid() || addr.Is6() != p.IPv6() || n == 0 || digits != port.end-port.start {
		return
	}
	e := helper.Expectation{
		Protocol: unix.IPPROTO_TCP,
		Src:      netip.AddrPortFrom(p.Src(helper.Original).Addr(), 0),
		Dst:      netip.AddrPortFrom(addr, uint16(n)),
	}
	// If the listener names itself, by its own address or by the one that the client uses,
	// the flow is translated like this one. It may also redirect to another host. The
	// translation of that flow is left to the firewall's rules: nat-follow-master would
	// lead it to this listener.
	if addr == p.Src(helper.Reply).Addr() || addr == p.Dst(helper.Original).Addr() {
		e.Dst = netip.AddrPortFrom(p.Dst(helper.Original).Addr(), uint16(n))
		e.NAT = &helper.NAT{Dir: helper.Original, Port: uint16(n)}
		e.Announced = announced(at, text, host, port, redirect)
	}
	a.OnRefusal = helper.DropPacket
	a.Expect = append(a.Expect, e)
}

// announced returns the part of the text with address and port, and how to rewrite it. The
// text between the two stays.
func announced(at int, text []byte, host, port span, redirect bool) *helper.Announced {
	between := bytes.Clone(text[host.end:port.start])
	return &helper.Announced{
		At:  at + dataAt + host.start,
		Len: port.end - host.start,
		Append: func(dst []byte, to netip.AddrPort) []byte {
			dst = append(to.Addr().AppendTo(dst), between...)
			return strconv.AppendUint(dst, uint64(to.Port()), 10)
		},
		Fix: func(payload []byte, grown int) {
			packet := payload[at:]
			add16(packet, grown)
			if redirect {
				add16(packet[dataLenAt:], grown)
			}
			binary.BigEndian.PutUint16(packet[checkAt:], 0)
			binary.BigEndian.PutUint16(packet[headerCheckAt:], 0)
		},
	}
}

// add16 adds n to a length, up to the largest one.
func add16(b []byte, n int) {
	binary.BigEndian.PutUint16(b, uint16(min(int(binary.BigEndian.Uint16(b))+n, math.MaxUint16)))
}

// span is a part of a text.
type span struct{ start, end int }

// scan finds the first host in a text, and the port after it within the same parentheses.
func scan(text []byte) (host, port span, ok bool) {
	open := bytes.IndexByte(text, '(')
	if open < 0 {
		return host, port, false
	}
	_, host, after, ok := value(text, open, "HOST=")
	if !ok {
		return host, port, false
	}
	key, port, _, ok := value(text, after, "PORT=")
	if !ok {
		return host, port, false
	}
	depth := 0
	for _, c := range text[after:key] {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth < 0 {
			return host, port, false // another address has begun
		}
	}
	return host, port, depth == 1
}

// value finds the first key at or after offset from. It returns the key's offset, its value
// without surrounding blanks, and the offset after the closing parenthesis.
func value(text []byte, from int, key string) (at int, v span, after int, ok bool) {
	i := bytes.Index(text[from:], []byte(key))
	if i < 0 {
		return 0, v, 0, false
	}
	at = from + i
	v.start = at + len(key)
	n := bytes.IndexByte(text[v.start:], ')')
	if n < 0 {
		return 0, v, 0, false
	}
	v.end = v.start + n
	after = v.end + 1
	for v.start < v.end && text[v.start] == ' ' {
		v.start++
	}
	for v.start < v.end && text[v.end-1] == ' ' {
		v.end--
	}
	return at, v, after, true
}
