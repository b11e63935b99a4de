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
