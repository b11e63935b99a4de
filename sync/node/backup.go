package node

import (
	"fmt"
	"net/netip"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// peerKey tells peers apart: by address, since C daemons send from any port.
type peerKey = netip.Addr

// peer is a node that sends to this one.
type peer struct {
	last     time.Duration
	messages uint64
	ignored  bool
	silent   bool // and that was said

	// incomplete is the peer's last notice of lost events, at noticed.
	incomplete uint32
	noticed    time.Duration
}

// noticeLasts is how long a notice of lost events holds without being repeated beside
// plain ALIVEs: the message that revoked it may be lost.
const noticeLasts = 3 * time.Second

// takeMessage judges one received message and applies it.
func (n *Node) takeMessage(link int, from netip.Addr, m *wire.Message) {
	verdict, events := n.machine.Receive(n.sched.Now(), link, from, m.Header)
	switch verdict {
	case proto.Apply:
		n.heard(link, from)
		n.links.use(link)
		n.apply(m)
	case proto.Handled:
		n.heard(link, from)
		n.links.use(link)
		if m.CarriesNotice() {
			n.takeNotice(n.peers[from], m.Body)
		}
	case proto.Ignore:
		if p := n.peers[from]; p != nil && p.ignored {
			p.last = n.sched.Now()
		}
	case proto.BadHeader:
		n.received.BadHeader++
	case proto.BadType:
		n.received.BadType++
	}
	n.protocolEvents(events)
}

// takeNotice applies what a peer's ALIVE announces about the peer.
func (n *Node) takeNotice(p *peer, body []byte) {
	var notice wire.Notice
	if wire.ParseNotice(body, &notice) != nil {
		n.received.BadPayload++
		return
	}
	switch now := n.sched.Now(); {
	case notice.Has&wire.HasIncomplete != 0:
		p.incomplete, p.noticed = notice.Incomplete, now
	case now-p.noticed >= noticeLasts:
		p.incomplete = 0
	}
	if notice.Has&wire.HasCommitted != 0 {
		n.peerCommitted(time.Duration(notice.Committed) * time.Millisecond)
	}
	if notice.Has&wire.HasHeld != 0 {
		n.failback.speaks = true
		n.compareHeld(&notice)
	}
}

const maxPeers = 256

func (n *Node) heard(link int, from netip.Addr) {
	p := n.peers[from]
	if p == nil {
		if len(n.peers) >= maxPeers {
			clear(n.peers)
		}
		p = &peer{}
		n.peers[from] = p
	}
	if n.hearing.deaf || p.silent {
		n.heardFrom(from, p)
	}
	n.links.heard[link] = n.sched.Now()
	p.last, p.ignored = n.sched.Now(), false
	p.messages++
}

// forgetNotices drops the notices of the peers' former lives.
func (n *Node) forgetNotices() {
	for _, p := range n.peers {
		p.incomplete = 0
	}
}

// thirdNode lists and logs a node beyond the two of FT-FW.
func (n *Node) thirdNode() {
	third := n.machine.Stats().Third
	n.log.Warn(fmt.Sprintf("ignoring %v: FT-FW is for two nodes, and there is a peer already", third))
	if _, known := n.peers[third]; known || len(n.peers) < maxPeers {
		n.peers[third] = &peer{last: n.sched.Now(), ignored: true}
	}
}

// apply applies a peer's message to the external caches, or with an injector to the kernel.
func (n *Node) apply(m *wire.Message) {
	now := n.sched.Now()
	if m.Type.IsExpect() {
		if err := wire.ParseExpect(m.Body, &n.expect); err != nil {
			n.received.BadPayload++
			return
		}
		n.replica.Received++
		if n.injector != nil {
			n.injector.expect(m.Type, &n.expect)
			return
		}
		n.applyExpect(m.Type, now)
		return
	}
	if err := wire.ParseFlow(m.Body, &n.flow); err != nil {
		n.received.BadPayload++
		return
	}
	n.replica.Received++
	if n.injector != nil {
		n.injector.flow(m.Type, &n.flow)
		return
	}
	table := n.external.flows
	var h cache.Handle
	var outcome cache.Outcome
	switch m.Type {
	case wire.FlowNew:
		h, outcome = table.Replace(&n.flow, now)
	case wire.FlowUpdate:
		h, outcome = table.Put(&n.flow, now)
	default:
		n.endExternal(table.Find(&n.flow), &n.flow)
		return
	}
	if n.alarm != nil && stored(outcome) {
		table.Arm(h, now, n.cfg.Sync.CacheTimeout)
	}
}

func (n *Node) applyExpect(typ wire.Type, now time.Duration) {
	table := n.external.expects
	if typ == wire.ExpectDelete {
		table.Delete(table.Find(&n.expect))
		return
	}
	if h, outcome := table.Replace(&n.expect, now); n.alarm != nil && stored(outcome) {
		table.Arm(h, now, n.cfg.Sync.CacheTimeout)
	}
}

// protocolEvents carries out and logs the protocol's events.
func (n *Node) protocolEvents(e proto.Events) {
	if e == 0 {
		return
	}
	for _, row := range [...]struct {
		event proto.Events
		do    func()
	}{
		{proto.PeerStarted, n.peerStarted},
		{proto.ThirdNode, n.thirdNode},
		{proto.ResyncSent, func() { n.notice("resync requested") }},
		{proto.ResyncReceived, func() { n.replica.ResyncsServed++; n.notice("resync requested by other node") }},
		{proto.BulkBegan, n.beginExternalSweep},
		{proto.BulkComplete, func() { n.endExternalSweep(e&proto.BulkUnasked != 0) }},
		{proto.BulkWanted, n.startBulk},
	} {
		if e&row.event != 0 {
			row.do()
		}
	}
}

// startedPeriod is how long the log only counts the starts of a peer that keeps
// restarting.
const startedPeriod = time.Minute

func (n *Node) peerStarted() {
	n.forgetNotices()
	n.failback.speaks, n.failback.peer = false, 0
	n.agreement.sweep.Reset()
	n.agreement.numbers = proto.Agreement{}
	if n.limits.started.Admit(struct{}{}, struct{}{}) {
		n.notice("the peer has started")
	}
}

func (n *Node) noticeStarts(_ struct{}, more uint64) {
	n.notice(fmt.Sprintf("%d more starts of the peer within a minute", more))
}
