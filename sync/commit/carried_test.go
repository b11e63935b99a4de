package commit

import (
	"fmt"
	"net/netip"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/wire"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// kernel is the connection tracking of a namespace.
type kernel struct {
	t    testing.TB
	conn *nl.Conn
}

func kernelOf(t testing.TB, ns *netnstest.NS) *kernel {
	t.Helper()
	c, err := nl.Dial(nl.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &kernel{t, c}
}

func (k *kernel) create(what string, f *ctnetlink.Flow) {
	k.t.Helper()
	r := nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.Family(), Attrs: f.Append}
	if err := k.conn.Do(k.t.Context(), r, nil); err != nil {
		k.t.Fatalf("%s: %v", what, err)
	}
}

func (k *kernel) flows() (all []ctnetlink.Flow) {
	k.t.Helper()
	if _, err := ctnetlink.DumpFlows(k.t.Context(), k.conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
		all = append(all, f.Clone())
		return nil
	}); err != nil {
		k.t.Fatal(err)
	}
	return all
}

func addr(s string) (a ctnetlink.Addr) {
	copy(a[:], netip.MustParseAddr(s).AsSlice())
	return a
}

// base returns a flow without a state, from port 1000 to port 80, or with ICMP's id 1000.
func base(proto uint8, src, dst string) ctnetlink.Flow {
	f := ctnetlink.Flow{Has: ctnetlink.HasStatus | ctnetlink.HasTimeout, Timeout: 3000,
		Status: ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured}
	t := &f.Orig
	t.Has, t.Proto, t.Family = ctnetlink.TupleAddrs|ctnetlink.TupleProto, proto, nl.FamilyIPv4
	t.Src, t.Dst = addr(src), addr(dst)
	if netip.MustParseAddr(src).Is6() {
		t.Family = nl.FamilyIPv6
	}
	switch {
	case proto == ctnetlink.ProtoICMP:
		t.ICMPType = 8
	case proto == ctnetlink.ProtoICMPv6:
		t.ICMPType = 128
	case ctnetlink.HasPorts(proto), proto == ctnetlink.ProtoGRE:
		t.SrcPort, t.DstPort = 1000, 80
		t.Has |= ctnetlink.TuplePorts
	}
	if ctnetlink.IsICMP(proto) {
		t.ICMPID = 1000
		t.Has |= ctnetlink.TupleICMP
	}
	if proto == ctnetlink.ProtoTCP {
		f.Has |= ctnetlink.HasTCPState
		f.TCPState = ctnetlink.TCPStateEstablished
	}
	f.Reply = f.Orig.Inverted()
	return f
}

// row is flows of one kind, in the order of their creation.
type row struct {
	name  string
	flows []ctnetlink.Flow
}

const client, server, client6, server6 = "192.0.2.1", "198.51.100.1", "2001:db8:1::1", "2001:db8:2::1"

