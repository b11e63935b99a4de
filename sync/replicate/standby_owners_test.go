//go:build !no_cluster

package replicate

import (
	"math/rand/v2"
	"testing"
	"time"

	"ctbox/internal/seeds"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/owner"
	"ctbox/sync/wire"
)

// hotKernel is an Injector that notes what it brings into a kernel, with the marks, and does what
// commit.Standby does with the internal cache: it leaves alone what is there.
type hotKernel struct {
	injected
	v *villager
}

// Flow implements Injector.
func (k hotKernel) Flow(change wire.Type, f *ctnetlink.Flow) {
	if k.v.internal.Flows.Find(f) == 0 {
		k.injected.Flow(change, f)
	}
}

// Withdrawn implements Injector.
func (k hotKernel) Withdrawn(f *ctnetlink.Flow) {
	if !k.v.Announced(&f.Orig, f.Zone) {
		k.Flow(wire.FlowDelete, f)
	}
}

// Adopt implements Injector.
func (k hotKernel) Adopt(f *ctnetlink.Flow) { k.Flow(wire.FlowUpdate, f) }

// newHotTown returns three nodes with HotStandby, and what is injected into the kernel of each.
func newHotTown(t *testing.T) (w *town, kernels [3]injected) {
	w = newTownOf(t, 3)
	for i, v := range w.nodes {
		kernels[i] = injected{}
		v.injector = hotKernel{kernels[i], v}
	}
	return w, kernels
}

// has checks that the kernel of a node got exactly these flows from its peers.
func (w *town) has(what string, number int, kernel injected, want ...*ctnetlink.Flow) {
	w.t.Helper()
	for _, f := range want {
		if mark, there := kernel[f.Key()]; !there || mark != markOf(f) {
			w.t.Errorf("%s: fw%d: port %d is in the kernel: %v, with mark %d; want mark %d", what, 1+number, f.Orig.SrcPort, there, mark, markOf(f))
		}
	}
	if len(kernel) != len(want) {
		w.t.Errorf("%s: fw%d: %d flows were injected, want %d", what, 1+number, len(kernel), len(want))
	}
}

// hears has a node apply a message of a peer about f.
func (v *villager) hears(from int, typ wire.StreamType, f *ctnetlink.Flow, epoch uint32) {
	v.town.t.Helper()
	e := wire.Encoder{OmitTimeout: true}
	body, err := e.AppendCompactFlow(nil, f, typ == wire.StreamFlowEnd || typ == wire.StreamFlowWithdrawn)
	if err != nil {
		v.town.t.Fatal(err)
	}
	v.cluster.applyObject(v.cluster.members[1+from], &wire.StreamMessage{Type: typ, Body: wire.AppendCompactEpoch(body, epoch)})
}

// What goes into the kernel of a hot standby is the owner's announcement, and no other.
func TestStandbyGetsTheOwners(t *testing.T) {
	w, kernels := newHotTown(t)
	w.pass(time.Second)
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	for _, step := range []struct {
		what  string
		from  int
		typ   wire.StreamType
		mark  uint32
		epoch uint32
		want  uint32 // the mark in the kernel; 0: the flow is not there
	}{
		{"fw2 announces it", 1, wire.StreamFlowNew, 2, 0, 2},
		{"fw1 does, too", 0, wire.StreamFlowNew, 1, 0, 1},
		{"fw2 changes what it does not own", 1, wire.StreamFlowUpdate, 3, 0, 1},
		{"the owner withdraws it: fw2 owns it", 0, wire.StreamFlowWithdrawn, 1, 0, 3},
		{"fw1 claims it", 0, wire.StreamFlowUpdate, 4, 1, 4},
		{"fw2 withdraws it", 1, wire.StreamFlowWithdrawn, 3, 0, 4},
		{"fw2 claims it", 1, wire.StreamFlowNew, 5, 2, 5},
		{"fw1, which has lost it, ends it", 0, wire.StreamFlowEnd, 4, 1, 5},
		{"fw1 announces it", 0, wire.StreamFlowNew, 6, 0, 5},
		{"the owner ends it", 1, wire.StreamFlowEnd, 5, 2, 0},
		{"fw1 repeats what is over", 0, wire.StreamFlowUpdate, 6, 0, 0},
		{"another connection with its addresses begins", 1, wire.StreamFlowNew, 7, 3, 7},
		{"fw1 withdraws what is over", 0, wire.StreamFlowWithdrawn, 6, 0, 7},
		{"nobody announces it", 1, wire.StreamFlowWithdrawn, 7, 3, 0},
	} {
		w.nodes[2].hears(step.from, step.typ, marked(&f, step.mark), step.epoch)
		if mark := kernels[2][f.Key()]; mark != step.want {
			t.Errorf("%s: in the kernel is %d, want %d", step.what, mark, step.want)
		}
	}
}

