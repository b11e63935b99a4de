package replicate

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"ctbox/sync/sched"
)

// A peer that is dead, or whose messages a firewall drops, is silent. The node warns when
// it hears nothing although something is due.
//
// In FT-FW and NOTRACK every node, conntrack-tools' too, sends something each second. In
// ALARM only flows are sent, each again within RefreshTime: silence means something only
// while the external cache has flows, and a peer that never had any is not known to exist.
// Over TCP a peer must be connected at least.

const (
	// peerQuiet is the silence after which the node warns.
	peerQuiet = 5 * time.Second
	// watchLate is how late a check may come. A later one means that the process did not
	// run, on a suspended machine for example, and then silence means nothing.
	watchLate = time.Second
)

// hearing is the state of the watch for silent peers.
type hearing struct {
	next  time.Duration // the next look; 0 for never
	deaf  bool          // the log has that nothing is heard of any peer
	since time.Duration // when the last of a peer was heard before that; 0 for the start
	apart time.Duration // TCP: since when no peer has been connected; 0 for never
}

// hearingSource is the part of the loop that looks for silent peers.
type hearingSource struct{ r *Replicator }

func (s hearingSource) Due() time.Duration {
	if s.r.hearing.next == 0 {
		return sched.Never
	}
	return s.r.hearing.next
}

func (s hearingSource) Run() error {
	s.r.checkPeers(s.r.hearing.next)
	return nil
}

// checkPeers warns of silent peers. due is when the check should have come.
func (r *Replicator) checkPeers(due time.Duration) {
	now := r.sched.Now()
	r.hearing.next = now + peerQuiet
	if now-due > watchLate || r.injector != nil && r.injector.Full() {
		return // what has arrived may not be read yet
	}
	if r.alarm != nil {
		r.checkAlarmPeers(now)
		return
	}
	// Over several links one peer has several addresses, of which it uses one.
	apart, last, heard := len(r.links.all) == 1, time.Duration(0), false
	for addr, p := range r.peers {
		if p.ignored {
			continue
		}
		last, heard = max(last, p.last), true
		switch quiet := now - p.last; {
		case !apart || p.silent:
		case quiet >= peerQuiet:
			p.silent = true
			r.warnSilent(addr.String(), quiet, everySecond)
		default:
			r.hearing.next = min(r.hearing.next, p.last+peerQuiet)
		}
	}
	switch {
	case apart && heard || r.hearing.deaf:
	case now-last < peerQuiet:
		r.hearing.next = min(r.hearing.next, last+peerQuiet)
	default:
		r.hearing.deaf, r.hearing.since = true, last
		r.warnSilent("any peer", now-last, everySecond)
	}
}

const everySecond = "although every node sends something each second"

// checkAlarmPeers is checkPeers for mode ALARM.
func (r *Replicator) checkAlarmPeers(now time.Duration) {
	h := &r.hearing
	last, why := time.Duration(0), ""
	for _, p := range r.peers {
		last = max(last, p.last)
	}
	if r.external.Flows.Len()+r.external.Expects.Len() > 0 && now-last >= r.cfg.RefreshTime+peerQuiet {
		why = "although the external cache has flows, which are sent again within RefreshTime"
	}
	switch connected, tcp := r.links.connected(); {
	case !tcp:
	case connected && h.apart != 0:
		if h.deaf {
			r.heardAgain("a peer has connected", now-h.since)
		}
		h.apart = 0
	case connected:
	case h.apart == 0:
		h.apart = now
	default:
		why, last = "and none is connected", h.apart
	}
	if why != "" && !h.deaf {
		h.deaf, h.since = true, last
		r.warnSilent("any peer", now-last, why)
	}
}

func (r *Replicator) warnSilent(whom string, quiet time.Duration, why string) {
	proto, port := r.links.service()
	r.log.Warn(fmt.Sprintf("nothing has been heard from %s for %s, %s: does its daemon run, and do both firewalls accept %s port %d?",
		whom, inSeconds(quiet), why, proto, port))
}

// heardFrom ends a silence.
func (r *Replicator) heardFrom(from netip.Addr, p *peer) {
	h := &r.hearing
	switch {
	case p.silent:
		r.heardAgain(from.String()+" is heard again", r.sched.Now()-p.last)
	case h.since == 0:
		r.heardAgain(from.String()+" is heard", r.sched.Now())
	default:
		r.heardAgain(from.String()+" is heard again", r.sched.Now()-h.since)
	}
	p.silent = false
}

func (r *Replicator) heardAgain(text string, after time.Duration) {
	r.hearing.deaf = false
	r.log.Notice(text + ", after " + inSeconds(after))
}

func inSeconds(d time.Duration) string {
	n := int64(d / time.Second)
	if n == 1 {
		return "1 second"
	}
	return strconv.FormatInt(n, 10) + " seconds"
}
