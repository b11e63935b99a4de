//go:build !no_cluster

package replicate

import (
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// A takeover has three steps. A plain one asks the peers which of them keep their flows
// (AskOwners). BeginTake names the flows that are taken; the caller brings them into the kernel,
// and what the internal cache gets of them is claimed. EndTake claims what the internal cache had
// before.

// asking is what a node knows of takeovers.
type asking struct {
	question *owner.Question // under way; nil without one
	answer   func(take, kept owner.Nodes)
	number   uint32
	// keptAt is when each node last answered that it keeps its flows; 0 for never.
	keptAt [owner.MaxNode + 1]time.Duration
	// onRelease is called when a node that has kept its flows steps down soon after.
	onRelease func(nodes owner.Nodes)

	round  uint32        // of the takeover, which ends walks of those before
	lasts  bool          // the Book takes
	whole  bool          // and it takes everything of its nodes
	endsAt time.Duration // when it ends, once everything is in the kernel; 0 before
}

const (
	// takeLingers is how long a takeover goes on after the kernel has everything: the events
	// of that may not have been followed yet.
	takeLingers = 5 * time.Second
	// keptLasts is how long a refusal is remembered. keepalived's scripts on two nodes run in
	// any order: the new primary may ask before the old one has stepped down.
	keptLasts = 10 * time.Second
)

// AskOwners asks the peers which of them keep their flows, and calls answer, with the lock
// held, with the nodes whose flows may be taken and those that keep theirs. One call at a time.
func (r *Replicator) AskOwners(answer func(take, kept owner.Nodes)) {
	c, now := r.cluster, r.sched.Now()
	c.number++
	c.question, c.answer = owner.Ask(now, c.config.Node, c.number, c.copyNodes(), c.living()), answer
	c.tickQuestion(now)
}

// OnRelease sets what is called, with the lock held, when nodes whose flows were refused to this one
// have stepped down or died within seconds.
func (r *Replicator) OnRelease(f func(nodes owner.Nodes)) {
	if r.cluster != nil {
		r.cluster.onRelease = f
	}
}

// CopyNodes returns the nodes of whose flows there is a copy.
func (r *Replicator) CopyNodes() owner.Nodes { return r.cluster.copyNodes() }

func (c *cluster) copyNodes() (nodes owner.Nodes) {
	for _, p := range c.copies {
		nodes |= owner.NodesOf(p.node)
	}
	return nodes
}

// tickQuestion asks again, or ends a question.
func (c *cluster) tickQuestion(now time.Duration) {
	q := c.question
	switch {
	case q == nil:
	case q.Done(now):
		c.question = nil
		for n := range c.keptAt {
			if q.Kept().Has(uint8(n)) {
				c.keptAt[n] = max(now, 1)
			}
		}
		c.answer(q.Nodes(), q.Kept())
	case q.Due(now):
		c.say(&wire.StreamMessage{Type: wire.Take, Question: q.Number(), Nodes: uint16(q.Nodes())})
	}
}

// say has a message sent that has no number.
func (c *cluster) say(m *wire.StreamMessage) {
	c.digests.packed = true
	c.payload.SetCapacity(c.payloadCapacity())
	c.payload.Message(m)
}

// takeQuestion answers a peer that asks who keeps its flows.
func (c *cluster) takeQuestion(m *member, msg *wire.StreamMessage) {
	nodes := owner.Nodes(msg.Nodes)
	answer := wire.StreamMessage{Type: wire.Mine, Node: m.number, Question: msg.Question}
	if c.whole {
		answer.Nodes = uint16(c.taking() & nodes)
	}
	if c.question != nil {
		answer.Nodes |= uint16(c.question.Asked(m.number, nodes))
	}
	if c.flags&flagPrimary != 0 {
		answer.Flags = wire.MineOwn
	}
	c.say(&answer)
}

// taking returns the nodes whose flows this node takes now.
func (c *cluster) taking() owner.Nodes {
	if c == nil || c.book == nil {
		return 0
	}
	return c.book.Taking()
}

// takeAnswer takes a peer's answer.
func (c *cluster) takeAnswer(m *member, msg *wire.StreamMessage) {
	if c.question == nil || msg.Node != c.config.Node {
		return
	}
	c.question.Answered(m.number, msg.Question, msg.Flags&wire.MineOwn != 0, owner.Nodes(msg.Nodes))
	c.tickQuestion(c.sched.Now())
}

// released passes on that a node which has lately refused its flows gives them up.
func (c *cluster) released(m *member, now time.Duration) {
	if now-c.keptAt[m.number] > keptLasts+peerQuiet {
		c.keptAt[m.number] = 0
		return
	}
	if c.onRelease == nil || c.flags&flagPrimary == 0 {
		return // this node's own role may come into force a moment later
	}
	c.keptAt[m.number] = 0
	c.log.Notice(m.name + " gives up the flows that it kept: they are taken over now")
	c.onRelease(owner.NodesOf(m.number))
}

// BeginTake begins a takeover of these nodes' flows. The functions that it returns say which
// entries of the copies are taken; they are called with the lock held.
func (r *Replicator) BeginTake(nodes owner.Nodes, s owner.Selector) (
	wants func(node uint8, entry cache.Handle, f *ctnetlink.Flow) bool,
	wantsExpect func(node uint8, x *ctnetlink.Expect) bool,
) {
	c := r.cluster
	c.book.Take(nodes, s)
	c.round++
	conditions := s
	conditions.Node = 0 // nodes has it
	c.lasts, c.whole, c.endsAt = true, conditions.Empty(), 0
	return c.book.Takes, func(node uint8, x *ctnetlink.Expect) bool { return c.takesExpect(nodes, s, node, x) }
}

// takesExpect reports whether an expectation of a node is taken: with its master, which may have
// been claimed already.
func (c *cluster) takesExpect(nodes owner.Nodes, s owner.Selector, node uint8, x *ctnetlink.Expect) bool {
	if !nodes.Has(node) {
		return false
	}
	for _, p := range c.copies {
		if p.node != node {
			continue
		}
		h := p.Flows.FindMaster(x)
		if h == 0 || !p.Flows.Load(h, &c.known) || !s.Matches(&c.known) {
			return false
		}
		n, _ := c.book.Owner(&c.known)
		return n == node || n == c.config.Node
	}
	return false
}

// EndTake notes that everything which was taken is in the kernel.
func (r *Replicator) EndTake() {
	c := r.cluster
	if c == nil || !c.lasts {
		return
	}
	c.endsAt = c.sched.Now() + takeLingers
	c.claimTaken(func() {})
}

// claimTaken walks in slices over the copies of the nodes that are taken, claims what the internal
// cache has of their flows, and then calls ended.
func (c *cluster) claimTaken(ended func()) {
	round, handles := c.round, make([]cache.Handle, sliceLen)
	copies := append([]*peerCopy(nil), c.copies...)
	var cur cache.Cursor
	c.sched.Step(func() bool {
		if round != c.round || c.book == nil {
			return false
		}
		if len(copies) == 0 {
			ended()
			return false
		}
		p := copies[0]
		more := false
		if c.taking().Has(p.node) {
			var got int
			got, more = p.Flows.Next(&cur, handles)
			c.book.ClaimTaken(p.node, handles[:got])
		}
		if !more {
			copies, cur = copies[1:], cache.Cursor{}
		}
		return true
	})
}

// tickTake ends a takeover when its time is over.
func (c *cluster) tickTake(now time.Duration) {
	if c.lasts && c.endsAt != 0 && now >= c.endsAt {
		c.lasts, c.endsAt = false, 0
		c.claimTaken(c.endTake)
	}
}

func (c *cluster) endTake() { c.book.EndTake() }

// takeDue returns when tickQuestion or tickTake has something to do.
func (c *cluster) takeDue() time.Duration {
	due := proto.None
	if c.question != nil {
		due = c.question.Deadline()
	}
	if c.lasts && c.endsAt != 0 {
		due = min(due, c.endsAt)
	}
	return due
}
