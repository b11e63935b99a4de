package rtsp

import (
	"bytes"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
)

// transport is one of the transports that a Transport header offers (RFC 2326, section 12.39;
// RFC 7826, section 18.54), as far as it is about UDP.
type transport struct {
	unread                    bool // TCP or multicast
	client, server            end
	destination, destination2 host
	source, source2           host
}

// end are the ports that one end announces: one run, or two that do not follow one another.
type end struct {
	runs [2]run
	n    int
}

// run is a number of consecutive ports, and the numbers in the packet that name them.
type run struct {
	first   uint16
	ports   int
	numbers [4]number
}

// number is a port in the packet: its place, and its distance from the run's first.
type number struct {
	at, len int // len is 0 where there is none
	beyond  uint16
}

// host is an address in the packet.
type host struct {
	addr    netip.Addr
	at, len int
}

// transport reads the transports in the value of a Transport header, or in a part of it: if
// head is set the text begins within a parameter, which is not read, and likewise tail says
// that it may end within one.
func (r *reader) transport(text []byte, at int, head, tail bool) {
	var t transport
	begin, quoted := 0, false
	for i := 0; i <= len(text); i++ {
		c := byte(0)
		if i < len(text) {
			c = text[i]
		}
		switch {
		case i == len(text) && tail && (len(text) == 0 || text[len(text)-1] != '\r'):
			// the rest of the parameter is in the next segment
		case c == '"':
			quoted = !quoted
			continue
		case i < len(text) && (quoted || c != ';' && c != ','):
			continue
		case !head:
			parameter := text[begin:i]
			skip := len(parameter) - len(bytes.TrimLeft(parameter, " \t"))
			t.parameter(bytes.TrimSpace(parameter), at+begin+skip)
		}
		begin, head = i+1, false
		if c == ',' || i == len(text) {
			r.use(&t)
			t = transport{}
		}
	}
}

// parameter reads one parameter, or the transport's name before them.
func (t *transport) parameter(text []byte, at int) {
	name, value, hasValue := bytes.Cut(text, []byte("="))
	if !hasValue {
		const tcp = "/TCP"
		t.unread = t.unread || len(name) > len(tcp) && bytes.EqualFold(name[len(name)-len(tcp):], []byte(tcp)) ||
			bytes.EqualFold(name, []byte("multicast"))
		return
	}
	at += len(text) - len(value)
	switch {
	case bytes.EqualFold(name, []byte("client_port")):
		t.client.ports(value, at)
	case bytes.EqualFold(name, []byte("server_port")):
		t.server.ports(value, at)
	case bytes.EqualFold(name, []byte("destination")):
		t.destination = t.client.address(value, at)
	case bytes.EqualFold(name, []byte("source")):
		t.source = t.server.address(value, at)
	case bytes.EqualFold(name, []byte("dest_addr")):
		t.destination, t.destination2 = t.client.quoted(value, at)
	case bytes.EqualFold(name, []byte("src_addr")):
		t.source, t.source2 = t.server.quoted(value, at)
	}
}

// ports reads "4588", "4588-4589" or "4588/4589". It takes nothing else, and no more ports than
// a packet may announce.
func (e *end) ports(text []byte, at int) {
	first, digits := helper.Number(text, 65535)
	if first == 0 {
		return
	}
	one := number{at: at, len: digits}
	if digits == len(text) {
		e.add(uint16(first), 1, one)
		return
	}
	last, more := helper.Number(text[digits+1:], 65535)
	if last == 0 || digits+1+more != len(text) {
		return
	}
	two := number{at: at + digits + 1, len: more}
	switch {
	case text[digits] == '/':
		e.add(uint16(first), 1, one)
		e.add(uint16(last), 1, two)
	case text[digits] == '-' && first <= last && last-first < helper.MaxExpect:
		two.beyond = uint16(last - first)
		e.add(uint16(first), int(last-first)+1, one, two)
	}
}

