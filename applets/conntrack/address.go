package conntrack

import (
	"net/netip"
	"strings"

	"ctbox/internal/cnum"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// parseAddr reads an address as inet_aton(3) does, so "10.1", octal and
// hexadecimal parts and white space at the end are taken, else as inet_pton(3) does
// for IPv6. Text behind the white space, which inet_aton(3) ignores, is refused.
func parseAddr(s string) (a ctnetlink.Addr, family uint8, ok bool) {
	if v4, ok := parseIPv4(s); ok {
		a[0], a[1], a[2], a[3] = byte(v4>>24), byte(v4>>16), byte(v4>>8), byte(v4)
		return a, nl.FamilyIPv4, true
	}
	if !strings.Contains(s, ":") || strings.Contains(s, "%") {
		return a, 0, false
	}
	v6, err := netip.ParseAddr(s)
	if err != nil || !v6.Is6() {
		return a, 0, false
	}
	return v6.As16(), nl.FamilyIPv6, true
}

// parseIPv4 reads up to four parts. The last one fills what the others leave.
func parseIPv4(s string) (uint32, bool) {
	var addr uint32
	for part := 0; ; part++ {
		if s == "" || s[0] < '0' || s[0] > '9' {
			return 0, false
		}
		v, rest, ok := decimal(s)
		if !ok {
			v, rest, _ = cnum.Uint(s)
		}
		if rest != "" && rest[0] == '.' {
			if part == 3 || v > 0xff {
				return 0, false
			}
			addr |= uint32(v) << (24 - 8*part)
			s = rest[1:]
			continue
		}
		if v > 0xffffffff>>(8*part) || strings.TrimLeft(rest, " \t\n\v\f\r") != "" {
			return 0, false
		}
		return addr | uint32(v), true
	}
}

// decimal reads a short decimal number without a 0 in front, which is how most
// parts are written.
func decimal(s string) (v uint64, rest string, ok bool) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		v = v*10 + uint64(s[i]-'0')
		i++
	}
	if i > 3 || s[0] == '0' && len(s) > 1 && s[1] != '.' {
		return 0, s, false
	}
	return v, s[i:], true
}

// addrArg reads an argument ADDR[/LEN] and settles the line's family.
// prefix is -1 without a length.
func (p *Parser) addrArg(arg, name string, cidr bool) (a ctnetlink.Addr, prefix int, err error) {
	text, length, hasLength := strings.Cut(arg, "/")
	a, family, ok := parseAddr(text)
	if !ok {
		return a, 0, usage("Invalid IP address `" + arg + "'")
	}
	if err := p.settleFamily(family); err != nil {
		return a, 0, err
	}
	if !hasLength {
		return a, -1, nil
	}
	if !cidr {
		return a, 0, usage("CIDR notation unavailable for `--" + name + "'")
	}
	prefix, ok = parsePrefix(length, addrBits(family))
	if !ok {
		return a, 0, usage("Invalid netmask")
	}
	return a, prefix, nil
}

func addrBits(family uint8) int {
	if family == nl.FamilyIPv6 {
		return 128
	}
	return 32
}

// parsePrefix reads a prefix length. An empty one, of a script's "$ADDR/$LEN" without
// LEN, is 0 to conntrack-tools, which is every address.
func parsePrefix(s string, most int) (int, bool) {
	v, ok := wholeDecimal(s, int64(most))
	return int(v), ok
}

// prefixMask is the address mask of a prefix length.
func prefixMask(prefix int) (m ctnetlink.Addr) {
	for i := range m {
		switch {
		case prefix >= 8:
			m[i] = 0xff
		case prefix > 0:
			m[i] = ^byte(0xff >> prefix)
		}
		prefix -= 8
	}
	return m
}

// settleFamily makes family the line's, unless it has another one already.
func (p *Parser) settleFamily(family uint8) error {
	if p.cmd.Family != nl.FamilyUnspec && p.cmd.Family != family {
		return usage("mismatched address family")
	}
	p.cmd.Family = family
	return nil
}

func (p *Parser) setFamily(_ *option, arg string, _ bool) error {
	switch arg {
	case "ipv4":
		return p.settleFamily(nl.FamilyIPv4)
	case "ipv6":
		return p.settleFamily(nl.FamilyIPv6)
	}
	return usage("`" + arg + "' unsupported protocol")
}

