//go:build !no_cluster

package replicate

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ctbox/sync/proto"
	"ctbox/sync/seal"
	"ctbox/sync/wire"
)

// A node with one peer may have to speak version 1 with it: the machine is FT-FW then, and the
// stream does not exist. proto.Versions decides which version is spoken, for each peer; with several
// peers what all of them can read is sent.

// offerInterval is the period of sending this node's offer.
const offerInterval = time.Second

// speaks reports whether version 2 is in use.
func (c *cluster) speaks() bool { return c != nil && c.version != proto.Version1 }

// offer describes this node.
func (c *cluster) offer() wire.Offer {
	o := wire.Offer{
		Cluster: wire.ClusterHash(c.config.Name), Node: c.config.Node, Version: seal.Version,
		Plain: c.config.Send == 0 || c.config.AllowPlain, Send: c.config.Send,
	}
	numbers := make([]int, 0, len(c.config.Keys))
	for i := range c.config.Keys {
		numbers = append(numbers, int(c.config.Keys[i].Number))
	}
	slices.Sort(numbers)
	for i, n := range numbers[:min(len(numbers), len(o.Keys))] {
		o.Keys[i] = wire.OfferKey{Number: uint8(n), Check: c.keys.ring.Check(uint8(n))}
	}
	return o
}

func (c *cluster) versionsConfig(peer uint8) proto.VersionsConfig {
	return proto.VersionsConfig{Offer: c.offer(), Peer: peer, Only2: len(c.config.Peers) > 1}
}

// wanted returns the version that is best for all peers that are known to speak version 2.
func (c *cluster) wanted() proto.Version {
	if len(c.config.Peers) == 1 {
		return c.peer().versions.Speaks()
	}
	best, known := proto.Version2Sealed, false
	for _, m := range c.members {
		if m != nil && m.versions.Known() {
			best, known = min(best, m.versions.Speaks()), true
		}
	}
	if !known {
		best = c.members[c.config.Peers[0].Number].versions.Speaks()
	}
	return best
}

// reconsider decides anew, for each peer, which version to use with it under the clause in force.
func (c *cluster) reconsider() {
	for _, m := range c.members {
		if m != nil {
			c.agreed(m, m.versions.SetConfig(c.sched.Now(), c.versionsConfig(m.number)))
		}
	}
	c.speak(c.wanted())
	c.warnAllowPlain()
}

// warnAllowPlain logs a warning if AllowPlain is on: it is for a migration only.
func (c *cluster) warnAllowPlain() {
	if c.config.AllowPlain && c.config.Send != 0 {
		c.log.Warn("AllowPlain is on: what is not sealed is accepted from a peer that has sealed nothing lately. Turn it off when all nodes have the keys")
	}
}

// agreed handles the events of a decision about a peer: it switches the version if need be, and logs why.
func (c *cluster) agreed(m *member, e proto.VersionEvents) {
	if e == 0 {
		return
	}
	if e&proto.PlainExpected != 0 {
		c.session.ForgetSealed(m.number)
	}
	before := c.version
	c.speak(c.wanted())
	c.logAgreed(m, e, before)
}

// logAgreed logs the events of a decision about a peer. before is the version that was in use before them.
func (c *cluster) logAgreed(m *member, e proto.VersionEvents, before proto.Version) {
	if c.version != before {
		how := map[proto.Version]string{
			proto.Version1:       "version 1 of the protocol is spoken",
			proto.Version2Plain:  "version 2 of the protocol is spoken, in the clear",
			proto.Version2Sealed: fmt.Sprintf("version 2 of the protocol is spoken, sealed with key %d", c.config.Send),
		}[c.version]
		switch {
		case e&proto.PeerOffers != 0:
			how += ": " + m.name + " offers it"
		case e&proto.PeerOlder != 0:
			how += ": " + m.name + " has come back with it"
		case e&proto.PeerUnreadable != 0:
			how += ": nothing that " + m.name + " sends can be opened with the keys here"
		}
		c.log.Notice(how)
	}
	for _, row := range [...]struct {
		event proto.VersionEvents
		text  string
	}{
		{proto.NoCommonKey, m.name + " and this node do not both have the keys that they send with"},
		{proto.KeyDiffers, "the file of a key has other contents here than at " + m.name},
		{proto.OtherCluster, m.name + " is of another cluster: nothing in the clear is accepted from it. Here Name is " + c.config.Name},
		{proto.SameNumber, fmt.Sprintf("%s sends as Node %d, which is this node: each node of a Cluster needs a number of its own", m.name, c.config.Node)},
		{proto.OtherNumber, fmt.Sprintf("%s sends under another number than %d, which Peer has here: nothing in the clear is accepted from it", m.name, m.number)},
		{proto.Version1Refused, "refused version 1 of the protocol from " + m.name + ": " + c.whyOnly2()},
	} {
		if e&row.event != 0 {
			c.log.Warn(row.text)
		}
	}
}

// whyOnly2 returns why version 1 is not allowed.
func (c *cluster) whyOnly2() string {
	if len(c.config.Peers) > 1 {
		return "it is for two nodes only"
	}
	return "there are keys, and AllowPlain is off"
}

