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
// keeps (cluster_send.go); what it holds of a peer is in the ledgers of that peer's copy, which
// follow the copy's changes. The peer's digests ride in its stream, so that both are compared as of
// the same message.

// digests are the ledgers of what this node announces.
type digests struct {
	announced [2]*digest.Ledger // by proto.Table
	answers   *digest.Answerer
	packed    bool // a digest or an answer is in the payload that has begun
	// overlooked is how many entries of the internal cache were found that nothing had reported.
	overlooked int
}

// comparison is what a node knows of the equality with one peer.
type comparison struct {
	stream    uint64              // of the peer; 0 before its first STATE
	held      [2]*digest.Ledger   // of the peer's copy, by proto.Table; nil before this node's stream begins
	comparers [2]*digest.Comparer // by proto.Table; nil before the peer's first STATE
	applied   [2]uint64           // changes by the peer since the table was last equal, by proto.Table
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
			case c.stream.Overlooked(o) && c.mayAnnounce(o):
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

// beginComparisons makes the ledgers of the copies that have none.
func (c *cluster) beginComparisons() {
	for _, m := range c.members {
		if m != nil && m.held[proto.Flows] == nil {
			m.held[proto.Flows] = digest.NewFlowLedger(digest.Key{}, m.copy.Flows)
			m.held[proto.Expects] = digest.NewExpectLedger(digest.Key{}, m.copy.Expects)
		}
	}
}

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
	for _, m := range c.members {
		if m == nil {
			continue
		}
		for table, l := range m.held {
			if l.Dirty() > refreshFrom {
				return c.sched.Now()
			}
			if comparer := m.comparers[table]; comparer != nil {
				due = min(due, comparer.Deadline())
			}
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
	for _, m := range c.members {
		if m == nil {
			continue
		}
		for table, l := range m.held {
			if l.Dirty() > refreshFrom {
				l.Refresh(sliceLen)
			}
			if comparer := m.comparers[table]; comparer != nil && comparer.Deadline() <= now {
				c.act(m, table, comparer.Tick(now))
			}
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
	if m.stream == msg.Stream {
		return
	}
	m.stream = msg.Stream
	for table, l := range m.held {
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
	p, copied := m.copy, c.stream.Receipt(m.number, now).Copy
	c.act(m, int(msg.Table), comparer.Take(now, msg, digest.Situation{
		Whole:   c.stream.Whole(m.number) && c.stream.Complete(m.number) && !p.flushed && !p.busy,
		Asked:   copied == proto.CopyRequested || copied == proto.CopyGranted,
		Full:    p.full(),
		Refused: c.refusedOf(p),
	}))
}

// act carries out what the comparison of a table with a peer has led to.
func (c *cluster) act(m *member, table int, a digest.Action) {
	p := m.copy
	for i := range a.Send {
		c.digests.packed = true
		c.payload.Message(&a.Send[i])
	}
	for _, h := range a.Remove {
		if proto.Table(table) == proto.Expects {
			p.Expects.Delete(h)
		} else if p.Flows.Load(h, &c.flow) {
			c.leaveExternal(p, h, &c.flow)
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
		c.stream.RequestResyncOf(c.sched.Now(), m.number)
	}
	if a.Equal {
		m.applied[table] = 0
	}
	if a.Equal && m.proven() {
		p.lost = false
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
