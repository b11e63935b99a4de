package helper

import "net/netip"

// Addr returns the address that all of b is, in the text form of RFC 4291 or as
// four decimal numbers; an invalid one if it is none. A host's name is none, and
// an address with a zone is of no use beyond its own link.
func Addr(b []byte) netip.Addr {
	const longest = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")
	if len(b) > longest {
		return netip.Addr{}
	}
	for _, c := range b { // names stop here, without an error to allocate
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F', c == '.', c == ':':
		default:
			return netip.Addr{}
		}
	}
	addr, _ := netip.ParseAddr(string(b)) // invalid with an error
	return addr
}

// Number reads the decimal number that b begins with. It returns the number and
// how many digits it has, 0 if there is none or if it is greater than most.
func Number(b []byte, most uint32) (n uint32, digits int) {
	value := uint64(0)
	for digits < len(b) && '0' <= b[digits] && b[digits] <= '9' {
		value = value*10 + uint64(b[digits]-'0')
		if value > uint64(most) {
			return 0, 0
		}
		digits++
	}
	return uint32(value), digits
}

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
