package node

import (
	"net/netip"
	"strings"

	"ctbox/conf"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// filter decides which flows and expectations are replicated (the Filter clause
// and ExpectationSync's helpers). It always has the last word; what the kernel
// filtered before only saves work.
type filter struct {
	conf     *conf.Filter
	hosts    map[address]struct{}
	networks []network
	helpers  []string // lower case; empty lets all pass
}

// address is an address with its family.
type address struct {
	family uint8
	addr   ctnetlink.Addr
}

// network is a prefix: mask and value of each 32-bit piece of an ctnetlink.Addr.
type network struct {
	family      uint8
	addr, masks ctnetlink.Addr
}

func newFilter(f *conf.Filter, helpers []string) *filter {
	out := &filter{conf: f, hosts: map[address]struct{}{}}
	for _, p := range f.Address.Prefixes {
		a := address{family: nl.FamilyIPv4}
		if p.Addr().Is6() {
			a.family = nl.FamilyIPv6
		}
		copy(a.addr[:], p.Addr().AsSlice())
		if p.IsSingleIP() {
			out.hosts[a] = struct{}{}
			continue
		}
		n := network{family: a.family, addr: a.addr}
		for bit := range p.Bits() {
			n.masks[bit/8] |= 0x80 >> (bit % 8)
		}
		out.networks = append(out.networks, n)
	}
	for _, h := range helpers {
		out.helpers = append(out.helpers, strings.ToLower(h))
	}
	return out
}

// incomplete names what a flow lacks that replication needs, or "".
func incomplete(f *ctnetlink.Flow) string {
	const sources = ctnetlink.TupleSrc | ctnetlink.TupleDst
	switch {
	case f.Orig.Family == nl.FamilyUnspec:
		return "missing layer 3 protocol"
	case f.Orig.Has&sources != sources || f.Reply.Has&ctnetlink.TupleSrc == 0:
		if f.Orig.Family == nl.FamilyIPv6 {
			return "missing IPv6 address"
		}
		return "missing IPv4 address"
	}
	return ""
}

// passes reports whether f is to be replicated. gone says that f's end is told: a
// state filter does not hide it, since what it had let in must be let out again.
func (x *filter) passes(f *ctnetlink.Flow, gone bool) bool {
	c := x.conf
	if c.Protocol.Action != conf.NoAction {
		if proto, known := f.Proto(); known && c.Protocol.Protocols.Has(proto) != (c.Protocol.Action == conf.Accept) {
			return false
		}
	}
	if c.Address.Action != conf.NoAction {
		listed := x.listed(f.Orig.Family, &f.Orig.Src) || x.listed(f.Reply.Family, &f.Reply.Src)
		if listed != (c.Address.Action == conf.Accept) {
			return false
		}
	}
	if c.State.Action != conf.NoAction && !gone && f.Has&ctnetlink.HasTCPState != 0 {
		return c.State.States.Has(f.TCPState) == (c.State.Action == conf.Accept)
	}
	return true
}

func (x *filter) listed(family uint8, a *ctnetlink.Addr) bool {
	if _, ok := x.hosts[address{family, *a}]; ok {
		return true
	}
	for i := range x.networks {
		n := &x.networks[i]
		if n.family == family && n.contains(a) {
			return true
		}
	}
	return false
}

func (n *network) contains(a *ctnetlink.Addr) bool {
	for i := range a {
		if (a[i]^n.addr[i])&n.masks[i] != 0 {
			return false
		}
	}
	return true
}

// passesExpect reports whether an expectation's helper is one of those to be
// replicated. With a list, an expectation without a helper is not.
func (x *filter) passesExpect(e *ctnetlink.Expect) bool {
	if len(x.helpers) == 0 {
		return true
	}
	if e.Has&ctnetlink.ExpectHasHelper == 0 {
		return false
	}
	name := strings.ToLower(e.Helper.String())
	for _, h := range x.helpers {
		if strings.HasPrefix(name, h) {
			return true
		}
	}
	return false
}

// kernel is the filter as the kernel applies it to events.
func (x *filter) kernel() *ctnetlink.EventFilter {
	c := x.conf
	var f ctnetlink.EventFilter
	f.Protos.Action = action(c.Protocol.Action)
	for p := range 256 {
		if c.Protocol.Protocols.Has(uint8(p)) {
			f.Protos.Items = append(f.Protos.Items, uint8(p))
		}
	}
	f.Prefixes = ctnetlink.List[netip.Prefix]{Action: action(c.Address.Action), Items: c.Address.Prefixes}
	f.States.Action = action(c.State.Action)
	for s := range uint8(16) {
		if c.State.States.Has(s) {
			f.States.Items = append(f.States.Items, s)
		}
	}
	return &f
}

func action(a conf.Action) ctnetlink.ListAction {
	switch a {
	case conf.Accept:
		return ctnetlink.Accept
	case conf.Ignore:
		return ctnetlink.Ignore
	}
	return ctnetlink.NoList
}