// carried returns flows of each kind that version 2 of the protocol carries.
func carried() (all []row) {
	type change func(*ctnetlink.Flow)
	add := func(name string, f ctnetlink.Flow, changes ...change) {
		for _, c := range changes {
			c(&f)
		}
		if len(all) == 0 || all[len(all)-1].name != name {
			all = append(all, row{name: name})
		}
		of := &all[len(all)-1].flows
		*of = append(*of, f)
	}
	snat := func(a string, port uint16) change {
		return func(f *ctnetlink.Flow) {
			f.Has |= ctnetlink.HasNATSrc
			f.NATSrc = ctnetlink.NAT{Addr: addr(a), HasAddr: true, Port: port, HasPort: port != 0}
		}
	}
	dnat := func(a string, port uint16) change {
		return func(f *ctnetlink.Flow) {
			f.Has |= ctnetlink.HasNATDst
			f.NATDst = ctnetlink.NAT{Addr: addr(a), HasAddr: true, Port: port, HasPort: port != 0}
		}
	}
	origZone := func(zone uint16) change {
		return func(f *ctnetlink.Flow) { f.Orig.Has, f.Orig.Zone = f.Orig.Has|ctnetlink.TupleZone, zone }
	}
	replyZone := func(zone uint16) change {
		return func(f *ctnetlink.Flow) { f.Reply.Has, f.Reply.Zone = f.Reply.Has|ctnetlink.TupleZone, zone }
	}
	zone := func(zone uint16) change {
		return func(f *ctnetlink.Flow) { f.Has, f.Zone = f.Has|ctnetlink.HasZone, zone }
	}
	port := func(src, dst uint16) change {
		return func(f *ctnetlink.Flow) {
			f.Orig.SrcPort, f.Orig.DstPort = src, dst
			f.Reply = f.Orig.Inverted()
		}
	}
	helper := func(name string) change {
		return func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasHelper; f.Helper.Set(name) }
	}
	master := func(of ctnetlink.Flow) change {
		return func(f *ctnetlink.Flow) {
			f.Master = of.Orig
			f.Master.Has &^= ctnetlink.TupleZone
			f.Master.Zone = 0
		}
	}
	tcp := base(ctnetlink.ProtoTCP, client, server)
	tcp6, udp6 := base(ctnetlink.ProtoTCP, client6, server6), base(ctnetlink.ProtoUDP, client6, server6)

	add("equal flows in two original zones", tcp)
	add("equal flows in two original zones", tcp, origZone(3), snat("203.0.113.103", 0))
	add("equal flows in two original zones", tcp, origZone(4), snat("203.0.113.104", 0))
	add("equal flows in two original zones, one translated address", udp6, origZone(3), snat("2001:db8:3::3", 0))
	add("equal flows in two original zones, one translated address", udp6, origZone(4), snat("2001:db8:3::3", 4001))
	add("reply zone", tcp, replyZone(5))
	add("reply zone, IPv6", tcp6, replyZone(5), dnat("2001:db8:3::4", 8080))
	add("reply zones that keep equal replies apart", tcp, replyZone(6), port(1000, 80), dnat("203.0.113.9", 0))
	add("reply zones that keep equal replies apart", base(ctnetlink.ProtoTCP, client, "198.51.100.2"), replyZone(7), dnat("203.0.113.9", 0))
	add("zone", tcp, zone(8), snat("203.0.113.8", 0))

	adjust := func(f *ctnetlink.Flow) {
		f.Has |= ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply
		f.SeqAdjOrig = ctnetlink.SeqAdj{CorrectionPos: 0xfffffff0, OffsetBefore: 3, OffsetAfter: 0xfffffffd}
		f.SeqAdjReply = ctnetlink.SeqAdj{CorrectionPos: 77, OffsetBefore: 0, OffsetAfter: 12}
	}
	add("sequence adjustment", tcp, adjust)
	add("sequence adjustment with NAT and helper", tcp, port(1000, 21), adjust, snat("203.0.113.100", 4000), helper("ftp"))
	add("sequence adjustment, IPv6", tcp6, adjust, snat("2001:db8:3::3", 0))

	control := base(ctnetlink.ProtoTCP, client, server)
	port(1000, 1723)(&control)
	helper("pptp")(&control)
	snat("203.0.113.50", 0)(&control)
	gre := base(ctnetlink.ProtoGRE, client, server)
	add("PPTP", control)
	add("PPTP", gre, port(0x1111, 0x2222), master(control), snat("203.0.113.50", 0))
	add("PPTP", gre, port(0x4444, 0x2222))
	add("PPTP with another call id", gre, port(0x1111, 0x2222), func(f *ctnetlink.Flow) { f.Reply.DstPort = 0x3333 }, snat("203.0.113.50", 0))
	add("PPTP with another call id", gre, port(0x1111, 0x2224), func(f *ctnetlink.Flow) { f.Reply.SrcPort = 0x4444 }, dnat("203.0.113.49", 0))
	add("GRE without keys", gre, port(0, 0), snat("203.0.113.51", 0))
	add("GRE without keys", gre, port(0, 0), origZone(3), snat("203.0.113.52", 0))

	lite := base(ctnetlink.ProtoUDPLite, client, server)
	add("UDP-Lite", lite)
	add("UDP-Lite", lite, port(1001, 80), snat("203.0.113.53", 4002))
	ping, ping6 := base(ctnetlink.ProtoICMP, client, server), base(ctnetlink.ProtoICMPv6, client6, server6)
	add("ICMP", ping)
	add("ICMP with another id", ping, snat("203.0.113.54", 7))
	add("ICMP with another id, its own address", ping, snat(client, 8))
	add("ICMPv6 with another id", ping6, snat("2001:db8:3::5", 9))
	add("ICMP with another destination", ping, dnat("203.0.113.55", 0))

	for _, f := range []struct {
		name string
		flow ctnetlink.Flow
		nat  [2]string
	}{{"TCP", tcp, [2]string{"203.0.113.60", "203.0.113.61"}}, {"IPv6 UDP", udp6, [2]string{"2001:db8:3::60", "2001:db8:3::61"}}} {
		add(f.name+" with source NAT", f.flow, snat(f.nat[0], 0))
		add(f.name+" with source NAT and port", f.flow, snat(f.nat[0], 4003))
		add(f.name+" with destination NAT", f.flow, dnat(f.nat[1], 0))
		add(f.name+" with both NATs", f.flow, snat(f.nat[0], 4004), dnat(f.nat[1], 8081))
	}
	add("a reply without NAT", tcp, func(f *ctnetlink.Flow) { f.Reply.Dst = addr("203.0.113.62") })

	add("mark, labels", tcp, func(f *ctnetlink.Flow) {
		f.Has |= ctnetlink.HasMark | ctnetlink.HasLabels
		f.Mark, f.LabelsLen = 0xabcd, ctnetlink.LabelWords
		f.Labels.SetBit(1)
		f.Labels.SetBit(120)
	})
	add("not answered", tcp, func(f *ctnetlink.Flow) {
		f.Status, f.TCPState = ctnetlink.StatusConfirmed, 1
	})
	add("synproxy", tcp, func(f *ctnetlink.Flow) {
		f.Has |= ctnetlink.HasSynproxy
		f.Synproxy = ctnetlink.Synproxy{ISN: 1, ITS: 2, TSOff: 3}
	})
	add("window scales", tcp, func(f *ctnetlink.Flow) {
		f.Has |= ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply | ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
		f.TCPWScaleOrig, f.TCPWScaleRepl, f.TCPFlagsOrig, f.TCPFlagsReply = 7, 9, scaled, scaled
	})
	add("SCTP", base(ctnetlink.ProtoSCTP, client, server), func(f *ctnetlink.Flow) {
		f.Has |= ctnetlink.SCTPAttrs
		f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = 4, 0x01020304, 0x05060708
	}, snat("203.0.113.63", 4005))
	add("a protocol without ports", base(89, client, server), snat("203.0.113.64", 0))

	for _, z := range []struct {
		name string
		set  change
	}{{"", func(*ctnetlink.Flow) {}}, {", zone", zone(9)}, {", original zone", origZone(9)}, {", reply zone", replyZone(9)}} {
		for _, of := range []ctnetlink.Flow{tcp, tcp6} {
			name := fmt.Sprintf("master, family %d%s", of.Orig.Family, z.name)
			f := of
			port(1000, 21)(&f)
			add(name, f, z.set, helper("ftp"))
			add(name, of, port(1001, 20), z.set, master(f))
		}
	}
	return all
}

