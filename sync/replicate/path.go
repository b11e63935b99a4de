package replicate

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"ctbox/sync/link"
	"ctbox/sync/wire"
)

// A node cannot see whether its own messages arrive, and a peer that receives only small ones
// acknowledges those. In FT-FW and NOTRACK, ctbox peers therefore announce in their ALIVEs how
// long they have heard nothing from anyone, which of two nodes means from this one, and which
// probe they have received last: an ALIVE that is as long as the link's MTU allows. A C daemon
// announces neither, and is not tested.

const (
	// oneWayTime is how long a peer must have said that it hears nothing before the node
	// believes it: what this node has sent after an interruption of both directions may be
	// on its way.
	oneWayTime = 3 * time.Second
	// Probes of one round follow each other after probeInterval, until all peers have
	// received one or probeTries are lost. The next round comes after probePeriod, or
	// after probeRetry where large messages were lost.
	probeInterval = time.Second
	probeTries    = 5
	probePeriod   = time.Hour
	probeRetry    = time.Minute
	// hearsLately is how long ago a peer must have heard this node for a lost probe to say
	// something about its size. Idle nodes send once a second, and the peer's notice may be a
	// second old.
	hearsLately = 4 * time.Second
	// deafAfter is the silence from which on the node announces it every second.
	deafAfter = 2 * time.Second
)

// PathState is what the probes have found.
type PathState uint8

// The states. PathUntested: none has been sent, or the peer does not answer any. PathBroken:
// small messages arrive and large ones do not.
const (
	PathUntested PathState = iota
	PathWhole
	PathBroken
)

// String returns the state as JSON and metrics have it.
func (s PathState) String() string {
	switch s {
	case PathWhole:
		return "ok"
	case PathBroken:
		return "broken"
	}
	return "untested"
}

// way is what is known of the way from this node to a peer.
type way struct {
	answers bool          // its notices say what it hears
	heard   time.Duration // when it last heard this node, by its last notice
	deaf    time.Duration // since when it has said that it hears nothing; 0 while it hears
	oneWay  bool          // it has said so for oneWayTime
	greets  time.Duration // FT-FW: since when all its messages have had HELLO; 0 while they have none
	probed  uint32        // the last probe that it has received
	path    PathState
	size    int // of the probes that path is about
}

// hears records that the peer has heard nothing from this node for so long, as it says. changed
// is true when oneWay has changed.
func (w *way) hears(now, nothingFor time.Duration) (changed bool) {
	before := w.oneWay
	w.answers = true
	w.heard = now - nothingFor
	switch {
	case nothingFor < peerQuiet || now < peerQuiet: // this node may have just started
		w.deaf, w.oneWay = 0, false
	case w.deaf == 0:
		w.deaf = now
	case now-w.deaf >= oneWayTime:
		w.oneWay = true
	}
	return w.oneWay != before
}

// greeted records whether a message of the peer had HELLO, which it sets until it receives an answer:
// before that it can announce nothing, and a C daemon never can. changed is true when oneWay has
// changed.
func (w *way) greeted(now time.Duration, hello bool) (changed bool) {
	before := w.oneWay
	switch {
	case !hello && w.greets == 0:
	case !hello:
		w.greets, w.oneWay = 0, false
	case w.greets == 0:
		w.greets = max(now, 1)
	case now-w.greets >= peerQuiet+oneWayTime:
		w.oneWay = true
	}
	return w.oneWay != before
}

// hearsNow reports whether the peer has heard this node lately.
func (w *way) hearsNow(now time.Duration) bool { return now-w.heard < hearsLately }

// prober decides when a probe is due. The zero prober begins with a round.
type prober struct {
	number uint32        // of the last probe
	first  uint32        // of the first of the round
	tries  int           // probes of the round so far; 0 between the rounds
	link   int           // of the round
	size   int           // of the round's probes
	next   time.Duration // when step is due
}

