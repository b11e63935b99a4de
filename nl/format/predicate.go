package format

import (
	"math"
	"net/netip"
	"strconv"
	"strings"

	"ctbox/internal/nearest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/match"
)

// PredicateReader reads predicates from JSON lines. The zero value is ready. It is for one
// goroutine.
type PredicateReader struct {
	s     scanner
	p     match.Predicate
	tuple *match.Tuple // the one being read
	any   bool         // it is p.Any

	family  uint8 // of the addresses and of family
	state   string
	stateAt int

	members []predicateMember
}

// Read returns the predicate in a line of JSON: an object with the members of
// docs/json.md that are conditions there. A member that is none is an error, as is one
// that occurs twice: a condition that is skipped would make the others meet more flows.
// The error is a *SyntaxError.
func (r *PredicateReader) Read(line []byte) (match.Predicate, error) {
	*r = PredicateReader{s: scanner{line: line, scratch: r.s.scratch}, members: r.members}
	if r.members == nil {
		r.members = predicateMembers()
	}
	r.object(r.members)
	if r.s.err == nil && (r.s.peek() != 0 || r.s.at < len(line)) {
		r.s.fail(r.s.at, "text after the object")
	}
	if r.s.err == nil {
		r.finish()
	}
	r.s.line = nil
	if r.s.err != nil {
		return match.Predicate{}, r.s.err
	}
	return r.p, nil
}

// predicateMember is a name that an object of a predicate may have.
type predicateMember struct {
	name string
	read func(r *PredicateReader)
}

// object reads an object with the members ms; there are at most 64.
func (r *PredicateReader) object(ms []predicateMember) {
	s := &r.s
	s.expect('{', "expected an object")
	if s.err != nil || s.take('}') {
		return
	}
	var seen uint64
	for s.err == nil {
		s.peek()
		at := s.at
		name := string(s.string())
		s.expect(':', "expected : after a name")
		if s.err != nil {
			return
		}
		known := false
		for i := range ms {
			if ms[i].name != name {
				continue
			}
			if known = true; seen&(1<<i) != 0 {
				s.fail(at, "member "+name+" twice")
				return
			}
			seen |= 1 << i
			ms[i].read(r)
		}
		if !known {
			names := make([]string, len(ms))
			for i := range ms {
				names[i] = ms[i].name
			}
			problem := strconv.Quote(name) + " is no condition"
			if near := nearest.Word(name, names); near != "" {
				problem += " (did you mean " + near + "?)"
			}
			s.fail(at, problem)
			return
		}
		if s.take('}') {
			return
		}
		s.expect(',', "expected , or } in an object")
	}
}

// finish settles what depends on members in any order.
func (r *PredicateReader) finish() {
	p := &r.p
	if p.Has == 0 && p.Family == nl.FamilyUnspec && p.Orig.Has|p.Reply.Has|p.Any.Has == 0 && r.state == "" {
		r.s.fail(0, "no condition")
		return
	}
	const ports = match.SrcPort | match.DstPort
	const icmp = match.ICMPType | match.ICMPCode | match.ICMPID
	has := p.Orig.Has | p.Reply.Has | p.Any.Has
	if p.Has&match.AnyEnd != 0 && p.End.HasPort {
		has |= match.SrcPort
	}
	if p.Has&match.Proto != 0 {
		switch {
		case has&ports != 0 && !ctnetlink.HasPorts(p.Proto) && p.Proto != ctnetlink.ProtoGRE:
			r.s.fail(0, "ports of a protocol that has none")
		case has&icmp != 0 && !ctnetlink.IsICMP(p.Proto):
			r.s.fail(0, "ICMP members of another protocol")
		}
	}
	if r.s.err == nil && r.state != "" {
		r.setState()
	}
}

func (r *PredicateReader) setState() {
	p := &r.p
	number := func(find func(string) (uint8, bool)) uint8 {
		n, ok := find(r.state)
		if !ok {
			n, ok = decimal8([]byte(r.state))
		}
		if !ok {
			r.s.fail(r.stateAt, "unknown state")
		}
		return n
	}
	switch {
	case p.Has&match.Proto == 0:
		r.s.fail(r.stateAt, "state without a protocol")
	case p.Proto == ctnetlink.ProtoTCP:
		p.Has, p.TCPState = p.Has|match.TCPState, number(ctnetlink.TCPStateNumber)
	case p.Proto == ctnetlink.ProtoSCTP:
		p.Has, p.SCTPState = p.Has|match.SCTPState, number(ctnetlink.SCTPStateNumber)
	case p.Proto == ctnetlink.ProtoDCCP:
		p.Has, p.DCCPState = p.Has|match.DCCPState, number(ctnetlink.DCCPStateNumber)
	default:
		r.s.fail(r.stateAt, "state of a protocol that has none")
	}
}

