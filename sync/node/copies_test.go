package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
)

// clusterOf returns the configuration of fw1 in a Cluster with these peers.
func clusterOf(limit uint32, peers ...uint8) *conf.Config {
	c := &conf.Cluster{Name: "edge", Node: 1, NodeName: "fw1"}
	for _, number := range peers {
		c.Peers = append(c.Peers, conf.ClusterPeer{
			Number: number, Name: fmt.Sprintf("fw%d", number), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, number})}})
	}
	return &conf.Config{General: conf.General{HashLimit: limit}, Sync: &conf.Sync{
		Mode: conf.ModeFTFW, ResendQueueSize: 100, ACKWindowSize: 10, PurgeTimeout: time.Minute, ExpectationSync: true, Cluster: c,
		Links: []*conf.Link{{Transport: conf.UDP, Interface: "lo", Default: true, Port: 3780, Address: netip.MustParseAddr("127.0.0.1")}}}}
}

// With several peers the external cache is what all of them have announced: its status is the sum, a dump
// is of all or of one, with the owners' names, and each copy has the limit.
func TestExternalCacheOfSeveralPeers(t *testing.T) {
	var n *Node
	var err error
	netnstest.New(t, "node").Do(func() { n, err = New(clusterOf(100, 2, 3), slog.New(slog.DiscardHandler), nil) })
	if err != nil {
		t.Fatal(err)
	}
	running(t, n.Run)
	locked := func(do func()) {
		t.Helper()
		if err := n.sched.Do(t.Context(), do); err != nil {
			t.Fatal(err)
		}
	}
	put := func(flows ...ctnetlink.Flow) {
		t.Helper()
		locked(func() {
			for _, c := range n.copies() {
				for i := range flows[:c.Node] { // two of fw2, three of fw3
					c.Side.Flows.Put(&flows[i], n.sched.Now())
				}
				x := ctnetlink.Expect{Master: flows[0].Orig, Tuple: flows[0].Reply, Mask: flows[0].Reply}
				c.Side.Expects.Replace(&x, n.sched.Now())
			}
		})
	}
	dump := func(ctx context.Context, table cache.Tables, owner uint8) (counts map[string]int, err error) {
		counts = map[string]int{}
		err = n.Dump(ctx, External, table, owner, func(e *Entry) error { counts[e.Owner]++; return nil })
		return counts, err
	}
	all := flowtest.Flows(200)
	put(all[:3]...)
	for _, c := range []struct {
		table cache.Tables
		owner uint8
		want  map[string]int
	}{
		// fw3 announces the flows of fw2, too. A flow has one owner.
		{cache.FlowTable, 0, map[string]int{"fw2": 2, "fw3": 1}},
		{cache.FlowTable, 2, map[string]int{"fw2": 2}},
		{cache.FlowTable, 3, map[string]int{"fw3": 1}},
		{cache.ExpectTable, 0, map[string]int{"fw2": 1, "fw3": 1}},
		{cache.ExpectTable, 3, map[string]int{"fw3": 1}},
	} {
		if got, err := dump(t.Context(), c.table, c.owner); err != nil || !maps.Equal(got, c.want) {
			t.Errorf("table %d of %d: %v, %v; want %v", c.table, c.owner, got, err, c.want)
		}
	}
	for _, which := range []Cache{Internal, External} {
		if err := n.Dump(t.Context(), which, cache.FlowTable, 9, func(*Entry) error { return nil }); !errors.Is(err, ErrUnsupported) {
			t.Errorf("cache %d of a node that is not there: %v", which, err)
		}
	}
	s, err := n.Status(t.Context())
	if f, x := s.External.Flows, s.External.Expects; err != nil || s.External.Kind != CacheStored || f.Active != 5 || f.Created != 5 || f.Limit != 200 || x.Active != 2 {
		t.Errorf("%+v, %v", s.External, err)
	}
	// Another limit holds for the copies that there are, and for new ones.
	if err := n.Reconfigure(t.Context(), clusterOf(4, 2, 3, 4)); err != nil {
		t.Fatal(err)
	}
	locked(func() {
		for _, c := range n.copies() {
			for i := range all {
				c.Side.Flows.Put(&all[i], n.sched.Now())
			}
			if c.Side.Flows.Len() != 4 {
				t.Errorf("%d flows of %s are here", c.Side.Flows.Len(), c.Name)
			}
		}
		if f := n.replicator.Facts(); f.Held != 12 || !f.Full {
			t.Errorf("%+v", f)
		}
		if !n.replicator.Announced(&all[0].Orig, 0) || n.replicator.Announced(&all[199].Orig, 0) {
			t.Error("not the flows that are here are announced")
		}
	})
	if err := n.Flush(t.Context(), External); err != nil {
		t.Fatal(err)
	}
	if got, err := dump(t.Context(), cache.FlowTable, 0); err != nil || len(got) != 0 {
		t.Errorf("after a flush: %v, %v", got, err)
	}
	// The copies of former peers stay for PurgeTimeout.
	if err := n.Reconfigure(t.Context(), clusterOf(100, 3)); err != nil {
		t.Fatal(err)
	}
	locked(func() {
		want := []uint8{2, 3, 4}
		for i, c := range n.copies() {
			if c.Node != want[i] {
				t.Errorf("copy %d is of node %d", i, c.Node)
			}
		}
	})
}
