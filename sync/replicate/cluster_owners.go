//go:build !no_cluster

package replicate

import (
	"fmt"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// With several peers a node announces the flows that it owns, and no others: owner.Book decides
// which these are. Each way by which a flow of the internal cache comes to be announced asks the
// Book, and each message of a peer about a flow is reported to it.

// announcements are the owner.Actions of a cluster.
type announcements struct{ c *cluster }

func (a announcements) Announced(h cache.Handle) bool {
	return a.c.stream != nil && a.c.stream.Announces(flowObject(h))
}
func (a announcements) Claimed(h cache.Handle) { a.c.stream.Claim(flowObject(h)) }
func (a announcements) Withdraw(h cache.Handle) {
	a.c.lost = h
	a.c.stream.Withdrawn(flowObject(h))
}

// setOwners adopts a change of the peers.
func (c *cluster) setOwners() {
	if !c.several() {
		if c.book != nil {
			c.book = nil
			c.Bulk() // with what was another node's
		}
		return
	}
	if c.book == nil {
		c.book = owner.NewBook(c.config.Node, c.internal.Flows, announcements{c})
	}
	var copies [owner.MaxNode + 1]*cache.Flows
	for _, p := range c.copies {
		copies[p.node] = p.Flows
	}
	for n := uint8(1); n <= owner.MaxNode; n++ {
		c.book.SetCopy(n, copies[n])
	}
	c.lookAtPeers(c.sched.Now())
}

// announces reports whether a flow that was stored in the internal cache is to be announced.
func (c *cluster) announces(h cache.Handle, f *ctnetlink.Flow, why owner.Why) bool {
	if c == nil || c.book == nil {
		return why != owner.Silent
	}
	return c.book.Stored(c.sched.Now(), h, f, why)
}

// mayAnnounce reports whether an object of the internal cache may be announced that is not
// announced yet: a flow must not be another node's.
func (c *cluster) mayAnnounce(o proto.Object) bool {
	if c == nil || c.book == nil || o.Table != proto.Flows || c.stream.Announces(o) {
		return true
	}
	h := cache.Handle(o.Handle)
	return c.internal.Flows.Load(h, &c.known) && c.book.Mine(h, &c.known)
}

const (
	// peersAppear is how long after its start a node waits for the first STATE of a peer, which sends
	// one each second.
	peersAppear = 2 * time.Second
	// copiesArrive is how long it waits for the copies.
	copiesArrive = 30 * time.Second
)

// lackCopies notes that this node has no copies, because it has started or they were flushed.
func (c *cluster) lackCopies() { c.lacking, c.lacks = c.sched.Now(), true }

// awaitsCopies reports whether this node has no copies yet and does not know which of the flows in its
// kernel others own: a bulk would announce these too, and with a lower number it would own
// them. A peer that has not announced everything itself, because it starts as well, is not waited
// for.
func (c *cluster) awaitsCopies() bool {
	if c == nil || c.book == nil || !c.lacks {
		return false
	}
	now := c.sched.Now()
	for _, m := range c.members {
		switch {
		case m == nil:
		case m.stream == 0:
			if now-c.lacking < peersAppear {
				return true
			}
		case c.hears(m) && c.stream.Complete(m.number) && c.stream.Receipt(m.number, now).Copy != proto.CopyArrived:
			if now-c.lacking < copiesArrive {
				return true
			}
		}
	}
	c.lacks = false
	return false
}

// ending notes that this node is about to announce the end of a flow, if it announces the flow. The end of a
// flow that still waits (Delay) is not announced: the peers go on with their own.
func (c *cluster) ending(h cache.Handle) {
	if c != nil && c.book != nil && !c.stream.Waits(flowObject(h)) {
		c.book.OwnEnded(h)
	}
}

// heardFlow notes that a peer's copy has stored flow, whose message has this epoch. It reports whether
// this node has thereby lost the flow, and does not keep it in the internal cache.
func (c *cluster) heardFlow(m *member, h cache.Handle, epoch uint32) (handedOver bool) {
	if c.book == nil {
		m.copy.Flows.SetEpoch(h, epoch)
		return false
	}
	c.lost = 0
	c.book.Heard(m.number, h, &c.flow, epoch)
	return c.lost != 0 && c.handsOver(m) && c.internal.Flows.Kill(c.lost) // freed when the peers know that it is withdrawn
}

// handsOver reports whether a flow that this node has just lost to a peer becomes one that the
// Injector of a hot standby keeps in the kernel: as one of the internal cache the kernel would keep
// it when the peer ends it, and lose it when no packet comes here. A primary that loses a flow to a
// peer which is none keeps it: the packets may still come here.
func (c *cluster) handsOver(to *member) bool {
	return c.injector != nil && (c.flags&flagPrimary == 0 || to.flags&flagPrimary != 0)
}

// goesOn gives a hot standby's kernel back what has ended there, as h of the internal cache, and
// a peer owns: the end is that of a flow of which perhaps no packet came here.
func (c *cluster) goesOn(h cache.Handle) {
	if c == nil || c.book == nil || c.injector == nil || !c.internal.Flows.Load(h, &c.known) {
		return
	}
	if c.rival(&c.known, &c.known) {
		c.injector.Adopt(&c.known)
	}
}

// rival loads the announcement of the peer that owns f, and reports whether a peer does. The two may
// be the same.
func (c *cluster) rival(f, announced *ctnetlink.Flow) bool {
	node, entry := c.book.Rival(f)
	for _, p := range c.copies {
		if p.node == node {
			return c.book.Wins(node, entry, f) && p.Flows.Load(entry, announced)
		}
	}
	return false
}

// shows is Shows for one of the copies.
func (c *cluster) shows(p *peerCopy, h cache.Handle, f *ctnetlink.Flow) bool {
	return c == nil || c.book == nil || c.book.Wins(p.node, h, f)
}

// withdrawn follows the removal of f, which has not ended, from the copy of a peer. owned says that
// the peer owned it: the announcement of the owner of now takes its place in the kernel.
func (c *cluster) withdrawn(f *ctnetlink.Flow, owned bool) {
	if owned && c.book != nil && c.rival(f, &c.known) {
		c.inject(wire.FlowUpdate, &c.known)
		return
	}
	c.injector.Withdrawn(f)
}

// endsFlow reports whether the end of f, which a peer has announced with this epoch, is the
// flow's: only its owner ends a flow.
func (c *cluster) endsFlow(p *peerCopy, f *ctnetlink.Flow, epoch uint32) bool {
	return c == nil || c.book == nil || c.book.Ended(c.sched.Now(), p.node, f, epoch)
}

// goneFlow notes that a peer no longer announces f, which it announced with this epoch, and has not
// ended it. The copy has no entry of it any more.
func (c *cluster) goneFlow(f *ctnetlink.Flow, epoch uint32) {
	if c != nil && c.book != nil {
		c.book.Gone(f, epoch)
	}
}

// closed reports whether the hosts have closed the connection of a peer's entry. Without owners it does
// not look.
func (c *cluster) closed(p *peerCopy, h cache.Handle) bool {
	if c == nil || c.book == nil || !p.Flows.Load(h, &c.known) || c.known.Has&ctnetlink.HasTCPState == 0 {
		return false
	}
	return c.known.TCPState == ctnetlink.TCPStateTimeWait || c.known.TCPState == ctnetlink.TCPStateClose
}

// heardExpect gives up an expectation that this node announces, too, if its master is another
// node's.
func (c *cluster) heardExpect() {
	if c.book == nil {
		return
	}
	h := c.internal.Expects.Find(&c.expect)
	if h == 0 || !c.stream.Announces(expectObject(h)) {
		return
	}
	master := c.internal.Flows.FindMaster(&c.expect)
	if master != 0 && !c.stream.Announces(flowObject(master)) {
		c.stream.Withdrawn(expectObject(h))
	}
}

// keepsExpect notes that an expectation of the internal cache was stored and is not announced,
// unless a takeover has brought it into the kernel.
func (c *cluster) keepsExpect(h cache.Handle) {
	if some, _ := c.taking(); some != 0 {
		c.stream.Claim(expectObject(h))
		return
	}
	c.unannounced(expectObject(h))
}

// lookPeriod is the period of looking at which peers live and are primary.
const lookPeriod = 500 * time.Millisecond

// primariesPeriod is the least time between two lines about several primaries, where flows have
// owners: a standby is primary for as long as it announces a flow, such as those of its own NTP.
const primariesPeriod = time.Hour

// lookAtPeers tells the Book which peers live, and which are primary.
func (c *cluster) lookAtPeers(now time.Duration) {
	c.look = now + lookPeriod
	primaries := c.primaries()
	if primaries > 1 && c.primariesSeen < 2 && (now >= c.logNext || !c.several()) {
		c.logNext = now + primariesPeriod
		c.logPrimaries(primaries)
	}
	c.primariesSeen = primaries
	if c.book == nil {
		return
	}
	c.book.SetPrimary(c.flags&flagPrimary != 0)
	for n := range c.members {
		m := c.members[n]
		if m == nil {
			c.book.SetPeer(uint8(n), false, false)
			continue
		}
		living, primary := c.hears(m), m.flags&flagPrimary != 0
		c.book.SetPeer(m.number, living, primary)
		if c.keptAt[n] != 0 {
			c.lookAtRefusal(m, now, living, primary)
		}
	}
}

// hears reports whether a peer was heard lately.
func (c *cluster) hears(m *member) bool {
	silence, _ := c.lastOf(m)
	return m.addr.IsValid() && silence < peerQuiet
}

// living returns the peers that were heard lately.
func (c *cluster) living() (nodes owner.Nodes) {
	for _, m := range c.members {
		if m != nil && c.hears(m) {
			nodes |= owner.NodesOf(m.number)
		}
	}
	return nodes
}

// logPrimaries logs that more than one node is primary.
func (c *cluster) logPrimaries(n int) {
	text := fmt.Sprintf("%d nodes say that they are primary", n)
	if c.several() {
		c.log.Notice(text)
	} else {
		c.log.Warn(text + ": each takes the other's flows for ended or stale ones")
	}
}

// HasOwners reports whether flows have owners: the node is in a Cluster of more than two.
func (r *Replicator) HasOwners() bool { return r.cluster.several() }

// Announces reports whether this node has flows announced.
func (r *Replicator) Announces() bool {
	c := r.cluster
	return c.speaks() && c.stream.Held(proto.Flows) > 0
}

// Owner returns the name of the node that owns f, "" if nobody is known to.
func (r *Replicator) Owner(f *ctnetlink.Flow) string {
	c := r.cluster
	if !c.several() {
		return ""
	}
	node, _ := c.book.Owner(f)
	return c.nameOfNode(node)
}

// Shows reports whether a copy's entry is what the cluster knows of the flow f: the copy's node owns
// it.
func (r *Replicator) Shows(node uint8, entry cache.Handle, f *ctnetlink.Flow) bool {
	return !r.cluster.several() || r.cluster.book.Wins(node, entry, f)
}

// nameOfNode returns the name of a node, "" for none.
func (c *cluster) nameOfNode(node uint8) string {
	if node == c.config.Node {
		return c.config.NodeName
	}
	for _, p := range c.copies {
		if p.node == node {
			return p.name
		}
	}
	return ""
}
