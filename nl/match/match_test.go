package match

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// The model: predicates as lists of plain conditions, compared one after the other on
// netip's addresses. It shares nothing with Predicate.Match.

type condition struct {
	text string
	met  func(f *ctnetlink.Flow, now int64) bool
}

// spec is a predicate and its model.
type spec struct {
	p          Predicate
	conditions []condition
}

func (s *spec) met(f *ctnetlink.Flow, now int64) bool {
	for _, c := range s.conditions {
		if !c.met(f, now) {
			return false
		}
	}
	return true
}

func (s *spec) String() string {
	var all []string
	for _, c := range s.conditions {
		all = append(all, c.text)
	}
	return fmt.Sprint(all)
}

// world is what values flows and predicates have: few, so that they meet.
type world struct {
	r     *rand.Rand
	v6    bool
	hosts int
}

const modelNow int64 = 2_000_000_000_500_000_000

func (w *world) addr(v6 bool) netip.Addr {
	n := w.r.IntN(w.hosts)
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(n), 14: byte(n >> 8), 7: byte(n) & 3})
	}
	return netip.AddrFrom4([4]byte{198, 18 + byte(n&1), byte(n >> 8), byte(n)})
}

func (w *world) port() uint16 { return uint16(w.r.IntN(40)) + 60 }

func raw(a netip.Addr) (b ctnetlink.Addr) {
	if a.Is4() {
		v4 := a.As4()
		copy(b[:], v4[:])
		return b
	}
	return a.As16()
}

func plain(family uint8, a ctnetlink.Addr) netip.Addr {
	if family == nl.FamilyIPv4 {
		return netip.AddrFrom4([4]byte(a[:4]))
	}
	return netip.AddrFrom16(a)
}

var modelProtos = [...]uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoICMP, ctnetlink.ProtoGRE, ctnetlink.ProtoSCTP, ctnetlink.ProtoDCCP, 89}

