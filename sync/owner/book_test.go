package owner

import (
	"testing"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
)

// announcer is the Actions of a test: what is announced, and what was asked for.
type announcer struct {
	announced          map[cache.Handle]bool
	claimed, withdrawn int
}

func (a *announcer) Announced(h cache.Handle) bool { return a.announced[h] }
func (a *announcer) Claimed(h cache.Handle)        { a.announced[h] = true; a.claimed++ }
func (a *announcer) Withdraw(h cache.Handle)       { delete(a.announced, h); a.withdrawn++ }

// table is a Book of node 2 with the copies of nodes 1 and 3, and one flow.
type table struct {
	*Book
	announcer
	t    *testing.T
	flow cache.Handle
}

func newTable(t *testing.T) *table {
	x := &table{t: t, announcer: announcer{announced: map[cache.Handle]bool{}}}
	x.Book = NewBook(2, cache.NewFlows(cache.Config{}), x)
	for _, node := range []uint8{1, 3} {
		x.SetCopy(node, cache.NewFlows(cache.Config{}))
		x.SetPeer(node, true, true)
	}
	return x
}

// store stores the flow as an event does.
func (x *table) store(now time.Duration, why Why) {
	f := &flowtest.Flows(1)[0]
	x.flow, _ = x.own.Put(f, now)
	if x.Stored(now, x.flow, f, why) {
		x.announced[x.flow] = true
	}
}

// hear has a peer announce the flow, and end has it end the flow.
func (x *table) hear(now time.Duration, node uint8, epoch uint32) {
	f := &flowtest.Flows(1)[0]
	h, _ := x.peers[node].copy.Update(f, now)
	x.Heard(node, h, f, epoch)
}

func (x *table) end(node uint8, epoch uint32) bool { return x.endAt(0, node, epoch) }

func (x *table) endAt(now time.Duration, node uint8, epoch uint32) bool {
	f, flows := &flowtest.Flows(1)[0], x.peers[node].copy
	owner := x.Ended(now, node, f, epoch)
	flows.Delete(flows.Find(f))
	return owner
}

func (x *table) want(node uint8, epoch uint32) {
	x.t.Helper()
	if n, e := x.Owner(&flowtest.Flows(1)[0]); n != node || e != epoch {
		x.t.Errorf("node %d owns the flow with epoch %d, want node %d and epoch %d", n, e, node, epoch)
	}
}

func TestKernelClaims(t *testing.T) {
	x := newTable(t)
	x.store(0, ByKernel)
	x.want(2, 0)
	x.hear(0, 1, 1) // node 1 has claimed it
	x.want(1, 1)
	if x.withdrawn != 1 {
		t.Errorf("%d withdrawn", x.withdrawn)
	}
	x.store(5*time.Second, ByKernel) // too early, the owner lives
	x.want(1, 1)
	x.store(12*time.Second, Changed) // by a process
	x.want(1, 1)
	x.store(12*time.Second, ByKernel)
	x.want(2, 2)
}

func TestDeadOwnerLosesAtOnce(t *testing.T) {
	for _, state := range []struct{ living, primary bool }{{false, true}, {true, false}} {
		x := newTable(t)
		x.hear(0, 1, 0)
		x.SetPeer(1, state.living, state.primary)
		x.store(time.Second, ByKernel)
		x.want(2, 1)
	}
}

func TestEndCountsFromTheOwnerOnly(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 0)
	x.hear(0, 3, 1)
	if x.end(1, 0) {
		t.Error("an end of lower rank counts")
	}
	x.want(3, 1)
	x.hear(0, 1, 0)
	if !x.end(3, 1) {
		t.Error("the owner's end does not count")
	}
	x.want(1, 0) // has not heard of the end yet, or announces another connection
	x.SetPeer(1, false, true)
	x.want(0, 0)
	x.hear(0, 1, 0) // a repair repeats it
	x.want(0, 0)
	x.store(0, ByKernel) // a new connection with the same addresses
	x.want(2, 1)
	x.hear(0, 1, 2)
	x.want(1, 2)
}

