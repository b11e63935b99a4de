// Package seal protects the datagrams of version 2 of the sync protocol: it seals them under a
// key that all nodes of a cluster have, and accepts each genuine datagram at most once.
//
// The comments of Header and ControlKind describe the bytes. The package has no socket, no clock and no
// goroutine: times are a time.Duration since an epoch of the caller's choice, and a Session is
// not safe for concurrent use.
package seal

import (
	"crypto/cipher"
	"crypto/subtle"
	"fmt"
	"io"
	"time"
)

// The lives of a sender.
const (
	// RenewAfter is how long a boot id is used. A snapshot of a virtual machine that is
	// restored twice repeats nonces for so long at most.
	RenewAfter = 2 * time.Minute
	// AnnounceAhead is how long before its first use a boot id is announced.
	AnnounceAhead = 5 * time.Second
	// AnnounceMost is how long a boot id is announced if some peer does not acknowledge it.
	// Such a peer challenges the new life later.
	AnnounceMost = 15 * time.Second
	// OverlapAfter is how long the datagrams of the boot id before are accepted.
	OverlapAfter = 5 * time.Second
	// ChallengeEvery is the least time between two challenges of a peer.
	ChallengeEvery = time.Second
	// announceEvery is the period of announcing a boot id.
	announceEvery = time.Second
	// plainRefused is how long plain datagrams of a peer are refused after a sealed one.
	plainRefused = 10 * time.Second
)

// maxEchoes bounds how many challenges of a peer are answered with one datagram. Challenges of
// former lives can be replayed; among several the one that waits for its answer has its turn.
const maxEchoes = 8

// MaxNode is the largest number of a node. The first is 1.
const MaxNode = 16

// Verdict is what becomes of a datagram.
type Verdict uint8

// The verdicts. Only Accepted comes with a payload.
const (
	Accepted  Verdict = iota
	Consumed          // a challenge, which the Session answers
	Malformed         // too short, or of another version
	BadNode           // of this node, of an unknown one, or of one at another address
	BadPlain          // in the clear where that is not allowed
	BadKey            // sealed with a key that this node does not have
	BadTag            // altered, or sealed with another key of that number
	BadLife           // of a life of the peer that is not current
	Replayed          // seen before, or too old to know
	Verdicts          // their number
)

var verdictNames = [Verdicts]string{"accepted", "consumed", "malformed", "node", "plain", "key", "tag", "life", "replay"}

// String returns the verdict's name in outputs.
func (v Verdict) String() string {
	if v >= Verdicts {
		return fmt.Sprint(uint8(v))
	}
	return verdictNames[v]
}

// Config is what a Session needs.
type Config struct {
	Node  uint8   // this node's number
	Peers []uint8 // the others'
	Ring  *Ring
	// AllowPlain accepts plain datagrams although the Ring has keys.
	AllowPlain bool
	// Random is a source of random bytes that does not fail, such as crypto/rand.Reader.
	Random io.Reader
}

// Session is a node's share in the sealed link. It seals the node's datagrams once for all
// peers, and opens those of the peers.
//
// A peer's datagrams carry the boot id of the life that has sent them; only the current life of
// a peer is accepted. How a life becomes current:
//
//   - The peer announces a boot id ahead (control messages NextBoot, GotBoot). Its first
//     genuine datagram makes it current; the one before is accepted for OverlapAfter.
//   - A boot id that is not announced, after a restart of either node, is challenged: the
//     challenge names the peer and carries a random number, and the peer echoes the number in
//     its datagrams (Echo). The datagram with the echo makes its boot id current, and all with
//     a lower counter are refused for ever: they may be replays. No other state is kept of an
//     unknown life.
type Session struct {
	config Config

	boot    BootID
	since   time.Duration
	counter uint64
	cipher  cipher.AEAD // of boot and the Ring's sending key; nil without keys
	plain   bool        // messages are sent in the clear all the same

	next      BootID // announced, and not in use yet
	nextSince time.Duration
	nextSent  time.Duration
	announces bool

	peers [MaxNode + 1]*peer
	nonce [12]byte
}

