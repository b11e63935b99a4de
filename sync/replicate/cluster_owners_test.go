//go:build !no_cluster

package replicate

import (
	"strings"
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/owner"
	"ctbox/sync/proto"
)

// primary has a node say that it is primary, or that it is not.
func (v *villager) primary(on bool) { v.SetReadiness(true, true, on) }

// silence cuts a node off, as its death does to the others.
func (w *town) silence(number int) { w.lose = func(from int, _ []byte) bool { return from == number } }

// take takes over as a node does: it asks, unless nodes are named, and what is wanted comes into the
// kernel, whose events are followed. It returns the nodes whose flows were taken, and those that keep theirs.
func (v *villager) take(nodes owner.Nodes, s owner.Selector) (taken, kept owner.Nodes) {
	w := v.town
	w.t.Helper()
	if taken = nodes; nodes == 0 {
		answered := false
		v.AskOwners(func(t, k owner.Nodes) { taken, kept, answered = t, k, true })
		w.until("answers", 250*time.Millisecond, func() bool { return answered })
	}
	wants, _ := v.BeginTake(taken, s)
	var f ctnetlink.Flow
	handles := make([]cache.Handle, 64)
	for _, c := range v.Copies() {
		var cur cache.Cursor
		for more := true; more; {
			var n int
			n, more = c.Side.Flows.Next(&cur, handles)
			for _, h := range handles[:n] {
				if taken.Has(c.Node) && c.Side.Flows.Load(h, &f) && wants(c.Node, h, &f) {
					own, _ := v.internal.Flows.Replace(&f, w.now)
					v.FlowStored(own, &f, owner.Silent)
				}
			}
		}
	}
	v.EndTake()
	return taken, kept
}

// owns checks who owns each of some flows, as each node that is not cut off knows.
func (w *town) owns(what string, flows []ctnetlink.Flow, name string, nodes ...int) {
	w.t.Helper()
	for _, i := range nodes {
		for k := range flows {
			if got := w.nodes[i].Owner(&flows[k]); got != name {
				w.t.Fatalf("%s: at fw%d %q owns flow %d, want %q", what, 1+i, got, k, name)
			}
		}
	}
}

// A plain takeover takes the dead node's flows and leaves the living one's alone. The third node
// knows the new owner, and an end of that one is the flow's.
func TestTakeoverOfADeadNode(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(300)
	for i := range all {
		w.nodes[i/150*2].store(&all[i], true) // half of them are fw1's, half fw3's
	}
	w.nodes[0].primary(true)
	w.nodes[2].primary(true)
	w.bothProven("before")
	w.silence(0)
	w.nodes[1].primary(true)
	taken, kept := w.nodes[1].take(0, owner.Selector{})
	if taken != owner.NodesOf(1) || kept != owner.NodesOf(3) {
		t.Errorf("the flows of %b are taken, %b keep theirs", taken, kept)
	}
	w.pass(takeLingers + time.Second)
	w.owns("taken", all[:150], "fw2", 1, 2)
	w.owns("kept", all[150:], "fw3", 1, 2)
	if n := w.nodes[2].copyOf(1).Flows.Len(); n != 150 {
		t.Errorf("fw3 has %d flows of fw2", n)
	}
	w.nodes[1].end(&all[0])
	w.pass(100 * time.Millisecond)
	w.owns("ended", all[:1], "", 1, 2)
	if w.nodes[2].Announced(&all[0].Orig, 0) {
		t.Error("the ended flow is still announced by the dead node")
	}

	// The dead node comes back with what it had: it gives up what was taken, and does not bring
	// back what has ended. It was cut off so long that the others' bulks say what is theirs.
	w.lose = nil
	w.bothProven("back")
	w.owns("taken, and back", all[1:150], "fw2", 0, 1, 2)
	w.owns("kept, and back", all[150:], "fw3", 0, 1, 2)
	w.owns("ended, and back", all[:1], "", 1, 2)
}

