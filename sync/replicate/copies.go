package replicate

import (
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
)

// peerCopy is this node's copy of the flows of one peer: what the peer has announced. Without a
// Cluster there is one, whose peer has no number.
type peerCopy struct {
	cache.Side
	agreement
	node uint8 // the peer's number in the Cluster
	name string
	bad  uint64 // version 2: messages of the peer that could not be read
	lost bool   // the copy was emptied by an operator, at lostAt
	// leaves is when the copy is forgotten, because its peer is no longer in the Cluster clause; 0
	// while the peer is.
	lostAt, leaves time.Duration
}

// Copy is this node's copy of what one peer has announced.
type Copy struct {
	Node uint8 // the peer's number in the Cluster; 0 without a Cluster clause
	Name string
	Side cache.Side
}

// Copies returns the copies of all peers: one without a Cluster clause, none with
// DisableExternalCache. That of a peer which a reload has removed from the clause stays for
// PurgeTimeout.
func (r *Replicator) Copies() []Copy {
	all := make([]Copy, len(r.copies))
	for i, p := range r.copies {
		all[i] = Copy{p.node, p.name, p.Side}
	}
	return all
}

// Announced reports whether a peer announces a flow that its owner has not ended.
func (r *Replicator) Announced(orig *ctnetlink.Tuple, zone uint16) bool {
	for _, p := range r.copies {
		if h := p.Flows.FindTuple(orig, zone); h != 0 && p.Flows.Epoch(h)&cache.EpochMark == 0 {
			return true
		}
	}
	return false
}

// len returns the number of entries.
func (p *peerCopy) len() int { return p.Flows.Len() + p.Expects.Len() }

func (p *peerCopy) full() bool { return p.Flows.Full() || p.Expects.Full() }

// nameOf returns what the log calls the peer whose copy is p.
func (r *Replicator) nameOf(p *peerCopy) string {
	if r.cluster.several() {
		return p.name
	}
	return "the peer"
}