// add adds a run of ports. One that follows a single port, or has ports in common with another
// run, belongs to that.
func (e *end) add(first uint16, n int, numbers ...number) {
	for i := range e.runs[:e.n] {
		old := &e.runs[i]
		low, high := min(first, old.first), max(int(first)+n, int(old.first)+old.ports)
		apart := high-int(low) > n+old.ports || high-int(low) == n+old.ports && (n != 1 || old.ports != 1 || first < old.first)
		if apart || high-int(low) > helper.MaxExpect {
			continue
		}
		for k := range old.numbers {
			switch x := &old.numbers[k]; {
			case x.len > 0:
				x.beyond += old.first - low
			case len(numbers) > 0:
				*x = numbers[0]
				x.beyond += first - low
				numbers = numbers[1:]
			}
		}
		old.first, old.ports = low, high-int(low)
		return
	}
	if e.n < len(e.runs) {
		e.runs[e.n] = run{first: first, ports: n}
		copy(e.runs[e.n].numbers[:], numbers)
		e.n++
	}
}

// address reads an address, which may have a port behind it.
func (e *end) address(text []byte, at int) (h host) {
	text, at = unquote(text, at)
	name, port := text, []byte(nil)
	h.at = at
	if addr := helper.Addr(text); addr.IsValid() {
		h.addr, h.len = addr, len(text)
		return h
	}
	if len(text) > 0 && text[0] == '[' { // IPv6, as in a URL
		close := bytes.IndexByte(text, ']')
		if close < 0 {
			return h
		}
		name, port = text[1:close], text[close+1:]
		h.at++
	} else if colon := bytes.LastIndexByte(text, ':'); colon >= 0 {
		name, port = text[:colon], text[colon:]
	}
	h.addr, h.len = helper.Addr(name), len(name)
	if len(port) > 1 && port[0] == ':' {
		if n, digits := helper.Number(port[1:], 65535); n != 0 && digits == len(port)-1 {
			e.add(uint16(n), 1, number{at: at + len(text) - digits, len: digits})
		}
	}
	return h
}

// quoted reads one or two addresses with ports, in quotes and with a slash between them. Either
// part of each may be missing (RFC 7826, section 18.54).
func (e *end) quoted(text []byte, at int) (first, second host) {
	one, two, both := bytes.Cut(text, []byte("/"))
	first = e.address(one, at)
	if both {
		second = e.address(two, at+len(one)+1)
	}
	return first, second
}

func unquote(text []byte, at int) ([]byte, int) {
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		return text[1 : len(text)-1], at + 1
	}
	return text, at
}

// isNamed reports whether the packet names a host there, by address or by name.
func (h host) isNamed() bool { return h.len > 0 }

// use answers a transport.
func (r *reader) use(t *transport) {
	switch {
	case t.unread:
	case r.dir == helper.Original:
		r.offer(t)
	default:
		r.answer(t)
	}
}

// offer expects the media at the client's ports, from the RTSP server.
func (r *reader) offer(t *transport) {
	p := r.p
	inner, outer := p.Src(helper.Original).Addr(), p.Dst(helper.Reply).Addr()
	for _, h := range [...]host{t.destination, t.destination2} {
		// Another host has not asked for anything, and a name may be any host's.
		if h.isNamed() && h.addr != inner && h.addr != outer {
			return
		}
	}
	for i := range t.client.n {
		c := &t.client.runs[i]
		r.announce(c)
		r.expect(helper.Expectation{
			Protocol: unix.IPPROTO_UDP,
			Src:      netip.AddrPortFrom(p.Src(helper.Reply).Addr(), 0),
			Dst:      netip.AddrPortFrom(outer, c.first),
			Ports:    c.ports,
			NAT:      &helper.NAT{Dir: helper.Reply, Port: c.first},
		}, c, true)
	}
	if t.client.n > 0 {
		r.readdress(t.destination, outer)
		r.readdress(t.destination2, outer)
	}
}

