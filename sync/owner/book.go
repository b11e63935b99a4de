// Package owner decides which node of a cluster owns each flow.
//
// Each node announces the flows that it owns, and holds a copy of what each peer announces. A
// flow may be announced by several nodes for a while. The announcement with the highest epoch
// owns the flow, and of equal epochs that of the node with the lowest number. A node whose
// announcement is not the owner's withdraws it.
//
// A node begins to announce a flow that another node announces only by a claim, with the epoch
// of the former owner and one more. It claims a flow when its own kernel, not a process, has
// changed the flow, or in a takeover. While the owner lives and is primary the kernel's changes
// move a flow once in 10 seconds at most: with asymmetric paths both nodes see packets of the
// same flow. A node whose claim had to wait remembers it until the next change, or until the
// owner ends the flow, for 10 minutes at most.
//
// An end counts only from the owner. Announcements of lower rank by nodes that are dead are over
// then: these nodes have not withdrawn them, and they must not bring the flow back.
//
// A Book has these rules for one node, a Question asks the peers before a takeover. Both are
// pure: they have no clock, no lock and no socket, and are not safe for concurrent use.
package owner

import (
	"slices"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
)

// MaxNode is the largest number of a node. Numbers begin at 1.
const MaxNode = 16

// Nodes is a set of nodes: bit n-1 is node n's.
type Nodes uint16

// NodesOf returns the set with these nodes.
func NodesOf(numbers ...uint8) (s Nodes) {
	for _, n := range numbers {
		s |= 1 << (n - 1)
	}
	return s
}

// Has reports whether the set has a node. Node 0 is in no set.
func (s Nodes) Has(node uint8) bool { return node != 0 && s&(1<<(node-1)) != 0 }

// Why is the reason for which a flow was stored in the internal cache.
type Why uint8

const (
	// Silent: the flow is not to be announced for itself. The node's own commit has created
	// it, or the first reading of the kernel's table has found it.
	Silent Why = iota
	// Changed: the flow is to be announced, and the kernel has not changed it by itself. A
	// process has, or a reading has found a change.
	Changed
	// ByKernel: the kernel has created or changed the flow by itself, which means that
	// packets of it come through this node.
	ByKernel
)

// Actions are what a Book asks of the room that announces flows. They are called with handles
// of the internal cache, and must not call the Book.
type Actions interface {
	// Announced reports whether a flow is announced by this node, or is about to be.
	Announced(h cache.Handle) bool
	// Claimed has a flow announced, behind everything that is more urgent.
	Claimed(h cache.Handle)
	// Withdraw ends the announcement of a flow that another node owns.
	Withdraw(h cache.Handle)
}

// moveLeast is how long a flow stays with an owner that lives and is primary. The age of an
// entry is known in whole seconds, so that one more makes it 10 at least. An announcement with
// another epoch is another entry (Begins): the end of the former one may not have come.
const moveLeast = 11 * time.Second

// claimLasts is how long a claim waits after the last change by this kernel. A packet that went
// astray at a takeover must not bring the flow back here when its owner ends it hours later.
const claimLasts = 10 * time.Minute

// maxEpoch is the highest epoch, where epochs stop to grow.
const maxEpoch = ended - 1

// The marks beside an epoch in a cache.
const (
	over  = 1 << 31 // an entry of a copy: an end of higher rank was heard since, see isOver
	waits = 1 << 31 // a flow of the internal cache: a claim waits
	ended = 1 << 30 // ...: its owner has ended it, and only packets here bring it back
)

// Book has what one node knows about the owners of flows. The epoch of each flow is in the
// cache (cache.Flows.Epoch), with marks.
type Book struct {
	self    uint8
	primary bool
	own     *cache.Flows
	do      Actions
	peers   [MaxNode + 1]peer
	copies  []uint8 // the nodes with a copy

	takes     []take         // the takeovers that last
	lastTaken uint32         // number of the last takeover
	flow      ctnetlink.Flow // reused
	ends      ends
}

// take is a takeover: the flows of nodes that a selector matches.
type take struct {
	number uint32
	last   [MaxNode + 1]uint32 // generation of the last entry of each copy when it began
	nodes  Nodes
	flows  Selector
}

// peer is another node.
type peer struct {
	copy            *cache.Flows
	living, primary bool
}

// NewBook returns the Book of a node whose internal cache is own.
func NewBook(self uint8, own *cache.Flows, do Actions) *Book {
	return &Book{self: self, own: own, do: do}
}

// SetCopy sets the copy of what a peer announces; nil removes it.
func (b *Book) SetCopy(node uint8, flows *cache.Flows) {
	b.peers[node].copy = flows
	b.copies = b.copies[:0]
	for n := range b.peers {
		if b.peers[n].copy != nil {
			b.copies = append(b.copies, uint8(n))
		}
	}
}