// speak switches to a version of the protocol.
func (c *cluster) speak(v proto.Version) {
	before := c.version
	c.version = v
	c.session.SetPlain(v != proto.Version2Sealed)
	switch now := c.sched.Now(); {
	case v == proto.Version1 && c.ftfw == nil:
		first := wire.Seq(c.sched.Start().Add(now).Unix())
		config := ftfwConfig(c.cfg, first)
		config.StartupResync = true
		c.ftfw = proto.NewFTFW(now, config)
		c.exchange(c.ftfw)
		c.receiver = c.ftfw
		for _, p := range c.peers {
			p.node = 0
		}
	case v != proto.Version1 && c.ftfw != nil:
		c.stream = c.newStream(now)
		c.exchange(c.stream)
		c.receiver, c.ftfw = nil, nil
		c.payload = wire.NewStreamPacker(1, c.sealPayload)
		c.payload.Begin(c.stream.Position, c.appendControls)
		c.announce(0)
	case v != before:
		c.announce(0)
	}
}

func (c *cluster) newStream(now time.Duration) *proto.Stream {
	var random [28]byte
	rand.Read(random[:])
	s := proto.StreamConfig{
		ID:     binary.BigEndian.Uint64(random[:]),
		First:  wire.Seq(binary.BigEndian.Uint32(random[8:])),
		Window: int(c.cfg.ACKWindowSize), Resend: int(c.cfg.ResendQueueSize), Node: c.config.Node, Peers: c.numbers(),
	}
	copy(s.DigestKey[:], random[12:])
	stream := proto.NewStream(now, s)
	c.beginDigests(s.ID, s.DigestKey)
	return stream
}

// exchange replaces the machine. A bulk announces all live objects again, and the other side
// deletes those that have ended meanwhile.
func (c *cluster) exchange(next proto.Machine) {
	next.SetDelays(delaysOf(&c.cfg.Delay))
	c.machine.(interface{ Retire(proto.Machine) }).Retire(next)
	c.freeReleased()
	c.past = c.stats()
	c.machine = next
	if c.missing > 0 {
		next.SetIncomplete(c.sched.Now(), c.missing)
	}
	if m, ok := next.(interface{ Committed(time.Duration) }); ok && c.committed > 0 {
		m.Committed(c.committed)
	}
	for _, p := range c.copies {
		p.sweep.Reset()
		p.numbers = proto.Agreement{}
	}
}

// announceKeyChange sends the offer of a new clause, sealed with the key that was in force before. A peer that
// shares no key with the new clause trusts the offer only under the old one.
func (c *cluster) announceKeyChange() {
	if c.version == proto.Version2Sealed {
		c.announce(0)
		c.Transmit()
	}
}

// fillOffer adds the offer to a notice.
func (c *cluster) fillOffer(n *wire.Notice) {
	if c != nil && (c.speaks() || c.peer().versions.Offers()) {
		n.Has |= wire.HasOffer
		n.Offer = c.offer()
	}
}

// tickOffers sends the offer if it is due.
func (c *cluster) tickOffers(now time.Duration) {
	if now < c.offers {
		return
	}
	c.offers = now + offerInterval
	if c.speaks() || c.peer().versions.Offers() {
		c.announce(0)
	}
	if !c.speaks() && c.peer().versions.RefusesPeer(now) {
		notice := wire.Notice{Has: wire.HasOffer, Offer: c.offer()}
		c.challenges.AddWhole(wire.AppendNotice(c.challenges.Buffer(), wire.Header{Type: wire.Control, Flags: wire.Alive}, &notice))
		for i := range c.links.all {
			c.links.sendOn(i, c.challenges)
		}
		c.challenges.Reset()
	}
}

// trusts reports whether a datagram that the session has accepted is of this cluster.
func (c *cluster) trusts(m *member, sealed bool, payload []byte) bool {
	if m.versions.Trusts(sealed) {
		return true
	}
	reader := wire.ReadStream(payload)
	for {
		ok, err := reader.Next(&c.message)
		if !ok || err != nil {
			return m.versions.Trusts(sealed)
		}
		var notice wire.Notice
		if c.message.Type == wire.StreamNotice && notice.ParseBody(c.message.Body) == nil && notice.Has&wire.HasOffer != 0 {
			c.agreed(m, m.versions.HeardOffer(c.sched.Now(), &notice.Offer, proto.Version2(sealed)))
		}
	}
}

// take1 applies a datagram of version 1, or refuses it.
func (c *cluster) take1(link int, from netip.Addr, datagram []byte) {
	m := c.members[c.nodes[link][from]]
	if m == nil && len(c.config.Peers) == 1 {
		m = c.peer() // over a relay
	}
	if m == nil {
		c.refuse(0, from, seal.BadPlain)
		return
	}
	reader := wire.ReadDatagram(datagram)
	for {
		msg, ok := reader.Next(&c.received)
		if !ok {
			break
		}
		if c.hears1(m, &msg) {
			c.takeMessage(link, from, &msg)
		}
	}
	if !m.versions.Accepts1(c.sched.Now()) {
		m.refused[seal.BadPlain]++
	}
}

// hears1 reports whether a message of version 1 is to be applied.
func (c *cluster) hears1(m *member, msg *wire.Message) bool {
	now := c.sched.Now()
	var notice wire.Notice
	if msg.CarriesNotice() && wire.ParseNotice(msg.Body, &notice) == nil && notice.Has&wire.HasOffer != 0 {
		c.agreed(m, m.versions.HeardOffer(now, &notice.Offer, proto.Version1))
	}
	apply, e := m.versions.Heard1(now, msg.Flags&wire.Hello != 0)
	c.agreed(m, e)
	return apply && !c.speaks()
}
