package proto

import (
	"net/netip"
	"slices"
	"time"

	"ctbox/sync/wire"
)

// maxLinks is the most links that a node has, and maxStrangers the most other nodes that
// are remembered.
const (
	maxLinks     = 4
	maxStrangers = 16
)

// peer is FTFW's state of the other node. Messages carry no identity, so the peer is the
// node that was heard first on each link. It numbers its messages in one sequence over
// all links.
type peer struct {
	addrs     [maxLinks]netip.Addr
	strangers []netip.Addr
	heard     time.Duration
	dataAt    time.Duration // when the last flow or expectation came
	began     time.Duration // when this process of the peer started

	have  bool
	last  wire.Seq // the last that arrived
	ctbox bool     // it marks its bulks, so it is not a C daemon

	// The highest number that arrived lately, from this process of the peer or an earlier one.
	highest   wire.Seq
	highestAt time.Duration

	window  int // messages until the next acknowledgement
	owed    bool
	ackFrom wire.Seq // the first number not yet acknowledged, if owed
	ackDue  time.Duration

	// The last HELLO of this process of the peer.
	greeted   bool
	helloLast wire.Seq
	helloAt   time.Duration

	// Our last answer to its HELLO, and whether it has acknowledged that.
	backed   bool
	back     wire.Seq
	answered bool

	// Late messages in sequence.
	runNext  wire.Seq
	runLen   int
	runSince time.Duration
}

// meet reports whether a message is from the peer. fresh is true if its address has
// replaced that of a peer that has been silent.
func (p *peer) meet(now time.Duration, link int, from netip.Addr) (fresh, ours bool) {
	known := &p.addrs[link%maxLinks]
	switch {
	case *known == from:
		return false, true
	case !known.IsValid():
		// The first node that is heard on a link is the peer.
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

// present reports whether the peer was heard within peerSilence.
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

// begin resets the state for a new process of the peer, whose first message is seq.
func (p *peer) begin(now time.Duration, seq wire.Seq, window int) {
	p.began = now
	p.have, p.last = false, seq
	p.window, p.owed = window, false
	p.greeted, p.ctbox = false, false
	p.backed, p.answered = false, false
	p.runLen = 0
}

// arrived records the last number that arrived.
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

// starts reports whether a HELLO with seq means that the peer has started again. A node
// sets HELLO on every message until it receives the answer, so a HELLO that directly
// follows another is no new start, unless this process of the peer has acknowledged our answer.
// A late copy of an old HELLO looks like a start with lower numbers, and costs a needless resync.
func (p *peer) starts(now time.Duration, seq wire.Seq) bool {
	continues := p.greeted && now-p.helloAt < helloPause && p.have && seq == p.last+1 && p.last == p.helloLast
	return !continues || p.answered
}

// countsAnew records a late message and reports whether so many have arrived in sequence,
// with nothing else between, that the peer must have started again with lower numbers
// while all its HELLOs were lost.
func (p *peer) countsAnew(now time.Duration, seq wire.Seq) bool {
	if p.runLen == 0 || seq != p.runNext {
		p.runLen, p.runSince = 0, now
	}
	p.runLen++
	p.runNext = seq + 1
	return p.runLen >= restartRun && now-p.runSince >= restartTime
}
