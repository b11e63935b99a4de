package proto

import (
	"net/netip"
	"slices"
	"time"

	"ctbox/sync/wire"
)

// maxLinks is how many links there can be, and maxStrangers how many other nodes
// are told apart.
const (
	maxLinks     = 4
	maxStrangers = 16
)

// peer is what FTFW knows of the other node. The wire carries no identity, so the
// peer is who was heard first on each link; its sequence numbers are one row over
// all of them.
type peer struct {
	addrs     [maxLinks]netip.Addr
	strangers []netip.Addr
	heard     time.Duration
	began     time.Duration // this life of it

	have  bool
	last  wire.Seq // the last that arrived
	ctbox bool     // it marks its bulks, so it is no C daemon

	// The highest that arrived lately, whatever life it was thought to be of.
	highest   wire.Seq
	highestAt time.Duration

	window  int // messages until the next acknowledgement
	owed    bool
	ackFrom wire.Seq // the first not yet acknowledged, if owed
	ackDue  time.Duration

	// The HELLO of this life of the peer.
	greeted   bool
	helloLast wire.Seq
	helloAt   time.Duration

	// Late messages in sequence.
	runNext  wire.Seq
	runLen   int
	runSince time.Duration
}

// meet tells whether a message is from the peer. fresh is true where the address
// has taken the place of a peer that is silent.
func (p *peer) meet(now time.Duration, link int, from netip.Addr) (fresh, ours bool) {
	known := &p.addrs[link%maxLinks]
	switch {
	case *known == from:
		return false, true
	case !known.IsValid():
		// The first on this link: the peer, for want of another.
		*known = from
		return false, true
	case p.present(now):
		return false, false
	}
	p.addrs = [maxLinks]netip.Addr{}
	p.strangers = p.strangers[:0]
	*known = from
	return true, true
}

// present reports whether the peer has been heard of lately.
func (p *peer) present(now time.Duration) bool { return now-p.heard < peerSilence }

// noteStranger remembers an address that is not the peer's and reports whether
// it is a new one.
func (p *peer) noteStranger(from netip.Addr) bool {
	if slices.Contains(p.strangers, from) || len(p.strangers) >= maxStrangers {
		return false
	}
	p.strangers = append(p.strangers, from)
	return true
}

// begin starts a new life of the peer, whose first message is seq.
func (p *peer) begin(now time.Duration, seq wire.Seq, window int) {
	p.began = now
	p.have, p.last = false, seq
	p.window, p.owed = window, false
	p.greeted, p.ctbox = false, false
	p.runLen = 0
}

// arrived notes the last number that arrived.
func (p *peer) arrived(now time.Duration, seq wire.Seq) {
	p.have, p.last = true, seq
	p.runLen = 0
	if seq.After(p.highest) || now-p.highestAt >= lateTime {
		p.highest, p.highestAt = seq, now
	}
}

// overtaken reports whether a later message than seq has arrived already.
func (p *peer) overtaken(now time.Duration, seq wire.Seq) bool {
	return now-p.highestAt < lateTime && p.highest.After(seq)
}

// starts reports whether a HELLO with seq begins a new life of the peer. It rides
// on every message of a started node until that hears the answer, so one that
// follows another directly does not, unless answered: the peer has acknowledged
// what only one that heard our answer could. A late copy of an old HELLO can't be
// told from a start with lower numbers and is taken for one; then we ask for
// everything, needlessly.
func (p *peer) starts(now time.Duration, seq wire.Seq, answered bool) bool {
	continues := p.greeted && now-p.helloAt < helloPause && p.have && seq == p.last+1 && p.last == p.helloLast
	return !continues || answered
}

// countsAnew notes a late message and reports whether so many came in sequence, and
// nothing else, that they can't be late: the peer has started again with lower numbers,
// and we heard none of its HELLOs.
func (p *peer) countsAnew(now time.Duration, seq wire.Seq) bool {
	if p.runLen == 0 || seq != p.runNext {
		p.runLen, p.runSince = 0, now
	}
	p.runLen++
	p.runNext = seq + 1
	return p.runLen >= restartRun && now-p.runSince >= restartTime
}
