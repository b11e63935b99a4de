package proto

import (
	"time"

	"ctbox/sync/wire"
)

// Version is how a node speaks to a peer.
type Version uint8

// The versions, in ascending order of preference.
const (
	Version1       Version = iota // FT-FW, version 1
	Version2Plain                 // version 2 in the clear
	Version2Sealed                // version 2, sealed
)

// Version2 returns the version of a datagram of version 2.
func Version2(sealed bool) Version {
	if sealed {
		return Version2Sealed
	}
	return Version2Plain
}

// String returns the version as outputs have it.
func (v Version) String() string {
	switch v {
	case Version2Plain:
		return "2 plain"
	case Version2Sealed:
		return "2 sealed"
	}
	return "1"
}

// VersionsConfig is what this node and its file can do.
type VersionsConfig struct {
	// Offer describes this node. It has no keys if the file has none. Plain is set if datagrams in
	// the clear are accepted: without keys, or with AllowPlain.
	Offer wire.Offer
	// Peer is the number of the peer.
	Peer uint8
	// Only2 is set if version 1 is out of the question: the cluster has more than two nodes.
	Only2 bool
}

// VersionEvents is a set of things for the owner to do or log.
type VersionEvents uint16

// The events. VersionChanged and SealingChanged call for an action, PlainExpected for
// seal.Session.ForgetSealed. The others explain; each is reported once until something about it changes.
const (
	// VersionChanged: Speaks has changed between version 1 and version 2. The owner begins a
	// new stream of the other version, in which everything is announced by a bulk.
	VersionChanged VersionEvents = 1 << iota
	// SealingChanged: Speaks has changed between plain and sealed. The stream goes on.
	SealingChanged
	// PlainExpected: a sealed datagram of the peer has announced that the peer goes over to plain ones.
	PlainExpected

	PeerOffers      // the peer offers version 2, or speaks it
	PeerOlder       // the peer speaks version 1 again
	PeerUnreadable  // nothing that the peer sends can be opened
	NoCommonKey     // one of the nodes lacks the key that the other sends with
	KeyDiffers      // the nodes' files of a key have different contents
	OtherCluster    // the peer's offer is another cluster's
	SameNumber      // the peer's offer has this node's number
	OtherNumber     // the peer's offer has a number that the file does not have for the peer
	Version1Refused // the peer speaks version 1, which is not allowed
)

// Times of Versions.
const (
	// olderTime is how long a peer that speaks version 1 must have sent nothing of version 2
	// before it is served version 1. It is greetTime if the peer sends HELLO, so has started.
	olderTime = 5 * time.Second
	greetTime = 2 * time.Second
	// sealedLasts is for how long after a sealed datagram of a peer nothing in the clear is accepted
	// from it: an attacker who could send in the clear would otherwise bypass the seal. It is
	// seal.Session's time for plain datagrams.
	sealedLasts = 10 * time.Second
	// offerPause is how long the peer's offers in version 1 are ignored after two attempts at version 2 in a row
	// to which the peer has answered with version 1. It doubles up to maxOfferPause.
	offerPause    = 10 * time.Second
	maxOfferPause = 10 * time.Minute
	// wrongLasts is for how long after an offer that does not fit nothing in the clear is accepted: it
	// comes each second.
	wrongLasts = 10 * time.Second
)

// Versions decides which version of the protocol a node with a Cluster clause speaks with one
// peer, and what it accepts from it. Both nodes decide for themselves, by the same rules:
//
//   - With keys and without AllowPlain a node speaks and accepts sealed datagrams only.
//   - Another node begins with version 1 and offers version 2 in the notices of its ALIVEs. When
//     it hears the peer's offer, or version 2, it speaks version 2: sealed if each node can open what
//     the other sends, otherwise in the clear.
//   - A peer that speaks version 1 while nothing of version 2 comes from it is served version 1.
//   - For 10 s after a sealed datagram, nothing is accepted in the clear from its sender.
//   - Nothing is accepted in the clear from a node that offers version 2 for another cluster or under a
//     wrong number.
//
// It needs no timer: what has to happen happens when something is heard. Times are as in Machine.
// A Versions is not safe for concurrent use.
type Versions struct {
	config VersionsConfig
	speaks Version
	since  time.Duration // of the last change between the versions, or of the start

	two     bool // the peer speaks version 2, as far as this node knows
	offered bool // offer is the peer's
	offer   wire.Offer

	heard2   time.Duration // the last sign of version 2 of the peer, or since
	proven   bool          // version 2 was heard since the last change
	sealed   bool          // a sealed datagram was accepted, at sealedAt
	sealedAt time.Duration
	greets   bool // it sends HELLO, since greetsAt, and nothing of version 2
	greetsAt time.Duration

	wrong   bool // the peer has made an offer that does not fit, at wrongAt
	wrongAt time.Duration

	failures  int           // attempts at version 2 in a row to which the peer answered with version 1
	pauseEnds time.Duration // offers are ignored until then
	said      VersionEvents
}

