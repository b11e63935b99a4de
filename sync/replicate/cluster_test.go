//go:build !no_cluster

package replicate

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/link"
	"ctbox/sync/owner"
	"ctbox/sync/proto"
	"ctbox/sync/sched"
	"ctbox/sync/wire"
)

// town is the nodes of a Cluster, mostly two, without sockets, whose datagrams the test carries, and whose
// clocks it moves.
type town struct {
	t     testing.TB
	now   time.Duration
	nodes []*villager
	// lose reports whether a datagram is lost.
	lose func(from int, datagram []byte) bool
	sent [3]int // bytes
}

type villager struct {
	*Replicator
	town   *town
	number int
	addr   netip.Addr
	out    [][]byte
	log    bytes.Buffer
	spare  [][]byte // buffers that are used again
}

var clusterAddrs = [3]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")}

// clusterConfig is the Sync clause of a node, 0 or 1, of two with these key files.
func clusterConfig(number int, keys ...string) *conf.Sync { return clusterConfigOf(2, number, keys...) }

// clusterConfigOf is clusterConfig in a Cluster of so many nodes.
func clusterConfigOf(nodes, number int, keys ...string) *conf.Sync {
	s := &conf.Sync{
		Mode: conf.ModeFTFW, ACKWindowSize: 300, ResendQueueSize: 131072, ExpectationSync: true,
		Links:   []*conf.Link{{Transport: conf.UDP, Interface: "sync0", Default: true, Address: clusterAddrs[number], Port: 3780}},
		Cluster: &conf.Cluster{Name: "edge", Node: uint8(1 + number), NodeName: fmt.Sprintf("fw%d", 1+number)},
	}
	for i := range nodes {
		if i != number {
			s.Cluster.Peers = append(s.Cluster.Peers, conf.ClusterPeer{Number: uint8(1 + i), Name: fmt.Sprintf("fw%d", 1+i), Addresses: []netip.Addr{clusterAddrs[i]}})
		}
	}
	for i, file := range keys {
		s.Cluster.Keys = append(s.Cluster.Keys, conf.ClusterKey{Number: uint8(1 + i), File: file})
		s.Cluster.Send = 1
	}
	return s
}

func newTown(t testing.TB, keys ...string) *town { return newTownOf(t, 2, keys...) }

// newTownOf returns a town of so many nodes.
func newTownOf(t testing.TB, nodes int, keys ...string) *town {
	w := emptyTown(t, nodes)
	for i := range w.nodes {
		w.start(i, clusterConfigOf(nodes, i, keys...), cache.NewSide(cache.Config{}))
	}
	return w
}

// emptyTown returns a town whose nodes are not started yet.
func emptyTown(t testing.TB, nodes int) *town {
	return &town{t: t, now: time.Second, nodes: make([]*villager, nodes)}
}