// flow is such as a decoder leaves it: what is absent has an earlier flow's value.
func (w *world) flow() *ctnetlink.Flow {
	r := w.r
	f := &ctnetlink.Flow{Mark: 3, Zone: 1, Timeout: 50, ID: 7, Status: 0xffff, TCPState: 3, SCTPState: 3, DCCPState: 3}
	v6 := w.v6 && r.IntN(2) == 0
	family := uint8(nl.FamilyIPv4)
	if v6 {
		family = nl.FamilyIPv6
	}
	proto := modelProtos[r.IntN(len(modelProtos))]
	tuple := func(src, dst netip.Addr, sport, dport uint16) ctnetlink.Tuple {
		t := ctnetlink.Tuple{Src: raw(src), Dst: raw(dst), Family: family, Proto: proto,
			Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto}
		switch {
		case ctnetlink.IsICMP(proto):
			t.ICMPType, t.ICMPCode, t.ICMPID = uint8(r.IntN(3)), uint8(r.IntN(2)), sport
			t.Has |= ctnetlink.TupleICMP
		case proto != 89:
			t.SrcPort, t.DstPort = sport, dport
			t.Has |= ctnetlink.TuplePorts
		}
		if r.IntN(6) == 0 {
			t.Zone, t.Has = uint16(r.IntN(3)), t.Has|ctnetlink.TupleZone
		}
		return t
	}
	src, dst, sport, dport := w.addr(v6), w.addr(v6), w.port(), w.port()
	f.Orig = tuple(src, dst, sport, dport)
	if r.IntN(3) == 0 {
		src, sport = w.addr(v6), w.port()
	}
	if r.IntN(3) == 0 {
		dst, dport = w.addr(v6), w.port()
	}
	f.Reply = tuple(dst, src, dport, sport)
	if r.IntN(40) == 0 {
		f.Reply = ctnetlink.Tuple{}
	}
	maybe := func(bit ctnetlink.Attr, set func()) {
		if r.IntN(4) > 0 {
			f.Has |= bit
			set()
		}
	}
	maybe(ctnetlink.HasMark, func() { f.Mark = uint32(r.IntN(8)) })
	maybe(ctnetlink.HasStatus, func() { f.Status = uint32(r.IntN(0x400)) })
	maybe(ctnetlink.HasID, func() { f.ID = uint32(r.IntN(20)) })
	maybe(ctnetlink.HasZone, func() { f.Zone = uint16(r.IntN(4)) })
	maybe(ctnetlink.HasSecmark, func() { f.Secmark = uint32(r.IntN(3)) })
	maybe(ctnetlink.HasTimeout, func() { f.Timeout = uint32(r.IntN(100)) })
	maybe(ctnetlink.HasTimestampStart, func() { f.TimestampStart = uint64(modelNow - r.Int64N(100_000_000_000) + 5e9) })
	if r.IntN(10) == 0 {
		f.Has, f.TimestampStop = f.Has|ctnetlink.HasTimestampStop, uint64(modelNow-r.Int64N(50_000_000_000))
	}
	maybe(ctnetlink.HasCountersOrig, func() { f.CountersOrig = ctnetlink.Counters{Packets: r.Uint64N(100), Bytes: r.Uint64N(10000)} })
	maybe(ctnetlink.HasCountersReply, func() { f.CountersReply = ctnetlink.Counters{Packets: r.Uint64N(100), Bytes: r.Uint64N(10000)} })
	maybe(ctnetlink.HasLabels, func() { f.Labels = ctnetlink.Labels{uint32(r.IntN(8)), 0, 0, uint32(r.IntN(2))} })
	switch proto {
	case ctnetlink.ProtoTCP:
		maybe(ctnetlink.HasTCPState, func() { f.TCPState = uint8(r.IntN(6)) })
	case ctnetlink.ProtoSCTP:
		maybe(ctnetlink.HasSCTPState|ctnetlink.HasSCTPVtagOrig|ctnetlink.HasSCTPVtagReply, func() {
			f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = uint8(r.IntN(6)), uint32(r.IntN(3)), uint32(r.IntN(3))
		})
	case ctnetlink.ProtoDCCP:
		maybe(ctnetlink.HasDCCPState|ctnetlink.HasDCCPRole, func() { f.DCCPState, f.DCCPRole = uint8(r.IntN(6)), uint8(r.IntN(2)) })
	}
	return f
}

// addrSet is some addresses: mostly one, or a prefix, or what a mask with a hole leaves.
func (w *world) addrSet(v6 bool) (Address, func(netip.Addr) bool, string) {
	a := w.addr(v6)
	switch w.r.IntN(6) {
	case 0, 1, 2:
		return Host(a), func(b netip.Addr) bool { return a == b }, a.String()
	case 3, 4:
		p := netip.PrefixFrom(a, a.BitLen()-w.r.IntN(12)).Masked()
		if w.r.IntN(8) == 0 {
			p = netip.PrefixFrom(a, w.r.IntN(a.BitLen()+1)).Masked()
		}
		return Prefix(p), p.Contains, p.String()
	}
	set := Host(a)
	hole := len(a.AsSlice()) - 1
	set.Mask[hole] = 0x55
	want := a.AsSlice()
	return set, func(b netip.Addr) bool {
		got := b.AsSlice()
		return len(got) == len(want) && string(got[:hole]) == string(want[:hole]) && got[hole]&0x55 == want[hole]&0x55
	}, a.String() + "/hole"
}

func (w *world) portSet() (Ports, string) {
	low := w.port()
	p := Port(low)
	switch w.r.IntN(4) {
	case 0:
		p.Max = low + uint16(w.r.IntN(20))
	case 1:
		if w.r.IntN(10) == 0 {
			p = Ports{0, 65535}
		}
	}
	return p, fmt.Sprint(p.Min, "-", p.Max)
}