func (p *Parser) setAddr(o *option, arg string, _ bool) error {
	cidr := o.bit&(OptSrc|OptDst|OptTupleSrc|OptTupleDst) != 0
	a, prefix, err := p.addrArg(arg, o.name, cidr)
	if err != nil {
		return err
	}
	c := p.cmd
	if o.bit&(OptMaskSrc|OptMaskDst) != 0 && !wholeMask(arg, c.Family) {
		return notA(arg, "--"+o.name, "a mask, written as an address")
	}
	switch o.bit {
	case OptSrc:
		setSrc(&c.Flow.Orig, a, c.Family)
	case OptDst:
		setDst(&c.Flow.Orig, a, c.Family)
	case OptReplySrc:
		setSrc(&c.Flow.Reply, a, c.Family)
	case OptReplyDst:
		setDst(&c.Flow.Reply, a, c.Family)
	case OptTupleSrc:
		setSrc(&c.Expect.Tuple, a, c.Family)
	case OptTupleDst:
		setDst(&c.Expect.Tuple, a, c.Family)
	case OptMaskSrc:
		c.SrcMask = a
	case OptMaskDst:
		c.DstMask = a
	}
	// A length writes to the same place as --mask-src or --mask-dst. The whole
	// address is no mask.
	if prefix >= 0 && prefix < addrBits(c.Family) {
		if o.bit&(OptSrc|OptTupleSrc) != 0 {
			c.Given |= OptMaskSrc
			c.SrcMask = prefixMask(prefix)
		} else {
			c.Given |= OptMaskDst
			c.DstMask = prefixMask(prefix)
		}
	}
	return nil
}

// wholeMask reports whether an IPv4 mask is written in full: by its four parts, or as
// one hexadecimal number. What inet_aton(3) takes besides is a trap: "24" is 0.0.0.24.
func wholeMask(arg string, family uint8) bool {
	return family != nl.FamilyIPv4 || strings.Count(arg, ".") == 3 ||
		len(arg) > 2 && arg[0] == '0' && arg[1]|0x20 == 'x' && !strings.Contains(arg, ".")
}

func setSrc(t *ctnetlink.Tuple, a ctnetlink.Addr, family uint8) {
	t.Src, t.Family = a, family
	t.Has |= ctnetlink.TupleSrc
}

func setDst(t *ctnetlink.Tuple, a ctnetlink.Addr, family uint8) {
	t.Dst, t.Family = a, family
	t.Has |= ctnetlink.TupleDst
}

// setNAT reads ADDR, ADDR:PORT or [ADDR]:PORT.
func (p *Parser) setNAT(o *option, arg string, given bool) error {
	nat := ctnetlink.NAT{}
	if given {
		addr, port, hasPort, err := splitNAT(arg)
		if err != nil {
			return err
		}
		if hasPort {
			if nat.Port, err = natPort(port); err != nil {
				return err
			}
		}
		if nat.Addr, _, err = p.addrArg(addr, o.name, false); err != nil {
			return err
		}
		nat.HasAddr, nat.HasPort = true, hasPort
	}
	switch o.bit {
	case OptSrcNAT:
		p.cmd.SrcNAT = nat
	case OptDstNAT:
		p.cmd.DstNAT = nat
	case OptAnyNAT:
		p.cmd.AnyNAT = nat
	}
	return nil
}

// splitNAT takes an argument of NAT apart. Brackets are needed around an IPv6
// address only when a port follows.
func splitNAT(arg string) (addr, port string, hasPort bool, err error) {
	if before, inside, bracket := strings.Cut(arg, "["); bracket {
		addr, after, closed := strings.Cut(inside, "]")
		if !closed {
			return "", "", false, usage("No closing ']' around IPv6 address")
		}
		if addr == "" {
			return "", "", false, usage("No IPv6 address specified")
		}
		between, port, hasPort := strings.Cut(after, ":")
		if !hasPort || before != "" || between != "" {
			return arg, "", false, nil // the whole is no address
		}
		return addr, port, true, nil
	}
	if addr, port, ok := strings.Cut(arg, ":"); ok && !strings.Contains(port, ":") {
		return addr, port, true, nil
	}
	return arg, "", false, nil
}

func natPort(s string) (uint16, error) {
	if s == "" {
		return 0, usage("No port specified after `:'")
	}
	v := uint32(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, usage("Invalid port `" + s + "'")
		}
		if v = v*10 + uint32(s[i]-'0'); v > 0xffff {
			return 0, usage("Invalid port `" + s + "'")
		}
	}
	return uint16(v), nil
}
