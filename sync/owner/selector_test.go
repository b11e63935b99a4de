package owner

import (
	"net/netip"
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// tuple returns a tuple of UDP with these addresses.
func tuple(src, dst string) (t ctnetlink.Tuple) {
	t.Has, t.Proto, t.Family = ctnetlink.TupleAddrs|ctnetlink.TupleProto, ctnetlink.ProtoUDP, nl.FamilyIPv4
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is6() {
		t.Family = nl.FamilyIPv6
	}
	copy(t.Src[:], s.AsSlice())
	copy(t.Dst[:], d.AsSlice())
	return t
}

// flow returns a flow from src to dst whose replies go to replyDst.
func flow(src, dst, replyDst string, changes ...func(*ctnetlink.Flow)) (f ctnetlink.Flow) {
	f.Orig, f.Reply = tuple(src, dst), tuple(dst, replyDst)
	f.Has = ctnetlink.HasStatus
	if src != replyDst {
		f.Status = ctnetlink.StatusSrcNAT
	}
	for _, c := range changes {
		c(&f)
	}
	return f
}

func TestSelector(t *testing.T) {
	const client, server, outside = "192.0.2.1", "198.51.100.1", "203.0.113.1"
	const client6, server6, outside6 = "2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1"
	zone := func(z uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) { f.Has, f.Zone = f.Has|ctnetlink.HasZone, z }
	}
	origZone := func(z uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) { f.Orig.Has, f.Orig.Zone = f.Orig.Has|ctnetlink.TupleZone, z }
	}
	replyZone := func(z uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) { f.Reply.Has, f.Reply.Zone = f.Reply.Has|ctnetlink.TupleZone, z }
	}
	mark := func(m uint32) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) { f.Has, f.Mark = f.Has|ctnetlink.HasMark, m }
	}
	plain, plain6 := flow(client, server, client), flow(client6, server6, client6)
	hidden, hidden6 := flow(client, server, outside), flow(client6, server6, outside6)
	// Version 1 has no reply tuple of a translated flow.
	ofVersion1 := flow(client, server, client, func(f *ctnetlink.Flow) {
		f.Has |= ctnetlink.HasNATSrc
		f.NATSrc.HasAddr = true
		copy(f.NATSrc.Addr[:], netip.MustParseAddr(outside).AsSlice())
		f.Reply = ctnetlink.Tuple{}
	})
	otherReply := flow(client, server, outside, func(f *ctnetlink.Flow) { f.Status = 0 })
	nat := func(a string) Selector { return Selector{NATSrc: netip.MustParseAddr(a)} }
	src := func(p string) Selector { return Selector{Src: netip.MustParsePrefix(p)} }
	inZone := func(z uint16) Selector { return Selector{Zone: z, HasZone: true} }
	marked := func(m, mask uint32) Selector { return Selector{Mark: m, Mask: mask, HasMark: true} }

	for _, c := range []struct {
		name  string
		s     Selector
		f     ctnetlink.Flow
		match bool
	}{
		{"no condition", Selector{}, plain, true},
		{"no condition, an empty flow", Selector{}, ctnetlink.Flow{}, true},
		{"node alone", Selector{Node: 3}, plain, true},

		{"translated to it", nat(outside), hidden, true},
		{"translated to another", nat("203.0.113.2"), hidden, false},
		{"translated to it, IPv6", nat(outside6), hidden6, true},
		{"translated to another, IPv6", nat("2001:db8:3::2"), hidden6, false},
		{"translated to it, version 1", nat(outside), ofVersion1, true},
		{"translated to another, version 1", nat(server), ofVersion1, false},
		{"its own address without translation", nat(client), plain, false},
		{"another reply without translation", nat(outside), otherReply, false},
		{"IPv4 is no IPv6", nat("::ffff:203.0.113.1"), hidden, false},
		{"translated, an empty flow", nat(outside), ctnetlink.Flow{}, false},

		{"source in the prefix", src("192.0.2.0/24"), plain, true},
		{"source outside the prefix", src("192.0.3.0/24"), plain, false},
		{"source is the address", src("192.0.2.1/32"), hidden, true},
		{"any IPv4 source", src("0.0.0.0/0"), plain, true},
		{"any IPv4 source, IPv6", src("0.0.0.0/0"), plain6, false},
		{"source in the prefix, IPv6", src("2001:db8:1::/48"), plain6, true},
		{"source outside the prefix, IPv6", src("2001:db8:2::/48"), plain6, false},
		{"any IPv6 source, IPv4", src("::/0"), plain, false},
		{"any IPv6 source, an empty flow", src("::/0"), ctnetlink.Flow{}, false},

		{"zone of both directions", inZone(7), flow(client, server, client, zone(7)), true},
		{"another zone of both directions", inZone(7), flow(client, server, client, zone(8)), false},
		{"zone of the original direction", inZone(7), flow(client, server, client, origZone(7)), true},
		{"another zone of the original direction", inZone(7), flow(client, server, client, origZone(8)), false},
		{"zone of the reply direction", inZone(7), flow(client, server, client, replyZone(7)), false},
		{"no zone", inZone(7), plain, false},
		{"zone 0, no zone", inZone(0), plain, true},
		{"zone 0, zone of both directions", inZone(0), flow(client, server, client, zone(7)), false},
		{"zone 0, zone of the original direction", inZone(0), flow(client, server, client, origZone(7)), false},
		{"zone 0, zone of the reply direction", inZone(0), flow(client, server, client, replyZone(7)), true},

		{"mark", marked(5, ^uint32(0)), flow(client, server, client, mark(5)), true},
		{"another mark", marked(5, ^uint32(0)), flow(client, server, client, mark(0x105)), false},
		{"mark in the mask", marked(5, 0xff), flow(client, server, client, mark(0x105)), true},
		{"mark beyond the mask", marked(0x205, 0xff), flow(client, server, client, mark(0x105)), true},
		{"another mark in the mask", marked(5, 0xff), flow(client, server, client, mark(6)), false},
		{"no mark", marked(5, 0xff), plain, false},
		{"mark 0, no mark", marked(0, ^uint32(0)), plain, true},

		{"all conditions", Selector{Node: 2, NATSrc: netip.MustParseAddr(outside), Src: netip.MustParsePrefix("192.0.2.0/24"),
			Zone: 7, HasZone: true, Mark: 5, Mask: 0xff, HasMark: true}, flow(client, server, outside, zone(7), mark(5)), true},
		{"all conditions but one", Selector{Node: 2, NATSrc: netip.MustParseAddr(outside), Src: netip.MustParsePrefix("192.0.2.0/24"),
			Zone: 7, HasZone: true, Mark: 5, Mask: 0xff, HasMark: true}, flow(client, server, outside, zone(8), mark(5)), false},
	} {
		if got := c.s.Matches(&c.f); got != c.match {
			t.Errorf("%s: %v, want %v", c.name, got, c.match)
		}
		if got, want := c.s.Empty(), c.s == (Selector{}); got != want {
			t.Errorf("%s: Empty is %v, want %v", c.name, got, want)
		}
	}
}

// A commit asks a Selector about each flow of a copy with the lock held.
func TestMatchesDoesNotAllocate(t *testing.T) {
	s := Selector{NATSrc: netip.MustParseAddr("2001:db8:3::1"), Src: netip.MustParsePrefix("2001:db8:1::/48")}
	f := flow("2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1")
	if n := testing.AllocsPerRun(100, func() {
		if !s.Matches(&f) {
			t.Error("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatches(b *testing.B) {
	s := Selector{NATSrc: netip.MustParseAddr("203.0.113.1"), Src: netip.MustParsePrefix("192.0.2.0/24"), HasZone: true}
	f := flow("192.0.2.1", "198.51.100.1", "203.0.113.1")
	b.ReportAllocs()
	for b.Loop() {
		s.Matches(&f)
	}
}