// SetPeer sets whether a peer is heard, and whether it is primary as it says.
func (b *Book) SetPeer(node uint8, living, primary bool) {
	b.peers[node].living, b.peers[node].primary = living, primary
}

// SetPrimary sets whether this node is primary.
func (b *Book) SetPrimary(primary bool) { b.primary = primary }

// rank orders the announcements of a flow. The zero rank is that of no announcement.
type rank struct {
	epoch uint32
	node  uint8
}

// outranks reports whether r is the owner's rather than other.
func (r rank) outranks(other rank) bool {
	switch {
	case r.node == 0 || other.node == 0:
		return other.node == 0 && r.node != 0
	case r.epoch != other.epoch:
		return r.epoch > other.epoch
	}
	return r.node < other.node
}

// rival returns the peers' announcement of f with the highest rank, and its entry. top is the
// highest epoch of all announcements, with those that are over; there reports whether there is
// any.
func (b *Book) rival(f *ctnetlink.Flow) (best rank, entry cache.Handle, top uint32, there bool) {
	for _, n := range b.copies {
		t := b.peers[n].copy
		if t.Len() == 0 {
			continue // a backup announces nothing
		}
		h := t.Find(f)
		if h == 0 {
			continue
		}
		epoch := t.Epoch(h)
		top, there = max(top, epoch&^cache.EpochMark), true
		if r := (rank{epoch &^ cache.EpochMark, n}); !b.isOver(n, epoch) && r.outranks(best) {
			best, entry = r, h
		}
	}
	return best, entry, top, there
}

// isOver reports whether a peer's announcement, with its epoch and marks, is nobody's. A peer that
// lives knows better: it has withdrawn the flow, or will once it has heard of the end, unless it has
// begun to announce another connection.
func (b *Book) isOver(node uint8, epoch uint32) bool { return epoch&over != 0 && !b.peers[node].living }

// mine returns the rank of this node's announcement of f, and its flow. The rank is zero if
// this node does not announce it.
func (b *Book) mine(f *ctnetlink.Flow) (rank, cache.Handle) {
	h := b.own.Find(f)
	if h == 0 || !b.do.Announced(h) {
		return rank{}, h
	}
	return rank{b.epoch(h), b.self}, h
}

// epoch returns the epoch of a flow of the internal cache.
func (b *Book) epoch(h cache.Handle) uint32 { return Epoch(b.own.Epoch(h)) }

// Epoch returns the number in an epoch of the internal cache, which messages have: it is without
// the marks of a Book.
func Epoch(marked uint32) uint32 { return marked & maxEpoch }

// Stored decides about f, which was stored in the internal cache as h, and reports whether to
// announce it now. What it leaves unannounced may be claimed later.
func (b *Book) Stored(now time.Duration, h cache.Handle, f *ctnetlink.Flow, why Why) (announce bool) {
	if b.do.Announced(h) {
		return why != Silent
	}
	best, entry, top, there := b.rival(f)
	if epoch := b.own.Epoch(h); epoch&ended != 0 {
		if state, _ := b.own.State(h); why != ByKernel && state != cache.New && best.node == 0 {
			return false
		}
		b.raise(h, epoch&^cache.EpochMark)
	}
	takes := best.node != 0 && b.isTaken(0, best.node, entry, f)
	switch {
	case best.node == 0:
		b.outrank(h, f, top, there)
		return why != Silent
	case why == ByKernel && b.mayMove(now, best.node, entry), why != Silent && takes:
		b.raise(h, max(top, b.ends.find(f).epoch))
		return true
	case takes:
		b.raise(h, max(top, b.ends.find(f).epoch))
		b.do.Claimed(h)
	case why == ByKernel:
		b.own.SetEpoch(h, b.own.Epoch(h)|waits)
	}
	return false
}

// outrank gives h, which no peer announces, an epoch that is higher than those of its former
// announcements as far as they are known: of entries that are over, and of the last ends.
func (b *Book) outrank(h cache.Handle, f *ctnetlink.Flow, top uint32, there bool) {
	b.own.SetEpoch(h, b.epoch(h)) // no claim waits any more
	if there && top >= b.epoch(h) {
		b.raise(h, top)
	}
	if last := b.ends.find(f); last.node != 0 && !(rank{b.epoch(h), b.self}).outranks(last) {
		b.raise(h, last.epoch)
	}
}

// raise sets the epoch of h to the next one after top.
func (b *Book) raise(h cache.Handle, top uint32) { b.own.SetEpoch(h, min(top, maxEpoch-1)+1) }

