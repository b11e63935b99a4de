package digest

import (
	"slices"
	"sort"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/wire"
)

// Situation is what the receiver knows of a peer's stream and of its own cache when a message
// arrives.
type Situation struct {
	// Whole: everything that the peer announced before the message has been applied, and
	// it has announced everything that it has (proto.Stream's Whole and Complete). Only
	// then do the two digests have to be equal.
	Whole bool
	// Asked: a bulk is expected or under way, because the stream is new to this node,
	// messages are lost for good, or the cache was flushed here. Equal tables are equal
	// then too, and a difference means nothing.
	Asked bool
	// Full: the cache is at its limit.
	Full bool
	// Refused counts the peer's entries that could not be stored. A difference that it
	// may explain is not repaired.
	Refused uint64
}

// Action is what the owner of a Comparer does. Its slices are valid until the next call.
type Action struct {
	Send   []wire.StreamMessage // to the peer, in order
	Ask    bool                 // the peer is to announce everything: too much differs
	Remove []cache.Handle       // to remove from the cache: the peer does not have them

	Equal      bool // the tables are equal now
	Found      bool // the first sign of a difference
	Unrepaired bool // the difference stays, because entries could not be stored; set once
	Repaired   bool // the difference that was found is no more
}

// CompareStats are what a Comparer has seen and done since it was made.
type CompareStats struct {
	LastEqual   time.Duration // when the tables were last equal, if Proven
	Proven      bool          // the tables have been equal
	Differing   bool          // they differed when they were last compared
	Unrepaired  bool          // ... and are not repaired, because entries could not be stored
	Differences uint64        // times that tables that were equal, or not compared yet, differed
	Wanted      uint64        // entries that the peer was asked to announce again
	Removed     uint64        // entries that the peer did not have
	Asks        uint64        // times that everything was asked for
	Skipped     uint64        // digests and answers that could not be compared
	RepairBytes uint64        // of the messages that find the differences, sent and received
}

// Sizes and times of the repair.
const (
	// quarterLen is the number of sums in a message, and quarters how many messages have
	// the sums of all buckets. An index of level 2 is that of a quarter of a group.
	quarterLen = wire.SumsLen
	quarters   = Buckets / quarterLen
	// hashesLen is the most hashes in a message: such a message is not longer than SUMS.
	hashesLen = wire.SumsLen
	// mostBuckets is the most buckets whose entries are compared, and mostEntries the
	// most entries that are repaired one by one. More are repaired by a bulk.
	mostBuckets = 2048
	mostEntries = 8192
	// chunkLen is how many buckets' entries are asked for at a time.
	chunkLen = 64
	// mostDirty bounds the time of one comparison: with more dirty slots than this it is
	// skipped, and Refresh has to come first.
	mostDirty = 1 << 16

	// retryTime is how long an answer may take, and mostRetries how often what is missing
	// is asked for again without any progress.
	retryTime   = 300 * time.Millisecond
	mostRetries = 8
	// soon is when a digest is asked for after a repair or a skipped digest. It doubles with
	// each digest that is skipped in a row, up to the time of the next one.
	soon = 100 * time.Millisecond
	// After quickRounds rounds that did not make the tables equal the pause before the
	// next one doubles from pauseLeast up to pauseMost.
	quickRounds = 4
	pauseLeast  = time.Second
	pauseMost   = 64 * time.Second
	// bulkTime is the least time from asking for everything until the next round.
	bulkTime = 10 * time.Second
	// refusedTime is how long a refused entry keeps differences from being repaired.
	refusedTime = time.Minute
)

// None is the Deadline of what has no timer.
const None = time.Duration(1<<63 - 1)

// stage is what a round of the repair waits for.
type stage uint8

const (
	idle    stage = iota // for a digest
	groups               // the sums of the groups
	buckets              // the sums of the buckets of groups that differ
	entries              // the entries of buckets that differ
)

