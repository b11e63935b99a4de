package conf

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

var filterClauses = []clause{
	{
		name:  "Protocol",
		value: &protocolFilter{},
		doc:   "By layer 4 protocol. Several add up; the last action counts.",
	},
	{
		name:  "Address",
		value: &addressFilter{&block{title: "Address", syntax: "Accept | Ignore { ... }", clauses: addressClauses}},
		doc: "By address. In user space a flow matches if its original source or its reply source is on the list. Several add " +
			"up; the last action counts. An Accept list without an IPv4 network drops all IPv4 flows, and likewise for IPv6.",
	},
	{
		name:  "State",
		value: &stateFilter{},
		doc:   "By TCP state; other flows pass. Several add up; the last action counts.",
	},
	{
		name:  "Mark",
		ours:  true,
		value: &markFilter{},
		doc: "By mark: a flow matches if its mark has the value's bits within the mask, as in 0x1/0xff; without a mask all bits " +
			"count. A flow whose mark changes so that it no longer passes is removed from the caches. Applied in user space. " +
			"Several add up; the last action counts.",
	},
	{
		name:  "Zone",
		ours:  true,
		value: &zoneFilter{},
		doc: "By conntrack zone; a zone of one direction counts, too, and a flow that was given none is in zone 0. Applied in " +
			"user space. Several add up; the last action counts.",
	},
}

var addressClauses = []clause{
	{name: "IPv4_address", value: &network{}, doc: "A host or a network."},
	{name: "IPv6_address", value: &network{six: true}, doc: "A host or a network."},
}

// filter is the Filter block.
type filter struct{ block *block }

func (v *filter) blocks() []*block { return []*block{v.block} }
func (v *filter) syntax() string   { return v.block.syntax }
func (v *filter) standard() string { return "" }

func (v *filter) field(s scope) any { return s.filter() }

func (v *filter) reset(s scope) {
	s.filter().Kernelspace = false
	v.block.reset(s)
}

func (v *filter) read(p *parser, c *clause, s scope, at Pos) *Error {
	f := s.filter()
	kernel := 0
	if p.tok.kind == tokenWord {
		if _, err := p.oneOf(false, "From"); err != nil {
			err.Expected = `From or "{"`
			return err
		}
		var err *Error
		if kernel, err = p.oneOf(false, "Userspace", "Kernelspace"); err != nil {
			return err
		}
	}
	p.cfg.pos[f] = at
	f.Kernelspace = kernel == 1
	return p.body(v.block, s)
}

func (v *filter) print(w *printer, c *clause, s scope) {
	head := "Filter From Userspace"
	kernel := s.filter().Kernelspace
	if kernel {
		head = "Filter From Kernelspace"
	}
	w.block(head, kernel, func() { w.clauses(v.block, s) })
}

// filter returns the Filter of the block: that of General or of an Export.
func (s scope) filter() *Filter {
	if s.export != nil {
		return &s.export.Filter
	}
	return &s.cfg.General.Filter
}

// action parses Accept or Ignore.
func (p *parser) action() (Action, *Error) {
	i, err := p.oneOf(false, "Accept", "Ignore")
	return Accept + Action(i), err
}

// items parses words in braces; each word is used by item, which may take more.
func (p *parser) items(title, expected string, item func(t token) *Error) *Error {
	open, err := p.open()
	if err != nil {
		return err
	}
	for p.tok.kind != tokenClose {
		if p.tok.kind == tokenEOF {
			return p.unclosed(title, open)
		}
		t, err := p.word(expected + ` or "}"`)
		if err != nil {
			return err
		}
		if err := item(t); err != nil {
			return err
		}
	}
	p.next()
	return nil
}

// protocolFilter is the Protocol block of names.
type protocolFilter struct{}

func (*protocolFilter) syntax() string   { return "Accept | Ignore { TCP UDP NAME ... }" }
func (*protocolFilter) standard() string { return "" }

func (*protocolFilter) field(s scope) any { return &s.filter().Protocol }

func (*protocolFilter) reset(s scope) {
	f := &s.filter().Protocol
	f.Action, f.Protocols = NoAction, ProtocolSet{}
}

func (*protocolFilter) read(p *parser, c *clause, s scope, at Pos) *Error {
	f := &s.filter().Protocol
	action, err := p.action()
	if err != nil {
		return err
	}
	f.Action = action
	p.cfg.pos[f] = at
	const expected = "the name of a protocol"
	return p.items("Protocol", expected, func(t token) *Error {
		number, ok := p.protocol(t.text)
		switch {
		case ok:
			f.Protocols.Add(number)
		case p.isName(t.text):
			p.warn(t.pos, Always, "getprotobyname() cannot find protocol `"+abbreviated(t.text)+"' in /etc/protocols")
		default:
			return p.mismatch(t, expected)
		}
		return nil
	})
}