// step sends the next probe, or ends the round, if that is due. size is how long a message
// may be on the link, which is the current one, or 0 if there is nothing to test. ways are those
// to all peers that are heard. failed is called for each of them that the probes do not reach,
// where that is new.
func (p *prober) step(now time.Duration, link, size int, ways []*way, failed func(i int)) (send bool) {
	if size != p.size || link != p.link {
		p.link, p.size, p.tries, p.next = link, size, 0, now
		for _, w := range ways {
			w.path, w.size = PathUntested, 0
		}
	}
	if now < p.next {
		return false
	}
	p.next = now + probeInterval
	answers, missing := 0, 0
	for _, w := range ways {
		if w.answers {
			answers++
			if !p.reached(w) {
				missing++
			}
		}
	}
	switch {
	case size == 0 || answers == 0:
		p.tries = 0
		return false
	case p.tries > 0 && missing == 0:
		p.tries, p.next = 0, now+probePeriod
		return false
	case p.tries >= probeTries:
		for i, w := range ways {
			if !w.answers || p.reached(w) || !w.hearsNow(now) {
				continue
			}
			before := w.path
			if w.path, w.size = PathBroken, size; before != PathBroken {
				failed(i)
			}
		}
		p.tries, p.next = 0, now+probeRetry
		return false
	}
	if p.number++; p.number == 0 {
		p.number = 1
	}
	if p.tries == 0 {
		p.first = p.number
	}
	p.tries++
	return true
}

// reached reports whether a probe of this round has reached the peer.
func (p *prober) reached(w *way) bool { return p.tries > 0 && p.ofRound(w.probed) }

// ofRound reports whether the probe belongs to the last round.
func (p *prober) ofRound(probe uint32) bool { return probe-p.first <= p.number-p.first }

// answered records that a probe has reached the peer. again is true if the peer had received none
// before, in its last state.
func (p *prober) answered(w *way, probe uint32, size int) (again bool) {
	if !p.ofRound(probe) || size != p.size || p.number == 0 {
		return false // an older round's
	}
	again = w.path == PathBroken
	w.probed, w.path, w.size = probe, PathWhole, size
	return again
}

// meet begins a round soon, for a peer whose first answer has come or that has started again.
func (p *prober) meet(now time.Duration) {
	if p.tries == 0 {
		p.next = now
	}
}

// pathSource is the part of the loop that asks peers whether they hear this node, and tests ways.
type pathSource struct{ r *Replicator }

func (s pathSource) Due() time.Duration { return s.r.paths.next }

func (s pathSource) Run() error {
	s.r.paths.next = s.r.sched.Now() + probeInterval
	s.r.checkPaths()
	return nil
}

// paths is the state of the tests of the ways to all peers, and of the answers to theirs.
type paths struct {
	next   time.Duration
	prober prober
	// The last probe of a peer, which the next repeats ALIVEs announce.
	probed, probedSize uint32
	repeats            int
}

// probedRepeats is how often a node announces that it has received a probe, because a lost
// ALIVE is not resent.
const probedRepeats = 3

// announce queues an ALIVE, with a probe of that number unless it is 0. ALARM has none.
func (r *Replicator) announce(probe uint32) {
	if m, ok := r.machine.(interface{ Announce(probe uint32) }); ok {
		m.Announce(probe)
	}
}

// silence is for how long nothing was heard from any peer.
func (r *Replicator) silence() time.Duration {
	last := time.Duration(0)
	for _, p := range r.peers {
		if !p.ignored {
			last = max(last, p.last)
		}
	}
	return r.sched.Now() - last
}

