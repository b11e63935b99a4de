package commit

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"

	"github.com/google/go-cmp/cmp"
)

// failedBack is a Failback without a loop, in a namespace whose kernel has flows.
type failedBack struct {
	*Failback
	t        *testing.T
	kernel   *kernel
	external cache.Side
	flows    map[uint16]ctnetlink.Flow
}

func failingBack(t *testing.T, owners bool, count uint16) *failedBack {
	t.Helper()
	ns := netnstest.New(t, "node")
	f := &failedBack{t: t, kernel: kernelOf(t, ns), external: cache.NewSide(cache.Config{}), flows: map[uint16]ctnetlink.Flow{}}
	s := sched.New(func() {}, func(what string, err error) { t.Errorf("%s: %v", what, err) })
	internal := cache.NewSide(cache.Config{})
	ns.Do(func() {
		var err error
		if f.Failback, err = NewFailback(s, internal, func(orig *ctnetlink.Tuple, zone uint16) bool { return f.external.Flows.FindTuple(orig, zone) != 0 }); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(f.Close)
	running(t, s)
	f.SetOwners(owners)
	for i := range count {
		flow := base(ctnetlink.ProtoUDP, client, server)
		flow.Orig.SrcPort = i
		flow.Reply = flow.Orig.Inverted()
		f.kernel.create("flow", &flow)
	}
	for _, flow := range f.kernel.flows() {
		internal.Flows.Put(&flow, 0)
		f.flows[flow.Orig.SrcPort] = flow
	}
	return f
}

// running runs the loop of s until the test ends.
func running(t testing.TB, s *sched.Scheduler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		if err := s.Run(ctx, func() {}, func() {}); err != nil {
			t.Errorf("the loop ended by %v", err)
		}
	})
	t.Cleanup(func() { cancel(); loop.Wait() })
}

// do calls step with the lock held at a time, and waits for the removal that it has begun.
func (f *failedBack) do(at time.Duration, step func()) {
	f.t.Helper()
	var removing chan struct{}
	if err := f.sched.Do(f.t.Context(), func() {
		f.sched.SetNow(at)
		step()
		removing = f.removing
	}); err != nil {
		f.t.Fatal(err)
	}
	if removing != nil {
		<-removing
	}
}

// ended reports the end of a flow by the peer, which had announced it.
func (f *failedBack) ended(port uint16) {
	flow := f.flows[port]
	flow.Has &^= ctnetlink.HasID
	f.PeerEnded(&flow, f.sched.Now(), true, false)
}

// left returns the ports of the kernel's flows.
func (f *failedBack) left() []uint16 {
	f.t.Helper()
	ports := map[uint16]bool{}
	for _, flow := range f.kernel.flows() {
		ports[flow.Orig.SrcPort] = true
	}
	return slices.Sorted(maps.Keys(ports))
}

// With owners an end counts at once from the flow's owner, whatever other peers commit or
// start, and except for flows that this node has claimed since.
func TestFailbackWithOwners(t *testing.T) {
	f := failingBack(t, true, 8)
	const s = time.Second
	f.do(100*s, func() {
		f.TookOver()
		f.ended(0) // too early
	})
	f.do(115*s, func() {
		f.ended(1)
		f.ended(2)
		f.ended(3)
		claimed := f.flows[2]
		h := f.internal.Flows.Find(&claimed)
		f.internal.Flows.SetEpoch(h, 5)
		again := f.flows[3]
		f.external.Flows.Put(&again, 0)
	})
	if diff := cmp.Diff([]uint16{0, 1, 2, 3, 4, 5, 6, 7}, f.left()); diff != "" {
		t.Errorf("before this node steps down: %s", diff)
	}
	f.do(116*s, func() {
		f.PeerCommitted(90 * s)
		f.PeerStarted()
		f.StepDown()
	})
	if diff := cmp.Diff([]uint16{0, 2, 3, 4, 5, 6, 7}, f.left()); diff != "" {
		t.Errorf("when this node has stepped down: %s", diff)
	}
	f.do(117*s, func() {
		f.ended(4)
		began := f.flows[5]
		f.FlowBegan(f.internal.Flows.Find(&began))
		f.ended(5)
	})
	if diff := cmp.Diff([]uint16{0, 2, 3, 5, 6, 7}, f.left()); diff != "" {
		t.Errorf("later: %s", diff)
	}
	if f.Removed() != 2 {
		t.Errorf("%d were removed", f.Removed())
	}
	f.do(118*s, f.StepUp)
	f.do(118*s, func() { f.ended(6) })
	if err := f.clear(t.Context()); err != nil || len(f.left()) != 6 {
		t.Errorf("%v, %v are left", err, f.left())
	}
}

