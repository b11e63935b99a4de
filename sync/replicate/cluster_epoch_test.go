//go:build !no_cluster

package replicate

import (
	"testing"

	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
)

// The peer stores the epoch of each flow that is announced, in a bulk and later, and finds by its
// digest one that was not announced. The marks stay on their nodes.
func TestClusterCarriesEpochs(t *testing.T) {
	w := newTown(t)
	all := flowtest.Flows(20)
	a, b := w.nodes[0], w.nodes[1]
	claim := func(i int, epoch uint32) {
		own := a.internal.Flows
		own.SetEpoch(own.Find(&all[i]), epoch)
	}
	check := func(when string, want ...uint32) {
		t.Helper()
		w.bothProven(when)
		for i, epoch := range want {
			h := b.external.Flows.Find(&all[i])
			if got := b.external.Flows.Epoch(h); h == 0 || got != epoch {
				t.Errorf("%s: flow %d has epoch %#x at the peer, want %#x", when, i, got, epoch)
			}
		}
	}
	for i := range all {
		a.store(&all[i], false)
	}
	claim(1, 5|cache.EpochMark)
	check("a bulk", 0, 5, 0)

	for i, epoch := range []uint32{1, 6, cache.EpochMark} {
		claim(i, epoch)
		a.rewrite(&all[i])
	}
	check("changes", 1, 6, 0)

	claim(2, 9)
	before := b.cluster.memberStatus(1).Differences
	check("no announcement", 1, 6, 9)
	if got := b.cluster.memberStatus(1).Differences - before; got != 1 {
		t.Errorf("%d differences", got)
	}

	a.end(&all[1])
	w.bothProven("an end")
	if b.external.Flows.Find(&all[1]) != 0 {
		t.Error("a flow with an epoch does not end")
	}
}
