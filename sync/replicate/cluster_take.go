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
// and what the internal cache gets of them is claimed, as its events come. EndTake lets a last walk
// claim what the internal cache has had before, or has got without an event.

// asking is what a node knows of takeovers.
type asking struct {
	question *owner.Question // under way; nil without one
	answer   func(take, kept owner.Nodes)
	number   uint32
	// keptAt is when each node last answered that it keeps its flows; 0 for never.
	keptAt   [owner.MaxNode + 1]time.Duration
	keptLife [owner.MaxNode + 1]uint64 // the node's life then
	// onRelease is called when a node that has kept its flows steps down soon after.
	onRelease func(nodes owner.Nodes)
	// onAsked is called before a peer's question is answered.
	onAsked func()

	current taking   // the takeover that is being brought into the kernel; its book is nil without one
	lasting []taking // those before, until they end
}

// taking is a takeover of a Book.
type taking struct {
	book   *owner.Book
	number uint32
	endsAt time.Duration // unless claims wait to be sent then
	latest time.Duration // when it ends in any case
}

const (
	// takeLingers is how long a takeover goes on after the kernel has everything: the events
	// of that may not have been followed yet.
	takeLingers = 5 * time.Second
	// A takeover goes on while its claims wait to be sent, which is looked at each claimsPeriod, for
	// claimsMost: until then only the answers to questions say whose flows this node has.
	claimsPeriod = 100 * time.Millisecond
	claimsMost   = time.Minute
	// keptLasts is how long a refusal is remembered. keepalived's scripts on two nodes run in
	// any order: the new primary may ask before the old one has stepped down.
	keptLasts = 10 * time.Second
)

// AskOwners asks the peers which of them keep their flows, and calls answer, with the lock
// held, with the nodes whose flows may be taken and those that keep theirs. One call at a time. A reload
// that leaves one peer ends the question: HasOwners may be false when answer is called.
func (r *Replicator) AskOwners(answer func(take, kept owner.Nodes)) {
	c, now := r.cluster, r.sched.Now()
	c.number++
	c.question, c.answer = owner.Ask(now, c.config.Node, c.number, c.copyNodes(), c.living()), answer
	c.tickQuestion(now)
}

// OnRelease sets what is called, with the lock held, when nodes whose flows were refused to this one
// have stepped down within seconds.
func (r *Replicator) OnRelease(f func(nodes owner.Nodes)) {
	if r.cluster != nil {
		r.cluster.onRelease = f
	}
}

// OnAsked sets what is called, with the lock held, before a peer that asks which nodes keep their
// flows is answered. It calls SetReadiness: the role may have changed since the last decision, for
// example because the node has its first flow.
func (r *Replicator) OnAsked(f func()) {
	if r.cluster != nil {
		r.cluster.onAsked = f
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
	case q.Done(now) || c.book == nil:
		c.question = nil
		for n := range c.keptAt {
			if q.Kept().Has(uint8(n)) {
				c.keptAt[n] = max(now, 1)
				if m := c.members[n]; m != nil {
					c.keptLife[n] = m.lives
				}
			}
		}
		c.answer(q.Nodes(), q.Kept())
	case q.Due(now):
		c.sendUnnumbered(&wire.StreamMessage{Type: wire.Take, Question: q.Number(), Nodes: uint16(q.Nodes())})
	}
}

// sendUnnumbered sends a message that has no number with the next payload.
func (c *cluster) sendUnnumbered(m *wire.StreamMessage) {
	c.digests.packed = true
	c.payload.SetCapacity(c.payloadCapacity())
	c.payload.Message(m)
}

// takeQuestion answers a peer that asks who keeps its flows.
func (c *cluster) takeQuestion(m *member, msg *wire.StreamMessage) {
	nodes := owner.Nodes(msg.Nodes)
	answer := wire.StreamMessage{Type: wire.Mine, Node: m.number, Question: msg.Question}
	if c.question != nil {
		answer.Nodes = uint16(c.question.Asked(m.number, nodes))
	}
	if c.onAsked != nil {
		c.onAsked()
	}
	if c.flags&flagPrimary != 0 {
		// A node that has stepped down gives up what it has taken over as well, of which a part may not have been
		// announced yet.
		_, all := c.taking()
		answer.Nodes |= uint16(all & nodes)
		answer.Flags = wire.MineOwn
	}
	c.sendUnnumbered(&answer)
}

