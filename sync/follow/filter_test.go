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
