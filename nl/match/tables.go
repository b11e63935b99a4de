package match

import (
	"bytes"
	"math"
	"sort"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

func familyIndex(family uint8) int {
	if family == nl.FamilyIPv6 {
		return 1
	}
	return 0
}

// prefixTable finds the prefixes that an address is in: the longest by binary search, then
// those around it.
type prefixTable struct {
	starts []wide  // where another longest prefix begins, ascending
	nodes  []int32 // it, by start; -1 outside of all
	chains []int32 // first entry by prefix
	around []int32 // next shorter prefix by prefix; -1 for none
}

// wide is an address as two words.
type wide struct{ high, low uint64 }

func (a wide) less(b wide) bool { return a.high < b.high || a.high == b.high && a.low < b.low }

func wideOf(a *ctnetlink.Addr) wide {
	high, low := words(a)
	return wide{high, low}
}

// prefixEntry is an entry that belongs to a prefix.
type prefixEntry struct {
	addr  ctnetlink.Addr
	bits  int
	entry int32
}

// lastOf is the last address of a prefix, with ones beyond an IPv4 address.
func lastOf(a *ctnetlink.Addr, bits int) wide {
	w := wideOf(a)
	w.high |= math.MaxUint64 >> min(bits, 64)
	w.low |= math.MaxUint64 >> max(bits-64, 0)
	return w
}

// newPrefixTable makes the table of list and chains its entries.
func newPrefixTable(m *Matcher, list []prefixEntry) *prefixTable {
	// Prefixes that enclose others come before them.
	sort.SliceStable(list, func(i, j int) bool {
		a, b := &list[i], &list[j]
		if order := bytes.Compare(a.addr[:], b.addr[:]); order != 0 {
			return order < 0
		}
		return a.bits < b.bits
	})
	t := &prefixTable{starts: []wide{{}}, nodes: []int32{-1}}
	var open []int32 // prefixes that the current one may be in
	var lasts []wide // last addresses, by prefix
	start := func(at wide, node int32) {
		if last := len(t.starts) - 1; t.starts[last] == at {
			t.nodes[last] = node
			return
		}
		t.starts, t.nodes = append(t.starts, at), append(t.nodes, node)
	}
	closeUntil := func(next wide, all bool) {
		for len(open) > 0 {
			node := open[len(open)-1]
			end := lasts[node]
			if !all && !end.less(next) {
				return
			}
			open = open[:len(open)-1]
			if end != (wide{math.MaxUint64, math.MaxUint64}) {
				start(end.next(), t.around[node])
			}
		}
	}
	for i, p := range list {
		if i > 0 && p.addr == list[i-1].addr && p.bits == list[i-1].bits {
			node := open[len(open)-1]
			m.entries[p.entry].next = t.chains[node]
			t.chains[node] = p.entry
			continue
		}
		closeUntil(wideOf(&p.addr), false)
		around := int32(-1)
		if len(open) > 0 {
			around = open[len(open)-1]
		}
		node := int32(len(t.chains))
		t.chains, t.around = append(t.chains, p.entry), append(t.around, around)
		m.entries[p.entry].next = -1
		lasts = append(lasts, lastOf(&p.addr, p.bits))
		open = append(open, node)
		start(wideOf(&p.addr), node)
	}
	closeUntil(wide{}, true)
	return t
}

func (a wide) next() wide {
	if a.low == math.MaxUint64 {
		return wide{a.high + 1, 0}
	}
	return wide{a.high, a.low + 1}
}

// longest is the longest prefix that a is in, or -1.
func (t *prefixTable) longest(a wide) int32 {
	low, high := 0, len(t.starts) // starts[low] <= a < starts[high]
	for high-low > 1 {
		if middle := int(uint(low+high) / 2); a.less(t.starts[middle]) {
			high = middle
		} else {
			low = middle
		}
	}
	return t.nodes[low]
}

// findPrefix compares f with the predicates whose prefixes the address of an end is in.
func (m *Matcher) findPrefix(i int, f *ctnetlink.Flow, now int64, all *[]int32) bool {
	addr, _, tuple, _ := end(f, i)
	t := m.prefixes[i][familyIndex(tuple.Family)]
	if t == nil {
		return false
	}
	found := false
	for node := t.longest(wideOf(addr)); node >= 0; node = t.around[node] {
		if m.walk(t.chains[node], f, now, all) {
			if found = true; all == nil {
				return true
			}
		}
	}
	return found
}

// portTree finds the ranges that a port is in. It is a binary tree over all ports, in an
// array: node 1 has all, node n has the halves 2n and 2n+1, and a range is in the at most
// 30 nodes that make it up.
type portTree struct {
	heads []int32 // first of lists by node; -1 for none
	lists []portList
}

// portList is one entry in a node. A range is in several nodes, so that the entries' own
// chain does not serve.
type portList struct{ entry, next int32 }

const allPorts = 1 << 16

func newPortTree() *portTree {
	t := &portTree{heads: make([]int32, 2*allPorts)}
	for i := range t.heads {
		t.heads[i] = -1
	}
	return t
}

func (t *portTree) add(p Ports, at int) {
	// From the ports upwards: what a half has alone stays below.
	for low, high := int(p.Min)+allPorts, int(p.Max)+allPorts+1; low < high; low, high = low/2, high/2 {
		if low%2 == 1 {
			t.put(low, at)
			low++
		}
		if high%2 == 1 {
			high--
			t.put(high, at)
		}
	}
}

func (t *portTree) put(node, at int) {
	t.lists = append(t.lists, portList{int32(at), t.heads[node]})
	t.heads[node] = int32(len(t.lists) - 1)
}

// findPort compares f with the predicates in whose ranges the port of an end is.
func (m *Matcher) findPort(i int, f *ctnetlink.Flow, now int64, all *[]int32) bool {
	_, port, _, _ := end(f, i)
	t := m.ports[i]
	found := false
	for node := int(port) + allPorts; node > 0; node /= 2 {
		for at := t.heads[node]; at >= 0; at = t.lists[at].next {
			if m.meets(t.lists[at].entry, f, now, all) {
				if found = true; all == nil {
					return true
				}
			}
		}
	}
	return found
}
