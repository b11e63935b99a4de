// Package digest proves that two tables of flows are equal, and finds where they are not, for
// version 2 of the sync protocol.
//
// Each flow has a hash (Hasher), and a Table holds the exclusive or of the hashes of what one
// node has announced: for all of it (Root), for 64 groups, and for the 256 buckets of each
// group. Two nodes compare roots; where these differ the groups, then the buckets of groups
// that differ, then the entries of buckets that differ. One flow of a million is found with
// about 4 KB.
package digest

import (
	"ctbox/nl/ctnetlink"
	"ctbox/sync/wire"
)

// Hasher hashes flows under a key. The hash covers what identifies a flow, its translation, the
// status bits that last, mark, labels, helper, master, the protocol's state and the epoch: all that
// two nodes hold alike. It leaves out timeout and counters, and what the kernel changes without an
// event: window scales, sequence adjustment, offloading. A Hasher is not safe for concurrent
// use.
type Hasher struct {
	key Key
	buf []byte
}

// NewHasher returns a Hasher.
func NewHasher(key Key) *Hasher { return &Hasher{key: key, buf: make([]byte, 0, wire.MaxCompactBody)} }

// passing are the status bits that come and go without an event, or on one node alone.
const passing = ctnetlink.StatusDying | ctnetlink.StatusOffload | ctnetlink.StatusHWOffload | ctnetlink.StatusFixedTimeout

// hashed are the attributes that a hash covers, beside the tuples.
const hashed = ctnetlink.HasStatus | ctnetlink.HasMark | ctnetlink.HasZone | ctnetlink.HasTCPState | ctnetlink.HasSCTPState |
	ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply | ctnetlink.HasDCCPState | ctnetlink.HasDCCPRole |
	ctnetlink.HasLabels | ctnetlink.HasHelper

// Flow returns the hash of f with an epoch, at most wire.MaxEpoch; the hash is not 0. ok is false
// for a flow that has no message. The hash is that of the flow's compact message, so that what a
// message does not carry does not count.
func (x *Hasher) Flow(f *ctnetlink.Flow, epoch uint32) (hash uint64, ok bool) {
	has, status := f.Has, f.Status
	f.Has &= hashed
	f.Status &^= passing
	buf, err := wire.Encoder{OmitTimeout: true}.AppendCompactFlow(x.buf[:0], f, false)
	f.Has, f.Status = has, status
	if err != nil {
		return 0, false
	}
	x.buf = wire.AppendCompactEpoch(buf, epoch)
	return max(sipHash(&x.key, x.buf), 1), true
}

// Expect returns the hash of x, which is not 0, as Flow does for a flow. It leaves out the
// timeout.
func (x *Hasher) Expect(e *ctnetlink.Expect) (hash uint64, ok bool) {
	buf, err := wire.Encoder{OmitTimeout: true}.AppendCompactExpect(x.buf[:0], e, false)
	if err != nil {
		return 0, false
	}
	x.buf = buf
	return max(sipHash(&x.key, buf), 1), true
}

// The shape of a Table. An entry's bucket is given by the high bits of its hash.
const (
	Groups      = 64
	GroupLen    = 256 // buckets of a group
	Buckets     = Groups * GroupLen
	bucketShift = 64 - 14
)

// Sums are exclusive ors of hashes.
type Sums []uint64

// Table is the hashes of a set of objects, each known by a small number, its slot. It takes 16
// bytes for each slot up to the largest in use, and 200 KB. A Table is not safe for concurrent
// use.
type Table struct {
	root    uint64
	groups  [Groups]uint64
	buckets [Buckets]uint64
	heads   [Buckets]uint32 // the first entry of each bucket, as slot plus 1
	count   int
	entries [][]entry // in segments, so that growing copies no entry
}

type entry struct {
	hash       uint64 // 0: not in the set
	next, prev uint32 // in the bucket, as slot plus 1; 0 for none
}

const segmentLen = 1 << 10

// at returns the entry of a slot, nil if the table has not grown to it.
func (t *Table) at(slot uint32) *entry {
	if segment := slot / segmentLen; int(segment) < len(t.entries) {
		return &t.entries[segment][slot%segmentLen]
	}
	return nil
}

// Set puts the object of a slot into the set, or changes its hash, which must not be 0.
func (t *Table) Set(slot uint32, hash uint64) {
	for int(slot/segmentLen) >= len(t.entries) {
		t.entries = append(t.entries, make([]entry, segmentLen))
	}
	e := t.at(slot)
	if e.hash == hash {
		return
	}
	if e.hash != 0 && e.hash>>bucketShift == hash>>bucketShift {
		t.add(e.hash^hash, hash)
		e.hash = hash
		return
	}
	t.Remove(slot)
	bucket := hash >> bucketShift
	e.hash, e.prev, e.next = hash, 0, t.heads[bucket]
	if e.next != 0 {
		t.at(e.next - 1).prev = slot + 1
	}
	t.heads[bucket] = slot + 1
	t.count++
	t.add(hash, hash)
}

// add changes the sums of the bucket of a hash.
func (t *Table) add(change, hash uint64) {
	t.root ^= change
	t.buckets[hash>>bucketShift] ^= change
	t.groups[hash>>bucketShift/GroupLen] ^= change
}

// Remove takes the object of a slot out of the set, if it is in it.
func (t *Table) Remove(slot uint32) {
	e := t.at(slot)
	if e == nil || e.hash == 0 {
		return
	}
	if e.prev != 0 {
		t.at(e.prev - 1).next = e.next
	} else {
		t.heads[e.hash>>bucketShift] = e.next
	}
	if e.next != 0 {
		t.at(e.next - 1).prev = e.prev
	}
	t.add(e.hash, e.hash)
	*e = entry{}
	t.count--
}

// Get returns the hash of the object of a slot, 0 if it is not in the set.
func (t *Table) Get(slot uint32) uint64 {
	if e := t.at(slot); e != nil {
		return e.hash
	}
	return 0
}

// Find returns the slot of an object with this hash.
func (t *Table) Find(hash uint64) (slot uint32, ok bool) {
	if hash == 0 {
		return 0, false // the hash of what is not in the set
	}
	for at := t.heads[hash>>bucketShift]; at != 0; {
		e := t.at(at - 1)
		if e.hash == hash {
			return at - 1, true
		}
		at = e.next
	}
	return 0, false
}

// Clear empties the set.
func (t *Table) Clear() { *t = Table{} }

// Len returns the number of objects in the set.
func (t *Table) Len() int { return t.count }

// Root returns the sum of all hashes.
func (t *Table) Root() uint64 { return t.root }

// Groups returns the sums of the groups. The slice is the table's own.
func (t *Table) Groups() Sums { return t.groups[:] }

// Buckets returns the sums of a group's buckets. The slice is the table's own.
func (t *Table) Buckets(group int) Sums { return t.buckets[group*GroupLen : (group+1)*GroupLen] }

// Differing calls each for every index at which the sums differ from those of a peer, which
// must be as many.
func (s Sums) Differing(peer Sums, each func(index int)) {
	for i := range s {
		if s[i] != peer[i] {
			each(i)
		}
	}
}

// Entries calls each for every object of a bucket, in no particular order. each must not change
// the table.
func (t *Table) Entries(bucket int, each func(slot uint32, hash uint64)) {
	for at := t.heads[bucket]; at != 0; {
		e := t.at(at - 1)
		each(at-1, e.hash)
		at = e.next
	}
}

// Bytes returns the memory of the table.
func (t *Table) Bytes() int { return 8*(Buckets+Groups+1) + 4*Buckets + 16*segmentLen*len(t.entries) }