func inPorts(f *ctnetlink.Flow, withProto bool, has bool, p Ports, got uint16) bool {
	switch f.Orig.Proto {
	case ctnetlink.ProtoGRE:
		if !withProto {
			return false
		}
	case ctnetlink.ProtoICMP, 89:
		return false
	}
	return has && got >= p.Min && got <= p.Max
}

// spec makes a predicate of n conditions at most.
func (w *world) spec(n int) *spec {
	r := w.r
	s := &spec{}
	v6 := w.v6 && r.IntN(2) == 0
	p := &s.p
	add := func(text string, met func(f *ctnetlink.Flow, now int64) bool) {
		s.conditions = append(s.conditions, condition{text, met})
	}
	if r.IntN(2) == 0 {
		proto := modelProtos[r.IntN(len(modelProtos))]
		p.Has, p.Proto = p.Has|Proto, proto
		add(fmt.Sprint("proto ", proto), func(f *ctnetlink.Flow, _ int64) bool { return f.Orig.Proto == proto })
	}
	withProto := p.Has&Proto != 0
	type directed struct {
		text string
		met  func(f *ctnetlink.Flow, t *ctnetlink.Tuple) bool
	}
	tuple := func(t *Tuple, conditions int) (all []directed) {
		for range conditions {
			switch r.IntN(7) {
			case 0, 1:
				if t.Has&Src != 0 {
					continue
				}
				set, has, text := w.addrSet(v6)
				t.Src, t.Has = set, t.Has|Src
				all = append(all, directed{"src " + text, func(_ *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
					return t.Has&ctnetlink.TupleSrc != 0 && has(plain(t.Family, t.Src))
				}})
			case 2, 3:
				if t.Has&Dst != 0 {
					continue
				}
				set, has, text := w.addrSet(v6)
				t.Dst, t.Has = set, t.Has|Dst
				all = append(all, directed{"dst " + text, func(_ *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
					return t.Has&ctnetlink.TupleDst != 0 && has(plain(t.Family, t.Dst))
				}})
			case 4:
				ports, text := w.portSet()
				if t.Has&SrcPort != 0 {
					continue
				}
				t.SrcPort, t.Has = ports, t.Has|SrcPort
				all = append(all, directed{"sport " + text, func(f *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
					return inPorts(f, withProto, t.Has&ctnetlink.TupleSrcPort != 0, ports, t.SrcPort)
				}})
			case 5:
				ports, text := w.portSet()
				if t.Has&DstPort != 0 {
					continue
				}
				t.DstPort, t.Has = ports, t.Has|DstPort
				all = append(all, directed{"dport " + text, func(f *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
					return inPorts(f, withProto, t.Has&ctnetlink.TupleDstPort != 0, ports, t.DstPort)
				}})
			case 6:
				all = append(all, w.rareTupleCondition(t))
			}
		}
		return all
	}
	for range 1 + r.IntN(n) {
		switch r.IntN(12) {
		case 0, 1, 2, 3:
			for _, d := range tuple(&p.Orig, 1) {
				add("orig "+d.text, func(f *ctnetlink.Flow, _ int64) bool { return d.met(f, &f.Orig) })
			}
		case 4, 5:
			for _, d := range tuple(&p.Reply, 1) {
				add("reply "+d.text, func(f *ctnetlink.Flow, _ int64) bool { return d.met(f, &f.Reply) })
			}
		case 6:
			if p.Any.Has != 0 {
				continue
			}
			all := tuple(&p.Any, 1+r.IntN(3))
			add(fmt.Sprint("any ", len(all)), func(f *ctnetlink.Flow, _ int64) bool {
				for _, t := range [...]*ctnetlink.Tuple{&f.Orig, &f.Reply} {
					if !slices.ContainsFunc(all, func(d directed) bool { return !d.met(f, t) }) {
						return true
					}
				}
				return false
			})
		case 7:
			if p.Has&AnyEnd != 0 {
				continue
			}
			p.Has |= AnyEnd
			text, met := w.end(&p.End, v6)
			add("any end "+text, func(f *ctnetlink.Flow, _ int64) bool {
				for _, t := range [...]*ctnetlink.Tuple{&f.Orig, &f.Reply} {
					if met(plain(t.Family, t.Src), t.Has&ctnetlink.TupleSrc != 0, inPorts(f, withProto, t.Has&ctnetlink.TupleSrcPort != 0, p.End.Ports, t.SrcPort)) ||
						met(plain(t.Family, t.Dst), t.Has&ctnetlink.TupleDst != 0, inPorts(f, withProto, t.Has&ctnetlink.TupleDstPort != 0, p.End.Ports, t.DstPort)) {
						return true
					}
				}
				return false
			})
		case 8:
			w.natCondition(s, v6)
		default:
			w.attribute(s)
		}
	}
	if len(s.conditions) == 0 {
		w.attribute(s)
	}
	return s
}

