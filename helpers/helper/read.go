package helper

import "net/netip"

// Addr parses b as an IP address in text form. The result is invalid if b is anything else:
// a host name, or an address with a zone, which is useless beyond its link.
func Addr(b []byte) netip.Addr {
	const longest = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")
	if len(b) > longest {
		return netip.Addr{}
	}
	for _, c := range b { // rejects names without allocating an error
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F', c == '.', c == ':':
		default:
			return netip.Addr{}
		}
	}
	addr, _ := netip.ParseAddr(string(b)) // invalid with an error
	return addr
}

// Number parses the decimal number at the start of b. It returns the number and its count
// of digits, which is 0 if there is no number or if it is greater than most.
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

// ReadGroupRequest is the Read of helpers for protocols in which a host queries a
// multicast group and any member answers by unicast. For every packet it expects answers
// to the sender, from the port that the packet went to and from any address.
func ReadGroupRequest(p *Packet, a *Answer) {
	d := p.Dir()
	a.Expect = append(a.Expect, Expectation{
		Protocol:  p.Protocol,
		Src:       netip.AddrPortFrom(netip.Addr{}, p.Src(d.Other()).Port()),
		Dst:       p.Src(d),
		Permanent: true,
	})
}
