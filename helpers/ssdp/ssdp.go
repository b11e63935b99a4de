// Package ssdp is the helper for UPnP's discovery and eventing (UPnP Device
// Architecture 1.1, 1.3 and 4.1). A control point asks a group by UDP; devices
// answer by unicast with the URL of their description, which it fetches over TCP;
// then it subscribes with a URL of its own, to which a device sends its events.
// Each step announces the flow of the next, and all of them have this helper.
package ssdp

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper expects a device's answers, the control point's connection to the device
// and the device's connection back.
var Helper = &helper.Helper{
	Name:          name,
	Protocols:     []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP},
	Families:      []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	ExpectMax:     8,
	ExpectTimeout: 300 * time.Second,
	Read:          read,
	Doc: helper.Doc{
		Port: 1900, NAT: true,
		Reads:   "`M-SEARCH`, `LOCATION`, `SUBSCRIBE`, `NOTIFY`",
		Expects: "answers, the device's description, its events",
		Rule:    "`-p udp --dport 1900 -j CT --helper ssdp`, with Types for udp and tcp",
	},
}

const name = "ssdp"

func read(p *helper.Packet, a *helper.Answer) {
	switch {
	case p.Protocol == unix.IPPROTO_UDP && p.Info == helper.New:
		search(p, a)
	case p.Protocol == unix.IPPROTO_UDP:
		location(p, a)
	case p.Info != helper.Established:
	case starts(p.Payload, "NOTIFY "):
		notify(p, a)
	case starts(p.Payload, "SUBSCRIBE "):
		subscribe(p, a)
	}
}

// The groups that devices listen to (UDA 1.1, 1.2.2 and A.2): of the link and of
// the site.
var (
	group     = netip.AddrFrom4([4]byte{239, 255, 255, 250})
	groupLink = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x0c})
	groupSite = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x05, 15: 0x0c})
)

// search expects the answers to a control point's question to the group, from any
// host.
//
// nat-follow-master could not deliver them: it makes the group their source. The
// function sip takes the destination from the expectation and leaves the source.
func search(p *helper.Packet, a *helper.Answer) {
	to := p.Dst(helper.Original).Addr()
	if to != group && to != groupLink && to != groupSite || !starts(p.Payload, "M-SEARCH") {
		return
	}
	client := p.Src(helper.Original)
	a.Expect = append(a.Expect, helper.Expectation{
		Protocol:  unix.IPPROTO_UDP,
		Dst:       p.Dst(helper.Reply),
		Permanent: true,
		Helper:    name,
		NAT:       &helper.NAT{Dir: helper.Reply, Port: client.Port(), Follow: "sip", Addr: client.Addr()},
	})
}

// location expects connections to the device that sent this answer. Another host's address
// in it is ignored, because it would open the firewall to that host.
func location(p *helper.Packet, a *helper.Answer) {
	value, at := header(p.Payload, "LOCATION: ")
	u, ok := parseURL(value)
	d := p.Dir()
	if !ok || u.addr != p.Src(d).Addr() {
		return
	}
	// The device as the control point sees it: the connection's destination.
	to := p.Dst(d.Other()).Addr()
	if to.IsMulticast() {
		return // the result of nat-follow-master on an answer, which no control point accepts
	}
	e := helper.Expectation{
		Protocol:  unix.IPPROTO_TCP,
		Dst:       netip.AddrPortFrom(to, u.port),
		Permanent: true,
		Helper:    name,
		NAT:       &helper.NAT{Dir: d.Other(), Port: u.port},
	}
	if to != u.addr {
		e.Announced = u.announced(at)
	}
	a.Expect = append(a.Expect, e)
}