func (w *world) end(e *End, v6 bool) (text string, met func(a netip.Addr, hasAddr, inPorts bool) bool) {
	var has func(netip.Addr) bool
	if w.r.IntN(5) > 0 {
		e.Addr, has, text = w.addrSet(v6)
		e.HasAddr = true
	}
	if !e.HasAddr || w.r.IntN(2) == 0 {
		e.Ports, _ = w.portSet()
		e.HasPort = true
		text += fmt.Sprint(":", e.Ports)
	}
	return text, func(a netip.Addr, hasAddr, inPorts bool) bool {
		return (has == nil || hasAddr && has(a)) && (!e.HasPort || inPorts)
	}
}

func (w *world) rareTupleCondition(want *Tuple) (d struct {
	text string
	met  func(f *ctnetlink.Flow, t *ctnetlink.Tuple) bool
}) {
	n := uint64(w.r.IntN(3))
	counters := func(f *ctnetlink.Flow, t *ctnetlink.Tuple) (ctnetlink.Counters, bool) {
		if t == &f.Orig {
			return f.CountersOrig, f.Has&ctnetlink.HasCountersOrig != 0
		}
		return f.CountersReply, f.Has&ctnetlink.HasCountersReply != 0
	}
	bit := []TupleField{ICMPType, ICMPCode, ICMPID, TupleZone, TuplePackets, TupleBytes}[w.r.IntN(6)]
	if want.Has&bit != 0 {
		d.met = func(*ctnetlink.Flow, *ctnetlink.Tuple) bool { return true }
		return d
	}
	want.Has |= bit
	d.text = fmt.Sprint("rare ", bit, " ", n)
	switch bit {
	case ICMPType:
		want.ICMPType = uint8(n)
		d.met = func(_ *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
			return t.Has&ctnetlink.TupleICMPType != 0 && uint64(t.ICMPType) == n
		}
	case ICMPCode:
		want.ICMPCode = uint8(n)
		d.met = func(_ *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
			return t.Has&ctnetlink.TupleICMPCode != 0 && uint64(t.ICMPCode) == n
		}
	case ICMPID:
		id := w.port()
		want.ICMPID = id
		d.met = func(_ *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
			return t.Has&ctnetlink.TupleICMPID != 0 && t.ICMPID == id
		}
	case TupleZone:
		want.Zone = uint16(n)
		d.met = func(_ *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
			zone := uint64(0)
			if t.Has&ctnetlink.TupleZone != 0 {
				zone = uint64(t.Zone)
			}
			return zone == n
		}
	case TuplePackets:
		want.Packets = AtLeast(30 * n)
		d.met = func(f *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
			c, ok := counters(f, t)
			return ok && c.Packets >= 30*n
		}
	case TupleBytes:
		want.Bytes = Range{1000 * n, 5000}
		d.met = func(f *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
			c, ok := counters(f, t)
			return ok && c.Bytes >= 1000*n && c.Bytes <= 5000
		}
	}
	return d
}

