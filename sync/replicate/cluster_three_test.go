//go:build !no_cluster

package replicate

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ctbox/internal/seeds"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/proto"
)

// eachTownOfThree runs a test with three nodes, with plain and with sealed datagrams.
func eachTownOfThree(t *testing.T, test func(t *testing.T, w *town)) {
	t.Run("plain", func(t *testing.T) { test(t, newTownOf(t, 3)) })
	t.Run("sealed", func(t *testing.T) { test(t, newTownOf(t, 3, keyFile(t, newKey(t, 'a'), 0o600))) })
}

// member returns the status of another node, by its place.
func (v *villager) member(number int) *MemberStatus { return v.cluster.memberStatus(uint8(1 + number)) }

// asAtPeers returns what a node's copies hold, by the other nodes' places.
func (v *villager) asAtPeers() (all [3]map[string]string) {
	for i := range v.town.nodes {
		if i != v.number {
			all[i] = contents(v.copyOf(i))
		}
	}
	return all
}

// marked returns a flow with another mark.
func marked(f *ctnetlink.Flow, mark uint32) *ctnetlink.Flow {
	other := f.Clone()
	other.Mark, other.Has = mark, other.Has|ctnetlink.HasMark
	return &other
}

// What each of three nodes announces arrives in the others' copies of that node, where it is proven,
// and nowhere else.
func TestThreeNodesHaveCopiesOfEachOther(t *testing.T) {
	eachTownOfThree(t, func(t *testing.T, w *town) {
		all := flowtest.Flows(300)
		for i := range all {
			w.nodes[i%3].store(&all[i], true)
		}
		// All nodes have this flow, each with a mark of its own. The first one owns it.
		shared := flowtest.TCP("192.0.2.9", "198.51.100.9")
		for i, v := range w.nodes {
			v.store(marked(&shared, uint32(1+i)), true)
			x := testExpect(&all[i], 1)
			v.storeExpect(&x)
		}
		w.bothProven("at the start")
		for i := range all[:150] {
			w.nodes[i%3].rewrite(marked(&all[i], 7))
		}
		w.pass(20 * time.Millisecond)
		w.same("changes")
		if m := w.nodes[0].member(2); m.Unproven != 50 {
			t.Errorf("%d changes of fw3 are not proven, want 50", m.Unproven)
		}
		w.nodes[1].end(&shared)
		for i := range all[150:] {
			w.nodes[i%3].end(&all[150+i])
		}
		w.bothProven("ends")
		for _, v := range w.nodes {
			held := 0
			for i := range w.nodes {
				if i != v.number {
					held += v.copyOf(i).Flows.Len()
				}
			}
			f := v.Facts()
			if f.Held != uint64(held) || f.Full || len(f.Peers) != 2 || f.Peers[0].Unproven || f.Peers[1].Unproven {
				t.Errorf("fw%d: %d flows are held: %+v", 1+v.number, held, f)
			}
			for i := range w.nodes {
				if m := v.member(i); i != v.number && (m.Differences > 0 || m.Unproven > 0 || !m.Proven) {
					t.Errorf("fw%d: %+v\n%s", 1+v.number, m, &v.log)
				}
			}
			if v.Owner(&shared) != "fw1" {
				t.Errorf("fw%d: %q owns the flow that a node has ended which does not own it", 1+v.number, v.Owner(&shared))
			}
		}
	})
}

// An entry of one copy that changes behind the protocol's back is found and repaired, and the copies
// of the other peers stay as they are.
func TestThreeNodesRepairOneCopy(t *testing.T) {
	eachTownOfThree(t, func(t *testing.T, w *town) {
		all := flowtest.Flows(3000)
		for i := range all {
			w.nodes[i%3].store(&all[i], true)
		}
		for i := range all[:30] { // these are announced by all nodes
			for _, v := range w.nodes {
				v.store(&all[i], true)
			}
		}
		w.bothProven("before")
		b := w.nodes[1]
		repaired := b.copyOf(0)
		var bulks [3]uint64
		for i, v := range w.nodes {
			bulks[i] = v.machine.Stats().Bulks
		}
		for _, d := range []struct {
			what string
			do   func()
		}{
			{"altered", func() { repaired.Flows.Update(marked(&all[3], 99), w.now) }},
			{"gone", func() { repaired.Flows.Delete(repaired.Flows.Find(&all[6])) }},
			{"too many", func() {
				f := flowtest.TCP("192.0.2.9", "198.51.100.9")
				repaired.Flows.Replace(&f, w.now)
			}},
		} {
			others := b.copyOf(2).Flows.Stats()
			differences := b.member(0).Differences
			d.do()
			w.until(d.what, 5*time.Second, func() bool {
				m := b.member(0)
				return m.Differences > differences && m.Equal
			})
			w.same(d.what)
			if after := b.copyOf(2).Flows.Stats(); after != others {
				t.Errorf("%s: the copy of fw3 has changed from %+v to %+v", d.what, others, after)
			}
		}
		if m := b.member(2); m.Differences > 0 || !m.Equal {
			t.Errorf("fw3: %+v", m)
		}
		for i, v := range w.nodes {
			if n := v.machine.Stats().Bulks - bulks[i]; n > 0 {
				t.Errorf("fw%d has sent %d bulks\n%s", 1+i, n, &b.log)
			}
		}
	})
}

