package follow

import (
	"net/netip"
	"slices"
	"strings"

	"ctbox/conf"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Filter decides which flows and expectations are replicated (the Filter clause
// and ExpectationSync's helpers). It always has the last word; what the kernel
// filtered before only saves work.
type Filter struct {
	conf     *conf.Filter
	hosts    map[netip.Addr]struct{}
	networks []netip.Prefix
	helpers  []string // lower case; empty lets all pass
}

func NewFilter(f *conf.Filter, helpers []string) *Filter {
	out := &Filter{conf: f, hosts: map[netip.Addr]struct{}{}}
	for _, p := range f.Address.Prefixes {
		if p.IsSingleIP() {
			out.hosts[p.Addr()] = struct{}{}
		} else {
			out.networks = append(out.networks, p)
		}
	}
	for _, h := range helpers {
		out.helpers = append(out.helpers, strings.ToLower(h))
	}
	return out
}

// Incomplete names what a flow lacks that replication needs, or "".
func Incomplete(f *ctnetlink.Flow) string {
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

// Passes reports whether f is to be replicated. gone says that f has ended: filters by state and
// mark, which may have changed since f passed, do not apply then, since the end of a replicated flow
// must be replicated, too.
func (x *Filter) Passes(f *ctnetlink.Flow, gone bool) bool {
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
	if c.Zone.Action != conf.NoAction && x.inZone(f) != (c.Zone.Action == conf.Accept) {
		return false
	}
	if !gone && !x.passesMark(f) {
		return false
	}
	if c.State.Action != conf.NoAction && !gone && f.Has&ctnetlink.HasTCPState != 0 {
		return c.State.States.Has(f.TCPState) == (c.State.Action == conf.Accept)
	}
	return true
}

// passesMark is the part of Passes by mark. The kernel leaves out a mark of 0.
func (x *Filter) passesMark(f *ctnetlink.Flow) bool {
	c := &x.conf.Mark
	if c.Action == conf.NoAction {
		return true
	}
	mark := uint32(0)
	if f.Has&ctnetlink.HasMark != 0 {
		mark = f.Mark
	}
	listed := slices.ContainsFunc(c.Marks, func(m conf.Mark) bool { return mark&m.Mask == m.Value })
	return listed == (c.Action == conf.Accept)
}

// inZone reports whether one of the zones that f was given is listed. A flow may have one for both
// directions or one of a direction; without any it is in zone 0.
func (x *Filter) inZone(f *ctnetlink.Flow) bool {
	zones := x.conf.Zone.Zones
	given := false
	for _, z := range [...]struct {
		has  bool
		zone uint16
	}{
		{f.Has&ctnetlink.HasZone != 0, f.Zone},
		{f.Orig.Has&ctnetlink.TupleZone != 0, f.Orig.Zone},
		{f.Reply.Has&ctnetlink.TupleZone != 0, f.Reply.Zone},
	} {
		if z.has && slices.Contains(zones, z.zone) {
			return true
		}
		given = given || z.has
	}
	return !given && slices.Contains(zones, 0)
}

// listed reports whether the pool of addresses has a. A prefix has addresses of its own
// family only.
func (x *Filter) listed(family uint8, a *ctnetlink.Addr) bool {
	addr := netip.AddrFrom16(*a)
	if family == nl.FamilyIPv4 {
		addr = netip.AddrFrom4([4]byte(a[:4]))
	}
	if _, ok := x.hosts[addr]; ok {
		return true
	}
	for _, p := range x.networks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// PassesExpect reports whether an expectation's helper is one of those to be
// replicated. With a list, an expectation without a helper is not.
func (x *Filter) PassesExpect(e *ctnetlink.Expect) bool {
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

// kernel is the filter as the kernel applies it to events, without marks and zones.
func (x *Filter) kernel() *ctnetlink.EventFilter {
	c := x.conf
	var f ctnetlink.EventFilter
	f.Protos.Action = c.Protocol.Action
	for p := range 256 {
		if c.Protocol.Protocols.Has(uint8(p)) {
			f.Protos.Items = append(f.Protos.Items, uint8(p))
		}
	}
	f.Prefixes = ctnetlink.List[netip.Prefix]{Action: c.Address.Action, Items: c.Address.Prefixes}
	f.States.Action = c.State.Action
	for s := range uint8(16) {
		if c.State.States.Has(s) {
			f.States.Items = append(f.States.Items, s)
		}
	}
	return &f
}
