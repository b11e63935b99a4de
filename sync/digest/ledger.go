package digest

import (
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
)

// Ledger is the digest of one cache table: on the sender of what the node has announced and not
// withdrawn, on the receiver of what the cache holds. Slots are those of the cache.
//
// The sender records each message when it is encoded (SentFlow, SentExpect, Ended) and calls
// SettleSent before it says anything about the digest. The receiver calls Stored for what a
// message has stored, Refresh in slices, and Settle before a comparison. Both find in this way what changed a cache
// without a message. A Ledger is the only user of its cache's marks. It is not safe for
// concurrent use.
type Ledger struct {
	table  Table
	hasher *Hasher
	cache  tracked
	// hash returns the hash of what the cache holds, other the living object that has the
	// identity of a dead one, or 0.
	hash   func(cache.Handle) (hash uint64, ok bool)
	other  func(cache.Handle) cache.Handle
	flows  *cache.Flows // the cache, if it is of flows
	cursor uint32
}

// tracked is what Ledger needs of either cache table.
type tracked interface {
	Track()
	Soil()
	Dirty(from uint32) uint32
	DirtyLen() int
	Clean(slot uint32)
	At(slot uint32) cache.Handle
	State(cache.Handle) (cache.State, bool)
}

// NewFlowLedger returns the Ledger of a table of flows, which it tracks from now on. What the
// table holds is dirty.
func NewFlowLedger(key Key, t *cache.Flows) *Ledger {
	l, f := newLedger(key, t), new(ctnetlink.Flow)
	l.flows = t
	l.hash = func(h cache.Handle) (uint64, bool) {
		if !t.Load(h, f) {
			return 0, false
		}
		return l.flow(h, f)
	}
	l.other = func(h cache.Handle) cache.Handle {
		if !t.Load(h, f) {
			return 0
		}
		return t.Find(f)
	}
	return l
}

// NewExpectLedger is NewFlowLedger for a table of expectations.
func NewExpectLedger(key Key, t *cache.Expects) *Ledger {
	l, x := newLedger(key, t), new(ctnetlink.Expect)
	l.hash = func(h cache.Handle) (uint64, bool) {
		if !t.Load(h, x) {
			return 0, false
		}
		return l.hasher.Expect(x)
	}
	l.other = func(h cache.Handle) cache.Handle {
		if !t.Load(h, x) {
			return 0
		}
		return t.Find(x)
	}
	return l
}

func newLedger(key Key, t tracked) *Ledger {
	t.Track()
	t.Soil()
	return &Ledger{hasher: NewHasher(key), cache: t}
}

// Rekey empties the digest and makes it one under another key. What the cache holds is dirty.
func (l *Ledger) Rekey(key Key) {
	l.hasher.key = key
	l.table.Clear()
	l.cache.Soil()
}

// Table returns the digest, to be read.
func (l *Ledger) Table() *Table { return &l.table }

// Dirty returns how many slots wait for Refresh or Settle.
func (l *Ledger) Dirty() int { return l.cache.DirtyLen() }

// Handle returns the handle of the object in a slot, or 0.
func (l *Ledger) Handle(slot uint32) cache.Handle { return l.cache.At(slot) }

// Bytes returns the memory of the digest, without the cache's marks.
func (l *Ledger) Bytes() int { return l.table.Bytes() }

// next returns the next dirty slot, cyclically, or 0 if there is none.
func (l *Ledger) next() uint32 {
	slot := l.cache.Dirty(l.cursor)
	if slot == 0 && l.cursor > 0 {
		slot = l.cache.Dirty(0)
	}
	l.cursor = slot + 1
	return slot
}

// Refresh hashes at most budget dirty slots as the cache has them now, and reports whether
// others are dirty. It is for the receiver.
func (l *Ledger) Refresh(budget int) (more bool) {
	for ; budget > 0; budget-- {
		slot := l.next()
		if slot == 0 {
			return false
		}
		l.cache.Clean(slot)
		l.rehash(slot)
	}
	return l.Dirty() > 0
}

