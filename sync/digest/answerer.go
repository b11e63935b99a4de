package digest

import (
	"slices"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/wire"
)

// The rates of an Answerer.
const (
	// digestInterval is the time between two digests, digestLeast the least, if a peer
	// asks for one.
	digestInterval = time.Second
	digestLeast    = 100 * time.Millisecond
	// answerRate is the bytes of answers in a second, and how many may come at once.
	answerRate = 256 << 10
	// sentSlice is how many dirty slots are looked at in one piece where there are more than
	// mostDirty, and sliceInterval the time between two such slices.
	sentSlice     = 4096
	sliceInterval = 10 * time.Millisecond
)

// Sender is what an Answerer needs of the owner.
type Sender struct {
	// Queued reports whether an object waits for transmission, or is not to be announced.
	Queued func(table uint8, h cache.Handle) bool
	// Announce has an object announced, for the first time or again.
	Announce func(table uint8, h cache.Handle)
	// Send adds a message to the stream, behind all that was encoded. The message is
	// valid during the call.
	Send func(m *wire.StreamMessage)
}

// Answerer is the sender's part of the comparison: it sends digests and answers what the peers
// ask about them. It keeps nothing of a peer. It has no clock and is not safe for concurrent
// use.
type Answerer struct {
	node    uint8
	stream  uint32
	ledgers []*Ledger // by their numbers on the wire
	sender  Sender

	due, last time.Duration // of the digests
	tokens    int           // bytes of answers
	filled    time.Duration // when tokens was last filled up

	message wire.StreamMessage
	hashes  []uint64
	refused uint64
}

// NewAnswerer returns an Answerer for this node's stream, whose ledgers are those of flows and
// expectations. The first digests are due at once.
func NewAnswerer(now time.Duration, node uint8, stream uint64, flows, expects *Ledger, s Sender) *Answerer {
	return &Answerer{node: node, stream: uint32(stream), ledgers: []*Ledger{flows, expects}, sender: s,
		due: now, last: now - digestLeast, tokens: answerRate, filled: now}
}

// Deadline returns when to call Tick.
func (a *Answerer) Deadline() time.Duration { return a.due }

// Refused returns how many answers were not sent because of the limit of their rate. The peers
// ask again.
func (a *Answerer) Refused() uint64 { return a.refused }

// Tick sends the digests, if they are due. With so many dirty slots that it takes several calls to
// settle them, the digests wait until then.
func (a *Answerer) Tick(now time.Duration) {
	if now < a.due {
		return
	}
	a.due, a.last = now+digestInterval, now
	settled := true
	for table, l := range a.ledgers {
		settled = l.SettleSent(
			func(h cache.Handle) bool { return a.sender.Queued(uint8(table), h) },
			func(h cache.Handle) { a.sender.Announce(uint8(table), h) }) && settled
	}
	if !settled {
		a.due = now + sliceInterval
		return
	}
	for table, l := range a.ledgers {
		a.message = wire.StreamMessage{Type: wire.Digest, Table: uint8(table), Entries: uint32(l.table.count), Root: l.table.root}
		a.sender.Send(&a.message)
	}
}

// Take answers a COMPARE or WANT; others, and those for another node or stream, are ignored.
func (a *Answerer) Take(now time.Duration, m *wire.StreamMessage) {
	if m.Type != wire.Compare && m.Type != wire.Want || m.Node != a.node || uint32(m.Stream) != a.stream || int(m.Table) >= len(a.ledgers) {
		return
	}
	if more := int(min(now-a.filled, time.Second) * answerRate / time.Second); more > 0 {
		a.tokens, a.filled = min(answerRate, a.tokens+more), now
	}
	l := a.ledgers[m.Table]
	switch {
	case m.Type == wire.Want:
		for _, hash := range m.Sums {
			if slot, ok := l.table.Find(hash); ok {
				if h := l.cache.At(slot); h != 0 {
					a.sender.Announce(m.Table, h)
				}
			}
		}
	case m.Level == wire.LevelDigest:
		a.due = min(a.due, max(now, a.last+digestLeast))
	case m.Level == wire.LevelGroups:
		a.sums(m.Table, wire.LevelGroups, 0, l.table.Groups())
	case m.Level == wire.LevelBuckets:
		for _, index := range m.Indexes {
			if int(index) >= quarters || !a.sums(m.Table, wire.LevelBuckets, index, l.table.buckets[int(index)*quarterLen:][:quarterLen]) {
				return
			}
		}
	case m.Level == wire.LevelEntries:
		for _, index := range m.Indexes {
			if index >= Buckets || !a.entries(m.Table, index) {
				return
			}
		}
	}
}

// send sends an answer, if the rate allows it.
func (a *Answerer) send() bool {
	n := int(messageLen(&a.message))
	if n > a.tokens {
		a.refused++
		return false
	}
	a.tokens -= n
	a.sender.Send(&a.message)
	return true
}

func (a *Answerer) sums(table, level uint8, index uint16, sums Sums) bool {
	a.message = wire.StreamMessage{Type: wire.Sums, Table: table, Level: level, Index: index, Sums: sums}
	return a.send()
}

// entries sends all entries of a bucket, in ranges that together are the whole bucket.
func (a *Answerer) entries(table uint8, index uint16) bool {
	a.hashes = a.hashes[:0]
	a.ledgers[table].table.Entries(int(index), func(_ uint32, hash uint64) { a.hashes = append(a.hashes, hash) })
	slices.Sort(a.hashes)
	low, last := uint64(index)<<bucketShift, uint64(index)<<bucketShift|(1<<bucketShift-1)
	for rest := a.hashes; ; {
		part := rest[:min(hashesLen, len(rest))]
		rest = rest[len(part):]
		high := last
		if len(rest) > 0 {
			high = part[len(part)-1]
		}
		a.message = wire.StreamMessage{Type: wire.Entries, Table: table, Index: index, Low: low, High: high, Sums: part}
		if !a.send() {
			return false
		}
		if low = high + 1; len(rest) == 0 {
			return true
		}
	}
}