// A node that answers "mine" and then steps down loses its flows without another question.
func TestRefusalThenStepDown(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(10)
	for i := range all {
		w.nodes[0].store(&all[i], true)
	}
	for _, v := range w.nodes {
		v.primary(true)
	}
	w.bothProven("before")
	var released owner.Nodes
	b := w.nodes[1]
	b.OnRelease(func(nodes owner.Nodes) { released |= nodes; b.take(nodes, owner.Selector{}) })
	if taken, kept := b.take(0, owner.Selector{}); taken != 0 || kept != owner.NodesOf(1, 3) {
		t.Errorf("the flows of %b are taken, %b keep theirs", taken, kept)
	}
	w.pass(2 * time.Second)
	w.owns("refused", all, "fw1", 0, 1, 2)
	w.nodes[0].primary(false)
	w.until("released", time.Second, func() bool { return released == owner.NodesOf(1) })
	w.pass(takeLingers + time.Second)
	w.owns("released", all, "fw2", 0, 1, 2)
}

// Two nodes that take the flows of a third one at the same time do not both get them.
func TestTwoTakeOver(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(10)
	for i := range all {
		w.nodes[0].store(&all[i], true)
	}
	w.bothProven("before")
	w.silence(0)
	for _, v := range w.nodes[1:] {
		v.primary(true)
	}
	var taken [3]owner.Nodes
	for i := 2; i > 0; i-- {
		w.nodes[i].AskOwners(func(t, _ owner.Nodes) { taken[i] = t })
	}
	w.pass(250 * time.Millisecond)
	if taken[1] != owner.NodesOf(1) || taken[2] != 0 {
		t.Errorf("fw2 gets the flows of %b, fw3 those of %b", taken[1], taken[2])
	}
}

// A node whose role has changed since its last decision answers with that of now.
func TestRoleOfTheMoment(t *testing.T) {
	w := newTownOf(t, 3)
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	w.nodes[2].store(&f, true)
	w.bothProven("before")
	w.nodes[2].primary(false)
	w.nodes[2].OnAsked(func() { w.nodes[2].primary(true) })
	w.nodes[1].primary(true)
	w.silence(0)
	if taken, kept := w.nodes[1].take(0, owner.Selector{}); taken != owner.NodesOf(1) || kept != owner.NodesOf(3) {
		t.Errorf("the flows of %b are taken, %b keep theirs", taken, kept)
	}
}

// A selector takes from living nodes without asking, and what it does not match stays.
func TestTakeSome(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(40)
	for i := range all {
		if i < 20 {
			all[i] = *marked(&all[i], 7)
		}
		w.nodes[i%2*2].store(&all[i], true)
	}
	for _, v := range w.nodes {
		v.primary(true)
	}
	w.bothProven("before")
	w.nodes[1].take(w.nodes[1].CopyNodes(), owner.Selector{Mark: 7, Mask: 0xff, HasMark: true})
	w.pass(takeLingers + time.Second)
	w.owns("taken", all[:20], "fw2", 0, 1, 2)
	for i := range all[20:] {
		w.owns("left", all[20+i:21+i], []string{"fw1", "", "fw3"}[i%2*2], 0, 1, 2)
	}
	w.bothProven("after")
}

// With asymmetric paths the kernels of two living primaries report changes of the same flows. A flow
// changes its owner once in 10 seconds at most, and is not lost when either ends it.
func TestAsymmetricPaths(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(20)
	for _, v := range w.nodes {
		v.primary(true)
	}
	w.pass(time.Second)
	for i := range all {
		w.nodes[0].store(&all[i], true)
	}
	w.bothProven("before")
	moves, last := 0, "fw1"
	began := w.now
	for i := range 600 {
		for k := range all {
			for _, v := range w.nodes[:2] {
				v.rewrite(marked(&all[k], uint32(2+i)))
			}
		}
		w.pass(100 * time.Millisecond)
		if name := w.nodes[2].Owner(&all[0]); name != last {
			moves, last = moves+1, name
		}
	}
	if most := int((w.now - began) / (10 * time.Second)); moves > most || moves == 0 {
		t.Errorf("%d moves in %v", moves, w.now-began)
	}
	w.bothProven("meanwhile")
	w.owns("meanwhile", all, last, 0, 1, 2)
	owning, other := w.nodes[0], w.nodes[1]
	if last == "fw2" {
		owning, other = other, owning
	}
	for k := range all {
		owning.end(&all[k])
	}
	w.bothProven("one has ended")
	w.owns("one has ended", all, map[int]string{0: "fw1", 1: "fw2"}[other.number], 0, 1, 2)
	for k := range all {
		other.end(&all[k])
	}
	w.bothProven("both have ended")
	w.owns("both have ended", all, "", 0, 1, 2)
}