// peer is what a Session knows of a peer. Its size does not depend on what is received.
type peer struct {
	number   uint8
	current  *life // nil while no life is known
	upcoming *life // announced by the peer, nil without
	previous *life // until previousEnds

	previousEnds time.Duration

	challenged   bool // a challenge is under way
	challenge    [8]byte
	challengedAt time.Duration
	challengeDue bool // it is to be sent
	sealsIt      bool // sealed, like the datagram that has led to it

	echoes    [maxEchoes][8]byte // the peer's challenges that are to be answered
	echoCount int

	gotNext bool   // the peer has acknowledged this node's next boot id
	gotBoot BootID // of the peer's announcement that is to be acknowledged; zero without

	sealedAt time.Duration // of the last sealed datagram that was accepted
	sealed   bool

	// Of lives that are not known.
	candidate candidate
	triedAt   time.Duration // since then tried boot ids have been tried
	tried     int
}

// candidate is a boot id that is not accepted yet, of which a datagram was genuine.
type candidate struct {
	boot   BootID
	key    uint8
	cipher cipher.AEAD // nil without one
}

// The cipher of an unknown life costs as much as the opening of a short datagram, and each forged
// datagram may have a boot id of its own. So after triesFree boot ids within a second only a part
// of the datagrams is opened, which is 1 in triesPart. A peer that is really there sends another
// echo after a second, and once one of its datagrams was opened all of them are.
const (
	triesFree = 1000
	triesPart = 4
)

// life is a boot id of a peer that is accepted, with the ciphers of the keys in use.
type life struct {
	boot    BootID
	window  window
	ciphers [MaxKeys + 1]cipher.AEAD // by Ring.slots
}

func newLife(boot BootID, counter uint64) *life {
	l := &life{boot: boot}
	l.window.begin(counter)
	return l
}

// NewSession begins the first life of a node.
func NewSession(now time.Duration, c Config) *Session {
	s := &Session{config: c}
	for _, number := range c.Peers {
		s.peers[number] = &peer{number: number}
	}
	s.begin(now, s.random())
	return s
}

func (s *Session) random() (id BootID) {
	if _, err := io.ReadFull(s.config.Random, id[:]); err != nil {
		panic(err) // Config.Random does not fail
	}
	return id
}

// begin goes over to a boot id.
func (s *Session) begin(now time.Duration, boot BootID) {
	s.boot, s.since, s.counter, s.announces = boot, now, 0, false
	s.cipher = nil
	if s.config.Ring.send != 0 {
		s.cipher = s.config.Ring.cipherOf(s.config.Ring.send, &s.boot)
	}
}

// Renew draws a new boot id at once and forgets the lives of all peers. It is for a machine
// that may be the copy of another one, or a state of its own past: counters that follow would
// repeat nonces, and what the peers have sent since could be replayed.
func (s *Session) Renew(now time.Duration) {
	s.begin(now, s.random())
	for _, p := range s.peers {
		if p != nil {
			*p = peer{number: p.number}
		}
	}
}

// SetRing puts another Ring in force, without a gap: lives and counters go on.
func (s *Session) SetRing(r *Ring) {
	s.config.Ring = r
	s.cipher = nil
	if r.send != 0 {
		s.cipher = r.cipherOf(r.send, &s.boot)
	}
	for _, p := range s.peers {
		for _, l := range p.lives() {
			l.ciphers = [MaxKeys + 1]cipher.AEAD{}
		}
		if p != nil {
			p.candidate = candidate{}
		}
	}
}

// SetPeers replaces the numbers of the other nodes. What is known of those that stay is kept.
func (s *Session) SetPeers(numbers []uint8) {
	before := s.peers
	s.peers = [MaxNode + 1]*peer{}
	for _, number := range numbers {
		if s.peers[number] = before[number]; s.peers[number] == nil {
			s.peers[number] = &peer{number: number}
		}
	}
}

// SetPlain sets whether messages are sent in the clear although the Ring has keys, because a peer
// has none, or others.
func (s *Session) SetPlain(plain bool) { s.plain = plain }

