//go:build !no_cluster

package replicate

import (
	"crypto/rand"
	"net/netip"
	"os"
	"slices"
	"time"

	"ctbox/conf"
	"ctbox/internal/loglimit"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/link"
	"ctbox/sync/owner"
	"ctbox/sync/proto"
	"ctbox/sync/seal"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

// cluster is a node's part in a Cluster: version 2 of the protocol. The Replicator owns it, and
// the lock of sched guards it as it does the Replicator's fields.
//
// A datagram that arrives goes from takes (cluster_receive.go), where the session opens it and
// the stream judges its messages, to applyObject, which changes the peer's copy. An object that is
// to be announced goes from the stream to transmit (cluster_send.go), which encodes it, collects
// payloads and has the session seal each once for all peers. cluster_digest.go proves that the
// peers hold what this node has announced.
type cluster struct {
	*Replicator
	config  *conf.Cluster // in force; immutable, reconfigure replaces it
	session *seal.Session
	keys    Keys          // those that the clause in force names
	version proto.Version // that is spoken
	book    *owner.Book   // which node owns each flow; nil with one peer
	asking
	stream  *proto.Stream
	renewal renewal
	uevents *uevents
	due     time.Duration // when the session has to be ticked
	offers  time.Duration // when the offer is due
	look    time.Duration // when to look at the peers
	// primariesSeen is how many nodes were primary at the last look.
	primariesSeen int
	logNext       time.Duration  // when the log may say next that there are several
	lacking       time.Duration  // when there were last no copies
	lacks         bool           // awaitsCopies waits since then
	known         ctnetlink.Flow // reused
	lost          cache.Handle   // the flow of the internal cache that was withdrawn last

	members [seal.MaxNode + 1]*member // the peers by number; nil for others
	nodes   []map[netip.Addr]uint8    // for each link, the peer by address

	// Receiving: memory that is used again.
	opened  []byte
	message wire.StreamMessage

	// Sending.
	payload    *wire.StreamPacker
	body       []byte       // of a message, used again
	challenges *wire.Packer // one datagram at a time
	flags      uint8        // of the header
	digests    digests

	unknown  [seal.Verdicts]uint64 // refused datagrams from addresses of no peer
	refusals *loglimit.Limit[refusal, string]
	// duplicate is when to check next whether another node has this node's number.
	duplicate time.Duration
}

// member is what a cluster knows of a peer, beside what the peers of the Replicator have by
// address.
type member struct {
	number   uint8
	name     string
	copy     *peerCopy  // of its flows
	addr     netip.Addr // of its last datagram; invalid before one has come
	key      uint8      // of its last datagram: the key's number, 0 for a plain one
	flags    uint8      // of its last datagram
	lives    uint64     // of its streams
	versions *proto.Versions
	refused  [seal.Verdicts]uint64
	comparison
}

// The flags of a datagram's header.
const (
	flagPrimary    = 1 << 0 // the sender has the traffic, as far as it knows
	flagInSync     = 1 << 1 // the sender is in sync with its peers
	flagPromotable = 1 << 2 // the sender may take over
)

// openCluster begins version 2 of the protocol if there is a Cluster clause.
func (r *Replicator) openCluster() error {
	if r.cfg.Cluster == nil {
		return nil
	}
	keys, err := ReadKeys(r.cfg, os.Geteuid())
	if err != nil {
		return err
	}
	r.awaitRandom()
	now := r.sched.Now()
	c := &cluster{Replicator: r, opened: make([]byte, 0, 1<<16), body: make([]byte, 0, wire.MaxCompactBody)}
	c.uevents = openUevents()
	c.renewal = renewal{clocks: clocks, uevent: c.uevents.changed}
	c.renewal.begin()
	c.refusals = loglimit.New[refusal](1, time.Minute, c.logSuppressed)
	c.challenges = wire.NewPacker(1)
	c.keys = keys
	c.lackCopies()
	c.setMembers(r.cfg.Cluster)
	numbers := c.numbers()
	c.session = seal.NewSession(now, seal.Config{
		Node: c.config.Node, Peers: numbers, Ring: keys.ring, AllowPlain: c.config.AllowPlain, Random: rand.Reader,
	})
	r.cluster = c
	c.speak(c.wanted())
	c.warnAllowPlain()
	r.sched.Add(clusterSource{c})
	return nil
}

// awaitRandom waits until the kernel's random numbers are good, which may take long on a machine
// that has just been booted.
func (r *Replicator) awaitRandom() {
	var b [1]byte
	if _, err := unix.Getrandom(b[:], unix.GRND_NONBLOCK); err == unix.EAGAIN {
		r.log.Notice("waiting for the kernel's random numbers")
		rand.Read(b[:])
	}
}

// setMembers adopts the peers of a clause. What is known of those that stay is kept.
func (c *cluster) setMembers(config *conf.Cluster) {
	before, former := c.members, c.config
	c.config, c.members = config, [seal.MaxNode + 1]*member{}
	c.nodes = make([]map[netip.Addr]uint8, len(c.cfg.Links))
	for i := range c.nodes {
		c.nodes[i] = make(map[netip.Addr]uint8, len(config.Peers))
	}
	for i := range config.Peers {
		p := &config.Peers[i]
		m := before[p.Number]
		if m == nil {
			m = &member{number: p.Number}
		}
		if v := c.versionsConfig(p.Number); m.versions == nil {
			m.versions = proto.NewVersions(c.sched.Now(), v)
		}
		m.name = p.Name
		c.members[p.Number] = m
		for l := range c.nodes {
			c.nodes[l][p.Addresses[l].WithZone("")] = p.Number
		}
	}
	c.adoptCopies(former, &before)
	c.setCopies()
}

// adoptCopies gives a peer that has another number than before the copy that it had: the only peer, or one with the
// address of a former one. Otherwise this node would hold its flows twice until PurgeTimeout. A bulk will
// compare what is here.
func (c *cluster) adoptCopies(former *conf.Cluster, before *[seal.MaxNode + 1]*member) {
	if former == nil {
		return
	}
	only := len(former.Peers) == 1 && len(c.config.Peers) == 1
	for i := range former.Peers {
		old := &former.Peers[i]
		if c.members[old.Number] != nil {
			continue // it has its number still
		}
		for j := range c.config.Peers {
			p := &c.config.Peers[j]
			m := c.members[p.Number]
			if (only || slices.Equal(p.Addresses, old.Addresses)) && m.copy == nil &&
				!slices.ContainsFunc(c.copies, func(copied *peerCopy) bool { return copied.node == p.Number }) {
				m.copy, m.held = before[old.Number].copy, before[old.Number].held
			}
		}
	}
}

// setCopies gives each peer a copy of its own. The copies of former peers stay for PurgeTimeout: a
// takeover may still need their flows.
func (c *cluster) setCopies() {
	r := c.Replicator
	for i := range c.config.Peers {
		m := c.members[c.config.Peers[i].Number]
		if m.copy == nil {
			m.copy = r.copyFor(m.number)
		}
		m.copy.node, m.copy.name, m.copy.leaves = m.number, m.name, 0
	}
	for _, p := range r.copies {
		if c.members[p.node] == nil && p.leaves == 0 {
			p.leaves = max(c.sched.Now()+c.cfg.PurgeTimeout, 1)
			p.agreement = agreement{bulk: p.bulk + 1} // which ends walks over what a bulk has left out
		}
	}
	if len(c.config.Peers) == 1 || r.external.leaves != 0 {
		r.external = c.peer().copy
	}
	c.setOwners()
}

// copyFor returns a copy for a new peer: one that it had, the one that is nobody's yet, or an empty one.
func (r *Replicator) copyFor(node uint8) *peerCopy {
	for _, p := range r.copies {
		if p.node == node || p.node == 0 {
			return p
		}
	}
	p := &peerCopy{Side: r.newCopy()}
	r.copies = append(r.copies, p)
	return p
}

// copiesDue returns when forgetCopies has something to do.
func (c *cluster) copiesDue() time.Duration {
	due := proto.None
	for _, p := range c.copies {
		if p.leaves != 0 {
			due = min(due, p.leaves)
		}
	}
	return due
}

// forgetCopies forgets the copies of former peers whose time is over.
func (c *cluster) forgetCopies(now time.Duration) {
	r := c.Replicator
	before := len(r.copies)
	r.copies = slices.DeleteFunc(r.copies, func(p *peerCopy) bool { return p.leaves != 0 && p.leaves <= now })
	if len(r.copies) != before {
		c.setOwners()
	}
}

// several reports whether there is a Cluster of more than two nodes.
func (c *cluster) several() bool { return c != nil && len(c.config.Peers) > 1 }

// numbers returns the numbers of the peers.
func (c *cluster) numbers() (numbers []uint8) {
	for i := range c.config.Peers {
		numbers = append(numbers, c.config.Peers[i].Number)
	}
	return numbers
}

// setPeers makes the peers of the clause, if there is one, those of link number i.
func setPeers(l *link.Config, c *conf.Cluster, i int) {
	if c != nil {
		l.Peers = clusterPeers(c, i, l.Port)
	}
}

// clusterPeers returns the addresses of the peers on a link with its port.
func clusterPeers(c *conf.Cluster, link int, port uint16) (peers []netip.AddrPort) {
	for i := range c.Peers {
		p := &c.Peers[i]
		to := port
		if p.Port != 0 {
			to = p.Port
		}
		peers = append(peers, netip.AddrPortFrom(p.Addresses[link], to))
	}
	return peers
}

// reconfigure puts another clause in force, with the keys that ReadKeys has read for it.
func (c *cluster) reconfigure(config *conf.Cluster, keys Keys) {
	if c == nil {
		return
	}
	c.keys = keys
	c.setMembers(config)
	c.announceKeyChange()
	c.session.SetRing(keys.ring)
	c.session.SetAllowPlain(config.AllowPlain)
	c.session.SetPeers(c.numbers())
	if c.stream != nil {
		c.stream.SetPeers(c.numbers())
		c.beginComparisons()
	}
	c.reconsider()
	for i, l := range c.links.all {
		l.SetPeers(clusterPeers(config, i, l.Config().Port))
	}
	c.linkChanged()
}

// clusterSource is the part of the loop that keeps the time of the session and the digests.
type clusterSource struct{ c *cluster }

// Due implements sched.Source.
func (s clusterSource) Due() time.Duration {
	return min(s.c.due, s.c.offers, s.c.look, s.c.digestsDue(), s.c.copiesDue(), s.c.takeDue())
}

// Run implements sched.Source.
func (s clusterSource) Run() error {
	now := s.c.sched.Now()
	s.c.due = s.c.session.Tick(now)
	s.c.tickOffers(now)
	s.c.tickDigests(now)
	s.c.forgetCopies(now)
	s.c.tickQuestion(now)
	s.c.tickTake(now)
	if now >= s.c.look {
		s.c.lookAtPeers(now)
		if !s.c.filling {
			s.c.waitingBulk() // awaitsCopies may have waited long enough
		}
	}
	return nil
}

func (c *cluster) close() {
	if c != nil {
		c.uevents.close()
		c.refusals.Close()
	}
}