// number makes the reader of a number up to most.
func number(bit match.Field, most uint64, set func(p *match.Predicate, v uint64)) func(*PredicateReader) {
	return func(r *PredicateReader) {
		set(&r.p, r.s.uint(most))
		r.p.Has |= bit
	}
}

// ranges makes the reader of a range of numbers.
func ranges(bit match.Field, most uint64, field func(p *match.Predicate) *match.Range) func(*PredicateReader) {
	return func(r *PredicateReader) {
		*field(&r.p) = r.numbers(most)
		r.p.Has |= bit
	}
}

// predicateMembers returns the members of a predicate. They are no variable: the linker
// would keep them, and all that reads them, where nothing reads predicates.
func predicateMembers() []predicateMember {
	return []predicateMember{
		{"family", (*PredicateReader).readFamily},
		{"proto", func(r *PredicateReader) {
			r.s.peek()
			at := r.s.at
			r.setProto(uint8(r.s.uint(math.MaxUint8)), at)
		}},
		{"proto_name", (*PredicateReader).readProtoName},
		{"original", func(r *PredicateReader) { r.readTuple(&r.p.Orig) }},
		{"reply", func(r *PredicateReader) { r.readTuple(&r.p.Reply) }},
		{"any", func(r *PredicateReader) { r.readTuple(&r.p.Any) }},
		{"timeout", ranges(match.Timeout, math.MaxUint32, func(p *match.Predicate) *match.Range { return &p.Timeout })},
		{"state", func(r *PredicateReader) {
			r.s.peek()
			r.stateAt = r.s.at
			if r.state = string(r.s.string()); r.state == "" {
				r.s.fail(r.stateAt, "unknown state")
			}
		}},
		{"status", (*PredicateReader).readStatus},
		{"mark", (*PredicateReader).readMark},
		{"secmark", number(match.Secmark, math.MaxUint32, func(p *match.Predicate, v uint64) { p.Secmark = uint32(v) })},
		{"zone", number(match.Zone, math.MaxUint16, func(p *match.Predicate, v uint64) { p.Zone = uint16(v) })},
		{"id", number(match.ID, math.MaxUint32, func(p *match.Predicate, v uint64) { p.ID = uint32(v) })},
		{"labels", func(r *PredicateReader) {
			r.p.Has |= match.Labels
			r.s.list(func() {
				if bit := r.s.uint(ctnetlink.MaxLabels - 1); r.s.err == nil {
					r.p.Labels.SetBit(int(bit))
				}
			})
		}},
		{"delta_time", ranges(match.Age, math.MaxUint64, func(p *match.Predicate) *match.Range { return &p.Age })},
		{"packets", ranges(match.Packets, math.MaxUint64, func(p *match.Predicate) *match.Range { return &p.Packets })},
		{"bytes", ranges(match.Bytes, math.MaxUint64, func(p *match.Predicate) *match.Range { return &p.Bytes })},
		{"src_nat", func(r *PredicateReader) { r.readNAT(match.SrcNAT, &r.p.SrcNAT) }},
		{"dst_nat", func(r *PredicateReader) { r.readNAT(match.DstNAT, &r.p.DstNAT) }},
		{"any_nat", func(r *PredicateReader) { r.readNAT(match.AnyNAT, &r.p.AnyNAT) }},
		{"sctp", func(r *PredicateReader) {
			r.object([]predicateMember{
				{"vtag_original", number(match.SCTPVtagOrig, math.MaxUint32, func(p *match.Predicate, v uint64) { p.SCTPVtagOrig = uint32(v) })},
				{"vtag_reply", number(match.SCTPVtagReply, math.MaxUint32, func(p *match.Predicate, v uint64) { p.SCTPVtagReply = uint32(v) })},
			})
		}},
		{"dccp", func(r *PredicateReader) {
			r.object([]predicateMember{
				{"role", number(match.DCCPRole, math.MaxUint8, func(p *match.Predicate, v uint64) { p.DCCPRole = uint8(v) })},
			})
		}},
	}
}