// SetAllowPlain changes Config.AllowPlain.
func (s *Session) SetAllowPlain(allow bool) { s.config.AllowPlain = allow }

// ForgetSealed has plain datagrams of a peer accepted at once, if they are allowed, although a sealed one
// has come lately: the peer, or this node's operator, has said that they follow.
func (s *Session) ForgetSealed(node uint8) {
	if int(node) < len(s.peers) && s.peers[node] != nil {
		s.peers[node].sealed = false
	}
}

// lives returns the lives of a peer that are accepted.
func (p *peer) lives() (all []*life) {
	if p == nil {
		return nil
	}
	for _, l := range []*life{p.current, p.upcoming, p.previous} {
		if l != nil {
			all = append(all, l)
		}
	}
	return all
}

// Boot returns the boot id of this node's current life.
func (s *Session) Boot() BootID { return s.boot }

// Knows reports whether the peer's current life is known: whether its datagrams are accepted.
func (s *Session) Knows(node uint8) bool {
	return int(node) < len(s.peers) && s.peers[node] != nil && s.peers[node].current != nil
}

// Overhead returns how many bytes a datagram has beside its payload.
func (s *Session) Overhead() int {
	if s.cipher == nil || s.plain {
		return HeaderLen
	}
	return HeaderLen + TagLen
}

// Append appends a datagram with the payload for all peers. flags are the header's. payload
// must not overlap with dst.
func (s *Session) Append(dst []byte, flags uint8, payload []byte) []byte {
	if s.cipher == nil || s.plain {
		return s.append(dst, Plain, false, flags, payload)
	}
	return s.append(dst, Sealed, true, flags, payload)
}

func (s *Session) append(dst []byte, kind Kind, sealed bool, flags uint8, payload []byte) []byte {
	s.counter++
	h := Header{Kind: kind, Node: s.config.Node, Flags: flags, Boot: s.boot, Counter: s.counter}
	if sealed {
		h.Key = s.config.Ring.send
	}
	start := len(dst)
	dst = h.Append(dst)
	if !sealed {
		return append(dst, payload...)
	}
	header := dst[start:]
	copy(s.nonce[4:], header[20:HeaderLen])
	return s.cipher.Seal(dst, s.nonce[:], payload, header)
}

// Open judges a datagram that came from an address of the node from, which is 0 if the address
// is that of no node. The payload is appended to dst, whose capacity it should fit; a plain one
// is returned without a copy. Control messages at the payload's start are carried out, and are
// not part of what is returned.
func (s *Session) Open(now time.Duration, from uint8, dst, datagram []byte) (h Header, payload []byte, v Verdict) {
	h, ok := ParseHeader(datagram)
	if !ok {
		return h, nil, Malformed
	}
	if h.Node == s.config.Node || h.Node != from || int(h.Node) >= len(s.peers) || s.peers[h.Node] == nil {
		return h, nil, BadNode
	}
	p := s.peers[h.Node]
	if v := s.judgeKey(now, p, &h); v != Accepted {
		return h, nil, v
	}
	l := p.lifeOf(now, &h.Boot)
	if h.Kind == Challenge {
		return h, nil, s.takeChallenge(now, p, l, &h, dst, datagram)
	}
	if l == nil {
		return s.openUnknown(now, p, h, dst, datagram)
	}
	if !l.window.fresh(h.Counter) {
		return h, nil, Replayed
	}
	payload, v = s.open(s.lifeCipher(l, &h), &h, dst, datagram)
	if v != Accepted {
		return h, nil, v
	}
	l.window.see(h.Counter)
	return h, s.accept(now, p, l, &h, payload), Accepted
}

// judgeKey decides whether a datagram's key, or that it has none, is acceptable.
func (s *Session) judgeKey(now time.Duration, p *peer, h *Header) Verdict {
	if h.Key == 0 {
		keyed := s.config.Ring.send != 0
		if h.Kind == Sealed || keyed && (!s.config.AllowPlain || p.sealed && now-p.sealedAt < plainRefused) {
			return BadPlain
		}
		return Accepted
	}
	if h.Kind == Plain {
		return BadKey
	}
	if s.config.Ring.slots[h.Key] == 0 {
		return BadKey
	}
	return Accepted
}