// start starts or restarts a node, with the flows that its kernel has.
func (w *town) start(number int, config *conf.Sync, internal cache.Side) *villager {
	w.t.Helper()
	v := &villager{town: w, number: number, addr: config.Links[0].Address}
	s := sched.New(func() { v.Transmit() }, func(string, error) {})
	s.SetNow(w.now)
	v.Replicator = New(s, daemonlog.Log{Logger: slog.New(slog.NewTextHandler(&v.log, nil))}, Config{
		Sync: config, Internal: internal, External: cache.NewSide(cache.Config{}), Takeover: nobody{},
		NewCopy: func() cache.Side { return cache.NewSide(cache.Config{}) },
	})
	v.links = &links{owner: v.Replicator, tap: v.carry, said: make([]string, 1),
		all: []*link.Link{link.New(link.Config{Transport: link.UDP, Destination: clusterAddrs[max(0, 1-number)]}, 0, nil, link.Reports{})}}
	v.packer = wire.NewPacker(1472)
	if err := v.openCluster(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(v.cluster.close)
	if v.cluster != nil {
		v.cluster.renewal.clocks = func() (time.Duration, time.Duration) { return w.now, w.now }
		v.cluster.renewal.begin()
	}
	s.Add(protocolSource{v.Replicator})
	w.nodes[number] = v
	return v
}

// Reconfigure puts another Sync in force, as the node's owner does.
func (v *villager) Reconfigure(s *conf.Sync) {
	v.town.t.Helper()
	keys, err := ReadKeys(s, os.Geteuid())
	if err != nil {
		v.town.t.Fatal(err)
	}
	v.Replicator.Reconfigure(s, keys)
}

// carry takes what a node sends.
func (v *villager) carry(p *wire.Packer) {
	for i := range p.Datagrams() {
		d := p.Datagram(i)
		v.town.sent[v.number] += len(d)
		if v.town.lose != nil && v.town.lose(v.number, d) {
			continue
		}
		var buf []byte
		if n := len(v.spare); n > 0 {
			buf, v.spare = v.spare[n-1], v.spare[:n-1]
		}
		v.out = append(v.out, append(buf[:0], d...))
	}
}

// deliver carries datagrams until none is under way.
func (w *town) deliver() {
	for more := true; more; {
		more = false
		for i, v := range w.nodes {
			for n := 0; n < len(v.out); n++ {
				for to, other := range w.nodes {
					if to != i {
						other.takeDatagram(0, v.addr, v.out[n])
					}
				}
				v.spare = append(v.spare, v.out[n])
			}
			v.out = v.out[:0]
			for to, other := range w.nodes {
				if to != i {
					other.Transmit()
				}
			}
		}
		for _, v := range w.nodes {
			more = more || len(v.out) > 0
		}
	}
}

// pass lets time pass.
func (w *town) pass(d time.Duration) {
	w.t.Helper()
	const step = 10 * time.Millisecond
	for end := w.now + d; w.now < end; {
		w.now += step
		for _, v := range w.nodes {
			v.sched.SetNow(w.now)
			for turns := 0; turns == 0 || v.sched.Due() <= w.now && turns < 100; turns++ {
				if err := v.sched.Turn(); err != nil {
					w.t.Fatal(err)
				}
			}
		}
		w.deliver()
	}
}

// until lets time pass until a condition holds.
func (w *town) until(what string, limit time.Duration, cond func() bool) {
	w.t.Helper()
	for end := w.now + limit; !cond(); {
		if w.now >= end {
			for _, v := range w.nodes {
				w.t.Logf("fw%d: %s", 1+v.number, &v.log)
			}
			w.t.Fatalf("%s: not within %v", what, limit)
		}
		w.pass(10 * time.Millisecond)
	}
}

// proven reports whether a node has compared its copies of the other nodes' tables as equal within
// that time.
func (v *villager) proven(within time.Duration) bool {
	for i := range v.town.nodes {
		s := v.cluster.memberStatus(uint8(1 + i)) // nil while version 1 is spoken
		if i != v.number && (s == nil || !s.Equal || s.LastEqual > within) {
			return false
		}
	}
	return true
}

// copyOf returns a node's copy of another one's tables.
func (v *villager) copyOf(number int) cache.Side {
	all := v.Copies()
	for _, c := range all {
		if len(all) == 1 || c.Node == uint8(1+number) {
			return c.Side
		}
	}
	v.town.t.Fatalf("fw%d has no copy of fw%d", 1+v.number, 1+number)
	return cache.Side{}
}

// bothProven waits until all nodes have compared their copies as equal, and does so too.
func (w *town) bothProven(what string) {
	w.t.Helper()
	began := w.now + 1
	w.until(what, 10*time.Second, func() bool {
		return !slices.ContainsFunc(w.nodes, func(v *villager) bool { return !v.proven(w.now - began) })
	})
	w.same(what)
}

// same compares the nodes' copies with the internal caches of the other nodes.
func (w *town) same(what string) {
	w.t.Helper()
	for i, v := range w.nodes {
		for j, peer := range w.nodes {
			if i == j {
				continue
			}
			from, to := v.announced(), contents(peer.copyOf(i))
			for key, value := range from {
				if to[key] != value {
					w.t.Errorf("%s: fw%d has %q, fw%d has %q", what, 1+i, value, 1+j, to[key])
				}
			}
			if len(from) != len(to) {
				w.t.Errorf("%s: fw%d has %d entries, fw%d has %d", what, 1+i, len(from), 1+j, len(to))
			}
		}
	}
}

// announced are the contents of the internal cache that the node announces: all, but for what others
// own.
func (v *villager) announced() map[string]string {
	return someContents(v.internal, func(o proto.Object) bool {
		return v.cluster.book == nil || v.cluster.stream.Announces(o)
	})
}

// contents are the messages of all entries of a side, by those of their ends.
func contents(side cache.Side) map[string]string {
	return someContents(side, func(proto.Object) bool { return true })
}

// someContents are the contents of those entries for which has is true.
func someContents(side cache.Side, has func(proto.Object) bool) map[string]string {
	all := map[string]string{}
	handles := make([]cache.Handle, 64)
	var f ctnetlink.Flow
	var x ctnetlink.Expect
	e := wire.Encoder{OmitTimeout: true}
	walk := func(next func(*cache.Cursor, []cache.Handle) (int, bool), each func(cache.Handle)) {
		var cur cache.Cursor
		for more := true; more; {
			var n int
			n, more = next(&cur, handles)
			for _, h := range handles[:n] {
				each(h)
			}
		}
	}
	walk(side.Flows.Next, func(h cache.Handle) {
		if !has(flowObject(h)) {
			return
		}
		side.Flows.Load(h, &f)
		key, _ := e.AppendCompactFlow(nil, &f, true)
		value, _ := e.AppendCompactFlow(nil, &f, false)
		all["flow "+string(key)] = string(wire.AppendCompactEpoch(value, side.Flows.Epoch(h)&^cache.EpochMark))
	})
	walk(side.Expects.Next, func(h cache.Handle) {
		if !has(expectObject(h)) {
			return
		}
		side.Expects.Load(h, &x)
		x.Timeout = 0
		key, _ := e.AppendCompactExpect(nil, &x, true)
		value, _ := e.AppendCompactExpect(nil, &x, false)
		all["expect "+string(key)] = string(value)
	})
	return all
}

// end ends a flow as a Follower does.
func (r *Replicator) end(f *ctnetlink.Flow) {
	if h := r.internal.Flows.Find(f); h != 0 && r.internal.Flows.Kill(h) {
		r.FlowEnded(h, true)
	}
}

func (r *Replicator) storeExpect(x *ctnetlink.Expect) {
	r.MakeRoom(cache.ExpectTable)
	if h, outcome := r.internal.Expects.Replace(x, r.sched.Now()); outcome.Stored() {
		r.ExpectStored(h, true)
	}
}

// rewrite changes a flow as an update of the kernel does.
func (r *Replicator) rewrite(f *ctnetlink.Flow) {
	if h, outcome := r.internal.Flows.Put(f, r.sched.Now()); outcome.Stored() {
		r.FlowStored(h, f, owner.ByKernel)
	}
}

func testExpect(f *ctnetlink.Flow, port uint16) ctnetlink.Expect {
	x := ctnetlink.Expect{Master: f.Orig, Tuple: f.Reply, Mask: f.Reply}
	x.Tuple.SrcPort = port
	return x
}

// eachTown runs a test with plain and with sealed datagrams.
func eachTown(t *testing.T, test func(t *testing.T, w *town)) {
	t.Run("plain", func(t *testing.T) { test(t, newTown(t)) })
	t.Run("sealed", func(t *testing.T) { test(t, newTown(t, keyFile(t, newKey(t, 'a'), 0o600))) })
}

// New flows, changes, ends and expectations arrive, and both nodes prove that they have.
func TestClusterReplicates(t *testing.T) {
	eachTown(t, func(t *testing.T, w *town) {
		all := flowtest.Flows(1000)
		a := w.nodes[0]
		for i := range all[:500] {
			a.store(&all[i], false) // before the peer is met: only a bulk has them
		}
		w.bothProven("at the start")
		for i := range all[500:] {
			a.store(&all[500+i], true)
		}
		x := testExpect(&all[0], 1)
		a.storeExpect(&x)
		w.pass(20 * time.Millisecond)
		w.same("new ones")
		for i := range all[:600] {
			all[i].Has |= ctnetlink.HasMark
			all[i].Mark = uint32(i)
			a.rewrite(&all[i])
		}
		for i := range all[700:] {
			a.end(&all[700+i])
		}
		w.pass(20 * time.Millisecond)
		w.same("changes and ends")
		h := a.internal.Expects.Find(&x)
		a.internal.Expects.Kill(h)
		a.ExpectEnded(h, true)
		w.bothProven("all")
		if n := len(contents(w.nodes[1].external.Side)); n != 700 {
			t.Errorf("the peer has %d entries", n)
		}
		w.pass(15 * time.Second)
		for _, v := range w.nodes {
			s := v.Status()
			m := s.Peers[0].Member
			if m == nil || m.Differences > 0 || !v.proven(1100*time.Millisecond) || s.Wire.Lost > 0 || s.Wire.Received != (wire.Counters{}) || s.Replica.Resent > 0 {
				t.Errorf("%+v\n%+v\n%s", s, m, &v.log)
			}
			for _, r := range m.Refused {
				if r.Datagrams > 0 && r.Reason != "life" {
					t.Errorf("%+v", r)
				}
			}
			if f := v.Facts(); len(f.Peers) != 1 || f.Peers[0].Unproven || f.Peers[0].Name != m.Name {
				t.Errorf("%+v", f)
			}
		}
	})
}

// Datagrams that are lost are repaired, without a resync and without a false difference.
func TestClusterLosesDatagrams(t *testing.T) {
	eachTown(t, func(t *testing.T, w *town) {
		random := rand.New(rand.NewPCG(1, 2))
		w.bothProven("at the start")
		w.lose = func(int, []byte) bool { return random.IntN(10) == 0 }
		all := flowtest.Flows(3000)
		a := w.nodes[0]
		for round := range 300 {
			for range 40 {
				f := &all[random.IntN(len(all))]
				switch random.IntN(4) {
				case 0:
					a.end(f)
				case 1:
					a.store(f, true)
				default:
					f.Has |= ctnetlink.HasMark
					f.Mark = uint32(round)
					a.rewrite(f)
				}
			}
			w.pass(20 * time.Millisecond)
		}
		w.lose = nil
		w.bothProven("all")
		for _, v := range w.nodes {
			if m := v.Status().Peers[0].Member; m.Differences > 0 {
				t.Errorf("%+v\n%s", m, &v.log)
			}
		}
		if s := w.nodes[0].Status(); s.Replica.Resent == 0 || w.nodes[0].machine.Stats().Bulks > 2 {
			t.Errorf("%d messages were resent, %d bulks", s.Replica.Resent, w.nodes[0].machine.Stats().Bulks)
		}
	})
}

// A node that starts again gets everything, and the other keeps its copy of what the kernel still
// has.
func TestClusterNodeRestarts(t *testing.T) {
	eachTown(t, func(t *testing.T, w *town) {
		all := flowtest.Flows(300)
		for i := range all {
			w.nodes[i%2].store(&all[i], true)
		}
		w.bothProven("before")
		for round := range 2 {
			kept := w.nodes[0].internal
			fresh := cache.NewSide(cache.Config{})
			for i := 0; i < 200; i += 2 { // the others have ended meanwhile
				if h := kept.Flows.Find(&all[i]); h != 0 {
					var f ctnetlink.Flow
					kept.Flows.Load(h, &f)
					fresh.Flows.Replace(&f, w.now)
				}
			}
			w.pass(time.Duration(round) * 20 * time.Second)
			w.start(0, w.nodes[0].cfg, fresh)
			w.until("restarted", 30*time.Second, func() bool {
				return w.nodes[0].proven(time.Second) && w.nodes[1].proven(time.Second) && w.nodes[1].external.Flows.Len() == 100
			})
			w.same("restarted")
			if s := w.nodes[1].Status(); s.Wire.Lost > 0 {
				t.Errorf("%d messages count as lost", s.Wire.Lost)
			}
		}
		if !strings.Contains(w.nodes[1].log.String(), "the peer has started") {
			t.Error(w.nodes[1].log.String())
		}
	})
}

// An entry that changes behind the protocol's back is found and repaired, on either node.
func TestClusterRepairs(t *testing.T) {
	eachTown(t, func(t *testing.T, w *town) {
		all := flowtest.Flows(20_000)
		a, b := w.nodes[0], w.nodes[1]
		for i := range all {
			a.store(&all[i], true)
		}
		x := testExpect(&all[0], 1)
		a.storeExpect(&x)
		w.bothProven("before")
		damage := []struct {
			what string
			do   func()
		}{
			{"a copy is altered", func() {
				f := all[7].Clone()
				f.Mark, f.Has = 99, f.Has|ctnetlink.HasMark
				b.external.Flows.Update(&f, w.now)
			}},
			{"a copy is gone", func() { b.external.Flows.Delete(b.external.Flows.Find(&all[8])) }},
			{"a copy too many", func() {
				f := flowtest.TCP("192.0.2.9", "198.51.100.9")
				b.external.Flows.Replace(&f, w.now)
			}},
			{"the original is altered", func() {
				f := all[9].Clone()
				f.Mark, f.Has = 98, f.Has|ctnetlink.HasMark
				a.internal.Flows.Update(&f, w.now)
			}},
			{"an expectation is gone", func() { b.external.Expects.Delete(b.external.Expects.Find(&x)) }},
		}
		for _, d := range damage {
			before := w.sent[0] + w.sent[1]
			differences := b.Status().Peers[0].Member.Differences
			d.do()
			w.until(d.what, 5*time.Second, func() bool {
				m := b.Status().Peers[0].Member
				return m.Differences > differences && m.Equal
			})
			w.same(d.what)
			if bytes := w.sent[0] + w.sent[1] - before; bytes > 20_000 {
				t.Errorf("%s: %d bytes", d.what, bytes)
			}
		}
		if m := b.Status().Peers[0].Member; m.Differences != 5 || m.Repaired < 5 || m.RepairBytes == 0 {
			t.Errorf("%+v", m)
		}
		if bulks := a.machine.Stats().Bulks; bulks != 1 {
			t.Errorf("%d bulks\n%s", bulks, &b.log)
		}
	})
}

// Keys are exchanged by reloads without a lost message.
func TestClusterRotatesKeys(t *testing.T) {
	old, fresh := keyFile(t, newKey(t, 'a'), 0o600), keyFile(t, newKey(t, 'b'), 0o600)
	w := newTown(t, old)
	w.bothProven("with the old key")
	all := flowtest.Flows(1000)
	next := 0
	for _, step := range []struct {
		keys []conf.ClusterKey
		send uint8
	}{
		{[]conf.ClusterKey{{Number: 1, File: old}, {Number: 2, File: fresh}}, 1},
		{[]conf.ClusterKey{{Number: 1, File: old}, {Number: 2, File: fresh}}, 2},
		{[]conf.ClusterKey{{Number: 2, File: fresh}}, 2},
	} {
		for _, v := range w.nodes {
			config := *v.cfg
			cluster := *config.Cluster
			cluster.Keys, cluster.Send = step.keys, step.send
			config.Cluster = &cluster
			v.Reconfigure(&config)
			for range 50 {
				w.nodes[0].store(&all[next], true)
				next++
				w.pass(10 * time.Millisecond)
				w.same("during the rotation")
			}
		}
	}
	for _, v := range w.nodes {
		s := v.Status()
		if s.Wire.Lost > 0 || s.Peers[0].Member.Key != 2 || s.Cluster.Key != 2 {
			t.Errorf("%+v\n%+v", s, s.Peers[0].Member)
		}
	}
	w.bothProven("with the new key")
}

// A reload adopts the keys that were read for it, also if their files are gone by then: what the status names is
// what seals.
func TestClusterAdoptsTheKeysThatWereRead(t *testing.T) {
	old, fresh := keyFile(t, newKey(t, 'a'), 0o600), keyFile(t, newKey(t, 'b'), 0o600)
	w := newTown(t, old)
	w.bothProven("with the old key")
	config := *w.nodes[0].cfg
	cluster := *config.Cluster
	cluster.Keys, cluster.Send = []conf.ClusterKey{{Number: 1, File: old}, {Number: 2, File: fresh}}, 2
	config.Cluster = &cluster
	keys, err := ReadKeys(&config, os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	other := *w.nodes[1].cfg
	clusterOfOther := *other.Cluster
	clusterOfOther.Keys = cluster.Keys
	other.Cluster = &clusterOfOther
	w.nodes[1].Reconfigure(&other)
	if err := os.Remove(fresh); err != nil {
		t.Fatal(err)
	}
	w.nodes[0].Replicator.Reconfigure(&config, keys)
	w.pass(2 * time.Second)
	w.bothProven("with the new key")
	if has, in := w.nodes[1].Status().Peers[0].Member.Key, w.nodes[0].Status().Cluster.Key; has != 2 || in != 2 {
		t.Errorf("key %d seals, and the status has %d\n%s", has, in, &w.nodes[0].log)
	}
}

// Replicating a flow with version 2, from the internal cache of one node to the external cache of the
// other, allocates nothing.
func TestClusterAllocatesNothing(t *testing.T) {
	eachTown(t, func(t *testing.T, w *town) {
		all := flowtest.Flows(1000)
		for i := range all {
			w.nodes[0].store(&all[i], true)
		}
		w.bothProven("before")
		run := func() {
			for i := range all {
				h := w.nodes[0].internal.Flows.Find(&all[i])
				w.nodes[0].FlowStored(h, &all[i], owner.ByKernel)
			}
			w.nodes[0].Transmit()
			w.deliver()
		}
		run()
		run()
		received := w.nodes[1].replica.Received
		if n := testing.AllocsPerRun(5, run); n > 0 {
			t.Errorf("%v allocations for 1,000 flows", n)
		}
		if n := w.nodes[1].replica.Received - received; n != 6000 {
			t.Errorf("%d messages were received", n)
		}
	})
}

// A reload adds a peer, which is not there, and removes it again: replication with the other goes
// on, and its digests are compared.
func TestClusterPeersChange(t *testing.T) {
	w := newTown(t, keyFile(t, newKey(t, 'a'), 0o600))
	w.bothProven("two nodes")
	a := w.nodes[0]
	reload := func(peers ...conf.ClusterPeer) {
		config := *a.cfg
		cluster := *config.Cluster
		cluster.Peers = peers
		config.Cluster = &cluster
		a.Reconfigure(&config)
	}
	all := flowtest.Flows(300)
	b, third := a.cfg.Cluster.Peers[0], conf.ClusterPeer{Number: 3, Name: "fw3", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.3")}}
	for i, peers := range [][]conf.ClusterPeer{{b, third}, {b}} {
		reload(peers...)
		for j := range 100 {
			a.store(&all[100*i+j], true)
			w.nodes[1].store(&all[200], true)
		}
		w.pass(3 * time.Second)
		w.same("after a reload")
		if m := a.Status().Peers[0].Member; !m.Equal || m.Differences > 0 {
			t.Errorf("with %d peers: %+v\n%s", len(peers), m, &a.log)
		}
	}
	if got := len(a.links.all[0].Config().Peers); got != 1 {
		t.Errorf("the link has %d peers", got)
	}
}

// A machine that may be the copy of another one begins a new life, and loses nothing.
func TestClusterRenewsItsLife(t *testing.T) {
	w := newTown(t, keyFile(t, newKey(t, 'a'), 0o600))
	w.bothProven("before")
	a := w.nodes[0]
	all := flowtest.Flows(300)
	jump := time.Duration(0)
	a.cluster.renewal.clocks = func() (time.Duration, time.Duration) { return w.now + jump, w.now }
	for i := range all {
		if i == 100 || i == 200 {
			boot := a.cluster.session.Boot()
			jump += time.Hour
			a.store(&all[i], true)
			w.pass(10 * time.Millisecond)
			if a.cluster.session.Boot() == boot {
				t.Error("the life goes on")
			}
			continue
		}
		a.store(&all[i], true)
		w.pass(10 * time.Millisecond)
	}
	w.bothProven("after")
	if s := w.nodes[1].Status(); s.Peers[0].Member.Differences > 0 || w.nodes[1].machine.Stats().Bulks > 1 || w.nodes[1].cluster.members[1].lives > 0 {
		t.Errorf("%+v\n%s", s.Peers[0].Member, &w.nodes[1].log)
	}
}

// What comes from elsewhere is refused, counted under its reason, and named in the log: once, and
// another node with this node's number only if it has the key.
func TestClusterRefusesStrangers(t *testing.T) {
	key := keyFile(t, newKey(t, 'a'), 0o600)
	w := newTown(t, key)
	w.bothProven("before")
	a, b := w.nodes[0], w.nodes[1]
	stranger := netip.MustParseAddr("192.0.2.77")
	capture := func(v *villager) (datagrams [][]byte) {
		v.machine.(*proto.Stream).Announce(0)
		v.Transmit()
		for _, d := range v.out {
			datagrams = append(datagrams, bytes.Clone(d))
		}
		v.out = nil
		return datagrams
	}
	for range 3 {
		for _, d := range capture(b) {
			a.cluster.takes(0, stranger, d)
		}
	}
	refused := func(all []Refused, reason string) uint64 {
		for _, r := range all {
			if r.Reason == reason {
				return r.Datagrams
			}
		}
		t.Fatalf("no reason %q", reason)
		return 0
	}
	if n := refused(a.Status().Cluster.Refused, "node"); n != 3 {
		t.Errorf("%d datagrams of a stranger are refused", n)
	}
	if got := strings.Count(a.log.String(), "refused a datagram of an unknown node from 192.0.2.77"); got != 1 {
		t.Errorf("the stranger is named %d times:\n%s", got, &a.log)
	}
	if len(a.Status().Peers) != 1 {
		t.Error("the stranger is listed as a peer")
	}
	// A relay that Accept names may forward them.
	config := *a.cfg
	link := *config.Links[0]
	link.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}
	config.Links = []*conf.Link{&link}
	a.cfg = &config
	for _, d := range capture(b) {
		a.cluster.takes(0, stranger, d)
	}
	if n := refused(a.Status().Cluster.Refused, "node"); n != 3 || len(a.Status().Peers) != 2 {
		t.Errorf("over a relay: %d are refused, %d addresses", n, len(a.Status().Peers))
	}
	// A plain datagram beside keys, and an altered one.
	plain := newTown(t)
	plain.pass(3 * time.Second) // they agree on version 2
	altered := capture(b)[0]
	altered[len(altered)-1]++
	for reason, d := range map[string][]byte{"plain": capture(plain.nodes[1])[0], "tag": altered} {
		a.cluster.takes(0, b.addr, d)
		if n := refused(a.Status().Peers[0].Member.Refused, reason); n != 1 {
			t.Errorf("%d datagrams are refused for their %s", n, reason)
		}
	}
	// Another node with the number of this one.
	for _, c := range []struct {
		key  string
		want int
	}{{keyFile(t, newKey(t, 'b'), 0o600), 0}, {key, 1}, {key, 1}} {
		w.pass(2 * time.Second)
		duplicate := newTown(t, c.key)
		for _, d := range capture(duplicate.nodes[0]) {
			a.cluster.takes(0, stranger, d)
		}
		if got := strings.Count(a.log.String(), "sends as Node 1, which is this node"); got != c.want {
			t.Errorf("the duplicate is named %d times, want %d\n%s", got, c.want, &a.log)
		}
	}
	w.bothProven("after")
}

// Each node shows the other what it thinks of itself.
func TestClusterFlags(t *testing.T) {
	w := newTown(t, keyFile(t, newKey(t, 'a'), 0o600))
	for _, c := range [][3]bool{{false, true, true}, {true, true, false}, {true, false, true}, {false, false, false}} {
		w.nodes[0].SetReadiness(c[0], c[1], c[2])
		w.pass(1100 * time.Millisecond)
		s := w.nodes[1].Status()
		if m := s.Peers[0].Member; m.InSync != c[0] || m.Promotable != c[1] || m.Primary != c[2] {
			t.Errorf("%v arrives as %v, %v, %v", c, m.InSync, m.Promotable, m.Primary)
		}
		if s.Cluster.Primary || (s.Cluster.Primaries == 1) != c[2] || s.Cluster.Nodes != 2 {
			t.Errorf("%v: %+v", c, s.Cluster)
		}
	}
	// Both are primary, until one falls silent.
	for _, n := range w.nodes {
		n.SetReadiness(true, true, true)
	}
	w.pass(1100 * time.Millisecond)
	if s := w.nodes[1].Status().Cluster; !s.Primary || s.Primaries != 2 {
		t.Errorf("two primaries: %+v", s)
	}
	w.lose = func(int, []byte) bool { return true }
	w.pass(2 * peerQuiet)
	if s := w.nodes[1].Status().Cluster; s.Primaries != 1 {
		t.Errorf("a silent primary counts: %+v", s)
	}
}

// A copy that differs is not in sync before it is repaired.
func TestClusterFacts(t *testing.T) {
	w := newTown(t, keyFile(t, newKey(t, 'a'), 0o600))
	b := w.nodes[1]
	if f := b.Facts(); len(f.Peers) != 0 {
		t.Errorf("before a peer is heard: %+v", f)
	}
	w.pass(20 * time.Millisecond)
	if f := b.Facts(); len(f.Peers) != 1 || !f.Peers[0].Unproven || f.Peers[0].Name != "fw1" || f.Peers[0].ID != "1" {
		t.Errorf("before a digest is equal: %+v", f)
	}
	w.bothProven("then")
	if f := b.Facts(); f.Peers[0].Unproven || f.Peers[0].Silence > time.Second {
		t.Errorf("then: %+v", f)
	}
	w.lose = func(from int, _ []byte) bool { return from == 0 }
	w.pass(7 * time.Second)
	if f := b.Facts(); f.Peers[0].Silence < 6*time.Second {
		t.Errorf("a silent peer: %+v", f)
	}
}

// The status counts what is missing of a peer's stream until it is repaired.
func TestClusterHoles(t *testing.T) {
	w := newTown(t)
	w.bothProven("at the start")
	f, g := flowtest.TCP("192.0.2.1", "198.51.100.1"), flowtest.TCP("192.0.2.2", "198.51.100.1")
	holes := func(want int) {
		t.Helper()
		if got := w.nodes[1].Status().Peers[0].Gaps; got != want {
			t.Errorf("%d holes, want %d", got, want)
		}
	}
	holes(0)
	w.lose = func(int, []byte) bool { return true }
	w.nodes[0].store(&f, true)
	w.pass(20 * time.Millisecond)
	w.lose = func(from int, _ []byte) bool { return from == 1 } // it asks in vain
	w.nodes[0].store(&g, true)
	w.pass(20 * time.Millisecond)
	holes(1)
	w.lose = nil
	w.bothProven("repaired")
	holes(0)
}