// NewVersions returns the Versions of a node that starts now.
func NewVersions(now time.Duration, c VersionsConfig) *Versions {
	v := &Versions{config: c, since: now, heard2: now}
	v.speaks = v.best()
	return v
}

// SetConfig puts another configuration in force.
func (v *Versions) SetConfig(now time.Duration, c VersionsConfig) VersionEvents {
	if c == v.config {
		return 0
	}
	v.config = c
	v.said, v.failures, v.pauseEnds = 0, 0, 0
	e := v.decide(now, 0)
	if v.speaks == Version2Plain && v.sealed {
		v.sealed = false // this node's operator wants it so
		e |= PlainExpected
	}
	return e
}

// Speaks returns what the node speaks to the peer.
func (v *Versions) Speaks() Version { return v.speaks }

// Known reports whether the peer is known to speak version 2.
func (v *Versions) Known() bool { return v.two }

// Offers reports whether the notices of version 1 carry the node's offer.
func (v *Versions) Offers() bool { return v.allows1() }

// Accepts1 reports whether version 1 is acceptable from the peer now, though another version may be spoken.
func (v *Versions) Accepts1(now time.Duration) bool {
	return v.allows1() && !v.guards(now) && !v.RefusesPeer(now)
}

// RefusesPeer reports whether the peer has lately made an offer that does not fit. Each second the
// owner then sends the offer of this node alone, as an ALIVE without HELLO: the machine of version 1, which
// hears nothing, would set HELLO on all messages, and such a message has no room for the offer that makes the
// peer refuse this node, too.
func (v *Versions) RefusesPeer(now time.Duration) bool { return v.wrong && now-v.wrongAt < wrongLasts }

// Offer returns the node's offer.
func (v *Versions) Offer() wire.Offer { return v.config.Offer }

// PeerOffer returns the peer's last offer. ok is false if none is known that fits this cluster.
func (v *Versions) PeerOffer() (o wire.Offer, ok bool) { return v.offer, v.offered }

// Trusts reports whether a datagram of version 2 that the Session has accepted may be applied: a
// plain one does not prove that it is of this cluster, so the peer's offer must have said so. The
// owner looks for an offer in a datagram that is not trusted, and drops the datagram otherwise.
func (v *Versions) Trusts(sealed bool) bool { return sealed || v.offered }

// allows1 reports whether version 1 may be spoken.
func (v *Versions) allows1() bool { return v.config.Offer.Plain && !v.config.Only2 }

// guards reports whether a sealed datagram has come so lately that nothing in the clear is accepted.
func (v *Versions) guards(now time.Duration) bool {
	return v.sealed && v.config.Offer.Send != 0 && now-v.sealedAt < sealedLasts
}

// mutual reports whether each node can open what the other seals, and otherwise why not.
func (v *Versions) mutual() (ok bool, why VersionEvents) {
	own, peers := &v.config.Offer, &v.offer
	if own.Send == 0 || peers.Send == 0 {
		return false, 0
	}
	for _, number := range [...]uint8{own.Send, peers.Send} {
		a, b := own.Key(number), peers.Key(number)
		switch {
		case a.Number == 0 || b.Number == 0:
			why |= NoCommonKey
		case a != b:
			why |= KeyDiffers
		}
	}
	return why == 0, why
}

// best returns the best version that both nodes can speak, by what is known.
func (v *Versions) best() Version {
	own := &v.config.Offer
	switch {
	case !v.two && v.allows1():
		return Version1
	case own.Send == 0:
		return Version2Plain
	case !own.Plain:
		return Version2Sealed
	case !v.offered && v.sealed:
		return Version2Sealed // the peer seals, so it expects the same
	case v.offered && !v.offer.Plain:
		return Version2Sealed
	}
	if ok, _ := v.mutual(); ok && v.offered {
		return Version2Sealed
	}
	return Version2Plain
}