// A node that starts again announces its flows with epoch 0. Those that it had taken over from a dead
// node stay its own, and end with it.
func TestOwnerStartsAgain(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 2)
	x.SetPeer(1, false, true)
	x.hear(0, 3, 3)
	x.hear(0, 3, 0)
	x.want(3, 0)
	if f := &flowtest.Flows(1)[0]; x.Wins(1, x.peers[1].copy.Find(f), f) {
		t.Error("a takeover from the dead node would take the flow")
	}
	if !x.end(3, 0) {
		t.Error("the owner's end does not count")
	}
	x.want(0, 0)
	x.SetPeer(1, true, true)
	x.hear(0, 1, 3) // the dead node is back and has packets
	x.want(1, 3)
}

func TestEndedFlowStaysEnded(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 4)
	x.store(0, Silent)
	if !x.end(1, 4) {
		t.Error("the owner's end does not count")
	}
	x.store(0, Changed) // a reading finds it in the kernel
	x.want(0, 0)
	if x.Mine(x.flow, &flowtest.Flows(1)[0]) {
		t.Error("a bulk would announce it")
	}
	x.store(0, ByKernel)
	x.want(2, 5)
}

func TestWaitingClaim(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 0)
	x.store(time.Second, ByKernel)
	x.want(1, 0)
	if x.end(1, 0) {
		t.Error("the flow goes on here")
	}
	x.want(2, 1)
}

func TestOldWaitingClaim(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 0)
	x.store(time.Second, ByKernel)
	if !x.endAt(time.Second+claimLasts, 1, 0) {
		t.Error("one packet of long ago brings the flow back")
	}
	x.want(0, 0)
}

func TestTake(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 3)
	x.store(0, Silent)
	x.want(1, 3)
	x.Take(NodesOf(3), Selector{})
	x.store(0, Silent)
	x.want(1, 3)
	x.Take(NodesOf(1), Selector{})
	x.store(0, Silent)
	x.want(2, 4)
	x.SetPeer(1, false, true)
	x.OwnEnded(x.flow)
	delete(x.announced, x.flow)
	x.want(0, 0)
}

func TestClaimTaken(t *testing.T) {
	x := newTable(t)
	x.store(0, Silent)
	x.hear(0, 1, 0)
	entry := x.peers[1].copy.Find(&flowtest.Flows(1)[0])
	x.ClaimTaken(0, 1, []cache.Handle{entry})
	x.want(1, 0)
	number := x.Take(NodesOf(1), Selector{})
	x.ClaimTaken(number+1, 1, []cache.Handle{entry})
	x.want(1, 0)
	x.ClaimTaken(number, 1, []cache.Handle{entry})
	x.want(2, 1)
	x.EndTake(1)
	if some, all := x.Taking(); x.claimed != 1 || some != 0 || all != 0 {
		t.Error(x.claimed, some, all)
	}
}

// The end of a former connection, whose announcement never came here, does not end this node's.
func TestLateEndOfTheSameEpoch(t *testing.T) {
	x := newTable(t)
	x.store(0, ByKernel)
	if x.end(1, 0) {
		t.Error("the end of another connection counts")
	}
	x.want(2, 0)
	x.hear(0, 1, 2)
	x.store(time.Minute, ByKernel)
	x.want(2, 3)
	if !x.end(1, 4) || x.withdrawn != 2 {
		t.Error("the end of a claim does not count")
	}
	x.want(0, 0)
}

// A takeover that lasts does not claim again what a living primary has taken back.
func TestTakenBack(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 3)
	number := x.Take(NodesOf(1), Selector{})
	x.store(0, Silent)
	x.want(2, 4)
	back := func(now time.Duration) []cache.Handle {
		f, flows := &flowtest.Flows(1)[0], x.peers[1].copy
		flows.Delete(flows.Find(f))
		x.hear(now, 1, 5)
		return []cache.Handle{flows.Find(f)}
	}
	entries := back(2 * time.Second)
	x.store(2*time.Second, Silent)
	x.ClaimTaken(number, 1, entries)
	x.want(1, 5)
	x.SetPeer(1, true, false) // it steps down, and what it has announced late is taken
	x.ClaimTaken(number, 1, entries)
	x.want(2, 6)
}

