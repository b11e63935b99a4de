//go:build !no_cluster

package replicate

import (
	"maps"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/seal"
	"ctbox/sync/wire"
)

// exchanged waits until each node has what the other announces, and then until both have proved it.
func (w *town) exchanged(what string, has, proves time.Duration) {
	w.t.Helper()
	end := w.now + proves
	w.until(what+": the flows", has, func() bool {
		return maps.Equal(contents(w.nodes[0].internal), contents(w.nodes[1].external.Side)) &&
			maps.Equal(contents(w.nodes[1].internal), contents(w.nodes[0].external.Side))
	})
	w.until(what+": the proof", end-w.now, func() bool { return w.nodes[0].proven(time.Second) && w.nodes[1].proven(time.Second) })
}

// A sealed pair has exchanged everything a moment after both nodes are up, and has proved it with the
// next digest: after a cold start, with the second node up to a minute later, and when a node restarts
// soon or late, twice in a row. A pair in the clear agrees on version 2 before. A start is no reason for a
// warning.
func TestClusterStarts(t *testing.T) {
	eachTown(t, func(t *testing.T, fresh *town) {
		var keys []string
		for _, k := range fresh.nodes[0].cfg.Cluster.Keys {
			keys = append(keys, k.File)
		}
		has, proves := 200*time.Millisecond, 1200*time.Millisecond
		if len(keys) == 0 {
			has, proves = 3*time.Second, 4*time.Second
		}
		all := flowtest.Flows(40)
		for _, late := range []time.Duration{0, 10 * time.Millisecond, 500 * time.Millisecond, 990 * time.Millisecond, 1010 * time.Millisecond, 7300 * time.Millisecond, 70 * time.Second} {
			for number := range 2 {
				w := newTown(t, keys...)
				for i := range all {
					w.nodes[i%2].store(&all[i], false)
				}
				w.lose = func(int, []byte) bool { return true }
				w.pass(late)
				w.lose = nil
				start := func() { w.start(number, w.nodes[number].cfg, w.nodes[number].internal) }
				start()
				w.exchanged("a cold start after "+late.String(), has, proves)
				w.pass(late)
				for range 2 {
					start()
					w.exchanged("a restart", has, proves)
					for _, v := range w.nodes {
						if log := v.log.String(); strings.Contains(log, "refused") {
							t.Errorf("after %v:\n%s", late, log)
						}
					}
				}
			}
		}
	})
}

// The log says why a datagram in the clear is refused, and says nothing while nodes that allow such
// datagrams start and restart.
func TestClusterSaysWhyPlainIsRefused(t *testing.T) {
	key := keyFile(t, newKey(t, 'a'), 0o600)
	allow := func(n int) *conf.Sync { c := clusterConfig(n, key); c.Cluster.AllowPlain = true; return c }
	w := emptyTown(t, 2)
	for i := range w.nodes {
		w.start(i, allow(i), cache.NewSide(cache.Config{}))
	}
	for i := range 6 {
		w.pass(15 * time.Second / 2)
		w.start(i%2, allow(i%2), w.nodes[i%2].internal)
	}
	w.bothProven("restarts")
	for _, v := range w.nodes {
		if log := v.log.String(); strings.Contains(log, "refused") {
			t.Error(log)
		}
	}
	plain := seal.Header{Kind: seal.Plain, Node: 2, Counter: 1}
	sealed := plain
	sealed.Kind = seal.Sealed
	for _, c := range []struct {
		config *conf.Sync
		header seal.Header
		want   string
	}{
		{clusterConfig(0, key), plain, "it is not sealed, and AllowPlain is off"},
		{clusterConfig(0), plain, ""}, // its sender is challenged
		{clusterConfig(0), sealed, "it is marked as sealed, but names no key"},
	} {
		v := w.start(0, c.config, cache.NewSide(cache.Config{}))
		v.cluster.takes(0, clusterAddrs[1], c.header.Append(nil))
		if log := v.log.String(); c.want == "" && strings.Contains(log, "refused") || !strings.Contains(log, c.want) {
			t.Errorf("want %q:\n%s", c.want, log)
		}
	}
	w = emptyTown(t, 2)
	for i := range w.nodes {
		w.start(i, allow(i), cache.NewSide(cache.Config{}))
	}
	w.pass(5 * time.Second) // they seal
	a := w.nodes[0]
	a.cluster.takes(0, clusterAddrs[1], plain.Append(nil))
	if !strings.Contains(a.log.String(), "it is not sealed, and the peer has sealed others lately") {
		t.Error(&a.log)
	}
	three := clusterConfig(0)
	three.Cluster.Peers = append(three.Cluster.Peers, conf.ClusterPeer{Number: 3, Name: "fw3", Addresses: three.Cluster.Peers[0].Addresses[:1:1]})
	a = w.start(0, three, cache.NewSide(cache.Config{}))
	notice := wire.AppendNotice(nil, wire.Header{Type: wire.Control, Flags: wire.Alive}, &wire.Notice{})
	a.cluster.takes(0, clusterAddrs[0], notice)
	if !strings.Contains(a.log.String(), "it is of version 1, and no Peer has this address") {
		t.Error(&a.log)
	}
}
