package proto

import (
	"cmp"
	"slices"
	"time"
)

// Receipt is what an FT-FW node has received of what its peer has.
type Receipt struct {
	Copy Copy
	Gaps int           // reports of missing messages that the peer has not acknowledged yet
	Late time.Duration // how much longer than an acknowledgement may take the oldest of them is open
}

// Copy is how far a node has received everything that its peer has.
type Copy uint8

// The degrees. CopyArrived is certain for a ctbox peer, which marks the end of a bulk. A C
// daemon does not: there it means that the daemon has acknowledged the request and sent
// all that it had to send, as far as this version of the protocol can tell.
const (
	CopyNone Copy = iota
	CopyRequested
	CopyGranted // acknowledged, or it arrives
	CopyArrived
)

// Receipt returns what the node has received of what its peer has.
func (m *FTFW) Receipt(now time.Duration) Receipt {
	r := &m.resync
	got := Receipt{Gaps: len(m.gaps.list)}
	if got.Gaps > 0 {
		got.Late = max(0, now-m.gaps.list[0].since-aliveInterval)
	}
	switch {
	case m.Settled() || r.answered:
		got.Copy = CopyArrived
	case r.granted:
		got.Copy = CopyGranted
	case r.wanted:
		got.Copy = CopyRequested
	}
	return got
}

// The peer has answered our request if it is a C daemon, sends a control message, no gap is
// open, and it has sent no data for answerPause or acknowledged the request answerTime ago.
// A C daemon queues all that it has when it handles the request, and sends in order. A ctbox
// peer, which may hold back objects of its bulk, is known by its marks and notices.
const (
	answerPause = 2 * time.Second
	answerTime  = 15 * time.Second
)

// Noticed records that an ALIVE of the peer had a notice, as those of ctbox nodes have. It
// tells a ctbox peer, which is about to mark the end of its bulk, from a C daemon where the
// mark of the bulk's beginning was lost.
func (m *FTFW) Noticed() {
	if !m.peer.ctbox {
		m.peer.ctbox, m.resync.answered = true, false
		m.knowHeld()
	}
}

// IsCTBox reports whether the peer has shown that it is a ctbox node, by a mark or a notice.
func (m *FTFW) IsCTBox() bool { return m.peer.ctbox }

// settleUnmarked handles an acknowledgement or an ALIVE without a mark.
func (m *FTFW) settleUnmarked(now time.Duration) {
	r, p := &m.resync, &m.peer
	if p.ctbox || !r.granted || r.begun || len(m.gaps.list) > 0 {
		return
	}
	since := now - r.grantedAt
	if since >= answerTime || since >= bulkInterval && now-p.dataAt >= answerPause {
		r.answered = true
	}
}

// gaps are the open reports of missing messages. A resent message has a new number, so
// what fills a gap can't be seen. But the peer queues the messages when it receives the
// report, and acknowledges the report after them: with the acknowledgement they are here,
// or another gap is open.
type gaps struct {
	last uint64
	list []gap // oldest first, by number
}

type gap struct {
	number uint64
	since  time.Duration
}

// open adds a gap and returns its number.
func (g *gaps) open(now time.Duration) uint64 {
	g.last++
	g.list = append(g.list, gap{g.last, now})
	return g.last
}

// close removes a gap, if it is still there.
func (g *gaps) close(number uint64) {
	i, ok := slices.BinarySearchFunc(g.list, number, func(g gap, n uint64) int { return cmp.Compare(g.number, n) })
	if ok {
		g.list = slices.Delete(g.list, i, i+1)
	}
}
