// Package ssdp is the helper for UPnP's discovery and eventing (UPnP Device
// Architecture 1.1, 1.3 and 4.1). A control point asks a group by UDP; devices
// answer by unicast with the URL of their description, which it fetches over TCP;
// then it subscribes with a URL of its own, to which a device sends its events.
// Each step announces the flow of the next, and all of them have this helper.
package ssdp

import (
	"bytes"
	"net/netip"
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

// location expects connections to the device whose answer this is. A device that
// gives another host's address is not believed: it could open the way to whom it
// likes.
func location(p *helper.Packet, a *helper.Answer) {
	value, at := header(p.Payload, "LOCATION: ")
	u, ok := parseURL(value)
	d := p.Dir()
	if !ok || u.addr != p.Src(d).Addr() {
		return
	}
	// The device as the control point sees it: there the connection will go.
	to := p.Dst(d.Other()).Addr()
	if to.IsMulticast() {
		return // what nat-follow-master makes of an answer; nobody takes it
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
		a.OnRefusal = helper.DropPacket // the device could not reach the address in it
	}
}

// notify expects the device's next connection to where this one went. If another
// flow has announced the same already, the kernel refuses, and nothing is amiss.
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