// lifeOf returns the life of a boot id that is accepted now, nil without one. A life that the
// peer has announced is returned without being current yet.
func (p *peer) lifeOf(now time.Duration, boot *BootID) *life {
	switch {
	case p.current == nil:
		return nil
	case p.current.boot == *boot:
		return p.current
	case p.previous != nil && p.previous.boot == *boot:
		if now >= p.previousEnds {
			p.previous = nil
			return nil
		}
		return p.previous
	case p.upcoming != nil && p.upcoming.boot == *boot:
		return p.upcoming
	}
	return nil
}

// lifeCipher returns the cipher of a known life under a datagram's key, nil for a plain one.
func (s *Session) lifeCipher(l *life, h *Header) cipher.AEAD {
	if h.Key == 0 {
		return nil
	}
	aead := &l.ciphers[s.config.Ring.slots[h.Key]]
	if *aead == nil {
		*aead = s.config.Ring.cipherOf(h.Key, &h.Boot)
	}
	return *aead
}

// open authenticates and decrypts a datagram.
func (s *Session) open(aead cipher.AEAD, h *Header, dst, datagram []byte) ([]byte, Verdict) {
	if h.Key == 0 {
		return datagram[HeaderLen:], Accepted
	}
	copy(s.nonce[4:], datagram[20:HeaderLen])
	payload, err := aead.Open(dst, s.nonce[:], datagram[HeaderLen:], datagram[:HeaderLen])
	if err != nil {
		return nil, BadTag
	}
	return payload[len(dst):], Accepted
}

// tryOpen is open for a datagram of a life that is not known. The verdict is BadLife for one that is
// not even tried.
func (s *Session) tryOpen(now time.Duration, p *peer, h *Header, dst, datagram []byte) ([]byte, Verdict) {
	c := &p.candidate
	if h.Key == 0 || c.cipher != nil && c.boot == h.Boot && c.key == h.Key {
		return s.open(c.cipher, h, dst, datagram)
	}
	if now-p.triedAt >= time.Second {
		p.triedAt, p.tried = now, 0
	}
	// The choice depends on the tag, which is another one each time, and on what a stranger does
	// not know.
	if p.tried >= triesFree && (datagram[len(datagram)-1]^s.config.Ring.salt)%triesPart != 0 {
		return nil, BadLife
	}
	p.tried++
	aead := s.config.Ring.cipherOf(h.Key, &h.Boot)
	payload, v := s.open(aead, h, dst, datagram)
	if v == Accepted {
		*c = candidate{h.Boot, h.Key, aead}
	}
	return payload, v
}

// openUnknown judges a datagram of a life that is not current: it is accepted if it carries the
// echo of the challenge that is under way. Without one, a challenge begins.
func (s *Session) openUnknown(now time.Duration, p *peer, h Header, dst, datagram []byte) (Header, []byte, Verdict) {
	if !p.challenged {
		s.beginChallenge(now, p, h.Key != 0)
		return h, nil, BadLife
	}
	payload, v := s.tryOpen(now, p, &h, dst, datagram)
	if v != Accepted {
		return h, nil, v
	}
	if !s.hasEcho(p, payload) {
		s.beginChallenge(now, p, h.Key != 0)
		return h, nil, BadLife
	}
	l := newLife(h.Boot, h.Counter)
	*p = peer{number: p.number, current: l, echoes: p.echoes, echoCount: p.echoCount}
	return h, s.accept(now, p, l, &h, payload), Accepted
}

