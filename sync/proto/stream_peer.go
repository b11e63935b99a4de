package proto

import (
	"slices"
	"time"

	"ctbox/sync/wire"
)

// Times and sizes of version 2.
const (
	// gapInterval is how often a missing range is reported.
	gapInterval = 100 * time.Millisecond
	// nextGaps is the time until the next acknowledgement if one had no room for all of them.
	nextGaps = 10 * time.Millisecond
	// beginsWithin is how long after a peer's first acknowledgement the beginning of its bulk may
	// take before the bulk is requested again.
	beginsWithin = 100 * time.Millisecond
	// maxGaps is the most missing ranges of a stream. With more, everything is requested.
	maxGaps = 4096
	// maxSpan is the most numbers between the first missing one and the newest.
	maxSpan = 1 << 30
	// formerBoots is how many former boot ids of a peer are refused.
	formerBoots = 4
)

// streamPeer is a Stream's state of another node.
type streamPeer struct {
	node  uint8
	met   bool
	heard time.Duration

	// What the peer has received of our stream.
	following bool
	stalled   bool          // it no longer follows, although it was heard
	next      wire.Seq      // all before has arrived there
	moved     time.Duration // when next last grew, or everything was acknowledged
	lostTo    wire.Seq      // what is missing before it, and no longer here, is lost

	// The last datagram that was applied.
	boot     [16]byte
	counter  uint64
	former   [formerBoots][16]byte
	renewals int
	position wire.Seq // of the next numbered message in it
	// unreached: position is of a POSITION that has not been compared with what is expected yet.
	unreached bool

	// What has arrived of the peer's stream.
	known    bool
	stream   uint64
	expected wire.Seq // the number of the next new message
	gaps     []hole   // what is missing before it, in order
	gapDue   time.Duration
	owed     int // numbered messages since the last acknowledgement
	ackDue   time.Duration
	ackNow   bool

	complete   bool // by its last STATE
	incomplete bool // messages are lost for good

	// Our request for everything, and the peer's bulk.
	wanted   bool
	expects  bool // the bulk was wanted when it began
	askNow   bool
	askAt    time.Duration // the earliest time of the next request
	interval time.Duration
	begun    bool
	began    wire.Seq // the number of its beginning
	number   uint32   // of the bulk
	ended    bool
	end      wire.Seq // the bulk is complete when nothing before is missing
}

// hole is a range of missing numbers.
type hole struct {
	from, to wire.Seq
	since    time.Duration
	asked    time.Duration // when it was last reported, or never
}

const never = -time.Duration(1 << 62)

// present reports whether the peer was heard lately.
func (p *streamPeer) present(now time.Duration) bool { return p.met && now-p.heard < peerSilence }

// due returns how many messages for the peer are due before everything else.
func (p *streamPeer) due() (n int) {
	if p.ackNow {
		n++
	}
	if p.askNow {
		n++
	}
	return n
}

// askDeadline returns when the next request is due.
func (p *streamPeer) askDeadline() time.Duration {
	if !p.known || !p.wanted || p.begun || p.askNow {
		return None
	}
	return p.askAt
}

// begins reports whether a datagram is later than all that were applied, and records it.
func (p *streamPeer) begins(boot *[16]byte, counter uint64) bool {
	switch {
	case p.met && *boot == p.boot:
		if counter <= p.counter {
			return false
		}
	case slices.Contains(p.former[:min(p.renewals, formerBoots)], *boot):
		return false
	default:
		if p.met {
			p.former[p.renewals%formerBoots] = p.boot
			p.renewals++
		}
		p.boot = *boot
	}
	p.counter, p.met = counter, true
	return true
}

// open records that the numbers from expected to before next are missing. It returns false if
// there are too many missing ranges, which are then dropped.
func (p *streamPeer) open(now time.Duration, next wire.Seq) bool {
	p.gaps = append(p.gaps, hole{p.expected, next - 1, now, never})
	p.expected = next
	return p.bounded()
}

func (p *streamPeer) bounded() bool {
	if len(p.gaps) <= maxGaps && uint32(p.expected-p.gaps[0].from) <= maxSpan {
		return true
	}
	p.gaps = p.gaps[:0]
	return false
}

// fill removes the numbers of a range from those that are missing. It reports whether there
// were any.
func (p *streamPeer) fill(from, to wire.Seq) (filled bool) {
	i := 0
	if len(p.gaps) > 8 {
		lo, hi := 0, len(p.gaps)
		for lo < hi {
			if mid := (lo + hi) / 2; p.gaps[mid].to.Before(from) {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		i = lo
	}
	for i < len(p.gaps) && !p.gaps[i].from.After(to) {
		g := &p.gaps[i]
		if g.to.Before(from) {
			i++
			continue
		}
		filled = true
		before, after := g.from.Before(from), g.to.After(to)
		switch {
		case before && after:
			rest := *g
			rest.from = to + 1
			g.to = from - 1
			p.gaps = slices.Insert(p.gaps, i+1, rest)
			return true
		case before:
			g.to = from - 1
			i++
		case after:
			g.from = to + 1
			return true
		default:
			p.gaps = slices.Delete(p.gaps, i, i+1)
		}
	}
	return filled
}

// report collects the missing ranges that were not reported lately, as many as into has room
// for.
func (p *streamPeer) report(now time.Duration, into []wire.Range) []wire.Range {
	room := cap(into)
	p.gapDue = now + gapInterval
	for i := range p.gaps {
		g := &p.gaps[i]
		if now-g.asked < gapInterval {
			p.gapDue = min(p.gapDue, g.asked+gapInterval)
			continue
		}
		if len(into) == room {
			p.gapDue = now + nextGaps
			break
		}
		into = append(into, wire.Range{From: g.from, To: g.to})
		g.asked = now
	}
	return into
}

// repeats are ranges of numbers that peers are missing, in the order in which they asked. Those
// before done were answered and are kept for a while, because several peers ask for the same.
type repeats struct {
	ring  [maxRepeats]repeat
	first uint32 // these count on, their low bits are places
	done  uint32
	end   uint32
}

type repeat struct {
	wire.Range
	next wire.Seq // the first number that is not answered yet
	lost wire.Seq // what is no longer here is lost, if it is before this number
	at   time.Duration
}

const (
	maxRepeats = 256
	// repeatPause is how long after an answer the same range is not repeated for another peer.
	// A peer repeats its request after gapInterval.
	repeatPause = gapInterval / 2
)

func (r *repeats) waiting() int { return int(r.end - r.done) }

func (r *repeats) at(n uint32) *repeat { return &r.ring[n%maxRepeats] }

// add adds a range unless it is there already. If there is no room the peer asks again.
func (r *repeats) add(now time.Duration, want repeat) {
	for r.first != r.done && (now-r.at(r.first).at >= repeatPause || r.end-r.first == maxRepeats) {
		r.first++
	}
	if r.end-r.first == maxRepeats {
		return
	}
	for n := r.first; n != r.end; n++ {
		if has := r.at(n); !want.From.Before(has.From) && !want.To.After(has.To) {
			return
		}
	}
	want.next, want.at = want.From, now
	*r.at(r.end) = want
	r.end++
}