func (*protocolFilter) print(w *printer, c *clause, s scope) {
	f := &s.filter().Protocol
	if f.Action == NoAction {
		return
	}
	w.block("Protocol "+f.Action.String(), true, func() {
		for number := range 256 {
			if f.Protocols.Has(uint8(number)) {
				w.line(protocolName(uint8(number)))
			}
		}
	})
}

// addressFilter is the Address block. It prints the clauses in the block itself, because
// they share one list.
type addressFilter struct{ block *block }

func (v *addressFilter) blocks() []*block { return []*block{v.block} }
func (v *addressFilter) syntax() string   { return v.block.syntax }
func (v *addressFilter) standard() string { return "" }

func (v *addressFilter) field(s scope) any { return &s.filter().Address }

func (v *addressFilter) reset(s scope) {
	f := &s.filter().Address
	f.Action, f.Prefixes = NoAction, nil
}

func (v *addressFilter) read(p *parser, c *clause, s scope, at Pos) *Error {
	f := &s.filter().Address
	action, err := p.action()
	if err != nil {
		return err
	}
	f.Action = action
	p.cfg.pos[f] = at
	return p.body(v.block, s)
}

func (v *addressFilter) print(w *printer, c *clause, s scope) {
	f := &s.filter().Address
	if f.Action == NoAction {
		return
	}
	w.block("Address "+f.Action.String(), true, func() {
		for _, prefix := range f.Prefixes {
			keyword := "IPv4_address"
			if prefix.Addr().Is6() {
				keyword = "IPv6_address"
			}
			if prefix.IsSingleIP() {
				w.line(keyword, prefix.Addr().String())
			} else {
				w.line(keyword, prefix.String())
			}
		}
	})
}

// network is an address of the Address block, with or without a prefix length.
type network struct{ six bool }

func (v *network) read(p *parser, c *clause, s scope, at Pos) *Error {
	t, prefix, err := p.network(v.six)
	if err != nil || !prefix.IsValid() {
		return err
	}
	f := &s.filter().Address
	key := prefixKey{s.filter(), prefix}
	if _, twice := p.cfg.pos[key]; !twice {
		p.cfg.pos[key] = t.pos
		f.Prefixes = append(f.Prefixes, prefix)
	} else if !v.six && !prefix.IsSingleIP() {
		p.warn(t.pos, Always, "netmask "+prefix.Addr().String()+" is repeated in the ignore pool")
	}
	return nil
}

// prefixKey is the key of Config.pos of a network of the filter.
type prefixKey struct {
	filter *Filter
	prefix netip.Prefix
}

func (v *network) field(scope) any                { return nil }
func (v *network) reset(scope)                    {}
func (v *network) print(*printer, *clause, scope) {}
func (v *network) standard() string               { return "" }
func (v *network) syntax() string                 { return "ADDRESS[/LENGTH]" }

// stateFilter is the State block: states, then "for TCP", any number of times.
type stateFilter struct{}

// tcpStateNames are the names of states, with the numbers of enum tcp_conntrack. Of two names
// for a number the first is printed.
var tcpStateNames = []struct {
	name  string
	state uint8
}{
	{"SYN_SENT", 1}, {"SYN_RECV", 2}, {"ESTABLISHED", 3}, {"FIN_WAIT", 4}, {"CLOSE_WAIT", 5},
	{"LAST_ACK", 6}, {"TIME_WAIT", 7}, {"CLOSED", 8}, {"CLOSE", 8}, {"LISTEN", 9},
}

func (*stateFilter) syntax() string   { return "Accept | Ignore { STATE ... for TCP }" }
func (*stateFilter) standard() string { return "" }

func (*stateFilter) field(s scope) any { return &s.filter().State }

func (*stateFilter) reset(s scope) {
	f := &s.filter().State
	f.Action, f.States = NoAction, 0
}

func (*stateFilter) read(p *parser, c *clause, s scope, at Pos) *Error {
	f := &s.filter().State
	action, err := p.action()
	if err != nil {
		return err
	}
	f.Action = action
	p.cfg.pos[f] = at
	names := []string{"for"}
	for _, n := range tcpStateNames {
		names = append(names, n.name)
	}
	const expected = `a TCP state or "for TCP"`
	return p.items("State", expected, func(t token) *Error {
		i := slices.Index(names, t.text)
		switch {
		case i < 0:
			return p.mismatch(t, expected, names...)
		case i == 0:
			_, err := p.oneOf(false, "TCP")
			return err
		}
		f.States |= 1 << tcpStateNames[i-1].state
		if p.tok.kind == tokenClose {
			return p.unexpected(expected)
		}
		return nil
	})
}