// A closed connection goes at once, also from a node that has not stepped down, unless this node has claimed
// it or a peer announces it.
func TestFailbackOfClosedConnections(t *testing.T) {
	f := failingBack(t, true, 4)
	f.do(100*time.Second, func() {
		f.TookOver()
		f.removing = make(chan struct{}) // as if another removal were under way
		for port := range uint16(3) {
			flow := f.flows[port]
			flow.Has &^= ctnetlink.HasID
			f.PeerEnded(&flow, f.sched.Now(), true, true)
		}
		again, claimed := f.flows[1], f.flows[2]
		f.external.Flows.Put(&again, 0)
		f.internal.Flows.SetEpoch(f.internal.Flows.Find(&claimed), 5)
		f.removing = nil
		f.settleEnds()
	})
	if diff := cmp.Diff([]uint16{1, 2, 3}, f.left()); diff != "" {
		t.Error(diff)
	}
}

// Without owners an end counts only after a commit of the peer, and a new life of the peer has
// committed nothing.
func TestFailbackWithoutOwners(t *testing.T) {
	f := failingBack(t, false, 3)
	const s = time.Second
	f.do(100*s, f.TookOver)
	f.do(110*s, func() {
		f.PeerAnnouncesCommits()
		f.StepDown()
		f.ended(0)
	})
	if len(f.left()) != 3 {
		t.Errorf("before the peer has committed: %v", f.left())
	}
	f.do(111*s, func() { f.PeerCommitted(0) })
	f.do(112*s, func() { f.ended(1) })
	if diff := cmp.Diff([]uint16{0, 2}, f.left()); diff != "" {
		t.Errorf("after the peer's commit: %s", diff)
	}
	f.do(113*s, func() {
		f.PeerStarted()
		f.PeerAnnouncesCommits()
		f.ended(2)
	})
	if diff := cmp.Diff([]uint16{0, 2}, f.left()); diff != "" {
		t.Errorf("in the peer's next life: %s", diff)
	}
}

// The ends that a node with owners remembers before it steps down are bounded, and old ones give
// way.
func TestFailbackForgetsEnds(t *testing.T) {
	f := failingBack(t, true, 2)
	const s = time.Second
	f.do(100*s, func() {
		for range maxEnds + 10 {
			f.ended(0)
		}
		if len(f.ends) != maxEnds {
			t.Errorf("%d ends are remembered", len(f.ends))
		}
		f.sched.SetNow(105 * s)
		f.ended(1)
		if len(f.ends) != maxEnds {
			t.Errorf("%d ends are remembered", len(f.ends))
		}
		f.sched.SetNow(111 * s)
		f.ended(1)
		if len(f.ends) != maxEnds/2+1 {
			t.Errorf("%d ends are remembered, want half of them and the next", len(f.ends))
		}
	})
	f.do(112*s, f.StepDown)
	if diff := cmp.Diff([]uint16{0}, f.left()); diff != "" {
		t.Error(diff)
	}
}

// Primary says whether this node has the traffic, or with owners a part of it.
func TestPrimary(t *testing.T) {
	const s = time.Second
	down := func(b *Failback) { b.StepDown() }
	asked := func(b *Failback) { b.Requested() }
	ended := func(b *Failback) { b.TookOver() }
	took := func(b *Failback) { b.Requested(); b.TookOver() }
	peer := func(b *Failback) { b.PeerCommitted(0) }
	for _, c := range []struct {
		name   string
		steps  []func(*Failback)
		one    bool // without owners
		silent bool // with owners, and it announces nothing
		speaks bool // with owners, and it announces flows
	}{
		{"at first", nil, false, false, true},
		{"took over", []func(*Failback){took}, true, true, true},
		{"stepped down", []func(*Failback){down}, false, false, false},
		{"took over, stepped down", []func(*Failback){took, down}, false, false, false},
		{"stepped down, took over", []func(*Failback){down, took}, true, true, true},
		{"stepped down during a commit", []func(*Failback){asked, down, ended}, false, false, false},
		{"stepped down, took what a peer gave up", []func(*Failback){took, down, ended}, false, false, false},
		{"took over, a peer too", []func(*Failback){took, peer}, false, true, true},
		{"a peer took over", []func(*Failback){peer}, false, false, true},
	} {
		of := func(owners, announces bool) bool {
			sch := sched.New(func() {}, nil)
			b := &Failback{sched: sch}
			b.SetOwners(owners)
			for i, step := range c.steps {
				sch.SetNow(time.Duration(i+1) * s)
				step(b)
			}
			return b.Primary(announces)
		}
		if of(false, false) != c.one || of(false, true) != c.one || of(true, false) != c.silent || of(true, true) != c.speaks {
			t.Errorf("%s: %v, %v without owners; %v, %v with owners", c.name, of(false, false), of(false, true), of(true, false), of(true, true))
		}
	}
}
