package helper

import "net/netip"

// ReadGroupRequest is the Read of helpers whose protocol has a host ask a group from
// a port of its own, and whoever knows answers by unicast: for every packet it
// expects answers to its sender from the port that it went to, of any host, since
// nobody knows before which will answer.
func ReadGroupRequest(p *Packet, a *Answer) {
	d := p.Dir()
	a.Expect = append(a.Expect, Expectation{
		Protocol:  p.Protocol,
		Src:       netip.AddrPortFrom(netip.Addr{}, p.Src(d.Other()).Port()),
		Dst:       p.Src(d),
		Permanent: true,
	})
}