func (*stateFilter) print(w *printer, c *clause, s scope) {
	f := &s.filter().State
	if f.Action == NoAction {
		return
	}
	w.block("State "+f.Action.String(), true, func() {
		var words []string
		printed := TCPStates(0)
		for _, n := range tcpStateNames {
			if f.States.Has(n.state) && !printed.Has(n.state) {
				words = append(words, n.name)
				printed |= 1 << n.state
			}
		}
		if words != nil {
			w.line(append(words, "for", "TCP")...)
		}
	})
}

// markFilter is the Mark block of values with masks.
type markFilter struct{}

func (*markFilter) syntax() string   { return "Accept | Ignore { VALUE[/MASK] ... }" }
func (*markFilter) standard() string { return "" }

func (*markFilter) field(s scope) any { return &s.filter().Mark }

func (*markFilter) reset(s scope) {
	f := &s.filter().Mark
	f.Action, f.Marks = NoAction, nil
}

func (*markFilter) read(p *parser, c *clause, s scope, at Pos) *Error {
	f := &s.filter().Mark
	action, err := p.action()
	if err != nil {
		return err
	}
	f.Action = action
	p.cfg.pos[f] = at
	const expected = "a mark as 0x1 or 0x1/0xff"
	return p.items("Mark", expected, func(t token) *Error {
		value, mask, masked := strings.Cut(t.text, "/")
		m := Mark{Mask: 1<<32 - 1}
		var ok bool
		if m.Value, ok = parseMark(value); !ok {
			return p.mismatch(t, expected)
		}
		if masked {
			if m.Mask, ok = parseMark(mask); !ok {
				return p.mismatch(t, expected)
			}
		}
		if m.Value&^m.Mask != 0 {
			return &Error{Pos: t.pos, Text: "mark " + abbreviated(t.text) + " matches nothing: its value has bits outside of its mask"}
		}
		if !slices.Contains(f.Marks, m) {
			f.Marks = append(f.Marks, m)
		}
		return nil
	})
}

// parseMark parses a mark or mask: decimal digits, or 0x and hexadecimal ones.
func parseMark(s string) (uint32, bool) {
	base := 10
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		s, base = hex, 16
	}
	if strings.HasPrefix(s, "+") {
		return 0, false
	}
	n, err := strconv.ParseUint(s, base, 32)
	return uint32(n), err == nil
}

// String returns the mark as the file has it.
func (m Mark) String() string {
	text := "0x" + strconv.FormatUint(uint64(m.Value), 16)
	if m.Mask != 1<<32-1 {
		text += "/0x" + strconv.FormatUint(uint64(m.Mask), 16)
	}
	return text
}

func (*markFilter) print(w *printer, c *clause, s scope) {
	f := &s.filter().Mark
	if f.Action == NoAction {
		return
	}
	w.block("Mark "+f.Action.String(), true, func() {
		for _, m := range f.Marks {
			w.line(m.String())
		}
	})
}

// zoneFilter is the Zone block of numbers.
type zoneFilter struct{}

func (*zoneFilter) syntax() string   { return "Accept | Ignore { N ... }" }
func (*zoneFilter) standard() string { return "" }

func (*zoneFilter) field(s scope) any { return &s.filter().Zone }

func (*zoneFilter) reset(s scope) {
	f := &s.filter().Zone
	f.Action, f.Zones = NoAction, nil
}

func (*zoneFilter) read(p *parser, c *clause, s scope, at Pos) *Error {
	f := &s.filter().Zone
	action, err := p.action()
	if err != nil {
		return err
	}
	f.Action = action
	p.cfg.pos[f] = at
	const expected = "a zone from 0 to 65535"
	return p.items("Zone", expected, func(t token) *Error {
		if strings.Trim(t.text, "0123456789") != "" {
			return p.mismatch(t, expected)
		}
		n, err := strconv.ParseUint(t.text, 10, 16)
		if err != nil {
			return p.mismatch(t, expected)
		}
		if !slices.Contains(f.Zones, uint16(n)) {
			f.Zones = append(f.Zones, uint16(n))
		}
		return nil
	})
}

func (*zoneFilter) print(w *printer, c *clause, s scope) {
	f := &s.filter().Zone
	if f.Action == NoAction {
		return
	}
	w.block("Zone "+f.Action.String(), true, func() {
		for _, zone := range f.Zones {
			w.line(strconv.Itoa(int(zone)))
		}
	})
}