// subscribe expects the events that a control point asks for, at its own address.
func subscribe(p *helper.Packet, a *helper.Answer) {
	value, at := header(p.Payload, "CALLBACK: <")
	end := bytes.IndexByte(value, '>')
	if end < 0 {
		return
	}
	u, ok := parseURL(value[:end])
	d := p.Dir()
	if !ok || u.addr != p.Src(d).Addr() {
		return
	}
	a.Expect = append(a.Expect, helper.Expectation{
		Protocol:  unix.IPPROTO_TCP,
		Src:       netip.AddrPortFrom(p.Src(d.Other()).Addr(), 0),
		Dst:       netip.AddrPortFrom(p.Dst(d.Other()).Addr(), u.port),
		Helper:    name,
		NAT:       &helper.NAT{Dir: d.Other(), Port: u.port},
		Announced: u.announced(at),
	})
	if p.NATed() {
		a.OnRefusal = helper.DropPacket // the address in it is unreachable for the device
	}
}

// notify expects the device's next connection to the same destination. The kernel refuses the
// expectation if another flow has announced the same one, which is harmless.
func notify(p *helper.Packet, a *helper.Answer) {
	d := p.Dir()
	a.Expect = append(a.Expect, helper.Expectation{
		Protocol: unix.IPPROTO_TCP,
		Src:      netip.AddrPortFrom(p.Src(d).Addr(), 0),
		Dst:      p.Dst(d),
		Helper:   name,
		NAT:      &helper.NAT{Dir: d, Port: p.Src(d.Other()).Port()},
	})
}

func starts(b []byte, text string) bool {
	return len(b) >= len(text) && string(b[:len(text)]) == text
}

// longest is the limit of a header field's value in bytes.
const longest = 256

// header returns the value, and its offset, of the first header field in b that begins with
// start, in any letter case. It returns nil if the header, which ends with an empty line, has
// no such field.
func header(b []byte, start string) (value []byte, at int) {
	for at < len(b) {
		line := b[at:]
		if len(line) >= len(start) && strings.EqualFold(string(line[:len(start)]), start) {
			value = line[len(start):]
			if end := bytes.IndexByte(value, '\r'); end >= 0 && end < longest {
				return value[:end], at + len(start)
			}
			return nil, 0
		}
		end := bytes.Index(line, crlf)
		if end <= 0 {
			return nil, 0
		}
		at += end + len(crlf)
	}
	return nil, 0
}

var crlf = []byte("\r\n")

// authority is the part of an "http" URL between scheme and path.
type authority struct {
	addr    netip.Addr
	port    uint16
	at, len int // of address and port as text, in the URL
}

// parseURL parses the start of a URL: "http://", a numeric address, IPv6 in brackets, and a
// port from 1 to 65535, by default 80. Host names are not supported.
func parseURL(url []byte) (u authority, ok bool) {
	const scheme = "http://"
	if len(url) < len(scheme) || !strings.EqualFold(string(url[:len(scheme)]), scheme) {
		return u, false
	}
	text := url[len(scheme):]
	if end := bytes.IndexAny(text, "/?#"); end >= 0 { // RFC 3986, 3.2
		text = text[:end]
	}
	host, port := text, []byte(nil)
	if len(text) > 0 && text[0] == '[' {
		end := bytes.IndexByte(text, ']')
		if end < 0 {
			return u, false
		}
		host, port = text[1:end], text[end+1:]
	} else if colon := bytes.IndexByte(text, ':'); colon >= 0 {
		host, port = text[:colon], text[colon:]
	}
	u = authority{port: 80, at: len(scheme), len: len(text)}
	if len(port) > 0 {
		n, digits := helper.Number(port[1:], 65535)
		if port[0] != ':' || n == 0 || digits != len(port)-1 {
			return u, false
		}
		u.port = uint16(n)
	}
	u.addr = helper.Addr(host)
	return u, u.addr.IsValid() && u.addr.Is6() == (text[0] == '[')
}

// announced returns the part to rewrite of the URL at this offset of the payload. The port is
// always written.
func (u authority) announced(at int) *helper.Announced {
	return &helper.Announced{At: at + u.at, Len: u.len, Append: appendEnd}
}

func appendEnd(dst []byte, to netip.AddrPort) []byte { return to.AppendTo(dst) }