// decide goes over to the best version. why explains a change.
func (v *Versions) decide(now time.Duration, why VersionEvents) (e VersionEvents) {
	before, best := v.speaks, v.best()
	if best != before {
		v.speaks = best
		if before == Version1 || best == Version1 {
			v.since, v.proven, v.greets = now, false, false
			e = VersionChanged | why
		} else {
			e = SealingChanged
		}
	}
	if v.offered {
		_, why := v.mutual()
		v.said &= why | ^(NoCommonKey | KeyDiffers)
		e |= v.say(why)
	}
	return e
}

// say returns an event the first time.
func (v *Versions) say(e VersionEvents) VersionEvents {
	e &^= v.said
	v.said |= e
	return e
}

// HeardOffer records an offer of the peer, from an ALIVE of version 1 or from a NOTICE of a datagram of
// version 2 that the Session has accepted; in is the version of what has carried it. Only offers in
// version 1 are ignored during a pause: the Session accepts a datagram after the peer has answered a
// challenge, so version 2 comes through in both directions.
func (v *Versions) HeardOffer(now time.Duration, o *wire.Offer, in Version) VersionEvents {
	sealed := in == Version2Sealed
	if !sealed && (!v.config.Offer.Plain || v.guards(now)) {
		return 0
	}
	wrong := VersionEvents(0)
	switch own := &v.config.Offer; {
	case o.Cluster != own.Cluster:
		wrong = OtherCluster
	case o.Node == own.Node:
		wrong = SameNumber
	case o.Node != v.config.Peer:
		wrong = OtherNumber
	case o.Version < 2:
		return 0
	}
	if wrong != 0 {
		v.offered, v.two, v.wrong, v.wrongAt = false, false, true, now
		return v.say(wrong) | v.decide(now, 0)
	}
	v.wrong = false
	v.said &^= OtherCluster | SameNumber | OtherNumber
	if in == Version1 && v.speaks == Version1 && now < v.pauseEnds {
		return 0
	}
	v.offered, v.offer, v.two = true, *o, true
	e := v.decide(now, PeerOffers)
	if sealed && v.speaks == Version2Plain {
		v.sealed = false
		e |= PlainExpected
	}
	return e
}

// Heard1 records a message of version 1 from the peer; hello is its flag HELLO. It reports whether
// the message is to be applied. With VersionChanged the owner first begins with version 1. The offer of a
// message precedes it (HeardOffer), and counts though the message is not applied.
func (v *Versions) Heard1(now time.Duration, hello bool) (apply bool, e VersionEvents) {
	if !v.allows1() {
		return false, v.say(Version1Refused)
	}
	if v.guards(now) || v.RefusesPeer(now) {
		return false, 0
	}
	if v.speaks == Version1 {
		return true, 0
	}
	if hello && !v.greets {
		v.greets, v.greetsAt = true, now
	}
	quiet := now - max(v.heard2, v.since)
	if quiet < olderTime && (!hello || now-v.greetsAt < greetTime) {
		return false, 0
	}
	if v.failures++; v.proven {
		v.failures = 0
	}
	if v.failures > 1 {
		v.pauseEnds = now + min(maxOfferPause, offerPause<<min(v.failures-2, 10))
	}
	v.said = 0
	return true, v.forget(now, PeerOlder)
}

// forget begins anew with a peer whose version is not known.
func (v *Versions) forget(now time.Duration, why VersionEvents) VersionEvents {
	v.two, v.offered, v.sealed = false, false, false
	return v.decide(now, why)
}

// Unopened records a sealed datagram of the peer for which this node lacks the key. If nothing else comes,
// what the peer has offered is out of date: the nodes begin anew, with version 1.
func (v *Versions) Unopened(now time.Duration) VersionEvents {
	if !v.allows1() || v.config.Offer.Send == 0 || v.speaks == Version1 || now-max(v.heard2, v.since) < sealedLasts {
		return 0
	}
	return v.forget(now, PeerUnreadable)
}

// Heard2 records a datagram of version 2 of the peer that the Session has accepted and that is
// trusted.
func (v *Versions) Heard2(now time.Duration, sealed bool) VersionEvents {
	v.heard2, v.greets = now, false
	v.failures, v.pauseEnds, v.two = 0, 0, true
	if sealed {
		v.sealed, v.sealedAt = true, now
	}
	e := v.decide(now, PeerOffers)
	v.proven = true
	return e
}

// Challenged records a challenge of the peer: it speaks version 2, but does not know this node yet.
func (v *Versions) Challenged(now time.Duration) { v.heard2, v.greets = now, false }