// Stored is Refresh of the slot of h, which a message has just stored. It costs less than Refresh
// would later, because the object's memory is in the processor's caches.
func (l *Ledger) Stored(h cache.Handle) {
	l.cache.Clean(uint32(h))
	l.rehash(uint32(h))
}

// Settle is Refresh without a limit.
func (l *Ledger) Settle() { l.Refresh(l.Dirty()) }

// rehash makes the digest have what the cache has in a slot.
func (l *Ledger) rehash(slot uint32) {
	h := l.cache.At(slot)
	if state, ok := l.cache.State(h); ok && state != cache.Dead {
		if hash, ok := l.hash(h); ok {
			l.table.Set(slot, hash)
			return
		}
	}
	l.table.Remove(slot)
}

// flow returns the hash of f, the contents of h, with the cache's epoch.
func (l *Ledger) flow(h cache.Handle, f *ctnetlink.Flow) (hash uint64, ok bool) {
	return l.hasher.Flow(f, l.flows.Epoch(h)&^cache.EpochMark)
}

// SentFlow records that a message with f, the present contents of h, and the cache's epoch of h was
// encoded.
func (l *Ledger) SentFlow(h cache.Handle, f *ctnetlink.Flow) {
	hash, ok := l.flow(h, f)
	l.sent(h, hash, ok)
}

// SentExpect is SentFlow for an expectation.
func (l *Ledger) SentExpect(h cache.Handle, x *ctnetlink.Expect) {
	hash, ok := l.hasher.Expect(x)
	l.sent(h, hash, ok)
}

func (l *Ledger) sent(h cache.Handle, hash uint64, ok bool) {
	slot := uint32(h)
	l.cache.Clean(slot)
	if !ok {
		l.table.Remove(slot)
		return
	}
	l.table.Set(slot, hash)
}

// Ended records that the end or withdrawal of h was encoded. living is the object that has the
// identity of h by now, or 0: the message removes it from the receiver, and the owner announces
// it again.
func (l *Ledger) Ended(h, living cache.Handle) {
	l.cache.Clean(uint32(h))
	l.table.Remove(uint32(h))
	if living != 0 {
		l.table.Remove(uint32(living))
	}
}

// Holds reports whether the digest has an entry for the slot of h.
func (l *Ledger) Holds(h cache.Handle) bool { return l.table.Get(uint32(h)) != 0 }

// SettleSent makes the sender's digest say what the cache has, but for objects that wait for
// transmission, of which queued knows: those count as they were last sent. It finds what
// changed without an event: an object that is gone or has ended leaves the digest, a changed
// one has its new hash, and found gets each one that was never announced.
//
// One call looks at no more than mostDirty slots. With more dirty ones than that it looks at
// sentSlice of them and returns false: the digest is then not known to be exact, and the next call
// goes on.
func (l *Ledger) SettleSent(queued func(cache.Handle) bool, found func(cache.Handle)) (settled bool) {
	if l.Dirty() > mostDirty {
		for range sentSlice {
			slot := l.next()
			if slot == 0 {
				break
			}
			l.settleSent(slot, queued, found)
		}
		return false
	}
	for slot := l.cache.Dirty(0); slot != 0; slot = l.cache.Dirty(slot + 1) {
		l.settleSent(slot, queued, found)
	}
	return true
}

// settleSent is SettleSent for one slot.
func (l *Ledger) settleSent(slot uint32, queued func(cache.Handle) bool, found func(cache.Handle)) {
	h := l.cache.At(slot)
	state, there := l.cache.State(h)
	switch holds := l.table.Get(slot) != 0; {
	case holds && there && queued(h):
		// It stays dirty until it is sent. A receiver has one entry for an
		// identity: where the successor was announced before this end, that is
		// the successor's.
		if state == cache.Dead {
			if other := l.other(h); other != 0 && l.Holds(other) {
				l.table.Remove(slot)
			}
		}
		return
	case holds:
		l.rehash(slot)
	case there && state != cache.Dead && !queued(h):
		found(h)
	}
	l.cache.Clean(slot)
}