// taking returns the nodes of whose flows this node takes some now, and those of which it takes all.
func (c *cluster) taking() (some, all owner.Nodes) {
	if c == nil || c.book == nil {
		return 0, 0
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

// lookAtRefusal passes on that a node which has lately refused its flows has stepped down. A node
// that has died or started anew meanwhile has not: another node may be taking its flows over.
func (c *cluster) lookAtRefusal(m *member, now time.Duration, living, primary bool) {
	switch {
	case !living || m.lives != c.keptLife[m.number] || now-c.keptAt[m.number] > keptLasts:
		c.keptAt[m.number] = 0
	case !primary && c.onRelease != nil && c.flags&flagPrimary != 0: // this node's own role may come into force a moment later
		c.keptAt[m.number] = 0
		c.log.Notice(m.name + " gives up the flows that it kept: they are taken over now")
		c.onRelease(owner.NodesOf(m.number))
	}
}

// BeginTake begins a takeover of these nodes' flows. The functions that it returns say which
// entries of the copies are taken; they are called with the lock held. HasOwners is true.
func (r *Replicator) BeginTake(nodes owner.Nodes, s owner.Selector) (
	wants func(node uint8, entry cache.Handle, f *ctnetlink.Flow) bool,
	wantsExpect func(node uint8, x *ctnetlink.Expect) bool,
) {
	c, book := r.cluster, r.cluster.book // a reload may put another Book, or none, in its place
	c.current = taking{book: book, number: book.Take(nodes, s)}
	return func(node uint8, entry cache.Handle, f *ctnetlink.Flow) bool {
			return nodes.Has(node) && s.Matches(f) && book.Wins(node, entry, f)
		}, func(node uint8, x *ctnetlink.Expect) bool {
			return nodes.Has(node) && c.takesExpect(book, &s, node, x)
		}
}

// takesExpect reports whether an expectation of a node is taken: with its master, which may have
// been claimed already.
func (c *cluster) takesExpect(book *owner.Book, s *owner.Selector, node uint8, x *ctnetlink.Expect) bool {
	for _, p := range c.copies {
		if p.node != node {
			continue
		}
		h := p.Flows.FindMaster(x)
		if h == 0 || !p.Flows.Load(h, &c.known) || !s.Matches(&c.known) {
			return false
		}
		n, _ := book.Owner(&c.known)
		return n == node || n == c.config.Node
	}
	return false
}

// EndTake notes that everything which was taken is in the kernel.
func (r *Replicator) EndTake() {
	c := r.cluster
	if c == nil || c.current.book == nil {
		return
	}
	c.current.endsAt = c.sched.Now() + takeLingers
	c.current.latest = c.current.endsAt + claimsMost
	c.lasting = append(c.lasting, c.current)
	c.current = taking{}
}

// claimTaken walks in slices over the copies of the nodes that are taken, claims what the internal
// cache has of the flows that the takeover with this number takes, and then calls ended.
func (c *cluster) claimTaken(number uint32, ended func()) {
	book, handles := c.book, make([]cache.Handle, sliceLen)
	copies := append([]*peerCopy(nil), c.copies...)
	var cur cache.Cursor
	c.sched.Step(func() bool {
		if book == nil || book != c.book {
			return false
		}
		if len(copies) == 0 {
			ended()
			return false
		}
		p := copies[0]
		more := false
		if some, _ := book.Taking(); some.Has(p.node) {
			var got int
			got, more = p.Flows.Next(&cur, handles)
			book.ClaimTaken(number, p.node, handles[:got])
		}
		if !more {
			copies, cur = copies[1:], cache.Cursor{}
		}
		return true
	})
}

// tickTake ends takeovers when their time is over.
func (c *cluster) tickTake(now time.Duration) {
	for len(c.lasting) > 0 && now >= c.lasting[0].endsAt {
		t := c.lasting[0]
		if c.stream.Backlog() > 0 && now < t.latest {
			c.lasting[0].endsAt = now + claimsPeriod
			return
		}
		c.lasting = c.lasting[1:]
		c.claimTaken(t.number, func() { t.book.EndTake(t.number) })
	}
}

// stepDown ends the takeovers that last, and takes back the claims that have not been sent: the
// next primary takes these flows, and must not lose them again to this node.
func (c *cluster) stepDown() {
	for _, t := range c.lasting {
		t.book.EndTake(t.number)
	}
	c.lasting = nil
	if c.book != nil && c.stream != nil {
		c.stream.DropClaims()
	}
}

// takeDue returns when tickQuestion or tickTake has something to do.
func (c *cluster) takeDue() time.Duration {
	due := proto.None
	if c.question != nil {
		due = c.question.Deadline()
	}
	if len(c.lasting) > 0 {
		due = min(due, c.lasting[0].endsAt)
	}
	return due
}