func (w *world) natCondition(s *spec, v6 bool) {
	bit := []Field{SrcNAT, DstNAT, AnyNAT}[w.r.IntN(3)]
	if s.p.Has&bit != 0 {
		return
	}
	s.p.Has |= bit
	e := &s.p.SrcNAT
	switch bit {
	case DstNAT:
		e = &s.p.DstNAT
	case AnyNAT:
		e = &s.p.AnyNAT
	}
	text := "at all"
	met := func(netip.Addr, bool, bool) bool { return true }
	if w.r.IntN(3) > 0 {
		text, met = w.end(e, v6)
		if !e.HasAddr {
			*e, text = End{}, "at all"
		}
	}
	want := *e
	s.conditions = append(s.conditions, condition{fmt.Sprint("nat ", bit, " ", text), func(f *ctnetlink.Flow, _ int64) bool {
		source := func() bool {
			if f.Has&ctnetlink.HasStatus != 0 && f.Status&0x80 == 0 {
				return false
			}
			addr, port := f.Reply.Dst != f.Orig.Src, f.Reply.DstPort != f.Orig.SrcPort || f.Reply.ICMPID != f.Orig.ICMPID
			if !want.HasAddr {
				return addr || port
			}
			n := f.Reply.DstPort
			return addr && met(plain(f.Reply.Family, f.Reply.Dst), f.Reply.Family != 0, port && n >= want.Ports.Min && n <= want.Ports.Max)
		}
		destination := func() bool {
			if f.Has&ctnetlink.HasStatus != 0 && f.Status&0x100 == 0 {
				return false
			}
			addr, port := f.Reply.Src != f.Orig.Dst, f.Reply.SrcPort != f.Orig.DstPort
			if !want.HasAddr {
				return addr || port
			}
			n := f.Reply.SrcPort
			return addr && met(plain(f.Reply.Family, f.Reply.Src), f.Reply.Family != 0, port && n >= want.Ports.Min && n <= want.Ports.Max)
		}
		switch bit {
		case SrcNAT:
			return source()
		case DstNAT:
			return destination()
		}
		return source() || destination()
	}})
}