// accept notes an accepted datagram and carries out its control messages.
func (s *Session) accept(now time.Duration, p *peer, l *life, h *Header, payload []byte) []byte {
	if h.Key != 0 {
		p.sealed, p.sealedAt = true, now
	}
	if l == p.upcoming {
		p.previous, p.previousEnds = p.current, now+OverlapAfter
		p.current, p.upcoming = l, nil
	}
	for {
		c, rest, ok := cutControl(payload)
		if !ok {
			return payload
		}
		payload = rest
		switch {
		case c.kind == NextBoot && l == p.current && c.boot != l.boot:
			p.gotBoot = c.boot
			if p.upcoming == nil || p.upcoming.boot != c.boot {
				p.upcoming = newLife(c.boot, 0)
			}
		case c.kind == Echo && c.to == s.config.Node && p.challenged && c.echo == p.challenge:
			// A datagram of a life that is not the peer's has led to the challenge.
			p.challenged, p.challengeDue = false, false
		case c.kind == GotBoot && c.to == s.config.Node && s.announces && c.boot == s.next:
			p.gotNext = true
		}
	}
}

// beginChallenge has a challenge sent, unless one was sent lately.
func (s *Session) beginChallenge(now time.Duration, p *peer, sealed bool) {
	if p.challenged && now-p.challengedAt < ChallengeEvery {
		return
	}
	id := s.random()
	copy(p.challenge[:], id[:])
	p.challenged, p.challengeDue, p.challengedAt, p.sealsIt = true, true, now, sealed
}

// takeChallenge has a peer's challenge answered, whatever life it comes from: the answer only
// repeats the number, inside this node's own stream.
func (s *Session) takeChallenge(now time.Duration, p *peer, l *life, h *Header, dst, datagram []byte) Verdict {
	var payload []byte
	var v Verdict
	if l == nil {
		payload, v = s.tryOpen(now, p, h, dst, datagram)
	} else if !l.window.fresh(h.Counter) {
		return Replayed
	} else {
		payload, v = s.open(s.lifeCipher(l, h), h, dst, datagram)
	}
	if v != Accepted {
		return v
	}
	if l != nil {
		l.window.see(h.Counter)
	}
	if len(payload) != challengeLen {
		return Malformed
	}
	if payload[0] != s.config.Node {
		return Consumed // for another node
	}
	at := p.echoCount
	if at == maxEchoes {
		at = int(payload[1]) % maxEchoes
	} else {
		p.echoCount++
	}
	copy(p.echoes[at][:], payload[1:])
	return Consumed
}

// challengeLen is the length of a challenge: the challenged node's number and 8 random bytes.
const challengeLen = 1 + 8

// hasEcho reports whether a payload begins with control messages that echo p's challenge.
func (s *Session) hasEcho(p *peer, payload []byte) bool {
	for {
		c, rest, ok := cutControl(payload)
		if !ok {
			return false
		}
		if c.kind == Echo && c.to == s.config.Node && subtle.ConstantTimeCompare(c.echo[:], p.challenge[:]) == 1 {
			return true
		}
		payload = rest
	}
}

// Tick does what is due, and returns when it has to be called next.
func (s *Session) Tick(now time.Duration) (next time.Duration) {
	if !s.announces {
		due := s.since + RenewAfter - AnnounceAhead
		if now < due {
			return due
		}
		s.next, s.announces, s.nextSince, s.nextSent = s.random(), true, now, now-announceEvery
		for _, p := range s.peers {
			if p != nil {
				p.gotNext = false
			}
		}
	}
	all := true
	for _, p := range s.peers {
		all = all && (p == nil || p.gotNext)
	}
	ahead := now - s.nextSince
	if ahead >= AnnounceMost || ahead >= AnnounceAhead && all {
		s.begin(now, s.next)
		return now + RenewAfter - AnnounceAhead
	}
	return now + announceEvery
}

// HasControls reports whether AppendControls would append something.
func (s *Session) HasControls(now time.Duration) bool {
	if s.announces && now-s.nextSent >= announceEvery {
		return true
	}
	for _, p := range s.peers {
		if p != nil && (p.echoCount > 0 || p.gotBoot != BootID{}) {
			return true
		}
	}
	return false
}