func TestEqualEpochs(t *testing.T) {
	x := newTable(t)
	x.store(0, ByKernel)
	x.hear(0, 3, 0)
	x.want(2, 0)
	x.hear(0, 1, 0)
	x.want(1, 0)
}

func TestQuestion(t *testing.T) {
	const all, living = Nodes(0b1101), Nodes(0b1001)
	q := Ask(0, 2, 7, all, living)
	if !q.Due(0) || q.Due(0) || !q.Due(50*time.Millisecond) || q.Done(199*time.Millisecond) || !q.Done(200*time.Millisecond) {
		t.Error("the question is not asked each 50 ms for 200")
	}
	q.Answered(4, 6, true, 0) // to another question
	q.Answered(4, 7, true, NodesOf(3))
	if q.Nodes() != NodesOf(1) || q.Kept() != NodesOf(4) || q.Done(0) {
		t.Errorf("nodes %b, kept %b", q.Nodes(), q.Kept())
	}
	q.Answered(1, 7, false, 0)
	if q.Nodes() != NodesOf(1) || !q.Done(0) {
		t.Errorf("nodes %b", q.Nodes())
	}
	q = Ask(0, 2, 8, all, living)
	if taken := q.Asked(3, NodesOf(1, 2, 4)); taken != NodesOf(1, 4) || q.Nodes() != all {
		t.Errorf("node 3 gets %b", taken)
	}
	if taken := q.Asked(1, NodesOf(2, 3, 4)); taken != 0 || q.Nodes() != NodesOf(1) {
		t.Errorf("node 1 gets %b, %b stay", taken, q.Nodes())
	}
}

// A takeover lasts until it ends, whatever begins after it.
func TestTakeoversLastTogether(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 3)
	first := x.Take(NodesOf(1), Selector{Node: 1})
	second := x.Take(NodesOf(3), Selector{HasMark: true, Mark: 1, Mask: 1})
	if some, all := x.Taking(); some != NodesOf(1, 3) || all != NodesOf(1) {
		t.Errorf("some flows of %b and all of %b are taken", some, all)
	}
	x.EndTake(second)
	x.store(0, Silent)
	x.want(2, 4)
	x.hear(0, 1, 5)
	x.EndTake(first)
	x.store(0, Silent)
	x.want(1, 5)
}

// A copy that is removed is nobody's, also for a walk that began before.
func TestWinsWithoutACopy(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 0)
	f := &flowtest.Flows(1)[0]
	entry := x.peers[1].copy.Find(f)
	x.SetCopy(1, nil)
	if x.Wins(1, entry, f) {
		t.Error("an entry of no copy wins")
	}
}

// The end of a peer that has lost the flow to this node says nothing.
func TestEndOfAFormerOwner(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 0)
	x.store(11*time.Second, ByKernel)
	if x.end(1, 0) || x.withdrawn > 0 {
		t.Error("the end of a former owner counts")
	}
	x.want(2, 1)
}

// An end counts by its own epoch, whatever its node announces by now.
func TestLateEndOfLowerRank(t *testing.T) {
	x := newTable(t)
	x.hear(0, 3, 1)
	x.hear(0, 1, 2)
	if x.Ended(0, 1, &flowtest.Flows(1)[0], 0) {
		t.Error("an end of lower rank counts")
	}
}

// A bulk has what this node announces, and what nobody does.
func TestMine(t *testing.T) {
	f := &flowtest.Flows(1)[0]
	x := newTable(t)
	x.hear(0, 3, 0)
	x.store(0, Silent)
	if x.Mine(x.flow, f) {
		t.Error("a bulk has the flow of another node")
	}
	x.peers[3].copy.Delete(x.peers[3].copy.Find(f))
	if !x.Mine(x.flow, f) {
		t.Error("a bulk does not have a flow that nobody announces")
	}
}