// attribute adds a condition on what is not in a tuple.
func (w *world) attribute(s *spec) {
	r, p := w.r, &s.p
	bits := []Field{Mark, Mark, Status, ID, Zone, Secmark, Timeout, Age, Packets, Bytes, Labels, TCPState, SCTPState, SCTPVtagOrig, SCTPVtagReply, DCCPState, DCCPRole, Never}
	bit := bits[r.IntN(len(bits))]
	if p.Has&bit != 0 || bit == Never && r.IntN(10) > 0 {
		return
	}
	p.Has |= bit
	n := uint64(r.IntN(5))
	equal := func(attr ctnetlink.Attr, get func(*ctnetlink.Flow) uint64) func(*ctnetlink.Flow, int64) bool {
		return func(f *ctnetlink.Flow, _ int64) bool { return f.Has&attr != 0 && get(f) == n }
	}
	orZero := func(attr ctnetlink.Attr, get func(*ctnetlink.Flow) uint64) func(*ctnetlink.Flow, int64) bool {
		return func(f *ctnetlink.Flow, _ int64) bool {
			if f.Has&attr == 0 {
				return n == 0
			}
			return get(f) == n
		}
	}
	var met func(*ctnetlink.Flow, int64) bool
	const counted = ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply
	switch bit {
	case Mark:
		mask := []uint32{^uint32(0), 7, 6, 1}[r.IntN(4)]
		p.Mark, p.MarkMask = uint32(n), mask
		met = func(f *ctnetlink.Flow, _ int64) bool { return f.Has&ctnetlink.HasMark != 0 && f.Mark&mask == uint32(n) }
	case Status:
		mask := uint32(r.IntN(16)) | uint32(n)
		p.Status, p.StatusMask = uint32(n), mask
		met = func(f *ctnetlink.Flow, _ int64) bool {
			return f.Has&ctnetlink.HasStatus != 0 && f.Status&mask == uint32(n)
		}
	case ID:
		p.ID = uint32(n)
		met = equal(ctnetlink.HasID, func(f *ctnetlink.Flow) uint64 { return uint64(f.ID) })
	case Zone:
		p.Zone = uint16(n)
		met = orZero(ctnetlink.HasZone, func(f *ctnetlink.Flow) uint64 { return uint64(f.Zone) })
	case Secmark:
		p.Secmark = uint32(n)
		met = orZero(ctnetlink.HasSecmark, func(f *ctnetlink.Flow) uint64 { return uint64(f.Secmark) })
	case Timeout:
		p.Timeout = AtMost(20 * n)
		met = func(f *ctnetlink.Flow, _ int64) bool {
			return f.Has&ctnetlink.HasTimeout != 0 && uint64(f.Timeout) <= 20*n
		}
	case Age:
		p.Age = AtLeast(20 * n)
		met = func(f *ctnetlink.Flow, now int64) bool {
			end := now
			if f.Has&ctnetlink.HasTimestampStop != 0 {
				end = int64(f.TimestampStop)
			}
			seconds := end/1e9 - int64(f.TimestampStart)/1e9
			return f.Has&ctnetlink.HasTimestampStart != 0 && max(seconds, 0) >= int64(20*n)
		}
	case Packets:
		p.Packets = AtLeast(40 * n)
		met = func(f *ctnetlink.Flow, _ int64) bool {
			return f.Has&counted == counted && f.CountersOrig.Packets+f.CountersReply.Packets >= 40*n
		}
	case Bytes:
		p.Bytes = AtMost(4000 * n)
		met = func(f *ctnetlink.Flow, _ int64) bool {
			return f.Has&counted == counted && f.CountersOrig.Bytes+f.CountersReply.Bytes <= 4000*n
		}
	case Labels:
		p.Labels = ctnetlink.Labels{uint32(n)}
		met = func(f *ctnetlink.Flow, _ int64) bool {
			return f.Has&ctnetlink.HasLabels != 0 && f.Labels[0]&uint32(n) == uint32(n)
		}
	case TCPState:
		p.TCPState = uint8(n)
		met = equal(ctnetlink.HasTCPState, func(f *ctnetlink.Flow) uint64 { return uint64(f.TCPState) })
	case SCTPState:
		p.SCTPState = uint8(n)
		met = equal(ctnetlink.HasSCTPState, func(f *ctnetlink.Flow) uint64 { return uint64(f.SCTPState) })
	case SCTPVtagOrig:
		p.SCTPVtagOrig = uint32(n)
		met = equal(ctnetlink.HasSCTPVtagOrig, func(f *ctnetlink.Flow) uint64 { return uint64(f.SCTPVtagOrig) })
	case SCTPVtagReply:
		p.SCTPVtagReply = uint32(n)
		met = equal(ctnetlink.HasSCTPVtagReply, func(f *ctnetlink.Flow) uint64 { return uint64(f.SCTPVtagReply) })
	case DCCPState:
		p.DCCPState = uint8(n)
		met = equal(ctnetlink.HasDCCPState, func(f *ctnetlink.Flow) uint64 { return uint64(f.DCCPState) })
	case DCCPRole:
		p.DCCPRole = uint8(n)
		met = equal(ctnetlink.HasDCCPRole, func(f *ctnetlink.Flow) uint64 { return uint64(f.DCCPRole) })
	case Never:
		met = func(*ctnetlink.Flow, int64) bool { return false }
	}
	s.conditions = append(s.conditions, condition{fmt.Sprint("attribute ", bit, " ", n), met})
}

