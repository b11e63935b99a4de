package node

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"ctbox/sync/link"
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
	deaf  bool          // said that nothing is heard of any peer
	since time.Duration // when the last of a peer was heard before that; 0 for the start
	apart time.Duration // TCP: since when no peer has been connected; 0 for never
}

// hearingSource is the part of the loop that looks for silent peers.
type hearingSource struct{ n *Node }

func (s hearingSource) Due() time.Duration {
	if s.n.hearing.next == 0 {
		return sched.Never
	}
	return s.n.hearing.next
}

func (s hearingSource) Run() error {
	s.n.checkPeers(s.n.hearing.next)
	return nil
}

// checkPeers warns of silent peers. due is when the check should have come.
func (n *Node) checkPeers(due time.Duration) {
	now := n.sched.Now()
	n.hearing.next = now + peerQuiet
	if now-due > watchLate || n.injector != nil && n.injector.full() {
		return // what has arrived may not be read yet
	}
	if n.mode == ModeALARM {
		n.checkAlarmPeers(now)
		return
	}
	// Over several links one peer has several addresses, of which it uses one.
	apart, last, heard := len(n.links.all) == 1, time.Duration(0), false
	for addr, p := range n.peers {
		if p.ignored {
			continue
		}
		last, heard = max(last, p.last), true
		switch quiet := now - p.last; {
		case !apart || p.silent:
		case quiet >= peerQuiet:
			p.silent = true
			n.warnSilent(addr.String(), quiet, everySecond)
		default:
			n.hearing.next = min(n.hearing.next, p.last+peerQuiet)
		}
	}
	switch {
	case apart && heard || n.hearing.deaf:
	case now-last < peerQuiet:
		n.hearing.next = min(n.hearing.next, last+peerQuiet)
	default:
		n.hearing.deaf, n.hearing.since = true, last
		n.warnSilent("any peer", now-last, everySecond)
	}
}

const everySecond = "although every node sends something each second"

// checkAlarmPeers is checkPeers for mode ALARM.
func (n *Node) checkAlarmPeers(now time.Duration) {
	h := &n.hearing
	last, why := time.Duration(0), ""
	for _, p := range n.peers {
		last = max(last, p.last)
	}
	if n.external.flows.Len()+n.external.expects.Len() > 0 && now-last >= n.cfg.Sync.RefreshTime+peerQuiet {
		why = "although the external cache has flows, which are sent again within RefreshTime"
	}
	switch connected, tcp := n.links.connected(); {
	case !tcp:
	case connected && h.apart != 0:
		if h.deaf {
			n.heardAgain("a peer has connected", now-h.since)
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
		n.warnSilent("any peer", now-last, why)
	}
}

func (n *Node) warnSilent(whom string, quiet time.Duration, why string) {
	l := n.links.all[n.links.current].Config()
	proto := "UDP"
	if l.Transport == link.TCP {
		proto = "TCP"
	}
	n.log.Warn(fmt.Sprintf("nothing has been heard from %s for %s, %s: does its daemon run, and do both firewalls accept %s port %d?",
		whom, inSeconds(quiet), why, proto, l.Port))
}

// heardFrom ends a silence.
func (n *Node) heardFrom(from netip.Addr, p *peer) {
	h := &n.hearing
	switch {
	case p.silent:
		n.heardAgain(from.String()+" is heard again", n.sched.Now()-p.last)
	case h.since == 0:
		n.heardAgain(from.String()+" is heard", n.sched.Now())
	default:
		n.heardAgain(from.String()+" is heard again", n.sched.Now()-h.since)
	}
	p.silent = false
}

func (n *Node) heardAgain(text string, after time.Duration) {
	n.hearing.deaf = false
	n.notice(text + ", after " + inSeconds(after))
}

func inSeconds(d time.Duration) string {
	n := int64(d / time.Second)
	if n == 1 {
		return "1 second"
	}
	return strconv.FormatInt(n, 10) + " seconds"
}
