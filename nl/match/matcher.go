package match

import (
	"math/bits"
	"sort"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Matcher finds which of many predicates a flow meets. It is not changed by its use and
// may be shared between goroutines.
//
// Each predicate is in one of three places, by the first that serves:
//
//   - a hash table for each shape, which is a set of exact fields and masked addresses:
//     most files of predicates have a few shapes, and a flow is looked up once in each;
//   - a prefix table for each of the four addresses, and a tree of ranges for each of the
//     four ports;
//   - the list of what is left, each compared with every flow.
//
// Whatever these find is compared as a whole.
type Matcher struct {
	predicates []Predicate
	shapes     []shape
	prefixes   [ends][2]*prefixTable // by end and family; nil without predicates
	ports      [ends]*portTree
	rest       []int32 // indexes of entries
	entries    []entry
}

// entry is a predicate in one of the places: it is there for one of its alternatives, so
// that a flow that meets several of them finds the predicate once.
type entry struct {
	hash        uint32
	next        int32 // in the chain; -1 at its end
	predicate   int32
	alternative int32
}

const (
	// maxShapes bounds the hash tables, and with them the lookups for each flow, but for
	// shapes without address and port: of those lookupCost predicates are worth a table.
	maxShapes  = 16
	lookupCost = 4
	// fullBucket is how many predicates may share a hash table's key before those that
	// a range of ports sets apart move to a tree.
	fullBucket = 8
)

// New makes the Matcher of predicates, which it keeps; they must not change while it is in
// use.
func New(predicates []Predicate) *Matcher {
	m := &Matcher{predicates: predicates, entries: make([]entry, 0, len(predicates))}
	keys := make([]key, 0, len(predicates))
	for i := range predicates {
		inDirections, inEnds := predicates[i].alternatives()
		for d := range inDirections {
			for e := range inEnds {
				m.entries = append(m.entries, entry{next: -1, predicate: int32(i), alternative: int32(d*ends + e)})
				keys = append(keys, newKey(&predicates[i], d, e))
			}
		}
	}
	m.placeOthers(keys, m.placeShapes(keys))
	return m
}

// Match reports whether f meets any of the predicates. now is the time to which ages are
// counted, in nanoseconds since the epoch.
func (m *Matcher) Match(f *ctnetlink.Flow, now int64) bool {
	return m.find(f, now, nil)
}

// AppendMatches appends the indexes of the predicates that f meets, in no particular order
// and each once, and returns the extended slice.
func (m *Matcher) AppendMatches(dst []int32, f *ctnetlink.Flow, now int64) []int32 {
	m.find(f, now, &dst)
	return dst
}

// find compares f with all predicates that it could meet. Without all it ends with the
// first that it meets.
func (m *Matcher) find(f *ctnetlink.Flow, now int64, all *[]int32) bool {
	found := false
	if len(m.shapes) > 0 {
		w := newFlowWords(f)
		for i := range m.shapes {
			s := &m.shapes[i]
			h := s.hash(&w)
			for at := s.heads[h&s.last]; at >= 0; at = m.entries[at].next {
				if m.entries[at].hash == h && m.meets(at, f, now, all) {
					if found = true; all == nil {
						return true
					}
				}
			}
		}
	}
	for i := range m.prefixes {
		if m.prefixes[i] != [2]*prefixTable{} && m.findPrefix(i, f, now, all) {
			if found = true; all == nil {
				return true
			}
		}
		if m.ports[i] != nil && m.findPort(i, f, now, all) {
			if found = true; all == nil {
				return true
			}
		}
	}
	for _, at := range m.rest {
		if m.meets(at, f, now, all) {
			if found = true; all == nil {
				return true
			}
		}
	}
	return found
}

// meets compares f with an entry's predicate.
func (m *Matcher) meets(at int32, f *ctnetlink.Flow, now int64, all *[]int32) bool {
	e := &m.entries[at]
	if m.predicates[e.predicate].alternative(f, now) != int(e.alternative) {
		return false
	}
	if all != nil {
		*all = append(*all, e.predicate)
	}
	return true
}

// walk compares f with a chain of entries.
func (m *Matcher) walk(at int32, f *ctnetlink.Flow, now int64, all *[]int32) bool {
	found := false
	for ; at >= 0; at = m.entries[at].next {
		if m.meets(at, f, now, all) {
			if found = true; all == nil {
				return true
			}
		}
	}
	return found
}

// keyField is a bit of shape.has: a field with one value.
type keyField uint16

const (
	keyProto keyField = 1 << iota
	keyZone
	keyID
	keyMark                     // in the bits of markMask
	keyPort0                    // of the four ends
	keyAddr0 = keyPort0 << ends // of the four ends, in the bits of masks
)

// key is what of an alternative can be looked up.
type key struct {
	has      keyField
	proto    uint8
	families [ends]uint8
	zone     uint16
	id       uint32
	mark     uint32
	markMask uint32
	addrs    [ends]ctnetlink.Addr
	masks    [ends]ctnetlink.Addr
	ports    [ends]Ports
	hasPort  uint8 // bit by end: ports has a range
}

// newKey is the key of p where direction meets Any and end meets AnyEnd.
func newKey(p *Predicate, direction, atEnd int) key {
	k := key{}
	if p.Has&Proto != 0 {
		k.has, k.proto = k.has|keyProto, p.Proto
	}
	if p.Has&Zone != 0 {
		k.has, k.zone = k.has|keyZone, p.Zone
	}
	if p.Has&ID != 0 {
		k.has, k.id = k.has|keyID, p.ID
	}
	if p.Has&Mark != 0 && p.MarkMask != 0 {
		k.has, k.mark, k.markMask = k.has|keyMark, p.Mark, p.MarkMask
	}
	tuple := func(t *Tuple, direction int) {
		for i, c := range [...]struct {
			addr, port TupleField
			a          *Address
			p          Ports
		}{{Src, SrcPort, &t.Src, t.SrcPort}, {Dst, DstPort, &t.Dst, t.DstPort}} {
			if t.Has&c.addr != 0 {
				k.setAddr(2*direction+i, c.a)
			}
			if t.Has&c.port != 0 {
				k.setPorts(2*direction+i, c.p)
			}
		}
	}
	tuple(&p.Orig, 0)
	tuple(&p.Reply, 1)
	tuple(&p.Any, direction)
	setEnd := func(i int, e *End) {
		if e.HasAddr {
			k.setAddr(i, &e.Addr)
		}
		if e.HasPort {
			k.setPorts(i, e.Ports)
		}
	}
	if p.Has&AnyEnd != 0 {
		setEnd(atEnd, &p.End)
	}
	// A translated source is the reply's destination, and the other way round.
	if p.Has&SrcNAT != 0 {
		setEnd(3, &p.SrcNAT)
	}
	if p.Has&DstNAT != 0 {
		setEnd(2, &p.DstNAT)
	}
	return k
}

// setAddr notes a condition on an end's address; of two the one with the longer mask.
func (k *key) setAddr(i int, a *Address) {
	if a.Mask == (ctnetlink.Addr{}) {
		return
	}
	if bit := keyAddr0 << i; k.has&bit == 0 || maskBits(&a.Mask) > maskBits(&k.masks[i]) {
		k.has |= bit
		k.families[i], k.addrs[i], k.masks[i] = a.Family, a.Addr, a.Mask
		for j := range k.addrs[i] {
			k.addrs[i][j] &= k.masks[i][j]
		}
	}
}

// setPorts notes a condition on an end's port; of two the one with fewer ports.
func (k *key) setPorts(i int, p Ports) {
	bit := uint8(1) << i
	if k.hasPort&bit != 0 && p.Max-p.Min >= k.ports[i].Max-k.ports[i].Min || p.Min > p.Max {
		return
	}
	k.hasPort |= bit
	k.ports[i] = p
	if p.Min == p.Max {
		k.has |= keyPort0 << i
	}
}

func maskBits(a *ctnetlink.Addr) int {
	high, low := words(a)
	return bits.OnesCount64(high) + bits.OnesCount64(low)
}

// shapeOf is what makes two keys belong into the same hash table.
type shapeOf struct {
	has      keyField
	markMask uint32
	masks    [ends]ctnetlink.Addr
}

func (k *key) shape() shapeOf {
	return shapeOf{k.has, k.markMask, k.masks}
}

// shape is the hash table of the keys of one shape.
type shape struct {
	has      keyField
	markMask uint32
	masks    [ends][2]uint64
	last     uint32  // len(heads) - 1; a mask
	heads    []int32 // entries; -1 where there is none
}

// flowWords are a flow's fields as the hash takes them.
type flowWords struct {
	addrs  [ends][2]uint64
	ports  [ends]uint16
	zone   uint16
	proto  uint8
	id     uint32
	marked uint32
}

func newFlowWords(f *ctnetlink.Flow) flowWords {
	w := flowWords{proto: f.Orig.Proto, id: f.ID, marked: f.Mark}
	w.ports = [ends]uint16{f.Orig.SrcPort, f.Orig.DstPort, f.Reply.SrcPort, f.Reply.DstPort}
	w.addrs[0][0], w.addrs[0][1] = words(&f.Orig.Src)
	w.addrs[1][0], w.addrs[1][1] = words(&f.Orig.Dst)
	w.addrs[2][0], w.addrs[2][1] = words(&f.Reply.Src)
	w.addrs[3][0], w.addrs[3][1] = words(&f.Reply.Dst)
	w.zone = uint16(present(f.Has&ctnetlink.HasZone != 0, uint32(f.Zone)))
	return w
}

// hash is that of the fields of w that the shape has.
func (s *shape) hash(w *flowWords) uint32 {
	has := s.has
	// The small fields make one word.
	small := uint64(0)
	if has&keyProto != 0 {
		small = uint64(w.proto)
	}
	if has&keyZone != 0 {
		small |= uint64(w.zone) << 8
	}
	h := mix(small+1, uint64(has))
	if has&(keyID|keyMark) != 0 {
		v := uint64(0)
		if has&keyID != 0 {
			v = uint64(w.id)
		}
		h = mix(h, v<<32|uint64(w.marked&s.markMask))
	}
	if has&(keyPort0<<ends-keyPort0) != 0 {
		v := uint64(0)
		for i, port := range w.ports {
			if has&(keyPort0<<i) != 0 {
				v |= uint64(port) << (16 * i)
			}
		}
		h = mix(h, v)
	}
	for i := range w.addrs {
		if has&(keyAddr0<<i) != 0 {
			h = mix(mix(h, w.addrs[i][0]&s.masks[i][0]), w.addrs[i][1]&s.masks[i][1])
		}
	}
	return uint32(h ^ h>>32)
}

// mix is a step of a hash: a multiplication by whose upper half the word above and all
// bits below are spread.
func mix(h, v uint64) uint64 {
	high, low := bits.Mul64(h^v, 0x9e3779b97f4a7c15)
	return high ^ low
}

// words are the key's fields as a flow's would be.
func (k *key) words() flowWords {
	w := flowWords{proto: k.proto, id: k.id, marked: k.mark, zone: k.zone}
	for i := range ends {
		w.addrs[i][0], w.addrs[i][1] = words(&k.addrs[i])
		w.ports[i] = k.ports[i].Min
	}
	return w
}

// placeShapes puts entries into hash tables, those of the most frequent shapes, and
// returns the indexes of the others.
func (m *Matcher) placeShapes(keys []key) (others []int) {
	count := make(map[shapeOf]int)
	for i := range keys {
		if keys[i].has != 0 {
			count[keys[i].shape()]++
		}
	}
	type counted struct {
		shapeOf
		n int
	}
	var byCount []counted
	for i := range keys {
		s := keys[i].shape()
		if n := count[s]; n > 0 {
			byCount = append(byCount, counted{s, n})
			delete(count, s)
		}
	}
	// Package slices would add a copy of its functions for each type.
	sort.SliceStable(byCount, func(i, j int) bool { return byCount[i].n > byCount[j].n })
	tables, kept := 0, byCount[:0]
	for _, c := range byCount {
		if c.has >= keyPort0 {
			tables++
		}
		if c.has < keyPort0 && c.n >= lookupCost || c.has >= keyPort0 && tables <= maxShapes {
			kept = append(kept, c)
		}
	}
	byCount = kept

	number := make(map[shapeOf]int, len(byCount))
	for i, c := range byCount {
		number[c.shapeOf] = i
		s := shape{has: c.has, markMask: c.markMask, last: 1<<bits.Len(uint(2*c.n)) - 1}
		for j := range s.masks {
			s.masks[j][0], s.masks[j][1] = words(&c.masks[j])
		}
		s.heads = make([]int32, s.last+1)
		for j := range s.heads {
			s.heads[j] = -1
		}
		m.shapes = append(m.shapes, s)
	}
	inBucket := make(map[uint64]int)
	for i := range keys {
		k := &keys[i]
		n, ok := number[k.shape()]
		if !ok {
			others = append(others, i)
			continue
		}
		s := &m.shapes[n]
		w := k.words()
		h := s.hash(&w)
		bucket := uint64(n)<<32 | uint64(h)
		if inBucket[bucket]++; inBucket[bucket] > fullBucket && k.rangeOnly() >= 0 {
			others = append(others, i)
			continue
		}
		e := &m.entries[i]
		e.hash = h
		e.next = s.heads[h&s.last]
		s.heads[h&s.last] = int32(i)
	}
	return others
}

// rangeOnly is the end whose range of ports the hash leaves out, or -1.
func (k *key) rangeOnly() int {
	for i := range ends {
		if k.hasPort&(1<<i) != 0 && k.has&(keyPort0<<i) == 0 {
			return i
		}
	}
	return -1
}

// placeOthers puts entries into the prefix tables and trees of ports, by what sets them
// apart best, and those without either into the rest.
func (m *Matcher) placeOthers(keys []key, others []int) {
	type value struct {
		end  int
		port bool
		addr ctnetlink.Addr
		bits int
		p    Ports
	}
	addrValue := func(k *key, i int) value {
		return value{end: i, addr: k.addrs[i], bits: maskBits(&k.masks[i])}
	}
	portValue := func(k *key, i int) value { return value{end: i, port: true, p: k.ports[i]} }
	count := make(map[value]int)
	for _, at := range others {
		k := &keys[at]
		for i := range ends {
			if k.isPrefix(i) {
				count[addrValue(k, i)]++
			}
			if k.hasPort&(1<<i) != 0 {
				count[portValue(k, i)]++
			}
		}
	}
	var inPrefixes [ends][2][]prefixEntry
	for _, at := range others {
		k := &keys[at]
		best, bestCost, bestPort := -1, 0.0, false
		consider := func(i int, cost float64, port bool) {
			if best < 0 || cost < bestCost {
				best, bestCost, bestPort = i, cost, port
			}
		}
		for i := range ends {
			// How many share the value, times how many flows may have it.
			if k.isPrefix(i) {
				width := 32
				if k.families[i] == nl.FamilyIPv6 {
					width = 64
				}
				consider(i, float64(count[addrValue(k, i)])*(1+float64(max(0, width-maskBits(&k.masks[i])))), false)
			}
			if k.hasPort&(1<<i) != 0 {
				consider(i, float64(count[portValue(k, i)])*(16+float64(k.ports[i].Max-k.ports[i].Min)/16), true)
			}
		}
		switch {
		case best < 0:
			m.rest = append(m.rest, int32(at))
		case bestPort:
			if m.ports[best] == nil {
				m.ports[best] = newPortTree()
			}
			m.ports[best].add(k.ports[best], at)
		default:
			family := familyIndex(k.families[best])
			inPrefixes[best][family] = append(inPrefixes[best][family], prefixEntry{k.addrs[best], maskBits(&k.masks[best]), int32(at)})
		}
	}
	for i := range inPrefixes {
		for family, list := range inPrefixes[i] {
			if len(list) > 0 {
				m.prefixes[i][family] = newPrefixTable(m, list)
			}
		}
	}
}

// isPrefix reports whether there is a condition on an end's address whose mask has no
// hole.
func (k *key) isPrefix(i int) bool {
	if k.has&(keyAddr0<<i) == 0 {
		return false
	}
	high, low := words(&k.masks[i])
	n := bits.LeadingZeros64(^high)
	if n == 64 {
		n += bits.LeadingZeros64(^low)
	}
	return n == maskBits(&k.masks[i])
}