// Takeovers that follow each other at once, as of several VRRP instances, all claim what they have taken, also
// what the internal cache had before and what the kernel reports only after the next one has begun.
func TestTakeoversInARow(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(600)
	for i := range all {
		w.nodes[2*(i%2)].store(&all[i], true)
	}
	w.bothProven("before")
	b := w.nodes[1]
	b.primary(true)
	for i := range all {
		b.store(&all[i], false)
	}
	b.BeginTake(owner.NodesOf(1), owner.Selector{Node: 1})
	b.EndTake()
	b.BeginTake(owner.NodesOf(3), owner.Selector{Node: 3})
	h := b.internal.Flows.Find(&all[0])
	b.FlowStored(h, &all[0], owner.Silent)
	b.EndTake()
	w.pass(takeLingers + 2*time.Second)
	w.owns("taken", all, "fw2", 0, 1, 2)
	if some, _ := b.cluster.taking(); some != 0 {
		t.Errorf("flows of %b are still being taken", some)
	}
}

// A reload that leaves one peer ends a question, and a takeover that is under way goes on to its end.
func TestReloadDuringTakeover(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(20)
	for i := range all {
		w.nodes[2].store(&all[i], true)
	}
	w.bothProven("before")
	b := w.nodes[1]
	wants, wantsExpect := b.BeginTake(owner.NodesOf(3), owner.Selector{})
	answered := false
	w.silence(0)
	b.AskOwners(func(owner.Nodes, owner.Nodes) { answered = true })
	b.reload(2)
	w.until("the answer", time.Second, func() bool { return answered })
	entry := b.copyOf(2).Flows.Find(&all[0])
	if x := testExpect(&all[0], 1); b.HasOwners() || !wants(3, entry, &all[0]) || !wantsExpect(3, &x) {
		t.Error("the takeover from fw3 takes nothing any more")
	}
	b.EndTake()
	b.reload(0, 2)
	w.pass(takeLingers + time.Second)
	if some, _ := b.cluster.taking(); some != 0 || b.cluster.current.book != nil || len(b.cluster.lasting) > 0 {
		t.Errorf("flows of %b are still being taken", some)
	}
}

// The marks of a flow in the internal cache are in no message: with them an end would be that of the owner.
func TestMarksAreNotSent(t *testing.T) {
	w := newTownOf(t, 3)
	f := flowtest.Flows(1)[0]
	a, b := w.nodes[0], w.nodes[1]
	b.store(&f, true)
	w.bothProven("before")
	// fw1 claims the flow and ends it before the claim is sent, and then has another one with the same tuple.
	h := b.internal.Flows.Find(&f)
	if !b.cluster.book.Ended(w.now, 1, &f, 1) {
		t.Error("the owner's end does not count")
	}
	own, _ := a.internal.Flows.Replace(&f, w.now)
	a.internal.Flows.SetEpoch(own, 2)
	a.machine.Changed(flowObject(own))
	w.pass(20 * time.Millisecond)
	b.internal.Flows.Kill(h)
	b.FlowEnded(h, true)
	w.pass(20 * time.Millisecond)
	w.owns("ended by fw2", []ctnetlink.Flow{f}, "fw1", 0, 1, 2)
}

// A node that starts again finds flows in its kernel that others own. It does not announce them: it would
// own them, if its number is lower.
func TestStartWithOthersFlows(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(300)
	for i := range all[:200] {
		w.nodes[1].store(&all[i], true)
	}
	for i := range all[200:] {
		w.nodes[0].store(&all[200+i], true)
	}
	w.bothProven("before")
	left := cache.NewSide(cache.Config{})
	for i := range all {
		left.Flows.Replace(&all[i], w.now)
	}
	w.start(0, w.nodes[0].cfg, left)
	w.bothProven("restarted")
	w.owns("the others'", all[:200], "fw2", 0, 1, 2)
	w.owns("its own", all[200:], "fw1", 0, 1, 2)
}

