package commit

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"

	"github.com/google/go-cmp/cmp"
)

// ranged returns a flow of UDP whose source port says to which pass it belongs: 1000 and more for
// assured, 3000 for others, 5000 for related, whose master is a flow of assured.
func ranged(of pass, i int) ctnetlink.Flow {
	f := base(ctnetlink.ProtoUDP, client, server)
	f.Orig.SrcPort = uint16(1000 + 2000*int(of) + i)
	if of != assured {
		f.Status &^= ctnetlink.StatusAssured
	}
	if of == related {
		f.Master = f.Orig
		f.Master.SrcPort = uint16(1000 + i)
	}
	f.Reply = f.Orig.Inverted()
	return f
}

// The kernel's table gets assured flows first, then the others without a master, those with a
// master, and at last expectations, whatever their order in the copies. A flow that becomes
// assured meanwhile is not missed.
func TestOrderOfCommit(t *testing.T) {
	const each = commitSlice + 100 // several slices
	sources := []Source{{Node: 2, Side: cache.NewSide(cache.Config{})}, {Node: 3, Side: cache.NewSide(cache.Config{})}}
	for i := range each {
		for of := related; of <= related; of-- { // until it wraps
			f := ranged(of, i)
			sources[i%2].Side.Flows.Put(&f, 0)
		}
	}
	master, x := expected(client, server, 7000, func(*ctnetlink.Flow) {})
	sources[1].Side.Flows.Put(&master, 0)
	sources[0].Side.Expects.Put(&x, 0)

	c := committingIn(t, netnstest.New(t, "node"), cache.Side{})
	s, err := ctnetlink.Subscribe(ctnetlink.EventOptions{NetNS: c.ns.FD(), Groups: ctnetlink.GroupFlowNew | ctnetlink.AllExpectEvents, Buffer: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	asked := 0
	r := c.commitFrom(t, Selection{Sources: sources, Wants: func(uint8, cache.Handle, *ctnetlink.Flow) bool {
		if asked++; asked == each+1 { // the last flow of the first pass
			for i := range each {
				f := ranged(others, i)
				f.Status |= ctnetlink.StatusAssured
				sources[i%2].Side.Flows.Put(&f, 0)
			}
		}
		return true
	}})
	if r.Flows != (Count{Committed: 3*each + 1}) || r.Expects != (Count{Committed: 1}) {
		t.Errorf("%+v, %+v", r.Flows, r.Expects)
	}
	if asked != 3*each+1 {
		t.Errorf("asked %d times for %d flows", asked, 3*each+1)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var passes []pass
	var e *ctnetlink.Events
	for len(passes) < 3*each+2 {
		if e, err = s.Next(ctx, e); err != nil || e.Dropped > 0 {
			t.Fatalf("%d events, then %v", len(passes), err)
		}
		if err := e.Each(func(m *nl.Message, _ time.Time) error {
			of := passCount
			if !ctnetlink.IsExpect(m) {
				var f ctnetlink.Flow
				if err := f.Decode(m.Attrs); err != nil {
					return err
				}
				if of = pass((f.Orig.SrcPort - 1000) / 2000); f.Orig.SrcPort == 7000 {
					of = assured
				}
			}
			passes = append(passes, of)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.IsSorted(passes) {
		at := 0
		for i := range passes[1:] {
			if passes[i+1] < passes[i] {
				at = i + 1
				break
			}
		}
		t.Errorf("entry %d is of pass %d, after one of pass %d", at, passes[at], passes[at-1])
	}
}

// A commit takes what its Selection wants, of all sources, and counts it by node.
func TestSelection(t *testing.T) {
	two, three := cache.NewSide(cache.Config{}), cache.NewSide(cache.Config{})
	put := func(side cache.Side, of pass, i int) {
		f := ranged(of, i)
		side.Flows.Put(&f, 0)
	}
	for i := range 10 {
		put(two, assured, i)
		put(three, assured, i) // the same flows
		put(three, related, i)
	}
	// Two masters have equal tuples. The expectation belongs to the one that is wanted.
	zone := func(f *ctnetlink.Flow) { f.Has, f.Zone = f.Has|ctnetlink.HasZone, 7 }
	origZone := func(f *ctnetlink.Flow) { f.Orig.Has, f.Orig.Zone = f.Orig.Has|ctnetlink.TupleZone, 4 }
	for _, of := range []struct {
		side cache.Side
		zone func(*ctnetlink.Flow)
		port uint16
	}{{two, zone, 7000}, {three, origZone, 7000}, {three, origZone, 7010}} {
		f, x := expected(client, server, of.port, of.zone)
		x.Has, x.Zone = x.Has&^ctnetlink.ExpectHasZone, 0
		of.side.Flows.Put(&f, 0)
		of.side.Expects.Put(&x, 0)
	}
	c := committing(t, cache.Side{})
	from := Selection{
		Sources: []Source{{2, two}, {3, three}},
		// Of node 2 all flows, of node 3 those that node 2 has not.
		Wants: func(node uint8, _ cache.Handle, f *ctnetlink.Flow) bool {
			return node == 2 || f.Orig.SrcPort >= 5000 && f.Orig.SrcPort != 7000
		},
		WantsExpect: func(node uint8, x *ctnetlink.Expect) bool { return node == 2 || x.Master.SrcPort != 7000 },
		Taken:       []Taken{{Node: 2, Name: "fw2", Holes: 1}, {Node: 3, Name: "fw3"}},
		Kept:        []string{"fw4"},
	}
	for _, times := range []string{"first", "second"} {
		r := c.commitFrom(t, from)
		if r.Flows != (Count{Committed: 22}) || r.Expects != (Count{Committed: 2}) {
			t.Errorf("%s: %+v, %+v", times, r.Flows, r.Expects)
		}
		if diff := cmp.Diff([]Taken{{Node: 2, Name: "fw2", Holes: 1, Flows: 11}, {Node: 3, Name: "fw3", Flows: 11}}, r.Taken); diff != "" {
			t.Errorf("%s: %s", times, diff)
		}
		if diff := cmp.Diff(from.Kept, r.Kept); diff != "" {
			t.Errorf("%s: %s", times, diff)
		}
	}
	if flows := len(kernelOf(t, c.ns).flows()); flows != 22 {
		t.Errorf("%d flows in the kernel", flows)
	}

	if r := c.commitFrom(t, Selection{Sources: []Source{}, Kept: []string{"fw2", "fw3"}}); r.Flows != (Count{}) || len(r.Kept) != 2 {
		t.Errorf("without sources: %+v", r)
	}
	if err := c.sched.Do(t.Context(), func() {
		if err := c.Start(cache.FlowTable, cache.FlowTable, Selection{}, nil); !errors.Is(err, ErrUnsupported) || c.Running() {
			t.Errorf("without an external cache: %v", err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// A request for another Selection while a commit is under way leads to another commit.
func TestSelectionsBesideACommit(t *testing.T) {
	two, three := cache.NewSide(cache.Config{}), cache.NewSide(cache.Config{})
	for i := range 3 {
		f := ranged(assured, i)
		two.Flows.Put(&f, 0)
		f = ranged(others, i)
		three.Flows.Put(&f, 0)
	}
	c := committing(t, cache.Side{})
	wants := func(uint8, cache.Handle, *ctnetlink.Flow) bool { return true }
	all := Selection{Sources: []Source{{2, two}, {3, three}}}
	some := Selection{Sources: all.Sources, Wants: wants, By: owner.Selector{HasZone: true}}
	ended := make(chan outcome, 5)
	if err := c.sched.Do(t.Context(), func() {
		c.startFrom(t, "all", cache.FlowTable, all, ended)
		c.startFrom(t, "some", cache.FlowTable, some, ended)
		c.startFrom(t, "all again", cache.FlowTable, Selection{Sources: []Source{{2, two}, {3, three}}, Wants: wants}, ended)
		c.startFrom(t, "one", cache.FlowTable, Selection{Sources: all.Sources[:1]}, ended)
		c.startFrom(t, "some again", cache.FlowTable, some, ended)
	}); err != nil {
		t.Fatal(err)
	}
	var order []string
	var committed []uint64
	for range 5 {
		o := <-ended
		if o.err != nil {
			t.Errorf("%s: %v", o.name, o.err)
		}
		order, committed = append(order, o.name), append(committed, o.result.Flows.Committed)
	}
	if diff := cmp.Diff([]string{"all", "all again", "some", "some again", "one"}, order); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]uint64{6, 6, 6, 6, 3}, committed); diff != "" {
		t.Error(diff)
	}
	if err := c.sched.Do(t.Context(), func() {
		if s := c.Status(); s.Running || s.Count != 3 || len(c.joined) != 0 {
			t.Errorf("%+v, %d wait", s, len(c.joined))
		}
	}); err != nil {
		t.Error(err)
	}
}
