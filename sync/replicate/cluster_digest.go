//go:build !no_cluster

package replicate

import (
	"fmt"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/digest"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// Digests prove that a peer holds what this node has announced, and the other way round. What
// this node announces is in the ledgers of the internal cache, which the encoding of each message
// keeps (cluster_send.go); what it holds of a peer is in the ledgers of the external cache, which
// follow that cache's changes. The peer's digests ride in its stream, so that both are compared as of
// the same message.
//
// The external cache does not say which entry is of which peer. So a node with several peers
// sends digests and answers, but compares none.

// digests are the ledgers of both caches.
type digests struct {
	announced [2]*digest.Ledger // by proto.Table
	answers   *digest.Answerer
	packed    bool // a digest or an answer is in the payload that has begun
	// overlooked is how many entries of the internal cache were found that nothing had reported.
	overlooked int

	held [2]*digest.Ledger // nil with several peers
}

// comparison is what a node knows of the equality with one peer.
type comparison struct {
	stream    uint64              // of the peer; 0 before its first STATE
	comparers [2]*digest.Comparer // by proto.Table; nil before that, and with several peers
}

func (c *cluster) beginDigests(id uint64, key digest.Key) {
	d := &c.digests
	d.announced[proto.Flows] = digest.NewFlowLedger(key, c.internal.Flows)
	d.announced[proto.Expects] = digest.NewExpectLedger(key, c.internal.Expects)
	d.answers = digest.NewAnswerer(c.sched.Now(), c.config.Node, id, d.announced[proto.Flows], d.announced[proto.Expects], digest.Sender{
		Queued: func(table uint8, h cache.Handle) bool {
			o := proto.Object{Table: proto.Table(table), Handle: uint64(h)}
			return c.stream.Queued(o) || c.stream.Waits(o)
		},
		// What was deliberately not announced stays so: it waits for a bulk, as the flows of the
		// first reading and of a commit do.
		Announce: func(table uint8, h cache.Handle) {
			o := proto.Object{Table: proto.Table(table), Handle: uint64(h)}
			switch {
			case c.stream.Overlooked(o):
				d.overlooked++
				c.stream.Changed(o)
			case c.stream.Holds(o):
				c.stream.Changed(o)
			}
		},
		Send: func(m *wire.StreamMessage) {
			d.packed = true
			c.payload.Message(m)
		},
	})
	c.beginComparisons()
}

// beginComparisons adopts a change of the peers.
func (c *cluster) beginComparisons() {
	d := &c.digests
	switch {
	case !c.compares():
		d.held = [2]*digest.Ledger{}
		for _, m := range c.members {
			if m != nil {
				m.comparison = comparison{}
			}
		}
	case d.held[proto.Flows] == nil:
		d.held[proto.Flows] = digest.NewFlowLedger(digest.Key{}, c.external.Flows)
		d.held[proto.Expects] = digest.NewExpectLedger(digest.Key{}, c.external.Expects)
	}
}

// compares reports whether this node compares the digests of its peers.
func (c *cluster) compares() bool { return len(c.config.Peers) == 1 }

// sent notes in the ledger that a message with an object's present contents, which were loaded
// into flow or expect, was encoded.
func (c *cluster) sent(o proto.Object) {
	l, h := c.digests.announced[o.Table], cache.Handle(o.Handle)
	if o.Table == proto.Expects {
		l.SentExpect(h, &c.expect)
	} else {
		l.SentFlow(h, &c.flow)
	}
}

// ended notes in the ledger that the peers hold an object no longer, or will not when the message
// about the object that has its identity has arrived.
func (c *cluster) ended(o proto.Object, living cache.Handle) {
	c.digests.announced[o.Table].Ended(cache.Handle(o.Handle), living)
}

// refreshFrom is how many entries of the external cache may wait to be hashed until the next
// comparison, which then takes about a millisecond longer.
const refreshFrom = 4096

// digestsDue returns when tickDigests has something to do.
func (c *cluster) digestsDue() time.Duration {
	if !c.speaks() {
		return proto.None
	}
	due := c.digests.answers.Deadline()
	for table, l := range c.digests.held {
		if l == nil {
			return due
		}
		if l.Dirty() > refreshFrom {
			return c.sched.Now()
		}
		if comparer := c.peer().comparers[table]; comparer != nil {
			due = min(due, comparer.Deadline())
		}
	}
	return due
}

// peer returns the only peer.
func (c *cluster) peer() *member { return c.members[c.config.Peers[0].Number] }

func (c *cluster) tickDigests(now time.Duration) {
	if !c.speaks() {
		return
	}
	for table, l := range c.digests.held {
		if l == nil {
			return
		}
		if l.Dirty() > refreshFrom {
			l.Refresh(sliceLen)
		}
		if comparer := c.peer().comparers[table]; comparer != nil && comparer.Deadline() <= now {
			c.act(c.peer(), table, comparer.Tick(now))
		}
	}
}

// packDigests adds the digests to the payload if they are due: behind everything that they cover.
func (c *cluster) packDigests(now time.Duration) {
	d := &c.digests
	d.answers.Tick(now)
	if d.overlooked > 0 {
		c.log.Warn(fmt.Sprintf("found in the internal cache without having been announced, and announced now: %d", d.overlooked))
		d.overlooked = 0
	}
}

// unannounced notes that an object of the internal cache was stored and is not announced.
func (c *cluster) unannounced(o proto.Object) {
	if c.speaks() {
		c.stream.Unannounced(o)
	}
}

// takeState adopts the stream of a peer, and the key of its digests.
func (c *cluster) takeState(m *member, msg *wire.StreamMessage) {
	if m.stream == msg.Stream || !c.compares() {
		return
	}
	m.stream = msg.Stream
	for table, l := range c.digests.held {
		l.Rekey(msg.Key)
		if comparer := m.comparers[table]; comparer != nil {
			comparer.Restart(msg.Stream)
		} else {
			m.comparers[table] = digest.NewComparer(m.number, msg.Stream, uint8(table), l)
		}
	}
}

// takeDigest takes a message about digests: a peer's question about those of this node, or its
// own digests and answers.
func (c *cluster) takeDigest(m *member, msg *wire.StreamMessage) {
	now := c.sched.Now()
	if msg.Type == wire.Compare || msg.Type == wire.Want {
		c.digests.answers.Take(now, msg)
		return
	}
	comparer := m.comparers[msg.Table]
	if comparer == nil {
		return
	}
	a, copied := &c.agreement, c.stream.Receipt(m.number, now).Copy
	c.act(m, int(msg.Table), comparer.Take(now, msg, digest.Situation{
		Whole:   c.stream.Whole(m.number) && c.stream.Complete(m.number) && !a.flushed && !a.busy,
		Asked:   copied == proto.CopyRequested || copied == proto.CopyGranted,
		Full:    c.external.Flows.Full() || c.external.Expects.Full(),
		Refused: c.refused(),
	}))
}

// act carries out what the comparison of a table with a peer has led to.
func (c *cluster) act(m *member, table int, a digest.Action) {
	for i := range a.Send {
		c.digests.packed = true
		c.payload.Message(&a.Send[i])
	}
	for _, h := range a.Remove {
		if proto.Table(table) == proto.Expects {
			c.external.Expects.Delete(h)
		} else if c.external.Flows.Load(h, &c.flow) {
			c.endExternal(h, &c.flow)
		}
	}
	what := [...]string{proto.Flows: "flows", proto.Expects: "expectations"}[table]
	if a.Found {
		c.log.Warn(fmt.Sprintf("the %s of %s differ from the copy here: what differs is fetched", what, m.name))
	}
	if a.Unrepaired {
		c.log.Warn(fmt.Sprintf("the %s of %s differ from the copy here: entries could not be stored", what, m.name))
	}
	if a.Repaired {
		c.log.Notice(fmt.Sprintf("the copy of the %s of %s is equal again", what, m.name))
	}
	if a.Ask {
		c.log.Notice("resync requested")
		c.stream.RequestResync(c.sched.Now())
	}
	if a.Equal && m.proven() {
		c.copyLost = false
		c.stream.Proven(m.number)
	}
}

// proven reports whether both tables were equal when they were last compared.
func (m *member) proven() bool {
	for _, comparer := range m.comparers {
		if comparer == nil {
			return false
		}
		if s := comparer.Stats(); !s.Proven || s.Differing {
			return false
		}
	}
	return true
}
