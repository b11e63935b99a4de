package conf

import (
	"net/netip"
	"slices"
)

// linkGroup is the clause of a transport: a new Link each time.
func linkGroup(t Transport, clauses []clause) value {
	b := &block{title: t.String(), syntax: "[Default] { ... }", clauses: clauses}
	return &group{
		block:     b,
		instances: true,
		enter:     func(p *parser, s scope, at Pos) (scope, *Error) { return enterLink(p, s, at, t, b) },
		each: func(s scope) []instance {
			var links []instance
			for _, l := range s.cfg.Sync.Links {
				if l.Transport != t {
					continue
				}
				head := t.String()
				if l.Default {
					head += " Default"
				}
				links = append(links, instance{head, scope{cfg: s.cfg, link: l}, l})
			}
			return links
		},
		always: true,
	}
}

func enterLink(p *parser, s scope, at Pos, t Transport, b *block) (scope, *Error) {
	links := s.cfg.Sync.Links
	switch {
	case len(links) > 0 && links[0].Transport != t:
		return s, &Error{Pos: at, Text: "cannot use `" + t.String() + "' with other dedicated link protocols!"}
	case len(links) == MaxLinks:
		return s, &Error{Pos: at, Text: "too many dedicated links in the configuration file (Maximum: 4)"}
	}
	l := &Link{Transport: t}
	p.cfg.pos[l] = at
	s.link = l
	b.reset(s)
	s.cfg.Sync.Links = append(links, l)
	if p.tok.kind == tokenWord {
		first := p.tok
		if _, err := p.oneOf(false, "Default"); err != nil {
			err.Expected = `Default or "{"`
			return s, err
		}
		for _, other := range links {
			if other.Default {
				other.Default = false
				p.warn(first.pos, OnCheck, "Default is given again and replaces that of the "+t.String()+" link before")
			}
		}
		l.Default = true
	}
	return s, nil
}

var multicastClauses = []clause{
	{name: "IPv4_address", value: &address{at: linkAddress}, doc: "The group's address. The last address given counts."},
	{name: "IPv6_address", value: &address{at: linkAddress, six: true}, doc: "The group's address."},
	{name: "Group", value: linkPort, doc: "The UDP port."},
	{
		name:  "IPv4_interface",
		value: &address{at: func(s scope) *netip.Addr { return &s.link.Local }},
		doc:   "The address of the interface, for IPv4 groups.",
	},
	{
		name: "IPv6_interface",
		value: &ignored{
			skip: func(p *parser) *Error { _, _, _, err := p.addressWord("an IPv6 address"); return err },
			form: "ADDRESS",
		},
		warning: "`IPv6_interface' not required, ignoring",
		doc:     "Ignored.",
	},
	linkInterface, sndSocketBuffer, rcvSocketBuffer, checksum,
}

var udpClauses = []clause{
	{name: "IPv4_address", value: &address{at: linkAddress}, doc: "The local address. Without one, any."},
	{name: "IPv6_address", value: &address{at: linkAddress, six: true}, doc: "The local address. Without one, any."},
	{name: "IPv4_Destination_Address", value: &address{at: linkPeer}, doc: "The peer's address. The last one given counts."},
	{name: "IPv6_Destination_Address", value: &address{at: linkPeer, six: true}, doc: "The peer's address."},
	{name: "Port", value: linkPort, doc: "The UDP port, the same on both nodes."},
	linkAlso, linkAccept,
	linkInterface, sndSocketBuffer, rcvSocketBuffer, checksum,
}

var tcpClauses = []clause{
	{name: "IPv4_address", value: &address{at: linkAddress}, doc: "The local address. Without one, any."},
	{name: "IPv6_address", value: &address{at: linkAddress, six: true}, doc: "The local address. Without one, any."},
	{name: "IPv4_Destination_Address", value: &address{at: linkPeer}, doc: "The peer's address. The last one given counts."},
	{name: "IPv6_Destination_Address", value: &address{at: linkPeer, six: true}, doc: "The peer's address."},
	{name: "Port", value: linkPort, doc: "The TCP port, the same on both nodes."},
	linkAccept,
	linkInterface, sndSocketBuffer, rcvSocketBuffer,
	{
		name:   "Checksum",
		value:  &ignored{skip: func(p *parser) *Error { _, err := p.flag(); return err }, form: "on | off"},
		doc:    "Ignored: TCP always has checksums.",
		notice: "Checksum has no effect over TCP",
	},
	{
		name: "ErrorQueueLength",
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.link.ErrorQueueLength }, max: maxInt, def: 128,
		},
		doc: "The largest number of buffers kept while the peer is disconnected.",
	},
}

func linkAddress(s scope) *netip.Addr { return &s.link.Address }
func linkPeer(s scope) *netip.Addr    { return &s.link.Destination }