// A standby is primary while it announces a flow, and is not when that has ended. The log does not say it each time.
func TestPrimariesAreSaidOnce(t *testing.T) {
	w := newTownOf(t, 3)
	a, b := w.nodes[0], w.nodes[1]
	a.primary(true)
	for range 20 {
		b.primary(true)
		w.pass(2 * time.Second)
		b.primary(false)
		w.pass(2 * time.Second)
	}
	if n := strings.Count(a.log.String(), "say that they are primary"); n != 1 {
		t.Errorf("%d lines", n)
	}
}

// A bulk that is asked for while the copies are empty after a flush does not announce others' flows.
func TestFlushWithOthersFlows(t *testing.T) {
	w := newTownOf(t, 3)
	all := flowtest.Flows(300)
	a, b := w.nodes[0], w.nodes[1]
	for i := range all {
		b.store(&all[i], true)
	}
	w.bothProven("before")
	for i := range all {
		a.store(&all[i], false)
	}
	a.FlushExternal()
	a.Bulk()
	w.bothProven("flushed")
	w.owns("flushed", all, "fw2", 0, 1, 2)
	if n := a.machine.Stats().Bulks; n < 2 {
		t.Errorf("%d bulks were sent", n)
	}
}

// The end of a flow that waits is not announced, so it says nothing about a peer's announcement of the flow.
func TestEndOfAWaitingFlow(t *testing.T) {
	w := newTownOf(t, 3)
	f := flowtest.Flows(1)[0]
	a, b := w.nodes[0], w.nodes[1]
	b.store(&f, true)
	w.bothProven("before")
	h, _ := a.internal.Flows.Replace(&f, w.now)
	a.machine.SetDelays([proto.Classes]time.Duration{proto.ClassTCP: time.Minute})
	a.machine.Wait(w.now, flowObject(h), proto.ClassTCP)
	a.internal.Flows.Kill(h)
	a.FlowEnded(h, true)
	w.bothProven("ended")
	w.owns("ended", []ctnetlink.Flow{f}, "fw2", 0, 1, 2)
	copied := a.copyOf(1).Flows
	if !a.Shows(2, copied.Find(&f), &f) {
		t.Error("a takeover would not take the flow")
	}
}

// A bulk after a flush does not wait for the copy of a peer that is dead.
func TestFlushWithADeadPeer(t *testing.T) {
	w := newTownOf(t, 3)
	w.bothProven("before")
	w.silence(2)
	w.pass(2 * peerQuiet)
	a := w.nodes[0]
	before := a.machine.Stats().Bulks
	a.FlushExternal()
	w.pass(time.Second)
	a.Bulk()
	w.until("a bulk", time.Second, func() bool { return a.machine.Stats().Bulks > before })
}

// While its claims wait to be sent a node says that it has the flows: another one that asks must not take
// them.
func TestTakeoverLastsUntilItIsAnnounced(t *testing.T) {
	w := emptyTown(t, 3)
	for i := range w.nodes {
		config := clusterConfigOf(3, i)
		if i == 1 {
			config.ResendQueueSize = 10 // an acknowledgement each second makes room
		}
		w.start(i, config, cache.NewSide(cache.Config{}))
	}
	all := flowtest.Flows(150)
	for i := range all {
		w.nodes[0].store(&all[i], true)
	}
	w.bothProven("before")
	w.silence(0)
	b, c := w.nodes[1], w.nodes[2]
	b.primary(true)
	b.take(0, owner.Selector{})
	w.pass(takeLingers + 2*time.Second)
	if n := c.copyOf(1).Flows.Len(); n == 150 {
		t.Fatal("everything is announced already")
	}
	var take owner.Nodes
	c.AskOwners(func(t, _ owner.Nodes) { take = t })
	w.pass(250 * time.Millisecond)
	if take != 0 {
		t.Errorf("fw3 would take the flows of %b", take)
	}
	w.until("all claims", time.Minute, func() bool { return c.copyOf(1).Flows.Len() == 150 })
	w.until("the takeover's end", 2*time.Second, func() bool { some, _ := b.cluster.taking(); return some == 0 })
}
