package conf

import (
	"net/netip"
	"strconv"
	"strings"
)

// The shape of a word decides whether it is read as an address, as in conntrack-tools, whose
// lexer takes a short hexadecimal word for an IPv6 address. A word of that shape that is not
// a valid address causes a warning and is otherwise ignored.

// looksIPv4 reports whether s is four groups of digits.
func looksIPv4(s string) bool {
	groups := strings.Split(s, ".")
	if len(groups) != 4 {
		return false
	}
	for _, g := range groups {
		if g == "" || strings.Trim(g, "0123456789") != "" {
			return false
		}
	}
	return true
}

// looksIPv6 reports whether s is groups of hexadecimal digits and colons, with
// at most one pair of colons, or one short group that is not a number.
func looksIPv6(s string) bool {
	if strings.Trim(s, "0123456789abcdefABCDEF:") != "" {
		return false
	}
	colons := strings.Count(s, ":")
	if colons == 0 {
		return len(s) <= 4 && strings.Trim(s, "0123456789") != ""
	}
	return colons <= 7 && strings.Count(s, "::") <= 1 && !strings.Contains(s, ":::") &&
		(s[0] != ':' || strings.HasPrefix(s, "::")) && (s[len(s)-1] != ':' || strings.HasSuffix(s, "::"))
}

// addressWord parses a word that looks like an address of either family. length is the
// number behind the slash, -1 without one.
func (p *parser) addressWord(expected string) (t token, addr string, length int, err *Error) {
	if t, err = p.word(expected); err != nil {
		return t, "", 0, err
	}
	addr, digits, slash := strings.Cut(t.text, "/")
	if !looksIPv4(addr) && !looksIPv6(addr) || slash && (digits == "" || strings.Trim(digits, "0123456789") != "") {
		return t, "", 0, p.mismatch(t, expected)
	}
	length = -1
	if slash {
		const longer = 1000 // than any prefix
		if length = longer; len(digits) < 4 {
			length, _ = strconv.Atoi(digits)
		}
	}
	return t, addr, length, nil
}

// parseAddr parses an address of the family. Groups of an IPv4 address with a
// leading zero are octal, as in inet_aton(3).
func parseAddr(s string, six bool) (netip.Addr, bool) {
	if six {
		addr, err := netip.ParseAddr(s)
		return addr, err == nil && addr.Is6() && !addr.Is4In6()
	}
	groups := strings.Split(s, ".")
	if len(groups) != 4 {
		return netip.Addr{}, false
	}
	var octets [4]byte
	for i, g := range groups {
		base := 10
		if len(g) > 1 && g[0] == '0' {
			base = 8
		}
		n, err := strconv.ParseUint(g, base, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		octets[i] = byte(n)
	}
	return netip.AddrFrom4(octets), true
}

// octal warns, in --check, of an IPv4 address that is not what it seems.
func (p *parser) octal(t token, addr netip.Addr) {
	if text, _, _ := strings.Cut(t.text, "/"); addr.Is4() && text != addr.String() {
		p.warn(t.pos, OnCheck, text+" is read as "+addr.String()+": a group that starts with 0 is octal")
	}
}

func family(six bool) string {
	if six {
		return "IPv6"
	}
	return "IPv4"
}

// address parses the address of a host. For an invalid address it warns and returns the
// zero Addr.
func (p *parser) address(six bool) (netip.Addr, *Error) {
	t, text, length, err := p.addressWord("an " + family(six) + " address")
	if err != nil {
		return netip.Addr{}, err
	}
	addr, ok := parseAddr(text, six)
	if !ok || length >= 0 {
		p.warn(t.pos, Always, t.text+" is not a valid "+family(six)+" address")
		return netip.Addr{}, nil
	}
	p.octal(t, addr)
	return addr, nil
}

// network parses an address with or without a prefix length. For an invalid one it warns
// and returns the zero Prefix.
func (p *parser) network(six bool) (token, netip.Prefix, *Error) {
	t, text, length, err := p.addressWord("an " + family(six) + " address or network")
	if err != nil {
		return t, netip.Prefix{}, err
	}
	bits := 32
	if six {
		bits = 128
	}
	if length > bits {
		p.warn(t.pos, Always, t.text+" is not a valid network, ignoring")
		return t, netip.Prefix{}, nil
	}
	addr, ok := parseAddr(text, six)
	if !ok {
		p.warn(t.pos, Always, text+" is not a valid "+family(six)+", ignoring")
		return t, netip.Prefix{}, nil
	}
	p.octal(t, addr)
	if length < 0 {
		length = bits
	}
	return t, netip.PrefixFrom(addr, length).Masked(), nil
}

// listen is an address and a port to listen on.
type listen struct {
	at func(scope) *netip.AddrPort
}

func (v *listen) read(p *parser, c *clause, s scope, at Pos) *Error {
	const expected = "an address and a port, as 127.0.0.1:9107 or [::1]:9107"
	t, err := p.word(expected)
	if err != nil {
		return err
	}
	where, bad := netip.ParseAddrPort(t.text)
	if bad != nil || where.Port() == 0 || where.Addr().Zone() != "" {
		return p.mismatch(t, expected)
	}
	field := v.at(s)
	p.mark(field, c, at)
	*field = netip.AddrPortFrom(where.Addr().Unmap(), where.Port())
	return nil
}

func (v *listen) field(s scope) any { return v.at(s) }
func (v *listen) reset(s scope)     { *v.at(s) = netip.AddrPort{} }

func (v *listen) print(w *printer, c *clause, s scope) {
	if where := *v.at(s); where.IsValid() {
		w.line(c.name, where.String())
	}
}

func (v *listen) syntax() string   { return "ADDRESS:PORT" }
func (v *listen) standard() string { return "" }