// Comparer is the receiver's repair machine for one peer and one table. It compares the peer's
// digests with the ledger of what this node holds from the peer. If these differ it finds the
// entries in rounds: in each round it has the peer announce what is missing here, and where
// nothing is missing it removes what only this node has. An altered entry is of both kinds, so
// that its announcement repairs it.
//
// A message must be passed to Take in the order of the stream, so that a comparison is exact.
// Memory and work are bounded. A Comparer has no clock and is not safe for concurrent use.
type Comparer struct {
	node   uint8
	stream uint32
	table  uint8
	ledger *Ledger
	stats  CompareStats

	stage   stage
	retryAt time.Duration
	retries int
	round   int           // rounds of this difference
	pause   time.Duration // no round before this time
	digest  time.Duration // when to ask for a digest; None: not
	skips   int           // digests that were skipped one after the other

	quarters  [quarters]bool // awaited
	awaited   int            // quarters or buckets of the chunk
	differing []uint16       // buckets; those before chunk have been compared
	chunk     []bucket
	wanted    []uint64
	extra     []slotHash

	refused      uint64
	refusedUntil time.Duration

	own  []slotHash // scratch
	send []wire.StreamMessage
	// indexes, hashes and remove back what an Action has.
	indexes []uint16
	hashes  []uint64
	remove  []cache.Handle
}

// bucket is one whose entries are awaited from a hash on.
type bucket struct {
	index uint16
	next  uint64
	done  bool
}

type slotHash struct {
	hash uint64
	slot uint32
}

// NewComparer returns a Comparer of what the ledger has with the stream of a node; table is its
// number on the wire.
func NewComparer(node uint8, stream uint64, table uint8, l *Ledger) *Comparer {
	c := &Comparer{node: node, table: table, ledger: l}
	c.Restart(stream)
	return c
}

// Restart makes the Comparer one for a new stream of the node. The counters stay.
func (c *Comparer) Restart(stream uint64) {
	c.stream = uint32(stream)
	c.stats.Proven, c.stats.Differing, c.stats.Unrepaired = false, false, false
	c.stage, c.round, c.pause, c.digest, c.skips = idle, 0, 0, None, 0
	c.refusedUntil = 0
}

// Stats returns the counters.
func (c *Comparer) Stats() CompareStats { return c.stats }

// Deadline returns when to call Tick, if no other call changes it.
func (c *Comparer) Deadline() time.Duration {
	if c.stage != idle {
		return min(c.retryAt, c.digest)
	}
	return c.digest
}

// Tick does what is due. It may be called at any time.
func (c *Comparer) Tick(now time.Duration) (a Action) {
	c.send = c.send[:0]
	if c.digest <= now {
		c.digest = None
		c.compare(wire.LevelDigest, nil)
	}
	if c.stage != idle && c.retryAt <= now {
		if c.retries++; c.retries > mostRetries {
			c.endRound(now)
		} else {
			c.request()
			c.retryAt = now + retryTime
		}
	}
	a.Send = c.send
	return a
}

// Take takes a DIGEST, SUMS or ENTRIES of the peer; others and those of another table are
// ignored. The owner calls it for each in the order of the stream, and then does what the
// Action says.
func (c *Comparer) Take(now time.Duration, m *wire.StreamMessage, s Situation) (a Action) {
	c.send = c.send[:0]
	if m.Table != c.table || m.Type != wire.Digest && !c.awaits(m) {
		return a
	}
	if m.Type != wire.Digest {
		c.stats.RepairBytes += messageLen(m)
	}
	if !s.Whole || c.ledger.Dirty() > mostDirty {
		c.stats.Skipped++
		if m.Type == wire.Digest {
			c.skips++
			if pause := soon << min(c.skips-1, 10); pause < digestInterval {
				c.digest = now + pause
			}
		}
		return a
	}
	c.skips = 0
	c.ledger.Settle()
	switch m.Type {
	case wire.Digest:
		c.takeDigest(now, m, s, &a)
	case wire.Sums:
		if m.Level == wire.LevelGroups {
			c.takeGroups(now, m)
		} else {
			c.takeBuckets(now, m, &a)
		}
	case wire.Entries:
		c.takeEntries(now, m, &a)
	}
	a.Send = c.send
	return a
}