var predicateTuple = []predicateMember{
	{"src", func(r *PredicateReader) { r.tuple.Src, r.tuple.Has = r.address(), r.tuple.Has|match.Src }},
	{"dst", func(r *PredicateReader) { r.tuple.Dst, r.tuple.Has = r.address(), r.tuple.Has|match.Dst }},
	{"sport", func(r *PredicateReader) { r.tuple.SrcPort, r.tuple.Has = r.ports(), r.tuple.Has|match.SrcPort }},
	{"dport", func(r *PredicateReader) { r.tuple.DstPort, r.tuple.Has = r.ports(), r.tuple.Has|match.DstPort }},
	{"srckey", func(r *PredicateReader) { r.tuple.SrcPort, r.tuple.Has = r.ports(), r.tuple.Has|match.SrcPort }},
	{"dstkey", func(r *PredicateReader) { r.tuple.DstPort, r.tuple.Has = r.ports(), r.tuple.Has|match.DstPort }},
	{"icmp_type", func(r *PredicateReader) {
		r.tuple.ICMPType, r.tuple.Has = uint8(r.s.uint(math.MaxUint8)), r.tuple.Has|match.ICMPType
	}},
	{"icmp_code", func(r *PredicateReader) {
		r.tuple.ICMPCode, r.tuple.Has = uint8(r.s.uint(math.MaxUint8)), r.tuple.Has|match.ICMPCode
	}},
	{"icmp_id", func(r *PredicateReader) {
		r.tuple.ICMPID, r.tuple.Has = uint16(r.s.uint(math.MaxUint16)), r.tuple.Has|match.ICMPID
	}},
	{"zone", func(r *PredicateReader) {
		r.tuple.Zone, r.tuple.Has = uint16(r.s.uint(math.MaxUint16)), r.tuple.Has|match.TupleZone
	}},
	{"packets", func(r *PredicateReader) {
		r.tuple.Packets, r.tuple.Has = r.numbers(math.MaxUint64), r.tuple.Has|match.TuplePackets
	}},
	{"bytes", func(r *PredicateReader) {
		r.tuple.Bytes, r.tuple.Has = r.numbers(math.MaxUint64), r.tuple.Has|match.TupleBytes
	}},
	{"addr", func(r *PredicateReader) {
		if r.onlyAny() {
			r.p.End.Addr, r.p.End.HasAddr = r.address(), true
		}
	}},
	{"port", func(r *PredicateReader) {
		if r.onlyAny() {
			r.p.End.Ports, r.p.End.HasPort = r.ports(), true
		}
	}},
}

func (r *PredicateReader) readTuple(t *match.Tuple) {
	r.tuple, r.any = t, t == &r.p.Any
	r.object(predicateTuple)
}

// onlyAny reports whether the tuple is that of either direction, whose ends can be asked
// for as well.
func (r *PredicateReader) onlyAny() bool {
	if !r.any {
		r.s.fail(r.s.at, "addr and port are members of any only")
		return false
	}
	r.p.Has |= match.AnyEnd
	return true
}

func (r *PredicateReader) readFamily() {
	r.s.peek()
	at := r.s.at
	name := r.s.string()
	for _, family := range [...]uint8{nl.FamilyIPv4, nl.FamilyIPv6} {
		if string(name) == ctnetlink.FamilyName(family) {
			r.p.Family = family
			r.settle(family, at)
			return
		}
	}
	r.s.fail(at, "unknown family")
}

// settle notes the family of an address; all of a predicate are of one.
func (r *PredicateReader) settle(family uint8, at int) {
	if r.family != nl.FamilyUnspec && r.family != family {
		r.s.fail(at, "addresses of two families")
	}
	r.family = family
}

func (r *PredicateReader) readProtoName() {
	r.s.peek()
	at := r.s.at
	name := string(r.s.string())
	for proto := range 256 {
		known := ctnetlink.ProtoName(uint8(proto))
		if known != "unknown" && name == known {
			r.setProto(uint8(proto), at)
			return
		}
	}
	r.s.fail(at, "unknown protocol")
}