// A bulk of one node removes what it leaves out from the copy of that node, and from no other one.
func TestThreeNodesSweepOneCopy(t *testing.T) {
	eachTownOfThree(t, func(t *testing.T, w *town) {
		all := flowtest.Flows(500)
		for i := range all[:200] {
			w.nodes[0].store(&all[i], true)
			w.nodes[2].store(&all[300+i], true)
		}
		for i := range all[200:300] {
			w.nodes[1].store(&all[200+i], true)
		}
		w.bothProven("before")
		fresh := cache.NewSide(cache.Config{})
		for i := range all[:100] {
			fresh.Flows.Replace(&all[i], w.now)
		}
		kept := w.nodes[1].asAtPeers()
		w.start(0, w.nodes[0].cfg, fresh)
		w.until("restarted", 30*time.Second, func() bool {
			return w.nodes[1].proven(time.Second) && w.nodes[2].proven(time.Second) && w.nodes[1].copyOf(0).Flows.Len() == 100
		})
		w.bothProven("restarted")
		if !maps.Equal(w.nodes[1].asAtPeers()[2], kept[2]) {
			t.Error("the copy of fw3 has changed")
		}
		for _, v := range w.nodes[1:] {
			if m := v.member(3 - v.number); m.Differences > 0 || m.Repaired > 0 || v.cluster.members[4-v.number].lives > 0 {
				t.Errorf("fw%d: %+v", 1+v.number, m)
			}
		}
	})
}

// A request of the operator goes to all peers, as a flush of the external cache does.
func TestThreeNodesAskAll(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(90)
	for i := range all {
		w.nodes[i%3].store(&all[i], true)
	}
	w.bothProven("before")
	a := w.nodes[0]
	second, third := w.nodes[1].machine.Stats().Bulks, w.nodes[2].machine.Stats().Bulks
	for i, ask := range []func(){a.RequestResync, a.FlushExternal} {
		ask()
		if want := 60 * (1 - i); a.copyOf(1).Flows.Len()+a.copyOf(2).Flows.Len() != want {
			t.Errorf("%d and %d flows are here", a.copyOf(1).Flows.Len(), a.copyOf(2).Flows.Len())
		}
		w.until("bulks of all", 5*time.Second, func() bool {
			return w.nodes[1].machine.Stats().Bulks == second+uint64(1+i) && w.nodes[2].machine.Stats().Bulks == third+uint64(1+i)
		})
		w.bothProven("asked")
	}
	a.FlushExternal()
	a.CopyLost()
	if f := a.Facts(); f.Held != 0 || f.Peers[0].Copy == copies[proto.CopyArrived] {
		t.Errorf("after a flush: %+v", f)
	}
}

// reload puts the clause of a Cluster with these peers, by place, in force.
func (v *villager) reload(peers ...int) {
	config := *v.cfg
	cluster := *clusterConfigOf(3, v.number).Cluster
	cluster.Peers = nil
	for _, p := range clusterConfigOf(3, v.number).Cluster.Peers {
		for _, number := range peers {
			if int(p.Number) == 1+number {
				cluster.Peers = append(cluster.Peers, p)
			}
		}
	}
	config.Cluster, config.PurgeTimeout = &cluster, time.Minute
	v.Reconfigure(&config)
}