// An announcement of lower rank counts again while its node lives, which speaks for itself, and not
// once it is dead. It is never shown or taken.
func TestEndHidesWhatTheDeadAnnounce(t *testing.T) {
	f := &flowtest.Flows(1)[0]
	x := newTable(t)
	x.hear(0, 1, 0)
	x.hear(0, 3, 1)
	x.end(3, 1)
	x.want(1, 0)
	entry := x.peers[1].copy.Find(f)
	if x.Wins(1, entry, f) {
		t.Error("what has ended is shown")
	}
	x.Take(NodesOf(1), Selector{})
	x.store(0, Silent)
	x.want(1, 0)
	if x.claimed != 0 {
		t.Error("what has ended is taken")
	}
	x.SetPeer(1, false, true)
	x.want(0, 0)
}

// A connection that begins right after the end of another one with its addresses outranks the end,
// which a third node may hear of later.
func TestNextConnectionOutranksTheEnd(t *testing.T) {
	for _, c := range []struct {
		by          uint8
		epoch, want uint32
	}{{1, 0, 1}, {3, 0, 0}, {1, 4, 5}, {3, 4, 5}} {
		x := newTable(t)
		x.hear(0, c.by, c.epoch)
		x.end(c.by, c.epoch)
		x.store(0, ByKernel)
		x.want(2, c.want)
	}
}

// A flow that its owner no longer announces, without an end, is this node's if its kernel has it.
func TestGone(t *testing.T) {
	f := &flowtest.Flows(1)[0]
	gone := func(x *table, node uint8, epoch uint32) {
		flows := x.peers[node].copy
		flows.Delete(flows.Find(f))
		x.Gone(f, epoch)
	}
	x := newTable(t)
	x.hear(0, 1, 3)
	gone(x, 1, 3)
	x.want(0, 0) // this kernel does not have it
	x.hear(0, 1, 3)
	x.hear(0, 3, 2)
	x.store(0, ByKernel)
	gone(x, 1, 3)
	x.want(3, 2)
	gone(x, 3, 2)
	x.want(2, 2)

	x = newTable(t)
	x.hear(0, 1, 3)
	x.store(0, Silent)
	x.end(1, 3)
	x.hear(0, 3, 1)
	gone(x, 3, 1)
	x.want(0, 0) // it has ended
}

// An owner that is not primary ends what goes on at a primary, but not what has ended before.
func TestEndByABackup(t *testing.T) {
	x := newTable(t)
	x.SetPrimary(true)
	x.hear(0, 1, 0)
	x.store(0, Silent)
	x.end(1, 0)
	x.want(0, 0)
	x.SetPeer(1, true, false)
	x.hear(0, 1, 2)
	x.end(1, 2)
	x.want(0, 0)

	x = newTable(t)
	x.SetPrimary(true)
	x.SetPeer(1, true, false)
	x.hear(0, 1, 2)
	x.store(0, Silent)
	x.end(1, 2)
	x.want(2, 3)
}

// A flow that comes back to a peer with another epoch has just moved, although its withdrawal before
// was not heard.
func TestBegins(t *testing.T) {
	f := &flowtest.Flows(1)[0]
	x := newTable(t)
	x.hear(0, 1, 1)
	entry := x.peers[1].copy.Find(f)
	if x.Begins(1, entry, 1) || !x.Begins(1, entry, 3) {
		t.Error("an update begins the announcement, or another epoch does not")
	}
}

// The repetition of an announcement that is over counts against this node's, since its node lives.
func TestRepeatedAnnouncementOutranks(t *testing.T) {
	x := newTable(t)
	x.hear(0, 1, 1)
	x.hear(0, 3, 2)
	x.end(3, 2)
	x.announced[x.flow] = false
	h, _ := x.own.Put(&flowtest.Flows(1)[0], 0)
	x.own.SetEpoch(h, 0)
	x.announced[h] = true
	x.hear(0, 1, 1)
	if x.withdrawn != 1 {
		t.Errorf("%d withdrawn", x.withdrawn)
	}
}