// AppendControls appends the control messages that are due, as many as fit room bytes. They go
// at the start of the next datagram's payload, before the state from which a peer follows the
// stream: a peer that learns of this life by an echo begins with the rest of that datagram.
func (s *Session) AppendControls(now time.Duration, dst []byte, room int) []byte {
	most := len(dst) + room
	if s.announces && now-s.nextSent >= announceEvery && len(dst)+2+len(s.next) <= most {
		dst = append(dst, byte(NextBoot), byte(len(s.next)))
		dst = append(dst, s.next[:]...)
		s.nextSent = now
	}
	for _, p := range s.peers {
		if p == nil {
			continue
		}
		for p.echoCount > 0 && len(dst)+3+len(p.echoes[0]) <= most {
			p.echoCount--
			dst = append(dst, byte(Echo), 1+byte(len(p.echoes[0])), p.number)
			dst = append(dst, p.echoes[p.echoCount][:]...)
		}
		if p.gotBoot != (BootID{}) && len(dst)+3+len(p.gotBoot) <= most {
			dst = append(dst, byte(GotBoot), 1+byte(len(p.gotBoot)), p.number)
			dst = append(dst, p.gotBoot[:]...)
			p.gotBoot = BootID{}
		}
	}
	return dst
}

// HasChallenge reports whether NextChallenge would append one.
func (s *Session) HasChallenge() bool {
	for _, p := range s.peers {
		if p != nil && p.challengeDue {
			return true
		}
	}
	return false
}

// Genuine reports whether a datagram, whose header is h, is sealed with a key of the Ring. It is for
// datagrams with this node's own number, which Open refuses without a look; it makes them no
// more acceptable.
func (s *Session) Genuine(h *Header, dst, datagram []byte) bool {
	aead := s.config.Ring.cipherOf(h.Key, &h.Boot)
	if aead == nil {
		return false
	}
	copy(s.nonce[4:], datagram[20:HeaderLen])
	_, err := aead.Open(dst, s.nonce[:], datagram[HeaderLen:], datagram[:HeaderLen])
	return err == nil
}

// NextChallenge appends a datagram that challenges a peer, if one is due. Each is for all
// addresses of the peer. The caller calls it until it returns false.
func (s *Session) NextChallenge(dst []byte) (to uint8, datagram []byte, ok bool) {
	for _, p := range s.peers {
		if p != nil && p.challengeDue {
			p.challengeDue = false
			var payload [challengeLen]byte
			payload[0] = p.number
			copy(payload[1:], p.challenge[:])
			return p.number, s.append(dst, Challenge, s.cipher != nil && (p.sealsIt || !s.config.AllowPlain), 0, payload[:]), true
		}
	}
	return 0, dst, false
}

// ControlKind is the type of a control message. Messages of package wire have other types.
type ControlKind uint8

// The control messages: type (1), length of the value (1), value.
const (
	Echo     ControlKind = 1 // challenger's number (1), the challenge's random number (8)
	NextBoot ControlKind = 2 // the boot id that this sender goes over to (16)
	GotBoot  ControlKind = 3 // number of the node that has announced it (1), its boot id (16)
)

type control struct {
	kind ControlKind
	to   uint8
	echo [8]byte
	boot BootID
}

// cutControl takes a control message from the start of a payload. ok is false if the payload
// does not begin with one that is complete.
func cutControl(payload []byte) (c control, rest []byte, ok bool) {
	if len(payload) < 2 || len(payload) < 2+int(payload[1]) {
		return control{}, payload, false
	}
	c.kind = ControlKind(payload[0])
	value, rest := payload[2:2+int(payload[1])], payload[2+int(payload[1]):]
	switch {
	case c.kind == Echo && len(value) == 1+len(c.echo):
		c.to = value[0]
		copy(c.echo[:], value[1:])
	case c.kind == NextBoot && len(value) == len(c.boot):
		copy(c.boot[:], value)
	case c.kind == GotBoot && len(value) == 1+len(c.boot):
		c.to = value[0]
		copy(c.boot[:], value[1:])
	default:
		return control{}, payload, false
	}
	return c, rest, true
}