// answer expects the media from another source than the RTSP server if the server says so, and
// what the client sends to the server's ports.
func (r *reader) answer(t *transport) {
	p := r.p
	client, server := p.Src(helper.Original).Addr(), p.Src(helper.Reply).Addr()
	outer, seen := p.Dst(helper.Reply).Addr(), p.Dst(helper.Original).Addr()
	// An answer concerns ports that the client has asked for, and no others: what looks like an
	// answer may be media. Servers that do not repeat the ports mean the last ones.
	asked := r.streams[0]
	for i := range t.client.n {
		c := &t.client.runs[i]
		s, ok := r.find(c.first)
		if !ok {
			return
		}
		if i == 0 {
			asked = s
		}
		if p.NATed() && s.client != c.first {
			for _, n := range c.numbers {
				if n.len > 0 {
					r.edit(n.at, n.len, strconv.AppendUint(nil, uint64(s.client+n.beyond), 10))
				}
			}
		}
	}
	if t.destination.addr == outer {
		r.readdress(t.destination, client)
	}
	if t.destination2.addr == outer {
		r.readdress(t.destination2, client)
	}
	// Where flows are translated, media have the source as which the client sees the server.
	r.readdress(t.source, seen)
	r.readdress(t.source2, seen)

	source := server
	if t.source.addr.Is6() == server.Is6() && t.source.addr.IsValid() && t.source.addr != seen {
		source = t.source.addr
	}
	to := seen
	if source != server {
		r.expectStream(asked, source)
		if p.NATed() {
			return // the client's own packets would reach the RTSP server
		}
		to = source
	}
	for i := range t.server.n {
		c := &t.server.runs[i]
		r.expect(helper.Expectation{
			Protocol: unix.IPPROTO_UDP,
			Src:      netip.AddrPortFrom(client, 0),
			Dst:      netip.AddrPortFrom(to, c.first),
			Ports:    c.ports,
			NAT:      &helper.NAT{Dir: helper.Original, Port: c.first},
		}, c, server != seen)
	}
}

// expectStream expects media for a stream, from a source, at the ports that the server has got.
func (r *reader) expectStream(s stream, source netip.Addr) {
	if max(int(s.announced), int(s.client))+int(s.ports) > 1<<16 || s.ports > helper.MaxExpect {
		return // nothing that announce has noted
	}
	r.expect(helper.Expectation{
		Protocol: unix.IPPROTO_UDP,
		Src:      netip.AddrPortFrom(source, 0),
		Dst:      netip.AddrPortFrom(r.p.Dst(helper.Reply).Addr(), s.announced),
		Ports:    int(s.ports),
		NAT:      &helper.NAT{Dir: helper.Reply, Port: s.client},
	}, nil, false)
}

// find returns the stream for which the server has got that port.
func (r *reader) find(announced uint16) (stream, bool) {
	for _, s := range r.streams {
		if s.client != 0 && s.announced == announced {
			return s, true
		}
	}
	return stream{}, false
}

// expect adds an expectation. If its ports may be replaced, they are those of c. The same one
// is added once: several transports may offer the same ports.
func (r *reader) expect(e helper.Expectation, c *run, replaced bool) {
	x := &e
	for i := range r.a.Expect {
		if old := &r.a.Expect[i]; old.Src == e.Src && old.Dst == e.Dst && old.Ports == e.Ports {
			x = old
		}
	}
	if replaced {
		for _, n := range c.numbers {
			if n.len > 0 {
				x.Announced = &helper.Announced{At: n.at, Len: n.len, Append: r.appendPort(c.first, n.beyond), Next: x.Announced}
			}
		}
	}
	if x == &e {
		r.a.Expect = append(r.a.Expect, e)
	}
}

// appendPort returns what writes a port of the run that begins with first.
func (r *reader) appendPort(first, beyond uint16) func(dst []byte, to netip.AddrPort) []byte {
	private, request := r.p.Private, r.dir == helper.Original
	return func(dst []byte, to netip.AddrPort) []byte {
		if request && beyond == 0 {
			announcedAs(private, first, to.Port())
		}
		return strconv.AppendUint(dst, uint64(to.Port()+beyond), 10)
	}
}

// readdress writes another address where the packet has h.
func (r *reader) readdress(h host, to netip.Addr) {
	if h.addr.IsValid() && h.addr != to && h.addr.Is6() == to.Is6() && r.p.NATed() {
		r.edit(h.at, h.len, to.AppendTo(nil))
	}
}

func (r *reader) edit(at, length int, text []byte) {
	r.a.Edits = append(r.a.Edits, helper.Edit{At: at, Len: length, Text: text})
}
