package node

import (
	"net/netip"
	"testing"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/owner"
)

// A peer is named by its name or its number; a name precedes an equal number.
func TestNodeNumber(t *testing.T) {
	n := sleeping(t, cache.Side{})
	for _, c := range []struct {
		cluster *conf.Cluster
		name    string
		want    uint8
	}{
		{nil, "fw2", 0},
		{&conf.Cluster{Node: 1, NodeName: "fw1"}, "fw1", 0},
		{&conf.Cluster{Peers: []conf.ClusterPeer{{Number: 2, Name: "fw2"}, {Number: 3, Name: "2"}}}, "fw2", 2},
		{&conf.Cluster{Peers: []conf.ClusterPeer{{Number: 2, Name: "fw2"}, {Number: 3, Name: "2"}}}, "2", 3},
		{&conf.Cluster{Peers: []conf.ClusterPeer{{Number: 2, Name: "fw2"}, {Number: 3, Name: "2"}}}, "3", 3},
		{&conf.Cluster{Peers: []conf.ClusterPeer{{Number: 2, Name: "fw2"}}}, "02", 0},
		{&conf.Cluster{Peers: []conf.ClusterPeer{{Number: 2, Name: "fw2"}}}, "", 0},
	} {
		if err := n.sched.Do(t.Context(), func() { n.cfg = &conf.Config{Sync: &conf.Sync{Cluster: c.cluster}} }); err != nil {
			t.Fatal(err)
		}
		if got, ok := n.NodeNumber(c.name); got != c.want || ok != (c.want != 0) {
			t.Errorf("%q: %d, %v; want %d", c.name, got, ok, c.want)
		}
	}
}

// A commit with a Selector takes the flows that match it, and the expectations of those.
func TestSelection(t *testing.T) {
	external := cache.NewSide(cache.Config{})
	n := sleeping(t, external)
	in, out := flowtest.TCP("192.0.2.1", "198.51.100.1"), flowtest.TCP("192.0.3.1", "198.51.100.1")
	zoned := flowtest.TCP("192.0.4.1", "198.51.100.1")
	zoned.Has, zoned.Zone = zoned.Has|ctnetlink.HasZone, 7
	for _, f := range []ctnetlink.Flow{in, out, zoned} {
		external.Flows.Put(&f, 0)
	}
	src := owner.Selector{Src: netip.MustParsePrefix("192.0.2.0/24")}
	for _, c := range []struct {
		name string
		s    owner.Selector
		// Whether each of the flows is taken, and its expectation, whose zone no kernel says.
		flows, expects [3]bool
	}{
		{"all", owner.Selector{}, [3]bool{true, true, true}, [3]bool{true, true, true}},
		{"all of the only peer", owner.Selector{Node: 2}, [3]bool{true, true, true}, [3]bool{true, true, true}},
		{"source", src, [3]bool{true}, [3]bool{true}},
		{"zone", owner.Selector{Zone: 7, HasZone: true}, [3]bool{2: true}, [3]bool{2: true}},
	} {
		from := n.selection(c.s)
		if len(from.Sources) != 1 || from.Sources[0].Side != external || from.By != c.s || (from.Wants == nil) != (from.WantsExpect == nil) || (len(from.Taken) == 1) == c.s.Empty() {
			t.Errorf("%s: %+v", c.name, from)
		}
		for i, f := range []*ctnetlink.Flow{&in, &out, &zoned} {
			master := f.Orig
			x := ctnetlink.Expect{Master: master, Tuple: master}
			flow, expect := true, true
			if from.Wants != nil {
				flow, expect = from.Wants(0, external.Flows.Find(f), f), from.WantsExpect(0, &x)
			}
			if flow != c.flows[i] || expect != c.expects[i] {
				t.Errorf("%s: flow %d %v, its expectation %v; want %v, %v", c.name, i, flow, expect, c.flows[i], c.expects[i])
			}
		}
	}
	if from := (&Node{}).selection(src); from.Sources != nil {
		t.Errorf("without an external cache: %+v", from)
	}
}