// Peers come and go by reloads. The copy of one that stays is not touched; that of one that goes stays
// for PurgeTimeout, and is the peer's again if it comes back within that time.
func TestThreeNodesReload(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(90)
	for i := range all {
		w.nodes[i%3].store(&all[i], true)
	}
	w.bothProven("two peers")
	a := w.nodes[0]
	second, third := a.copyOf(1), a.copyOf(2)
	check := func(what string, nodes ...uint8) {
		t.Helper()
		var got []uint8
		for _, c := range a.Copies() {
			got = append(got, c.Node)
			if c.Side.Flows.Len() != 30 {
				t.Errorf("%s: %d flows of fw%d are here", what, c.Side.Flows.Len(), c.Node)
			}
		}
		if string(got) != string(nodes) {
			t.Errorf("%s: there are copies of %d, want %d", what, got, nodes)
		}
	}
	for _, c := range []struct {
		what   string
		peers  []int
		wait   time.Duration
		copies []uint8
		only   *cache.Side
	}{
		{"fw2 goes", []int{2}, time.Second, []uint8{2, 3}, &third},
		{"fw2 is back", []int{1, 2}, 5 * time.Second, []uint8{2, 3}, nil},
		{"fw2 goes again", []int{2}, 61 * time.Second, []uint8{3}, &third},
		{"fw2 is new", []int{1, 2}, 5 * time.Second, []uint8{3, 2}, nil},
		{"fw3 goes", []int{1}, 59 * time.Second, []uint8{3, 2}, nil},
		{"for good", []int{1}, 2 * time.Second, []uint8{2}, nil},
		{"fw3 takes the place of fw2", []int{2}, 30 * time.Second, []uint8{3}, nil},
		{"all", []int{1, 2}, 5 * time.Second, []uint8{3, 2}, nil},
	} {
		a.reload(c.peers...)
		w.pass(c.wait)
		check(c.what, c.copies...)
		if c.only != nil && a.external.Side != *c.only {
			t.Errorf("%s: the external cache is not the copy of the only peer", c.what)
		}
		for _, p := range c.peers {
			if m := a.member(p); !m.Equal || m.Differences > 0 {
				t.Errorf("%s: %+v\n%s", c.what, m, &a.log)
			}
		}
		if len(c.peers) == 2 && c.what == "fw2 is back" && (a.copyOf(1) != second || a.copyOf(2) != third) {
			t.Errorf("%s: the copies are others", c.what)
		}
	}
	w.bothProven("at the end")
}

// Whatever happens to three nodes, with loss, each copy is equal in the end: flows that several nodes have,
// damage, restarts, flushes, and reloads that take peers away and bring them back.
func TestThreeNodesSimulation(t *testing.T) {
	for seed := range seeds.Count(100) {
		random := rand.New(rand.NewPCG(seed, 3))
		w := newTownOf(t, 3)
		w.lose = func(int, []byte) bool { return random.IntN(20) == 0 }
		all := flowtest.Flows(60)
		for round := range 80 {
			i := random.IntN(3)
			v := w.nodes[i]
			for range random.IntN(10) {
				switch f := &all[random.IntN(len(all))]; random.IntN(3) {
				case 0:
					v.end(f)
				case 1:
					v.store(f, true)
				default:
					v.rewrite(marked(f, uint32(round)))
				}
			}
			switch random.IntN(20) {
			case 0:
				w.start(i, v.cfg, kernelOf(v.internal, w.now))
			case 1:
				v.RequestResync()
			case 2:
				if v.FlushExternal(); !v.cluster.several() {
					v.RequestResync() // which is the operator's part where there is one peer
				}
			case 3:
				v.reload((i + 1 + random.IntN(2)) % 3)
			case 4:
				v.reload((i+1)%3, (i+2)%3)
			default:
				damage := v.copies[random.IntN(len(v.copies))].Flows
				f := &all[random.IntN(len(all))]
				switch random.IntN(3) {
				case 0:
					damage.Delete(damage.Find(f))
				case 1:
					damage.Replace(f, w.now)
				default:
					damage.Update(marked(f, 1000), w.now)
				}
			}
			w.pass(time.Duration(random.IntN(30)) * 10 * time.Millisecond)
		}
		w.lose = nil
		for i, v := range w.nodes {
			v.reload((i+1)%3, (i+2)%3)
		}
		began := w.now + 1
		w.until("equal", 3*time.Minute, func() bool {
			return !slices.ContainsFunc(w.nodes, func(v *villager) bool { return !v.proven(w.now - began) })
		})
		for _, v := range w.nodes {
			for i, p := range v.copies {
				if slices.ContainsFunc(v.copies[:i], func(other *peerCopy) bool { return other.node == p.node }) {
					t.Errorf("fw%d has two copies of fw%d", 1+v.number, p.node)
				}
			}
		}
		if w.same("in the end"); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// kernelOf returns the flows of a side that live, as a node reads them from its kernel when it starts.
func kernelOf(side cache.Side, now time.Duration) cache.Side {
	fresh := cache.NewSide(cache.Config{})
	handles := make([]cache.Handle, sliceLen)
	var f ctnetlink.Flow
	var cur cache.Cursor
	for more := true; more; {
		var got int
		got, more = side.Flows.Next(&cur, handles)
		for _, h := range handles[:got] {
			side.Flows.Load(h, &f)
			fresh.Flows.Replace(&f, now)
		}
	}
	return fresh
}