var (
	linkPort      = &number[uint16]{at: func(s scope) *uint16 { return &s.link.Port }, max: 65535}
	linkInterface = clause{name: "Interface", value: &interfaceName{}, doc: "The link's interface. Mandatory."}

	sndSocketBuffer = clause{
		name:  "SndSocketBuffer",
		value: &number[uint32]{at: func(s scope) *uint32 { return &s.link.SndSocketBuffer }, max: maxInt},
		doc:   "Size of the send buffer in bytes, beyond net.core.wmem_max if need be. Otherwise the system's default.",
	}
	rcvSocketBuffer = clause{
		name:  "RcvSocketBuffer",
		value: &number[uint32]{at: func(s scope) *uint32 { return &s.link.RcvSocketBuffer }, max: maxInt},
		doc:   "Size of the receive buffer in bytes, beyond net.core.rmem_max if need be. Otherwise the system's default.",
	}
	linkAccept = clause{
		name: "Accept",
		ours: true,
		value: &several[netip.Prefix]{
			at: func(s scope) *[]netip.Prefix { return &s.link.Accept }, parse: parseSource,
			expected: "an address, or a network as 192.0.2.0/24", form: "ADDRESS[/LENGTH]",
		},
		doc: "Accept messages from this source, too, on the link's interface or from this host: from a relay, or from a " +
			"peer that sends from another address than the destination. Several add up.",
	}
	linkAlso = clause{
		name: "Also",
		ours: true,
		value: &several[netip.Addr]{
			at: func(s scope) *[]netip.Addr { return &s.link.Also }, parse: parseHost, expected: "an address", form: "ADDRESS",
		},
		doc: "The address of another peer: messages are sent to it, too, and accepted from it. Several add up. Not in " +
			"mode FTFW, which is for two nodes.",
	}
	checksum = clause{
		name:  "Checksum",
		value: &boolean{at: func(s scope) *bool { return &s.link.Checksum }, def: true},
		doc:   "Fill in the UDP checksum.",
	}
)

// address is the address of a host. The clauses of the two families share one
// field.
type address struct {
	at  func(scope) *netip.Addr
	six bool
}

func (v *address) read(p *parser, c *clause, s scope, at Pos) *Error {
	addr, err := p.address(v.six)
	if err != nil {
		return err
	}
	if s.link.Transport == Multicast {
		v.clash(p, c, s, at)
	}
	if addr.IsValid() {
		field := v.at(s)
		p.mark(field, c, at)
		*field = addr
	}
	return nil
}

// clash warns of a multicast link that mixes address families.
func (v *address) clash(p *parser, c *clause, s scope, at Pos) {
	l := s.link
	switch {
	case v.six && (l.Address.Is4() || l.Local.IsValid()):
		p.warn(at, Always, "your multicast address is IPv6 but is binded to an IPv4 interface? Surely this is not what you want")
	case v.six || !l.Address.Is6():
	case c.name == "IPv4_interface":
		p.warn(at, Always, "your multicast interface is IPv4 but is binded to an IPv6 interface? Surely, this is not what you want")
	default:
		p.warn(at, Always, "your multicast address is IPv4 but is binded to an IPv6 interface? Surely, this is not what you want")
	}
}

func (v *address) field(s scope) any { return v.at(s) }
func (v *address) reset(s scope)     { *v.at(s) = netip.Addr{} }

func (v *address) print(w *printer, c *clause, s scope) {
	if addr := *v.at(s); addr.IsValid() && addr.Is6() == v.six {
		w.line(c.name, addr.String())
	}
}

func (v *address) syntax() string   { return "ADDRESS" }
func (v *address) standard() string { return "" }

// several is a list to which clauses of one name add. Unlike conntrack-tools' address
// clauses it refuses words that it does not understand.
type several[T interface {
	comparable
	String() string
}] struct {
	at       func(scope) *[]T
	parse    func(string) (T, bool)
	expected string
	form     string
}

func (v *several[T]) read(p *parser, c *clause, s scope, at Pos) *Error {
	t, err := p.word(v.expected)
	if err != nil {
		return err
	}
	item, ok := v.parse(t.text)
	if !ok {
		return p.mismatch(t, v.expected)
	}
	field := v.at(s)
	if slices.Contains(*field, item) {
		p.warn(at, OnCheck, c.name+" "+t.text+" is given again")
		return nil
	}
	p.cfg.pos[field] = at
	*field = append(*field, item)
	return nil
}

func (v *several[T]) field(s scope) any { return v.at(s) }
func (v *several[T]) reset(s scope)     { *v.at(s) = nil }

func (v *several[T]) print(w *printer, c *clause, s scope) {
	for _, item := range *v.at(s) {
		w.line(c.name, item.String())
	}
}

func (v *several[T]) syntax() string   { return v.form }
func (v *several[T]) standard() string { return "" }

// parseHost parses the address of a host.
func parseHost(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast()
}

// parseSource parses the address of a host or a network.
func parseSource(s string) (netip.Prefix, bool) {
	if a, ok := parseHost(s); ok {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil && p == p.Masked() && !p.Addr().Is4In6() && !p.Addr().IsMulticast()
}

// interfaceName is the name of a network interface.
type interfaceName struct{}

func (v *interfaceName) read(p *parser, c *clause, s scope, at Pos) *Error {
	const expected = "the name of an interface"
	t, err := p.word(expected)
	if err != nil {
		return err
	}
	// The kernel refuses a slash and a colon; the other bytes are unfit for messages.
	for i := range len(t.text) {
		if b := t.text[i]; b == '/' || b == ':' || b <= ' ' || b >= 0x7f {
			return p.mismatch(t, expected)
		}
	}
	field := &s.link.Interface
	p.mark(field, c, at)
	*field = t.text
	return nil
}

func (v *interfaceName) field(s scope) any { return &s.link.Interface }
func (v *interfaceName) reset(s scope)     { s.link.Interface = "" }

func (v *interfaceName) print(w *printer, c *clause, s scope) {
	if name := s.link.Interface; name != "" {
		w.line(c.name, name)
	}
}

func (v *interfaceName) syntax() string   { return "NAME" }
func (v *interfaceName) standard() string { return "" }
