package replicate

import (
	"fmt"
	"net/netip"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// peerKey identifies a peer by its address, since C daemons send from any port.
type peerKey = netip.Addr

// peer is a node that sends to this one.
type peer struct {
	first    time.Duration // since then it has not been silent for peerQuiet
	last     time.Duration
	messages uint64
	node     uint8 // version 2: the number of the node with the address
	ignored  bool
	silent   bool // and the log has it

	// incomplete is the peer's last notice of lost events, at noticed.
	incomplete uint32
	noticed    time.Duration

	way way // from this node to the peer
}

// noticeLasts is how long a notice of lost events holds without being repeated beside
// plain ALIVEs: the message that revoked it may be lost.
const noticeLasts = 3 * time.Second

// takeMessage judges one received message and applies it.
func (r *Replicator) takeMessage(link int, from netip.Addr, m *wire.Message) {
	verdict, events := r.receiver.Receive(r.sched.Now(), link, from, m.Header)
	switch verdict {
	case proto.Apply:
		r.heard(link, from)
		r.takeGreeting(from, r.peers[from], m.Flags&wire.Hello != 0)
		r.links.use(link)
		r.apply(m)
	case proto.Handled:
		r.heard(link, from)
		r.takeGreeting(from, r.peers[from], m.Flags&wire.Hello != 0)
		r.links.use(link)
		if m.CarriesNotice() {
			var notice wire.Notice
			if wire.ParseNotice(m.Body, &notice) != nil {
				r.received.BadPayload++
				break
			}
			r.takeNotice(from, r.peers[from], &notice)
		}
	case proto.Ignore:
		if p := r.peers[from]; p != nil && p.ignored {
			p.last = r.sched.Now()
		}
	case proto.BadHeader:
		r.received.BadHeader++
	case proto.BadType:
		r.received.BadType++
	}
	r.protocolEvents(r.external, events)
}

// takeNotice applies what a peer's ALIVE, or NOTICE of version 2, announces about the peer.
func (r *Replicator) takeNotice(from netip.Addr, p *peer, notice *wire.Notice) {
	switch now := r.sched.Now(); {
	case notice.Has&wire.HasIncomplete != 0:
		p.incomplete, p.noticed = notice.Incomplete, now
	case now-p.noticed >= noticeLasts:
		p.incomplete = 0
	}
	r.takePaths(from, p, notice)
	if r.ftfw != nil && notice.Has != 0 {
		r.ftfw.Noticed()
	}
	if notice.Has&wire.HasCommitted != 0 {
		r.takeover.PeerCommitted(time.Duration(notice.Committed) * time.Millisecond)
	}
	if notice.Has&wire.HasHeld != 0 {
		r.takeover.PeerAnnouncesCommits()
		r.compareHeld(notice)
	}
}

const maxPeers = 256

func (r *Replicator) heard(link int, from netip.Addr) {
	p := r.peers[from]
	if p == nil {
		if len(r.peers) >= maxPeers {
			clear(r.peers)
		}
		p = &peer{}
		r.peers[from] = p
	}
	if now := r.sched.Now(); p.messages == 0 || now-p.last >= peerQuiet {
		p.first = now
	}
	if r.hearing.deaf || p.silent {
		r.heardFrom(from, p)
	}
	r.links.heard[link] = r.sched.Now()
	p.last, p.ignored = r.sched.Now(), false
	p.messages++
}

// forgetNotices drops the notices of the peers' former lives.
func (r *Replicator) forgetNotices() {
	for _, p := range r.peers {
		p.incomplete = 0
	}
}

// thirdNode lists and logs a node beyond the two of FT-FW.
func (r *Replicator) thirdNode() {
	third := r.machine.Stats().Third
	r.log.Warn(fmt.Sprintf("ignoring %v: FT-FW is for two nodes, and there is a peer already", third))
	if _, known := r.peers[third]; known || len(r.peers) < maxPeers {
		r.peers[third] = &peer{last: r.sched.Now(), ignored: true}
	}
}

// apply applies a peer's message to the external caches, or with an injector to the kernel.
func (r *Replicator) apply(m *wire.Message) {
	now := r.sched.Now()
	if m.Type.IsExpect() {
		if err := wire.ParseExpect(m.Body, &r.expect); err != nil {
			r.received.BadPayload++
			return
		}
		r.replica.Received++
		if r.external.Expects == nil {
			r.injector.Expect(m.Type, &r.expect)
			return
		}
		r.applyExpect(m.Type, now)
		return
	}
	if err := wire.ParseFlow(m.Body, &r.flow); err != nil {
		r.received.BadPayload++
		return
	}
	r.replica.Received++
	if r.external.Flows == nil {
		r.inject(m.Type, &r.flow)
		return
	}
	table := r.external.Flows
	var h cache.Handle
	var outcome cache.Outcome
	switch m.Type {
	case wire.FlowNew:
		h, outcome = table.Replace(&r.flow, now)
	case wire.FlowUpdate:
		h, outcome = table.Put(&r.flow, now)
	default:
		r.endExternal(r.external, table.Find(&r.flow), &r.flow, 0)
		return
	}
	if !outcome.Stored() {
		return
	}
	if r.alarm != nil {
		table.Arm(h, now, r.cfg.CacheTimeout)
	}
	r.inject(m.Type, &r.flow)
}

// inject passes a peer's change of a flow on to the Injector, if there is one.
func (r *Replicator) inject(change wire.Type, f *ctnetlink.Flow) {
	if r.injector != nil {
		r.injector.Flow(change, f)
	}
}

// endExternal removes f, which the peer has ended, from the copy of its flows, where h is its
// entry. epoch is that of the end.
func (r *Replicator) endExternal(p *peerCopy, h cache.Handle, f *ctnetlink.Flow, epoch uint32) {
	owned := r.injector != nil && h != 0 && r.cluster.shows(p, h, f)
	ends := r.cluster.endsFlow(p, f, epoch)
	_, announced, there := p.Flows.Times(h)
	closed := ends && r.cluster.closed(p, h)
	p.Flows.Delete(h)
	switch {
	case ends:
		r.takeover.PeerEnded(f, announced, there, closed)
		r.inject(wire.FlowDelete, f)
	case r.injector != nil:
		r.cluster.withdrawn(f, owned)
	}
}

// leaveExternal removes f from the copy of a peer's flows, where h is its entry: the peer no longer
// announces f, and its end, if there was one, has not come.
func (r *Replicator) leaveExternal(p *peerCopy, h cache.Handle, f *ctnetlink.Flow) {
	epoch := p.Flows.Epoch(h)
	if !r.cluster.several() {
		r.endExternal(p, h, f, epoch)
		return
	}
	owned := r.injector != nil && h != 0 && r.cluster.shows(p, h, f)
	p.Flows.Delete(h)
	r.cluster.goneFlow(f, epoch)
	if r.injector != nil {
		r.cluster.withdrawn(f, owned)
	}
}

func (r *Replicator) applyExpect(typ wire.Type, now time.Duration) {
	table := r.external.Expects
	if typ == wire.ExpectDelete {
		table.Delete(table.Find(&r.expect))
		return
	}
	if h, outcome := table.Replace(&r.expect, now); r.alarm != nil && outcome.Stored() {
		table.Arm(h, now, r.cfg.CacheTimeout)
	}
}

// protocolEvents carries out and logs the protocol's events. Those of one peer are of the peer
// whose copy is p.
func (r *Replicator) protocolEvents(p *peerCopy, e proto.Events) {
	if e == 0 {
		return
	}
	for _, row := range [...]struct {
		event proto.Events
		do    func()
	}{
		{proto.PeerStarted, func() { r.peerStarted(p) }},
		{proto.ThirdNode, r.thirdNode},
		{proto.ResyncSent, func() { r.log.Notice("resync requested") }},
		{proto.ResyncReceived, func() { r.replica.ResyncsServed++; r.log.Notice("resync requested by other node") }},
		{proto.BulkBegan, func() { r.beginExternalSweep(p) }},
		{proto.BulkComplete, func() { r.endExternalSweep(p, e&proto.BulkUnasked != 0); r.waitingBulk() }},
		{proto.BulkWanted, r.Bulk},
	} {
		if e&row.event != 0 {
			row.do()
		}
	}
}

// startedPeriod is how long the log only counts the starts of a peer that keeps
// restarting.
const startedPeriod = time.Minute

func (r *Replicator) peerStarted(p *peerCopy) {
	r.lives++
	for _, sender := range r.peers {
		if !r.cluster.several() || sender.node == p.node {
			sender.incomplete = 0
			sender.way = way{} // it may be another program now
		}
	}
	r.takeover.PeerStarted()
	p.sweep.Reset()
	p.numbers = proto.Agreement{}
	if name := r.nameOf(p); r.started.Admit(p.node, name) {
		r.log.Notice(name + " has started")
	}
}

func (r *Replicator) noticeStarts(name string, more uint64) {
	r.log.Notice(fmt.Sprintf("%d more starts of %s within a minute", more, name))
}