// normal returns what a peer has of f by a message of version 2, without what each kernel has
// of its own.
func normal(t testing.TB, f *ctnetlink.Flow) (out ctnetlink.Flow) {
	t.Helper()
	body, err := wire.Encoder{WindowTracking: true, OmitTimeout: true}.AppendCompactFlow(nil, f, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ParseCompactFlow(body, &out, false); err != nil {
		t.Fatal(err)
	}
	out.Status &^= ctnetlink.StatusSrcNATDone | ctnetlink.StatusDstNATDone
	return out
}

// normals returns the normal form of all flows of a kernel, by their first tuple.
func (k *kernel) normals() map[ctnetlink.Tuple]ctnetlink.Flow {
	k.t.Helper()
	all := map[ctnetlink.Tuple]ctnetlink.Flow{}
	for _, f := range k.flows() {
		all[f.Orig] = normal(k.t, &f)
	}
	return all
}

// announce fills an external cache by messages of version 2 about all flows and expectations.
func (k *kernel) announce(external cache.Side) {
	k.t.Helper()
	for _, f := range k.flows() {
		body, err := wire.Encoder{WindowTracking: true}.AppendCompactFlow(nil, &f, false)
		if err != nil {
			k.t.Fatal(err)
		}
		var heard ctnetlink.Flow
		if _, err := wire.ParseCompactFlow(body, &heard, false); err != nil {
			k.t.Fatalf("%+v: % x: %v", f, body, err)
		}
		if _, o := external.Flows.Replace(&heard, 0); o != cache.Created {
			k.t.Fatalf("%+v: the cache says %v", f, o)
		}
	}
	for _, x := range k.expects() {
		body, err := wire.Encoder{}.AppendCompactExpect(nil, &x, false)
		if err != nil {
			k.t.Fatal(err)
		}
		if err := wire.ParseCompactExpect(body, &x); err != nil {
			k.t.Fatalf("%+v: % x: %v", x, body, err)
		}
		if _, o := external.Expects.Replace(&x, 0); o != cache.Created {
			k.t.Fatalf("%+v: the cache says %v", x, o)
		}
	}
}

const labelRules = `table inet labels { chain in { type filter hook prerouting priority 0; ct label 120 accept; ct state new accept; }
}`

// commitAll commits the whole external cache.
func (c *committer) commitAll(t testing.TB) Result {
	t.Helper()
	return c.commitFrom(t, Selection{Sources: []Source{{Side: c.external}}})
}

// commitFrom commits what from selects.
func (c *committer) commitFrom(t testing.TB, from Selection) Result {
	t.Helper()
	ended := make(chan outcome, 1)
	if err := c.sched.Do(t.Context(), func() { c.startFrom(t, "all", cache.FlowTable|cache.ExpectTable, from, ended) }); err != nil {
		t.Fatal(err)
	}
	o := <-ended
	if o.err != nil {
		t.Fatal(o.err)
	}
	return o.result
}

// move gives a row's flow a client of its own, so that all rows fit into one kernel.
func move(f *ctnetlink.Flow, row int) {
	for _, a := range []*ctnetlink.Addr{&f.Orig.Src, &f.Reply.Dst, &f.Master.Src, &f.NATSrc.Addr} {
		switch *a {
		case addr(client):
			a[3] = byte(row + 1)
		case addr(client6):
			a[15] = byte(row + 1)
		}
	}
}

// A flow that goes from one kernel to another by a message of version 2, the external cache and
// a commit is there what it was here: in its zones, with its translation, keys, identifiers and
// sequence adjustment. A second commit replaces it by the same.
func TestCarriedFlows(t *testing.T) {
	ns := netnstest.New(t, "origin")
	ns.NFT(labelRules)
	origin := kernelOf(t, ns)
	names := map[ctnetlink.Tuple]string{}
	for i, r := range carried() {
		for j := range r.flows {
			f := &r.flows[j]
			move(f, i)
			origin.create(r.name, f)
			names[f.Orig] = r.name
		}
	}
	external := cache.NewSide(cache.Config{})
	origin.announce(external)
	want := origin.normals()
	if len(want) != len(names) {
		t.Fatalf("the origin has %d flows, want %d", len(want), len(names))
	}
	c := committing(t, external)
	c.ns.NFT(labelRules)
	c.restore.windowTracking = true
	target := kernelOf(t, c.ns)
	for _, times := range []string{"first", "second"} {
		if r := c.commitAll(t); r.Flows != (Count{Committed: uint64(len(want))}) {
			t.Errorf("%s commit: %+v", times, r)
		}
		got := target.normals()
		for orig, name := range names {
			if diff := cmp.Diff(want[orig], got[orig]); diff != "" {
				t.Errorf("%s, %s commit (- origin, + target):\n%s", name, times, diff)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d flows after the %s commit, want %d", len(got), times, len(want))
		}
	}
}

func (k *kernel) expects() (all []ctnetlink.Expect) {
	k.t.Helper()
	if _, err := k.conn.Dump(k.t.Context(), nl.Dump{Type: ctnetlink.TypeExpectGet}, func(m *nl.Message) error {
		var e ctnetlink.Expect
		err := e.Decode(m.Attrs)
		all = append(all, e)
		return err
	}); err != nil {
		k.t.Fatal(err)
	}
	return all
}

// expected returns a control connection that expects a connection from anywhere to a port of
// its client, whose address is translated.
func expected(client, server string, port uint16, zone func(*ctnetlink.Flow)) (f ctnetlink.Flow, x ctnetlink.Expect) {
	f = base(ctnetlink.ProtoTCP, client, server)
	f.Orig.SrcPort, f.Orig.DstPort = port, 21
	f.Reply = f.Orig.Inverted()
	f.Has |= ctnetlink.HasHelper
	f.Helper.Set("ftp")
	x = ctnetlink.Expect{Has: ctnetlink.ExpectHasTimeout | ctnetlink.ExpectHasFlags | ctnetlink.ExpectHasClass | ctnetlink.ExpectHasHelper | ctnetlink.ExpectHasNAT | ctnetlink.ExpectHasFn,
		Timeout: 300, NATDir: 1, Master: f.Orig, Tuple: f.Orig.Inverted(), Mask: f.Orig, NATTuple: f.Orig}
	x.Mask.Src = ctnetlink.Addr{}
	x.Mask.Dst = addr("255.255.255.255")
	if f.Orig.Family == nl.FamilyIPv6 {
		x.Mask.Dst = addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	}
	x.Mask.SrcPort, x.Mask.DstPort = 0, 0xffff
	x.Tuple.Src, x.Tuple.SrcPort, x.Tuple.DstPort = ctnetlink.Addr{}, 0, port+1
	x.NATTuple.Src, x.NATTuple.Dst, x.NATTuple.SrcPort, x.NATTuple.DstPort = addr(client), ctnetlink.Addr{}, port+2, 0
	x.Helper.Set("ftp")
	x.SetFn("nat-follow-master")
	zone(&f)
	x.Zone = f.Zone + f.Orig.Zone
	if x.Zone != 0 {
		x.Has |= ctnetlink.ExpectHasZone
	}
	return f, x
}

// An expectation is committed to its master's zone, which no kernel says; where masters of two
// zones have the same tuple it is not committed at all.
func TestCarriedExpects(t *testing.T) {
	ns := netnstest.New(t, "origin")
	origin := kernelOf(t, ns)
	none := func(*ctnetlink.Flow) {}
	external := cache.NewSide(cache.Config{})
	add := func(client, server string, port uint16, zone func(*ctnetlink.Flow)) {
		t.Helper()
		f, x := expected(client, server, port, zone)
		origin.create("master", &f)
		r := nl.Request{Type: ctnetlink.TypeExpectNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: x.Tuple.Family, Attrs: x.Append}
		if err := origin.conn.Do(t.Context(), r, nil); err != nil {
			t.Fatalf("expectation of port %d: %v", port, err)
		}
	}
	zone := func(f *ctnetlink.Flow) { f.Has, f.Zone = f.Has|ctnetlink.HasZone, 7 }
	origZone := func(zone uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) { f.Orig.Has, f.Orig.Zone = f.Orig.Has|ctnetlink.TupleZone, zone }
	}
	replyZone := func(f *ctnetlink.Flow) { f.Reply.Has, f.Reply.Zone = f.Reply.Has|ctnetlink.TupleZone, 7 }
	add(client, server, 1000, none)
	add(client6, server6, 1010, none)
	add(client, server, 1020, zone)
	add(client6, server6, 1030, origZone(3))
	add(client, server, 1040, origZone(4))
	add(client, server, 1050, replyZone)
	origin.announce(external)
	normals := func(all []ctnetlink.Expect) map[ctnetlink.Tuple]ctnetlink.Expect {
		by := map[ctnetlink.Tuple]ctnetlink.Expect{}
		for _, x := range all {
			if x.Timeout < 290 || x.Timeout > 300 {
				t.Errorf("a timeout of %d s", x.Timeout)
			}
			x.ID, x.Timeout = 0, 0
			by[x.Tuple] = x
		}
		return by
	}
	want := normals(origin.expects())
	c := committing(t, external)
	target := kernelOf(t, c.ns)
	for _, times := range []string{"first", "second"} {
		if r := c.commitAll(t); r.Expects != (Count{Committed: 6}) {
			t.Errorf("%s commit: %+v", times, r)
		}
		if diff := cmp.Diff(want, normals(target.expects())); diff != "" {
			t.Errorf("%s commit (- origin, + target):\n%s", times, diff)
		}
	}
	// Whether it is committed where its master is shows its end with the master.
	for _, f := range target.flows() {
		var gone ctnetlink.Flow
		key(&gone, &f)
		if err := target.conn.Do(t.Context(), nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Family(), Attrs: gone.Append}, nil); err != nil {
			t.Fatal(err)
		}
		for _, x := range target.expects() {
			if x.Master.SrcPort == f.Orig.SrcPort {
				t.Errorf("the expectation of port %d outlives its master", f.Orig.SrcPort)
			}
		}
	}
	if left := target.expects(); len(left) > 0 {
		t.Errorf("%d expectations are left", len(left))
	}

	f, _ := expected(client, server, 1040, zone)
	external.Flows.Replace(&f, 0)
	if r := c.commitAll(t); r.Expects != (Count{Committed: 5, Failed: 1}) || r.Flows.Failed != 0 {
		t.Errorf("with two masters of one tuple: %+v", r)
	}
}