func (r *PredicateReader) setProto(proto uint8, at int) {
	if r.p.Has&match.Proto != 0 && r.p.Proto != proto {
		r.s.fail(at, "proto and proto_name differ")
	}
	r.p.Proto, r.p.Has = proto, r.p.Has|match.Proto
}

// text reads a text that is the one form of a value whose other form is a number.
func (r *PredicateReader) text() (text string, at int, ok bool) {
	c := r.s.peek()
	at = r.s.at
	if c != '"' {
		return "", at, false
	}
	text = string(r.s.string())
	return text, at, r.s.err == nil
}

// numbers reads a number, or a text with a range.
func (r *PredicateReader) numbers(most uint64) match.Range {
	text, at, ok := r.text()
	if !ok {
		n := r.s.uint(most)
		return match.Range{Min: n, Max: n}
	}
	v, ok := match.ParseRange(text, most)
	if !ok {
		r.s.fail(at, `not a range such as "80-90", "80-" or "-90"`)
	}
	return v
}

func (r *PredicateReader) ports() match.Ports {
	v := r.numbers(math.MaxUint16)
	return match.Ports{Min: uint16(v.Min), Max: uint16(v.Max)}
}

// address reads a text with an address or prefix.
func (r *PredicateReader) address() match.Address {
	r.s.peek()
	at := r.s.at
	return r.parseAddress(string(r.s.string()), at)
}

func (r *PredicateReader) parseAddress(text string, at int) match.Address {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, notAddr := netip.ParseAddr(text)
		if notAddr != nil || a.Zone() != "" {
			r.s.fail(at, "not an address or prefix")
			return match.Address{}
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	a := match.Prefix(p)
	r.settle(a.Family, at)
	return a
}

func (r *PredicateReader) readMark() {
	r.p.Has, r.p.MarkMask = r.p.Has|match.Mark, math.MaxUint32
	text, at, ok := r.text()
	if !ok {
		r.p.Mark = uint32(r.s.uint(math.MaxUint32))
		return
	}
	value, mask, masked := strings.Cut(text, "/")
	v, err := strconv.ParseUint(value, 0, 32)
	m := uint64(math.MaxUint32)
	if err == nil && masked {
		m, err = strconv.ParseUint(mask, 0, 32)
	}
	if err != nil || strings.Contains(text, "_") {
		r.s.fail(at, `not a mark such as "0x10/0xf0"`)
		return
	}
	r.p.Mark, r.p.MarkMask = uint32(v), uint32(m)
}

// readStatus reads names of bits; one with ! in front must be clear.
func (r *PredicateReader) readStatus() {
	r.p.Has |= match.Status
	r.s.list(func() {
		r.s.peek()
		at := r.s.at
		name, not := strings.CutPrefix(string(r.s.string()), "!")
		if r.s.err != nil {
			return
		}
		bit, ok := uint32(0), false
		for _, n := range jsonStatus {
			if n.name == name {
				bit, ok = n.bit, true
			}
		}
		if !ok {
			bit, ok = hex32([]byte(name))
		}
		if !ok || bit == 0 {
			r.s.fail(at, "unknown status")
			return
		}
		if r.p.StatusMask&bit != 0 {
			r.s.fail(at, "status twice")
		}
		r.p.StatusMask |= bit
		if !not {
			r.p.Status |= bit
		}
	})
	if r.s.err == nil && r.p.StatusMask == 0 {
		r.s.fail(r.s.at, "the status list names no status")
	}
}

// readNAT reads true, for any translation, or a text with an address and perhaps ports.
func (r *PredicateReader) readNAT(bit match.Field, e *match.End) {
	r.p.Has |= bit
	text, at, ok := r.text()
	if !ok {
		r.s.literal("true")
		return
	}
	e.HasAddr = true
	addr, ports, hasPorts := text, "", false
	switch bracket := strings.Index(text, "]:"); {
	case bracket > 0 && text[0] == '[':
		addr, ports, hasPorts = text[1:bracket], text[bracket+2:], true
	case strings.Count(text, ":") == 1:
		addr, ports, hasPorts = strings.Cut(text, ":")
	}
	e.Addr = r.parseAddress(addr, at)
	if hasPorts {
		v, ok := match.ParseRange(ports, math.MaxUint16)
		if !ok {
			r.s.fail(at, "not a port or range of ports behind the address")
		}
		e.Ports, e.HasPort = match.Ports{Min: uint16(v.Min), Max: uint16(v.Max)}, true
	}
}