// mayMove reports whether a change by this node's kernel makes it the owner of a flow that
// another node announces as entry.
func (b *Book) mayMove(now time.Duration, node uint8, entry cache.Handle) bool {
	p := &b.peers[node]
	if !p.living || !p.primary {
		return true
	}
	began, _, _ := p.copy.Times(entry)
	return now-began >= moveLeast
}

// Begins reports whether an announcement with this epoch is not the one that a peer's copy has as
// entry, although it is an update: the copy replaces the entry then, whose age begins anew.
func (b *Book) Begins(node uint8, entry cache.Handle, epoch uint32) bool {
	return b.peers[node].copy.Epoch(entry)&^cache.EpochMark != epoch
}

// Heard notes that a peer has announced f, which its copy has as entry, with this epoch. Where
// this node loses the flow it withdraws it.
func (b *Book) Heard(node uint8, entry cache.Handle, f *ctnetlink.Flow, epoch uint32) {
	t := b.peers[node].copy
	epoch &^= cache.EpochMark
	switch before := t.Epoch(entry); {
	case before&over != 0 && epoch <= before&^cache.EpochMark:
		epoch |= over // the same announcement once more
	case before&over == 0 && epoch < before:
		// The peer has started again and knows no epochs. What it outranked before, mostly the
		// announcements of a node that is dead, must not outrank it now.
		b.end(rank{before, node}, f)
	}
	t.SetEpoch(entry, epoch)
	epoch &^= over
	mine, h := b.mine(f)
	if mine.node != 0 && (rank{epoch, node}).outranks(mine) {
		b.own.SetEpoch(h, mine.epoch)
		b.do.Withdraw(h)
	}
}

// Ended notes that a peer has ended f, which it announced with this epoch, before its entry
// leaves the copy. It reports whether the peer was the flow's owner: otherwise the end says
// nothing about the flow.
//
// This node claims f where its own kernel has the flow and sees packets of it: an owner that
// is not primary, or whose path has changed, ends what goes on here.
func (b *Book) Ended(now time.Duration, node uint8, f *ctnetlink.Flow, epoch uint32) (owner bool) {
	by := rank{epoch &^ cache.EpochMark, node}
	mine, h := b.mine(f)
	if mine.outranks(by) || !b.end(by, f) {
		return false
	}
	b.ends.add(f, by)
	if mine.epoch == by.epoch && mine.node != 0 && b.peers[node].copy.Find(f) == 0 {
		// The announcement that has ended never came here, and was not a claim of this node's. So
		// it was of a former connection.
		return false
	}
	if mine.node != 0 {
		b.do.Withdraw(h)
	}
	if h == 0 {
		return true
	}
	epoch = b.own.Epoch(h)
	if _, changed, _ := b.own.Times(h); epoch&waits != 0 && now-changed < claimLasts || epoch&ended == 0 && b.primary && !b.peers[node].primary {
		b.raise(h, by.epoch)
		b.do.Claimed(h)
		return false
	}
	b.own.SetEpoch(h, max(b.epoch(h), by.epoch)|ended)
	return true
}

// Gone notes that a peer no longer announces f, which it announced with this epoch, and has not
// ended it, after the entry has left the copy: the peer has withdrawn it, or has started again and
// does not have it. If nobody else announces f, and this kernel has it, this node does, with no more
// than that epoch: a node that has claimed f, which may not be known here yet, keeps it.
func (b *Book) Gone(f *ctnetlink.Flow, epoch uint32) {
	h := b.own.Find(f)
	if h == 0 || b.do.Announced(h) {
		return
	}
	before := b.own.Epoch(h)
	best, _, top, there := b.rival(f)
	if best.node != 0 || before&ended != 0 {
		return
	}
	b.own.SetEpoch(h, max(b.epoch(h), epoch&^cache.EpochMark))
	b.outrank(h, f, top, there)
	b.do.Claimed(h)
}

// OwnEnded notes that this node ends h, which it announces.
func (b *Book) OwnEnded(h cache.Handle) {
	if b.do.Announced(h) && b.own.Load(h, &b.flow) {
		by := rank{b.epoch(h), b.self}
		if b.end(by, &b.flow) && by.epoch > 0 {
			b.ends.add(&b.flow, by)
		}
	}
}

