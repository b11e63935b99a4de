package follow

import (
	"net/netip"
	"testing"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/flowtest"
)

func TestFilterAddresses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		action   conf.Action
		prefixes []string
		flow     ctnetlink.Flow
		want     bool
	}{
		{"no list", conf.NoAction, nil, flowtest.TCP("192.0.2.1", "198.51.100.1"), true},
		{"ignored source", conf.Ignore, []string{"192.0.2.1/32"}, flowtest.TCP("192.0.2.1", "198.51.100.1"), false},
		{"ignored reply source", conf.Ignore, []string{"198.51.100.1/32"}, flowtest.TCP("192.0.2.1", "198.51.100.1"), false},
		{"ignored network", conf.Ignore, []string{"192.0.2.0/25"}, flowtest.TCP("192.0.2.127", "198.51.100.1"), false},
		{"beside the network", conf.Ignore, []string{"192.0.2.0/25"}, flowtest.TCP("192.0.2.128", "198.51.100.1"), true},
		{"accepted by either side", conf.Accept, []string{"198.51.100.0/24"}, flowtest.TCP("192.0.2.1", "198.51.100.1"), true},
		{"not accepted", conf.Accept, []string{"203.0.113.0/24"}, flowtest.TCP("192.0.2.1", "198.51.100.1"), false},
		{"an IPv6 list accepts no IPv4", conf.Accept, []string{"2001:db8::/32"}, flowtest.TCP("192.0.2.1", "198.51.100.1"), false},
		{"IPv6 network", conf.Accept, []string{"2001:db8::/33"}, flowtest.TCP("2001:db8::1", "2001:db8:8000::1"), true},
		{"beside the IPv6 network", conf.Ignore, []string{"2001:db8:8000::/33"}, flowtest.TCP("2001:db8::1", "2001:db8::2"), true},
		{"everything", conf.Ignore, []string{"0.0.0.0/0"}, flowtest.TCP("192.0.2.1", "198.51.100.1"), false},
	} {
		var c conf.Filter
		c.Address.Action = tt.action
		for _, p := range tt.prefixes {
			c.Address.Prefixes = append(c.Address.Prefixes, netip.MustParsePrefix(p))
		}
		if got := NewFilter(&c, nil).Passes(&tt.flow, false); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestFilterProtocolAndState(t *testing.T) {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	var c conf.Filter
	c.Protocol.Action = conf.Accept
	c.Protocol.Protocols.Add(ctnetlink.ProtoUDP)
	if NewFilter(&c, nil).Passes(&f, false) {
		t.Error("TCP passes a list that accepts UDP")
	}
	c.Protocol.Protocols.Add(ctnetlink.ProtoTCP)
	c.State.Action, c.State.States = conf.Ignore, 1<<ctnetlink.TCPStateEstablished
	x := NewFilter(&c, nil)
	if x.Passes(&f, false) {
		t.Error("an ignored state passes")
	}
	// The end of a flow must pass, or caches would keep it for ever.
	if !x.Passes(&f, true) {
		t.Error("the end of a flow in an ignored state does not pass")
	}
	f.Has = 0
	if !x.Passes(&f, false) {
		t.Error("a flow without a state does not pass")
	}
}

func TestFilterExpectationHelpers(t *testing.T) {
	var e ctnetlink.Expect
	e.Helper.Set("SIP-5060")
	x := NewFilter(&conf.Filter{}, []string{"Sip", "ftp"})
	if x.PassesExpect(&e) {
		t.Error("an expectation without a helper passes")
	}
	e.Has = ctnetlink.ExpectHasHelper
	if !x.PassesExpect(&e) {
		t.Error("sip-5060 does not match sip")
	}
	e.Helper.Set("tftp")
	if x.PassesExpect(&e) {
		t.Error("tftp matches ftp")
	}
}

func TestIncomplete(t *testing.T) {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	if why := Incomplete(&f); why != "" {
		t.Error(why)
	}
	f.Reply.Has = 0
	if why := Incomplete(&f); why != "missing IPv4 address" {
		t.Errorf("got %q", why)
	}
	if why := Incomplete(&ctnetlink.Flow{}); why != "missing layer 3 protocol" {
		t.Errorf("got %q", why)
	}
}

func TestFilterMarksAndZones(t *testing.T) {
	plain := flowtest.TCP("192.0.2.1", "198.51.100.1")
	with := func(change func(*ctnetlink.Flow)) ctnetlink.Flow {
		f := plain
		change(&f)
		return f
	}
	marked := func(mark uint32) ctnetlink.Flow {
		return with(func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasMark; f.Mark = mark })
	}
	zoned := with(func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasZone; f.Zone = 3 })
	orig := with(func(f *ctnetlink.Flow) { f.Orig.Has |= ctnetlink.TupleZone; f.Orig.Zone = 3 })
	reply := with(func(f *ctnetlink.Flow) { f.Reply.Has |= ctnetlink.TupleZone; f.Reply.Zone = 4 })
	for _, tt := range []struct {
		name  string
		marks []conf.Mark
		zones []uint16
		flow  ctnetlink.Flow
		want  bool // listed
	}{
		{"the mark", []conf.Mark{{Value: 1, Mask: 0xff}}, nil, marked(0x101), true},
		{"another mark", []conf.Mark{{Value: 1, Mask: 0xff}}, nil, marked(2), false},
		{"one of two", []conf.Mark{{Value: 1, Mask: 0xff}, {Value: 2, Mask: 1<<32 - 1}}, nil, marked(2), true},
		{"no mark is 0", []conf.Mark{{Value: 0, Mask: 0xff}}, nil, plain, true},
		{"no mark is not 1", []conf.Mark{{Value: 1, Mask: 1}}, nil, plain, false},
		{"the zone", nil, []uint16{3, 4}, zoned, true},
		{"another zone", nil, []uint16{4}, zoned, false},
		{"zone of a direction", nil, []uint16{3}, orig, true},
		{"zone of the reply", nil, []uint16{4}, reply, true},
		{"a zone of a direction is not 0", nil, []uint16{0}, orig, false},
		{"no zone is 0", nil, []uint16{0}, plain, true},
		{"no zone is not 3", nil, []uint16{3}, plain, false},
	} {
		for _, action := range []conf.Action{conf.Accept, conf.Ignore} {
			var c conf.Filter
			if tt.marks != nil {
				c.Mark.Action, c.Mark.Marks = action, tt.marks
			} else {
				c.Zone.Action, c.Zone.Zones = action, tt.zones
			}
			x, want := NewFilter(&c, nil), tt.want == (action == conf.Accept)
			if got := x.Passes(&tt.flow, false); got != want {
				t.Errorf("%s, %v: %v, want %v", tt.name, action, got, want)
			}
			// A mark may have changed since the flow passed, a zone may not.
			if got := x.Passes(&tt.flow, true); got != (want || tt.marks != nil) {
				t.Errorf("%s, %v, the end: %v", tt.name, action, got)
			}
			if k := x.kernel(); k.Protos.Action|k.Prefixes.Action|k.States.Action != ctnetlink.NoList {
				t.Errorf("%s: the kernel is given %+v", tt.name, k)
			}
		}
	}
}