// places says where a predicate's entries are.
func (m *Matcher) places(predicate int) (all []string) {
	of := func(at int32) bool { return at >= 0 && m.entries[at].predicate == int32(predicate) }
	note := func(at int32, format string, args ...any) {
		if of(at) {
			all = append(all, fmt.Sprintf("alternative %d: ", m.entries[at].alternative)+fmt.Sprintf(format, args...))
		}
	}
	for i, s := range m.shapes {
		for _, head := range s.heads {
			for at := head; at >= 0; at = m.entries[at].next {
				note(at, "shape %d %#x", i, s.has)
			}
		}
	}
	for i := range ends {
		for _, t := range m.prefixes[i] {
			if t == nil {
				continue
			}
			for _, head := range t.chains {
				for at := head; at >= 0; at = m.entries[at].next {
					note(at, "prefix of end %d", i)
				}
			}
		}
		if t := m.ports[i]; t != nil {
			for _, l := range t.lists {
				note(l.entry, "port of end %d", i)
			}
		}
	}
	for _, at := range m.rest {
		note(at, "rest")
	}
	return all
}

// passes reports whether a dump's filter leaves f in, as the kernel compares.
func passes(d *ctnetlink.Dump, f *ctnetlink.Flow) bool {
	if d.Family != nl.FamilyUnspec && f.Orig.Family != d.Family {
		return false
	}
	w := d.Filter
	if w == nil {
		return true
	}
	if w.Has&ctnetlink.HasMark != 0 && f.Mark&w.MarkMask != w.Mark ||
		w.Has&ctnetlink.HasStatus != 0 && f.Status&w.StatusMask != w.Status ||
		w.Has&ctnetlink.HasZone != 0 && (f.Has&ctnetlink.HasZone == 0 || f.Zone != w.Zone) {
		return false
	}
	same := func(w, t *ctnetlink.Tuple) bool {
		switch has := w.Has; {
		case has&ctnetlink.TupleSrc != 0 && t.Src != w.Src, has&ctnetlink.TupleDst != 0 && t.Dst != w.Dst,
			has&ctnetlink.TupleProto != 0 && t.Proto != w.Proto,
			has&ctnetlink.TupleSrcPort != 0 && t.SrcPort != w.SrcPort, has&ctnetlink.TupleDstPort != 0 && t.DstPort != w.DstPort,
			has&ctnetlink.TupleICMPType != 0 && t.ICMPType != w.ICMPType, has&ctnetlink.TupleICMPCode != 0 && t.ICMPCode != w.ICMPCode,
			has&ctnetlink.TupleICMPID != 0 && t.ICMPID != w.ICMPID:
			return false
		}
		return true
	}
	return !d.FilterTuples || same(&w.Orig, &f.Orig) && same(&w.Reply, &f.Reply)
}

// whole is a predicate with the original tuple and zone of f.
func whole(f *ctnetlink.Flow) *spec {
	o, zone := f.Orig, uint16(0)
	if f.Has&ctnetlink.HasZone != 0 {
		zone = f.Zone
	}
	s := &spec{p: Predicate{Has: Proto | Zone, Proto: o.Proto, Zone: zone, Orig: Tuple{
		Has: Src | Dst, Src: Host(plain(o.Family, o.Src)), Dst: Host(plain(o.Family, o.Dst)),
		SrcPort: Port(o.SrcPort), DstPort: Port(o.DstPort), ICMPType: o.ICMPType, ICMPCode: o.ICMPCode, ICMPID: o.ICMPID,
	}}}
	switch {
	case ctnetlink.IsICMP(o.Proto):
		s.p.Orig.Has |= ICMPType | ICMPCode | ICMPID
	case o.Proto != 89:
		s.p.Orig.Has |= SrcPort | DstPort
	}
	o.Zone, o.Has = 0, o.Has&^ctnetlink.TupleZone
	s.conditions = []condition{{"whole tuple", func(f *ctnetlink.Flow, _ int64) bool {
		got, gotZone := f.Orig, uint16(0)
		got.Zone, got.Has = 0, got.Has&^ctnetlink.TupleZone
		if f.Has&ctnetlink.HasZone != 0 {
			gotZone = f.Zone
		}
		return got == o && gotZone == zone
	}}}
	return s
}

// filters counts what the kernel is left with in TestModel.
type filters struct{ families, attributes, tuples, keys int }

