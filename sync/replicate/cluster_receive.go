//go:build !no_cluster

package replicate

import (
	"fmt"
	"net/netip"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/seal"
	"ctbox/sync/wire"
)

// takes applies a datagram, or refuses it, and reports whether it did so. Without a cluster it does not.
func (c *cluster) takes(link int, from netip.Addr, datagram []byte) bool {
	if c == nil {
		return false
	}
	if !seal.IsVersion2(datagram) {
		c.take1(link, from, datagram)
		return true
	}
	now := c.sched.Now()
	node := c.nodeAt(link, from, datagram)
	h, payload, verdict := c.session.Open(now, node, c.opened[:0], datagram)
	switch verdict {
	case seal.Consumed:
		c.members[h.Node].versions.Challenged(now)
		return true
	case seal.Accepted:
	case seal.BadKey, seal.BadTag:
		c.refuse(node, from, verdict)
		if m := c.members[node]; m != nil {
			c.agreed(m, m.versions.Unopened(now))
		}
		return true
	case seal.BadNode:
		c.checkDuplicateNode(from, &h, datagram)
		c.refuse(node, from, verdict)
		return true
	default:
		c.refuse(node, from, verdict)
		return true
	}
	m := c.members[h.Node]
	if !c.trusts(m, h.Key != 0, payload) {
		// A peer in the clear that starts makes its offer within a second or two.
		reason := seal.BadLife
		if m.versions.RefusesPeer(now) {
			reason = seal.BadPlain
		}
		m.refused[reason]++
		return true
	}
	c.agreed(m, m.versions.Heard2(now, h.Key != 0))
	if !c.stream.Arrived(now, h.Node, h.Boot, h.Counter) {
		return true
	}
	if (m.flags^h.Flags)&flagPrimary != 0 {
		c.look = now
	}
	m.addr, m.key, m.flags = from, h.Key, h.Flags
	c.heard(link, from)
	c.peers[from].node = h.Node
	c.links.use(link)
	c.takePayload(m, payload)
	return true
}

// nodeAt returns the number of the node that a datagram may come from, 0 for none. An address
// that only Accept lists is a relay's, behind which each node may be.
func (c *cluster) nodeAt(link int, from netip.Addr, datagram []byte) uint8 {
	if node := c.nodes[link][from]; node != 0 {
		return node
	}
	for _, p := range c.cfg.Links[link].Accept {
		if h, ok := seal.ParseHeader(datagram); ok && p.Contains(from) {
			return h.Node
		}
	}
	return 0
}

// takePayload applies the messages of a datagram that was accepted.
func (c *cluster) takePayload(m *member, payload []byte) {
	reader, now := wire.ReadStream(payload), c.sched.Now()
	for {
		ok, err := reader.Next(&c.message)
		if err != nil {
			c.badPayload(m)
		}
		if !ok || !c.speaks() {
			return
		}
		verdict, events := c.stream.Receive(now, m.number, &c.message)
		switch verdict {
		case proto.Apply:
			c.applyObject(m, &c.message)
		case proto.Handled:
			c.takeControl(m, &c.message)
		case proto.BadHeader:
			c.received.BadHeader++
		case proto.BadType:
			c.received.BadType++
		}
		if events&proto.PeerStarted != 0 {
			m.lives++
		}
		c.protocolEvents(m.copy, events)
	}
}

// badPayload counts a message of a peer that can't be read.
func (c *cluster) badPayload(m *member) {
	c.received.BadPayload++
	m.copy.bad++
}

// takeControl handles what the stream leaves to its owner.
func (c *cluster) takeControl(m *member, msg *wire.StreamMessage) {
	switch msg.Type {
	case wire.StreamNotice:
		var notice wire.Notice
		if notice.ParseBody(msg.Body) != nil {
			c.badPayload(m)
			return
		}
		c.takeover.PeerAnnouncesCommits()
		c.takeNotice(m.addr, c.peers[m.addr], &notice)
		if notice.Has&wire.HasOffer != 0 {
			c.agreed(m, m.versions.HeardOffer(c.sched.Now(), &notice.Offer, proto.Version2(m.key != 0)))
		}
	case wire.StreamState:
		c.takeState(m, msg)
	case wire.Digest, wire.Sums, wire.Entries, wire.Compare, wire.Want:
		c.takeDigest(m, msg)
	case wire.Take:
		c.takeQuestion(m, msg)
	case wire.Mine:
		c.takeAnswer(m, msg)
	}
}