// checkPaths announces that nothing is heard, where that is so, and sends the probes that are due.
func (r *Replicator) checkPaths() {
	now := r.sched.Now()
	if r.silence() >= deafAfter {
		r.announce(0)
	}
	var ways []*way
	var addrs []netip.Addr
	for addr, p := range r.peers {
		if !p.ignored && now-p.last < peerQuiet {
			ways, addrs = append(ways, &p.way), append(addrs, addr)
		}
	}
	if r.paths.prober.step(now, r.links.current, r.probeSize(), ways, func(i int) {
		r.log.Warn(fmt.Sprintf("packets of %d bytes do not reach %v, although smaller ones do: full ones are lost, and sent again "+
			"and again. Set the MTU of %s to what the path carries, or repair the path",
			r.packetLen(ways[i].size), addrs[i], r.links.all[r.links.current].Config().Interface))
	}) {
		// A short ALIVE goes before each probe, or a peer that loses the probes would hear nothing.
		r.announce(0)
		r.announce(r.paths.prober.number)
	}
}

// probeSize returns the length of a message that fills a datagram of the current link, or 0 where
// there are no datagrams: over TCP the kernels find out what the path carries.
func (r *Replicator) probeSize() int {
	l := r.links.all[r.links.current]
	if l.Config().Transport == link.TCP {
		return 0
	}
	if r.cluster.speaks() {
		return r.cluster.probeSize(l.Capacity())
	}
	return min(l.Capacity(), wire.MaxMessage)
}

// packetLen returns the length of the IP packet with a message of so many bytes, 0 for none.
func (r *Replicator) packetLen(size int) int {
	const udp, ipv4, ipv6 = 8, 20, 40
	if size == 0 {
		return 0
	}
	if r.cluster.speaks() {
		size = r.cluster.probePacket(size)
	}
	if c := r.links.all[r.links.current].Config(); c.Is6() {
		return size + udp + ipv6
	}
	return size + udp + ipv4
}

// fillNotice adds to the notice of an ALIVE that leaves now what this node hears.
func (r *Replicator) fillNotice(n *wire.Notice) {
	r.cluster.fillOffer(n)
	n.Has |= wire.HasHeard
	n.Heard = uint32(min(r.silence()/time.Millisecond, math.MaxUint32))
	if r.paths.repeats > 0 {
		r.paths.repeats--
		n.Has |= wire.HasProbed
		n.Probed, n.ProbedSize = r.paths.probed, r.paths.probedSize
	}
	if n.Has&wire.HasProbe != 0 {
		n.Size = uint32(r.probeSize())
	}
}

// takePaths applies what a notice says about the ways between its sender and this node.
func (r *Replicator) takePaths(from netip.Addr, p *peer, n *wire.Notice) {
	now := r.sched.Now()
	if n.Has&wire.HasHeard != 0 {
		if !p.way.answers {
			r.paths.prober.meet(now)
			r.paths.next = min(r.paths.next, now)
		}
		nothing := time.Duration(n.Heard) * time.Millisecond
		if p.way.hears(now, nothing) {
			r.sayOneWay(from, p, nothing)
		}
	}
	if n.Has&wire.HasProbed != 0 && r.paths.prober.answered(&p.way, n.Probed, int(n.ProbedSize)) {
		r.log.Notice(fmt.Sprintf("packets of %d bytes reach %v again", r.packetLen(p.way.size), from))
	}
	if n.Has&wire.HasProbe != 0 {
		r.paths.probed, r.paths.probedSize, r.paths.repeats = n.Probe, n.Size, probedRepeats
		r.announce(0)
	}
}

// takeGreeting looks at the HELLO of a peer's message.
func (r *Replicator) takeGreeting(from netip.Addr, p *peer, hello bool) {
	now := r.sched.Now()
	if since := p.way.greets; r.ftfw != nil && p.way.greeted(now, hello) {
		r.sayOneWay(from, p, now-since)
	}
}

// sayOneWay logs that messages pass in one direction only, or do no longer.
func (r *Replicator) sayOneWay(to netip.Addr, p *peer, nothing time.Duration) {
	if !p.way.oneWay {
		r.log.Notice(to.String() + " hears this node again")
		return
	}
	proto, port := r.links.service()
	r.log.Warn(fmt.Sprintf("%v has heard nothing for %s, although its messages arrive here: messages pass in one direction only. "+
		"Do both firewalls accept %s port %d?", to, inSeconds(nothing), proto, port))
}
