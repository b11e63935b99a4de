package cache

import "math/bits"

const (
	bucketBits = 11
	bucketMask = 1<<bucketBits - 1

	minBuckets = 1 << 8
	maxHint    = 1 << 20
)

// index is a hash table of slots that grows by linear hashing (W. Litwin, 1980):
// buckets are split one at a time and in order, so that the cost of growing is
// spread evenly over the insertions. The chains run through the heads' next.
type index struct {
	buckets []*[1 << bucketBits]uint32
	n       uint32 // buckets in use
	mask    uint32 // hash bits that name a bucket of the next level
}

func newIndex(hint int) index {
	n := uint32(1) << bits.Len32(uint32(max(min(hint, maxHint), minBuckets))-1)
	x := index{n: n, mask: n - 1}
	for range (n + bucketMask) >> bucketBits {
		x.buckets = append(x.buckets, new([1 << bucketBits]uint32))
	}
	return x
}

// bucket returns where the chain of hash begins.
func (x *index) bucket(hash uint32) *uint32 {
	b := hash & x.mask
	if b >= x.n {
		b &= x.mask >> 1
	}
	return &x.buckets[b>>bucketBits][b&bucketMask]
}

// link adds a slot whose head has its hash set, and splits a bucket if there are more
// live objects than buckets.
func (x *index) link(heads *slab[head], slot uint32, live int) {
	h := heads.at(slot)
	b := x.bucket(h.hash)
	h.next, *b = *b, slot
	if uint32(live) > x.n && x.n < 1<<31 {
		x.split(heads)
	}
}

// unlink removes a slot.
func (x *index) unlink(heads *slab[head], slot uint32) {
	h := heads.at(slot)
	at := x.bucket(h.hash)
	for *at != slot {
		at = &heads.at(*at).next
	}
	*at, h.next = h.next, 0
}

// split divides the next bucket in order between itself and a new last bucket.
func (x *index) split(heads *slab[head]) {
	if x.n > x.mask {
		x.mask = x.mask<<1 | 1
	}
	from, to := x.n&(x.mask>>1), x.n
	if int(to>>bucketBits) == len(x.buckets) {
		x.buckets = append(x.buckets, new([1 << bucketBits]uint32))
	}
	x.n++
	at := &x.buckets[from>>bucketBits][from&bucketMask]
	other := &x.buckets[to>>bucketBits][to&bucketMask]
	for *at != 0 {
		slot := *at
		h := heads.at(slot)
		if h.hash&x.mask == to {
			*at, h.next, *other = h.next, *other, slot
		} else {
			at = &h.next
		}
	}
}