// applyObject applies an object of a peer to the copy of that peer's tables. It comes as a whole, so
// it replaces what is there.
func (c *cluster) applyObject(from *member, m *wire.StreamMessage) {
	r, p, now := c.Replicator, from.copy, c.sched.Now()
	end := m.Type == wire.StreamFlowEnd || m.Type == wire.StreamFlowWithdrawn ||
		m.Type == wire.StreamExpectEnd || m.Type == wire.StreamExpectWithdrawn
	if m.Type.IsExpect() {
		if wire.ParseCompactExpect(m.Body, &r.expect) != nil {
			c.badPayload(from)
			return
		}
		r.replica.Received++
		from.applied[proto.Expects]++
		if end {
			p.Expects.Delete(p.Expects.Find(&r.expect))
		} else {
			p.Expects.Replace(&r.expect, now)
			c.heardExpect()
		}
		return
	}
	epoch, err := wire.ParseCompactFlow(m.Body, &r.flow, end)
	if err != nil {
		c.badPayload(from)
		return
	}
	r.replica.Received++
	from.applied[proto.Flows]++
	switch m.Type {
	case wire.StreamFlowNew:
		h, _ := p.Flows.Replace(&r.flow, now)
		c.stored(from, h, epoch, wire.FlowNew)
	case wire.StreamFlowUpdate:
		h, outcome := p.Flows.Update(&r.flow, now)
		if outcome == cache.Updated && c.book != nil && c.book.Begins(from.number, h, epoch) {
			if p.Flows.Epoch(h)&^cache.EpochMark < epoch {
				p.Flows.Delete(h) // a claim is another entry: a takeover that began before leaves it alone
			}
			h, _ = p.Flows.Replace(&r.flow, now)
		}
		c.stored(from, h, epoch, wire.FlowUpdate)
	case wire.StreamFlowEnd:
		r.endExternal(p, p.Flows.Find(&r.flow), &r.flow, epoch)
	default: // the peer no longer announces it, and it has not ended
		h := p.Flows.Find(&r.flow)
		owned := c.injector != nil && h != 0 && c.shows(p, h, &r.flow)
		p.Flows.Delete(h)
		c.goneFlow(&r.flow, epoch)
		if r.injector != nil {
			c.withdrawn(&r.flow, owned)
		}
	}
}

// stored follows the storing of a peer's flow, which is in c.flow, by a message with this epoch. It does nothing
// if h is 0: the flow was not stored.
func (c *cluster) stored(from *member, h cache.Handle, epoch uint32, change wire.Type) {
	if h == 0 {
		return
	}
	handedOver := c.heardFlow(from, h, epoch)
	if l := from.held[proto.Flows]; l != nil {
		l.Stored(h)
	}
	switch {
	case c.injector == nil:
	case handedOver:
		if c.rival(&c.flow, &c.known) {
			c.injector.Adopt(&c.known)
		}
	case c.book == nil || c.book.Wins(from.number, h, &c.flow):
		c.inject(change, &c.flow)
	}
}

// refusal is a kind of line in the log: why datagrams are refused, and of which peer.
type refusal struct {
	node   uint8 // 0 for an address of no peer
	reason seal.Verdict
}

// refusalTexts say why a datagram was refused. Those of BadPlain are in whyRefused.
var refusalTexts = [seal.Verdicts]string{
	seal.Malformed: "it is cut, or not of version 2",
	seal.BadNode:   "its number is not that of a Peer with this address",
	seal.BadKey:    "it is sealed with a key that this node does not have, or this node has no keys",
	seal.BadTag:    "it was altered, or the key of that number or the cluster's Name is another one there",
	seal.BadLife:   "the sender has started anew and is being asked to prove it",
	seal.Replayed:  "it came before",
}

// whyRefused returns why a datagram of a node, 0 for an unknown one, was refused.
func (c *cluster) whyRefused(node uint8, reason seal.Verdict) string {
	switch {
	case reason != seal.BadPlain:
		return refusalTexts[reason]
	case node == 0: // the session refuses those of version 2 for their address
		return "it is of version 1, and no Peer has this address"
	case c.config.Send == 0: // what is plain is never refused without keys
		return "it is marked as sealed, but names no key"
	case c.config.AllowPlain:
		return "it is not sealed, and the peer has sealed others lately"
	}
	return "it is not sealed, and AllowPlain is off"
}

// refuse counts a datagram that is not accepted. The log has one line for each reason and peer in
// a minute, and none for what happens each time a peer starts.
func (c *cluster) refuse(node uint8, from netip.Addr, reason seal.Verdict) {
	who := "an unknown node"
	if m := c.members[node]; m != nil {
		m.refused[reason]++
		who = m.name
	} else {
		node = 0
		c.unknown[reason]++
	}
	if reason == seal.BadLife || reason == seal.Replayed {
		return
	}
	if c.refusals.Admit(refusal{node, reason}, who) {
		c.log.Warn(fmt.Sprintf("refused a datagram of %s from %v: %s", who, from, c.whyRefused(node, reason)))
	}
}

// logSuppressed logs how many refusals had no line of their own.
func (c *cluster) logSuppressed(who string, more uint64) {
	c.log.Warn(fmt.Sprintf("refused %d more datagrams of %s within a minute", more, who))
}

// duplicatePeriod is the time for which the log does not name a duplicate of this node again.
const duplicatePeriod = time.Minute

// checkDuplicateNode logs an error if a datagram with this node's own number is genuine and has another boot
// id: it is of another node, or a replayed one of this node's previous run. As each check costs an
// authentication, there is at most one per second.
func (c *cluster) checkDuplicateNode(from netip.Addr, h *seal.Header, datagram []byte) {
	now := c.sched.Now()
	if h.Node != c.config.Node || h.Boot == c.session.Boot() || now < c.duplicate {
		return
	}
	c.duplicate = now + time.Second
	if c.session.Genuine(h, c.opened[:0], datagram) {
		c.duplicate = now + duplicatePeriod
		c.log.Error(fmt.Sprintf("%v sends as Node %d, which is this node: each node of a Cluster needs a number of its own", from, h.Node))
	}
}