// A flow that this node loses to a claim stays in the kernel as the claimant's, and leaves the internal
// cache. One that ends there while its owner goes on comes back as the owner's.
func TestStandbyLosesAFlow(t *testing.T) {
	w, kernels := newHotTown(t)
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	b := w.nodes[1]
	for _, v := range w.nodes {
		v.primary(true)
	}
	w.bothProven("at the start")
	b.store(marked(&f, 2), true)
	w.bothProven("fw2 owns it")
	w.nodes[0].take(owner.NodesOf(2), owner.Selector{Node: 2})
	delete(kernels[0], f.Key()) // it is fw1's own
	w.pass(takeLingers + time.Second)
	w.has("fw1 has claimed it", 1, kernels[1], marked(&f, 2))
	if b.internal.Flows.Find(&f) != 0 {
		t.Error("fw2 still has it in the internal cache")
	}
	w.bothProven("fw1 has claimed it")
	w.owns("claimed", []ctnetlink.Flow{f}, "fw1", 0, 1, 2)
	// A packet comes through fw2, whose kernel then ends the flow.
	b.store(marked(&f, 2), true)
	delete(kernels[1], f.Key())
	w.pass(100 * time.Millisecond)
	w.has("it is this kernel's own again", 1, kernels[1])
	b.end(&f)
	w.has("it goes on at fw1", 1, kernels[1], marked(&f, 2))
	w.nodes[0].end(&f)
	w.bothProven("fw1 has ended it")
	for i := range kernels {
		w.has("fw1 has ended it", i, kernels[i])
	}
	// A primary keeps what a node that is none claims: that node's kernel may see no packet.
	b.store(marked(&f, 2), true)
	w.nodes[0].primary(false)
	w.bothProven("fw2 owns the next one")
	b.hears(0, wire.StreamFlowNew, &f, 9)
	if b.internal.Flows.Find(&f) == 0 {
		t.Error("fw2 has given up the flow for a backup")
	}
}

// Three hot standbys, with losses, takeovers and flows that begin at several nodes: in the end each kernel
// has got exactly what the peers own and this kernel does not have itself.
func TestStandbysSimulation(t *testing.T) {
	for seed := range seeds.Count(30) {
		r := rand.New(rand.NewPCG(seed, 15))
		w, kernels := newHotTown(t)
		for _, v := range w.nodes {
			v.primary(true)
		}
		all := flowtest.Flows(40)
		w.bothProven("at the start")
		w.lose = func(int, []byte) bool { return r.IntN(20) == 0 }
		for round := range 100 {
			i := r.IntN(3)
			v := w.nodes[i]
			for range r.IntN(5) {
				switch f := marked(&all[r.IntN(len(all))], uint32(1+round)); r.IntN(4) {
				case 0:
					v.end(f)
				case 1: // its packets come through another node now
					v.rewrite(f)
				default:
					if v.Owner(f) == "" {
						v.store(f, true)
					}
				}
			}
			if r.IntN(20) == 0 {
				peer := uint8(1 + (i+1+r.IntN(2))%3)
				v.take(owner.NodesOf(peer), owner.Selector{Node: peer})
			}
			for key := range kernels[i] { // what is this kernel's own now is not an injected flow
				if v.internal.Flows.FindTuple(&key.Orig, key.Zone) != 0 {
					delete(kernels[i], key)
				}
			}
			w.pass(time.Duration(r.IntN(200)) * 10 * time.Millisecond)
		}
		w.lose = nil
		w.pass(takeLingers + time.Second)
		began := w.now + 1
		w.until("proven at the end", 2*time.Minute, func() bool {
			for _, v := range w.nodes {
				if !v.proven(w.now - began) {
					return false
				}
			}
			return true
		})
		for i, v := range w.nodes {
			var want []*ctnetlink.Flow
			var f ctnetlink.Flow
			for _, c := range v.Copies() {
				for k := range all {
					if h := c.Side.Flows.Find(&all[k]); h != 0 && c.Side.Flows.Load(h, &f) && v.Shows(c.Node, h, &f) && v.internal.Flows.Find(&f) == 0 {
						owned := f.Clone()
						want = append(want, &owned)
					}
				}
			}
			w.has("at the end", i, kernels[i], want...)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