// end marks the announcements of lower rank than by, those of other peers, as over. It does nothing,
// and returns false, if one of them has a higher rank.
func (b *Book) end(by rank, f *ctnetlink.Flow) bool {
	var entries [MaxNode + 1]cache.Handle
	for _, n := range b.copies {
		if n == by.node {
			continue // it may be another connection's by now
		}
		t := b.peers[n].copy
		entries[n] = t.Find(f)
		epoch := t.Epoch(entries[n])
		if entries[n] != 0 && !b.isOver(n, epoch) && (rank{epoch &^ cache.EpochMark, n}).outranks(by) {
			return false
		}
	}
	for n, entry := range entries {
		if entry != 0 {
			t := b.peers[n].copy
			t.SetEpoch(entry, t.Epoch(entry)|over)
		}
	}
	return true
}

// Wins reports whether a peer's announcement of f, which its copy has as entry, is the owner's.
// It is not if the copy was removed.
func (b *Book) Wins(node uint8, entry cache.Handle, f *ctnetlink.Flow) bool {
	if t := b.peers[node].copy; t == nil || t.Epoch(entry)&over != 0 {
		return false
	}
	owner, _ := b.Owner(f)
	return owner == node
}

// Owner returns the node that owns f, this node included, and the epoch; 0 for none.
func (b *Book) Owner(f *ctnetlink.Flow) (node uint8, epoch uint32) {
	best, _, _, _ := b.rival(f)
	if mine, _ := b.mine(f); mine.outranks(best) {
		best = mine
	}
	return best.node, best.epoch
}

// Rival returns the peer that owns f, and its entry; 0 if this node owns f, or nobody does.
func (b *Book) Rival(f *ctnetlink.Flow) (node uint8, entry cache.Handle) {
	best, entry, _, _ := b.rival(f)
	if mine, _ := b.mine(f); mine.outranks(best) || best.node == 0 {
		return 0, 0
	}
	return best.node, entry
}

// Mine reports whether this node announces h, whose contents are f, or may: nobody else does, and
// the flow has not ended. It is for bulks.
func (b *Book) Mine(h cache.Handle, f *ctnetlink.Flow) bool {
	if b.do.Announced(h) {
		return true
	}
	if b.own.Epoch(h)&ended != 0 {
		return false
	}
	best, _, top, there := b.rival(f)
	if best.node != 0 {
		return false
	}
	b.outrank(h, f, top, there)
	return true
}

// Take begins a takeover and returns its number: until EndTake this node claims the flows of
// these nodes that the selector matches, when they are stored in the internal cache or
// ClaimTaken finds them there. The takeovers before it last until they end. What a node that lives
// and is primary announces later is not taken: it has taken flows back, or has new ones.
func (b *Book) Take(nodes Nodes, s Selector) (number uint32) {
	b.lastTaken++
	s.Node = 0 // nodes says it
	t := take{number: b.lastTaken, nodes: nodes, flows: s}
	for _, n := range b.copies {
		t.last[n] = b.peers[n].copy.Generation()
	}
	b.takes = append(b.takes, t)
	return b.lastTaken
}

// EndTake ends the takeover with this number.
func (b *Book) EndTake(number uint32) {
	b.takes = slices.DeleteFunc(b.takes, func(t take) bool { return t.number == number })
}

// Taking returns the nodes of whose flows some are being taken, and those of whose flows all are.
func (b *Book) Taking() (some, all Nodes) {
	for i := range b.takes {
		t := &b.takes[i]
		some |= t.nodes
		if t.flows.Empty() {
			all |= t.nodes
		}
	}
	return some, all
}

// isTaken reports whether f, which a node owns by its entry, is taken by the takeover with this
// number; 0 for any.
func (b *Book) isTaken(number uint32, node uint8, entry cache.Handle, f *ctnetlink.Flow) bool {
	p := &b.peers[node]
	if len(b.takes) == 0 || p.copy.Epoch(entry)&over != 0 {
		return false
	}
	rules := p.living && p.primary
	for i := range b.takes {
		if t := &b.takes[i]; (number == 0 || t.number == number) && (!rules || int32(entry.Generation()-t.last[node]) <= 0) && t.nodes.Has(node) && t.flows.Matches(f) {
			return true
		}
	}
	return false
}

// ClaimTaken claims those of a peer's entries that the takeover with this number takes and that the
// internal cache has.
func (b *Book) ClaimTaken(number uint32, node uint8, entries []cache.Handle) {
	t := b.peers[node].copy
	if t == nil {
		return
	}
	for _, entry := range entries {
		if !t.Load(entry, &b.flow) || !b.isTaken(number, node, entry, &b.flow) || !b.Wins(node, entry, &b.flow) {
			continue
		}
		if h := b.own.Find(&b.flow); h != 0 {
			_, _, top, _ := b.rival(&b.flow)
			b.raise(h, max(top, b.ends.find(&b.flow).epoch))
			b.do.Claimed(h)
		}
	}
}
