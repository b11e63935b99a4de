package replicate

import (
	"strings"
	"time"

	"ctbox/sync/proto"
	"ctbox/sync/ready"
)

// Facts returns what the decision whether this node may take over needs to know of the peers
// and of the copies of their flows.
//
// FT-FW has one peer, which may send from an address for each link. In the other modes every
// address counts as a peer, and nothing says when everything has arrived. In ALARM a peer
// announces each of its flows within RefreshTime. In NOTRACK a request has been answered if
// the peer is still heard StartGrace later; after a silence it has to be asked again.
func (r *Replicator) Facts() ready.Facts {
	now := r.sched.Now()
	f := ready.Facts{Now: now, Quiet: peerQuiet, Filling: r.filling, Lag: r.lag()}
	for _, p := range r.copies {
		f.Held += uint64(p.Flows.Len())
		f.Full = f.Full || p.full() && p.leaves == 0
	}
	if len(r.copies) == 0 {
		f.Held = r.replica.Received // no table, but this grows while something arrives
	}
	if r.alarm != nil {
		f.Quiet += r.cfg.RefreshTime
	}
	switch {
	case r.cluster.speaks():
		f.Peers = r.cluster.readyPeers(now)
		return f
	case r.ftfw != nil:
		f.Peers = r.ftfwPeer(now)
		return f
	}
	for addr, p := range r.peers {
		f.Peers = append(f.Peers, ready.Peer{
			ID: addr.String(), Name: addr.String(), Silence: now - p.last, Copy: r.unmarkedCopy(now, p), Lost: uint64(p.incomplete),
		})
	}
	ready.Sort(f.Peers)
	return f
}

// copies are the degrees of a copy as ready has them.
var copies = [...]ready.Copy{
	proto.CopyNone: ready.CopyNone, proto.CopyRequested: ready.CopyAsked,
	proto.CopyGranted: ready.CopyUnderWay, proto.CopyArrived: ready.CopyWhole,
}

// ftfwPeer returns the peer, by the address that was heard last; none before it is heard.
func (r *Replicator) ftfwPeer(now time.Duration) []ready.Peer {
	receipt := r.ftfw.Receipt(now)
	if receipt.Copy != proto.CopyArrived {
		r.external.lost = false // it is being fetched anew
	}
	peer := ready.Peer{ID: "peer", Life: r.lives, Copy: copies[receipt.Copy], Missing: receipt.Gaps, Waited: receipt.Late}
	if r.external.lost {
		peer.Copy = ready.CopyNone
	}
	last, lost := time.Duration(-1), uint32(0)
	for addr, p := range r.peers {
		if p.ignored {
			continue
		}
		lost = max(lost, p.incomplete)
		if name := addr.String(); p.last > last || p.last == last && strings.Compare(name, peer.Name) < 0 {
			last, peer.Name = p.last, name
		}
	}
	if last < 0 {
		return nil
	}
	peer.Silence, peer.Lost = now-last, uint64(lost)
	return []ready.Peer{peer}
}

// askedBefore is how much later than our request a peer may be heard that runs: NOTRACK's
// nodes send something each second.
const askedBefore = 2 * time.Second

// unmarkedCopy is the copy of a peer's flows in a mode without marks.
func (r *Replicator) unmarkedCopy(now time.Duration, p *peer) ready.Copy {
	since, enough := p.first, r.cfg.RefreshTime
	if r.alarm == nil {
		if r.asked == 0 || r.asked+askedBefore < p.first {
			return ready.CopyNone
		}
		since, enough = r.asked, r.cfg.Ready.StartGrace
	}
	switch {
	case r.external.lost && r.external.lostAt >= since:
		return ready.CopyNone
	case now-since < enough:
		return ready.CopyUnderWay
	}
	return ready.CopyWhole
}

// CopyLost notes that the external cache was emptied by an operator: until the peers have
// sent everything again, this node lacks their flows.
func (r *Replicator) CopyLost() {
	for _, p := range r.copies {
		p.lost, p.lostAt = true, r.sched.Now()
	}
}

// fillReady sets what the status has of one peer beside what was heard of it.
func (r *Replicator) fillReady(p *PeerStatus) {
	if p.Member != nil && r.cluster.speaks() {
		p.Gaps = r.cluster.gaps(p.Member.Node)
	} else if r.ftfw != nil && !p.Ignored {
		p.Gaps, p.CTBox = r.ftfw.Receipt(r.sched.Now()).Gaps, r.ftfw.IsCTBox()
	}
}

// SetReadiness sets what this node says of itself in the header of each datagram of version 2.
func (r *Replicator) SetReadiness(inSync, promotable, primary bool) {
	r.cluster.setFlags(inSync, promotable, primary)
}

// lag returns how long changes have been waiting to be sent without a break.
func (r *Replicator) lag() time.Duration {
	if !r.behind {
		return 0
	}
	return r.sched.Now() - r.behindSince
}