// check holds what a file leaves to the kernel against a flow that meets a predicate.
func (n *filters) check(t *testing.T, d *ctnetlink.Dump, p *Predicate, s *spec, f *ctnetlink.Flow) {
	t.Helper()
	if !passes(d, f) {
		t.Fatalf("the dump %+v leaves out what meets %v: %+v", d, s, f)
	}
	if key, ok := p.Key(); ok {
		n.keys++
		orig := f.Orig
		orig.Has &^= ctnetlink.TupleZone
		orig.Zone = 0
		if f.Has&ctnetlink.HasZone == 0 {
			f.Zone = 0
		}
		if key.Orig != orig || key.Zone != f.Zone {
			t.Fatalf("%v is met by %+v, which is not its key %+v", s, f, key)
		}
	}
	if d.Family != nl.FamilyUnspec {
		n.families++
	}
	if d.Filter != nil && d.Filter.Has != 0 {
		n.attributes++
	}
	if d.FilterTuples {
		n.tuples++
	}
}

// TestModel compares Predicate.Match and Matcher with the model: each seed has a file of
// predicates and flows of its own.
func TestModel(t *testing.T) {
	met, rounds := 0, 0
	var left filters
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 16))
		w := &world{r: r, v6: r.IntN(3) > 0, hosts: 1 + r.IntN(300)}
		flows := make([]*ctnetlink.Flow, 100)
		for i := range flows {
			flows[i] = w.flow()
		}
		specs := make([]*spec, []int{1, 3, 30, 300}[r.IntN(4)])
		conditions := 1 + r.IntN(5)
		var predicates []Predicate
		for i := range specs {
			specs[i] = w.spec(conditions)
			if i > 0 && r.IntN(10) == 0 {
				specs[i] = specs[r.IntN(i)]
			}
			if r.IntN(5) == 0 {
				specs[i] = whole(flows[r.IntN(len(flows))])
			}
			predicates = append(predicates, specs[i].p)
		}
		m := New(predicates)
		d := m.Dump()
		var got []int32
		for _, f := range flows {
			var want []int32
			for i, s := range specs {
				model := s.met(f, modelNow)
				if one := predicates[i].Match(f, modelNow); one != model {
					t.Fatalf("seed %d: predicate %v: Match is %v on %+v", seed, s, one, f)
				}
				if model {
					left.check(t, &d, &predicates[i], s, f)
					want = append(want, int32(i))
				}
			}
			got = m.AppendMatches(got[:0], f, modelNow)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				for i, s := range specs {
					if g, w := slices.Contains(got, int32(i)), slices.Contains(want, int32(i)); g != w {
						t.Errorf("seed %d, %d predicates: %d is found %v, want %v: %v %+v, in %v, on %+v", seed, len(specs), i, g, w, s, s.p, m.places(i), f)
					}
				}
				t.Fatalf("found %v, want %v", got, want)
			}
			if one := m.Match(f, modelNow); one != (len(want) > 0) {
				t.Fatalf("seed %d: Match is %v, %d predicates are met", seed, one, len(want))
			}
			rounds++
			met += len(want)
		}
	}
	t.Logf("%d flows, %d predicates met, to the kernel %+v", rounds, met, left)
	if left.families == 0 || left.attributes == 0 || left.tuples == 0 || left.keys == 0 {
		t.Errorf("a kind of filter was never looked at: %+v", left)
	}
	if met < rounds {
		t.Errorf("only %d predicates were met by %d flows: the model compares nothing", met, rounds)
	}
}

func TestParseRange(t *testing.T) {
	for text, want := range map[string]Range{"5": {5, 5}, "5-7": {5, 7}, "5-": {5, 100}, "-7": {0, 7}, "0": {0, 0}, "100": {100, 100}, "05": {5, 5}} {
		if got, ok := ParseRange(text, 100); !ok || got != want {
			t.Errorf("%q: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "-", "x", "5x", "7-5", "101", "5-101", "+5", "5--7", "5-7-9", " 5", "0x5", "1_0", "99999999999999999999"} {
		if got, ok := ParseRange(text, 100); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}