// awaits reports whether m answers what was asked.
func (c *Comparer) awaits(m *wire.StreamMessage) bool {
	switch m.Type {
	case wire.Sums:
		if len(m.Sums) != quarterLen {
			return false
		}
		return c.stage == groups && m.Level == wire.LevelGroups ||
			c.stage == buckets && m.Level == wire.LevelBuckets && int(m.Index) < quarters && c.quarters[m.Index]
	case wire.Entries:
		return c.stage == entries && c.bucket(m.Index) != nil
	}
	return false
}

// bucket returns the state of a bucket whose entries are awaited, or nil.
func (c *Comparer) bucket(index uint16) *bucket {
	for i := range c.chunk {
		if b := &c.chunk[i]; b.index == index && !b.done {
			return b
		}
	}
	return nil
}

func (c *Comparer) takeDigest(now time.Duration, m *wire.StreamMessage, s Situation, a *Action) {
	if s.Refused != c.refused {
		c.refused, c.refusedUntil = s.Refused, now+refusedTime
	}
	c.digest = None
	if t := &c.ledger.table; m.Root == t.root && int(m.Entries) == t.count {
		a.Equal, a.Repaired = true, c.stats.Differing
		c.stats.LastEqual, c.stats.Proven, c.stats.Differing, c.stats.Unrepaired = now, true, false, false
		c.stage, c.round, c.pause = idle, 0, 0
		return
	}
	if s.Asked {
		c.stats.Skipped++
		return
	}
	if !c.stats.Differing {
		c.stats.Differing = true
		c.stats.Differences++
		a.Found = true
	}
	if s.Full || now < c.refusedUntil {
		a.Unrepaired = !c.stats.Unrepaired
		c.stats.Unrepaired = true
		c.stage = idle
		return
	}
	c.stats.Unrepaired = false
	if c.stage != idle || now < c.pause {
		return
	}
	c.differing, c.wanted, c.extra = c.differing[:0], c.wanted[:0], c.extra[:0]
	c.await(now, groups)
}

// await begins to wait for the answers of a stage and asks for them.
func (c *Comparer) await(now time.Duration, s stage) {
	c.stage = s
	c.progress(now)
	c.request()
}

func (c *Comparer) progress(now time.Duration) { c.retries, c.retryAt = 0, now+retryTime }

// request asks for what is awaited.
func (c *Comparer) request() {
	c.indexes = c.indexes[:0]
	switch c.stage {
	case groups:
		c.compare(wire.LevelGroups, nil)
	case buckets:
		for i, awaited := range c.quarters {
			if awaited {
				c.indexes = append(c.indexes, uint16(i))
			}
		}
		c.compare(wire.LevelBuckets, c.indexes)
	case entries:
		for _, b := range c.chunk {
			if !b.done {
				c.indexes = append(c.indexes, b.index)
			}
		}
		c.compare(wire.LevelEntries, c.indexes)
	}
}

func (c *Comparer) compare(level uint8, indexes []uint16) {
	c.emit(wire.StreamMessage{Type: wire.Compare, Node: c.node, Stream: uint64(c.stream), Table: c.table, Level: level, Indexes: indexes})
}

func (c *Comparer) emit(m wire.StreamMessage) {
	c.stats.RepairBytes += messageLen(&m)
	c.send = append(c.send, m)
}

func (c *Comparer) takeGroups(now time.Duration, m *wire.StreamMessage) {
	c.quarters, c.awaited = [quarters]bool{}, 0
	c.ledger.table.Groups().Differing(m.Sums, func(group int) {
		const each = GroupLen / quarterLen
		for q := range each {
			c.quarters[group*each+q] = true
		}
		c.awaited += each
	})
	if c.awaited == 0 {
		c.endRound(now)
		return
	}
	c.await(now, buckets)
}

func (c *Comparer) takeBuckets(now time.Duration, m *wire.StreamMessage, a *Action) {
	c.quarters[m.Index] = false
	c.awaited--
	c.progress(now)
	first := int(m.Index) * quarterLen
	Sums(c.ledger.table.buckets[first:first+quarterLen]).Differing(m.Sums, func(i int) {
		c.differing = append(c.differing, uint16(first+i))
	})
	if c.awaited > 0 {
		return
	}
	if len(c.differing) > mostBuckets {
		c.ask(now, a)
		return
	}
	c.nextChunk(now, 0, a)
}

// nextChunk asks for the entries of the buckets from an index of c.differing on, or ends the
// round.
func (c *Comparer) nextChunk(now time.Duration, from int, a *Action) {
	next := c.differing[from:]
	if len(next) == 0 {
		c.repair(now, a)
		return
	}
	c.differing = next
	c.chunk = c.chunk[:0]
	for _, index := range next[:min(chunkLen, len(next))] {
		c.chunk = append(c.chunk, bucket{index: index, next: uint64(index) << bucketShift})
	}
	c.awaited = len(c.chunk)
	c.await(now, entries)
}

// takeEntries compares the entries of a bucket from b.next to m.High.
func (c *Comparer) takeEntries(now time.Duration, m *wire.StreamMessage, a *Action) {
	b := c.bucket(m.Index)
	last := uint64(b.index)<<bucketShift | (1<<bucketShift - 1)
	if m.Low > b.next || m.High < b.next || m.High > last || !slices.IsSorted(m.Sums) {
		return
	}
	c.own = c.own[:0]
	c.ledger.table.Entries(int(b.index), func(slot uint32, hash uint64) {
		if hash >= b.next && hash <= m.High {
			c.own = append(c.own, slotHash{hash, slot})
		}
	})
	sort.Slice(c.own, func(i, j int) bool { return c.own[i].hash < c.own[j].hash })
	own := c.own
	for _, hash := range m.Sums {
		if hash < b.next || hash > m.High {
			continue
		}
		for len(own) > 0 && own[0].hash < hash {
			c.extra, own = append(c.extra, own[0]), own[1:]
		}
		if len(own) > 0 && own[0].hash == hash {
			own = own[1:]
		} else {
			c.wanted = append(c.wanted, hash)
		}
	}
	c.extra = append(c.extra, own...)
	c.progress(now)
	if len(c.wanted) > mostEntries || len(c.extra) > mostEntries {
		c.ask(now, a)
		return
	}
	if m.High < last {
		b.next = m.High + 1
		return
	}
	b.done = true
	if c.awaited--; c.awaited == 0 {
		c.nextChunk(now, len(c.chunk), a)
	}
}

// repair ends a round that has compared all entries.
func (c *Comparer) repair(now time.Duration, a *Action) {
	c.remove = c.remove[:0]
	c.hashes = append(c.hashes[:0], c.wanted...)
	for part := range slices.Chunk(c.hashes, hashesLen) {
		c.emit(wire.StreamMessage{Type: wire.Want, Node: c.node, Stream: uint64(c.stream), Table: c.table, Sums: part})
	}
	c.stats.Wanted += uint64(len(c.wanted))
	if len(c.wanted) == 0 {
		for _, e := range c.extra {
			if c.ledger.table.Get(e.slot) == e.hash {
				c.remove = append(c.remove, c.ledger.Handle(e.slot))
			}
		}
		c.stats.Removed += uint64(len(c.remove))
	}
	a.Remove = c.remove
	c.endRound(now)
}

// ask ends a round that has found too much.
func (c *Comparer) ask(now time.Duration, a *Action) {
	a.Ask = true
	c.stats.Asks++
	c.endRound(now)
	c.digest, c.pause = None, max(c.pause, now+bulkTime)
}

func (c *Comparer) endRound(now time.Duration) {
	c.stage = idle
	if c.round++; c.round > quickRounds {
		c.pause = now + min(pauseMost, pauseLeast<<min(c.round-quickRounds-1, 10))
		return
	}
	c.digest = now + soon
}

// messageLen returns the length of a message of this package in bytes.
func messageLen(m *wire.StreamMessage) uint64 {
	const long = 254 // a longer body has a length of three bytes
	n := 2 + 8*len(m.Sums) + 2*len(m.Indexes)
	switch m.Type {
	case wire.Digest:
		n += 13
	case wire.Compare:
		n += 7
	case wire.Sums:
		n += 4
	case wire.Entries:
		n += 19
	case wire.Want:
		n += 6
	}
	if n > 2+long {
		n += 2
	}
	return uint64(n)
}
