package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

// source is a seeded source of random bytes.
type source struct{ *rand.Rand }

func (s source) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(s.Uint32())
	}
	return len(b), nil
}

func seeded(seed uint64) source { return source{rand.New(rand.NewPCG(seed, 1))} }

func testKey(b byte) (key [KeyLen]byte) {
	for i := range key {
		key[i] = b + byte(i)
	}
	return key
}

func testRing(t testing.TB, send uint8, numbers ...uint8) *Ring {
	t.Helper()
	keys := map[uint8][KeyLen]byte{}
	for _, n := range numbers {
		keys[n] = testKey(n)
	}
	ring, err := NewRing("edge", keys, send)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestHeader(t *testing.T) {
	h := Header{Kind: Sealed, Key: 3, Node: 2, Flags: 5, Counter: 0x0102030405060708}
	for i := range h.Boot {
		h.Boot[i] = byte(0xa0 + i)
	}
	b := h.Append(nil)
	want := []byte{0x21, 3, 2, 5, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 1, 2, 3, 4, 5, 6, 7, 8}
	if !bytes.Equal(b, want) {
		t.Errorf("% x, want % x", b, want)
	}
	if got, ok := ParseHeader(b); !ok || got != h {
		t.Errorf("parsed as %+v, %v", got, ok)
	}
	for name, bad := range map[string][]byte{"short": b[:HeaderLen-1], "version 1": append([]byte{0x10}, b[1:]...), "unknown kind": append([]byte{0x23}, b[1:]...)} {
		if _, ok := ParseHeader(bad); ok {
			t.Errorf("%s is accepted", name)
		}
	}
}

// The window agrees with a set of all counters that were seen.
func TestWindowAgainstAModel(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 2))
		first := []uint64{1, 63, 64, 8191, 8192, 1 << 40}[seed%6]
		var w window
		w.begin(first)
		seen, top := map[uint64]bool{}, first
		for range 50_000 {
			var c uint64
			switch random.IntN(20) {
			case 0:
				c = top + random.Uint64N(3*WindowLen)
			case 1, 2:
				c = top - min(top, random.Uint64N(2*WindowLen))
			default:
				c = top - min(top, random.Uint64N(70)) + random.Uint64N(72)
			}
			want := c > first && !seen[c] && (c > top || top-c < WindowLen)
			if got := w.fresh(c); got != want {
				t.Fatalf("seed %d: counter %d at top %d: fresh %v, want %v", seed, c, top, got, want)
			}
			if want {
				w.see(c)
				seen[c] = true
				top = max(top, c)
			}
		}
	}
}

// A datagram is XChaCha20-Poly1305 with the boot id and the counter as nonce, so that another
// implementation has a name for it.
func TestSealIsXChaCha20Poly1305(t *testing.T) {
	s := NewSession(0, Config{Node: 1, Peers: []uint8{2}, Ring: testRing(t, 3, 3), Random: seeded(1)})
	payload := []byte("payload")
	datagram := s.Append(nil, 9, payload)
	key := Derive(testKey(3), "edge", "seal")
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		t.Fatal(err)
	}
	got, err := aead.Open(nil, datagram[4:HeaderLen], datagram[HeaderLen:], datagram[:HeaderLen])
	if err != nil || !bytes.Equal(got, payload) {
		t.Errorf("%q, %v", got, err)
	}
	if len(datagram) != len(payload)+s.Overhead() {
		t.Errorf("%d bytes for a payload of %d", len(datagram), len(payload))
	}
}

// Other clusters and purposes have other working keys.
func TestDerivedKeysDiffer(t *testing.T) {
	key := testKey(1)
	seen := map[[KeyLen]byte]string{key: "the key itself"}
	for _, c := range [][2]string{{"edge", "seal"}, {"edge", "digest"}, {"core", "seal"}, {"", "seal"}, {"l\x00edge", "sea"}} {
		derived := Derive(key, c[0], c[1])
		if before, ok := seen[derived]; ok {
			t.Errorf("%q has the key of %s", c, before)
		}
		seen[derived] = strings.Join(c[:], " ")
	}
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	good, err := GenerateKey(seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	uid := os.Getuid()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("good", good, 0o400)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, write("no newline", strings.TrimSpace(good), 0o600)} {
		if key, err := ReadKey(path, uid); err != nil || base64.StdEncoding.EncodeToString(key[:])+"\n" != good {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, c := range []struct{ path, want string }{
		{write("group", good, 0o640), "its mode is 0640: group and others must have no access"},
		{write("others", good, 0o604), "its mode is 0604"},
		{write("short", good[:20], 0o600), "a key is 32 bytes in base64"},
		{write("long", good+good, 0o600), "a key is 32 bytes in base64"},
		{write("newlines", good+"\n", 0o600), "a key is 32 bytes in base64"},
		{write("spaces", " "+strings.TrimSpace(good), 0o600), "a key is 32 bytes in base64"},
		{write("zeroes", base64.StdEncoding.EncodeToString(make([]byte, KeyLen)), 0o600), "all zeroes"},
		{write("example", ExampleKey, 0o600), "examples"},
		{write("empty", "", 0o600), "a key is 32 bytes in base64"},
		{dir, "it is not a file"},
	} {
		_, err := ReadKey(c.path, uid)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	if _, err := ReadKey(filepath.Join(dir, "missing"), uid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if uid == 0 {
		foreign := write("foreign", good, 0o600)
		if err := os.Chown(foreign, 4711, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(foreign, 12); err == nil || !strings.Contains(err.Error(), "it belongs to user 4711") {
			t.Errorf("another user's file: %v", err)
		}
		if _, err := ReadKey(foreign, 4711); err != nil {
			t.Errorf("the daemon's own file: %v", err)
		}
	}
}

func TestRingIsChecked(t *testing.T) {
	key := testKey(1)
	all := make(map[uint8][KeyLen]byte)
	for number := range uint8(MaxKeys) {
		all[255-number] = key
	}
	many := maps.Clone(all)
	many[1] = key
	for _, c := range []struct {
		keys map[uint8][KeyLen]byte
		send uint8
		ok   bool
	}{
		{nil, 0, true}, {map[uint8][KeyLen]byte{1: key, 255: key}, 255, true}, {all, 240, true}, {many, 1, false},
		{nil, 1, false}, {map[uint8][KeyLen]byte{1: key}, 0, false}, {map[uint8][KeyLen]byte{1: key}, 2, false},
		{map[uint8][KeyLen]byte{0: key}, 0, false}, {map[uint8][KeyLen]byte{0: key}, 1, false},
	} {
		if _, err := NewRing("edge", c.keys, c.send); (err == nil) != c.ok {
			t.Errorf("keys %v, send %d: %v", len(c.keys), c.send, err)
		}
	}
}

// couple is two sessions that know each other.
type couple struct {
	t    testing.TB
	a, b *Session
	now  time.Duration
	buf  []byte
}

func newCouple(t testing.TB, ring *Ring) *couple {
	c := &couple{t: t, buf: make([]byte, 0, 2048)}
	c.a = NewSession(0, Config{Node: 1, Peers: []uint8{2}, Ring: ring, Random: seeded(1)})
	c.b = NewSession(0, Config{Node: 2, Peers: []uint8{1}, Ring: ring, Random: seeded(2)})
	c.meet()
	if !c.a.Knows(2) || !c.b.Knows(1) {
		t.Fatal("the nodes do not know each other")
	}
	return c
}

// say sends a payload of s with its controls, and returns the datagram.
func (c *couple) say(s *Session, payload string) []byte {
	return s.Append(nil, 0, append(s.AppendControls(c.now, nil, 1400), payload...))
}

// hear has to receive a datagram and answer it until both have nothing to say.
func (c *couple) hear(to *Session, datagram []byte) (string, Verdict) {
	from := uint8(3) - to.config.Node
	_, payload, v := to.Open(c.now, from, c.buf, datagram)
	return string(payload), v
}

// meet exchanges datagrams until each has answered the other's challenges.
func (c *couple) meet() {
	for range 6 {
		for _, s := range []*Session{c.a, c.b} {
			other := c.b
			if s == c.b {
				other = c.a
			}
			if to, datagram, ok := s.NextChallenge(nil); ok && to == other.config.Node {
				c.hear(other, datagram)
			}
			c.hear(other, c.say(s, "state"))
		}
	}
}

func (c *couple) want(to *Session, datagram []byte, want Verdict) {
	c.t.Helper()
	if payload, v := c.hear(to, datagram); v != want || (v == Accepted) != (payload != "") {
		c.t.Errorf("%v with %q, want %v", v, payload, want)
	}
}

// Each way of refusing a datagram has its reason, and the genuine one is accepted after all.
func TestRefusals(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 2, 3))
	genuine := c.say(c.a, "flows")
	altered := func(at int, to byte) []byte {
		d := bytes.Clone(genuine)
		d[at] = to
		return d
	}
	for _, r := range []struct {
		name     string
		datagram []byte
		want     Verdict
	}{
		{"empty", nil, Malformed},
		{"a header alone", genuine[:HeaderLen], BadTag},
		{"cut", genuine[:len(genuine)-1], BadTag},
		{"the payload altered", altered(HeaderLen, genuine[HeaderLen]^1), BadTag},
		{"the tag altered", altered(len(genuine)-1, genuine[len(genuine)-1]^1), BadTag},
		{"the flags altered", altered(3, 1), BadTag},
		{"the counter altered", altered(HeaderLen-1, genuine[HeaderLen-1]+1), BadTag},
		{"another key of the ring", altered(1, 2), BadTag},
		{"a key that nobody has", altered(1, 4), BadKey},
		{"a key beyond all", altered(1, 200), BadKey},
		{"a sealed one without a key", altered(1, 0), BadPlain},
		{"a plain one with a key", altered(0, 0x20), BadKey},
		{"this node's own number", altered(2, 2), BadNode},
		{"a third node", altered(2, 3), BadNode},
		{"no node", altered(2, 0), BadNode},
		{"another life", altered(4, genuine[4]^1), BadLife},
		{"version 1", altered(0, 0x10), Malformed},
	} {
		if payload, v := c.hear(c.b, r.datagram); v != r.want || payload != "" {
			t.Errorf("%s: %v with %q, want %v", r.name, v, payload, r.want)
		}
	}
	if payload, v := c.hear(c.b, genuine); v != Accepted || payload != "flows" {
		t.Errorf("the genuine one: %v with %q", v, payload)
	}
	c.want(c.b, genuine, Replayed)
	if _, _, v := c.b.Open(c.now, 0, c.buf, c.say(c.a, "x")); v != BadNode {
		t.Errorf("from an unknown address: %v", v)
	}
}

// A datagram with this node's own number is refused, and can be told from a forged one.
func TestGenuine(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 2, 3))
	twin := NewSession(0, Config{Node: 2, Peers: []uint8{1}, Ring: testRing(t, 2, 2, 3), Random: seeded(7)})
	datagram := twin.Append(nil, 0, []byte("flows"))
	h, _ := ParseHeader(datagram)
	c.want(c.b, datagram, BadNode)
	if !c.b.Genuine(&h, c.buf, datagram) {
		t.Error("a genuine one is not recognized")
	}
	datagram[len(datagram)-1]++
	if c.b.Genuine(&h, c.buf, datagram) {
		t.Error("an altered one counts as genuine")
	}
	for _, key := range []uint8{0, 4, 255} {
		h.Key = key
		if c.b.Genuine(&h, c.buf, datagram) {
			t.Errorf("genuine with key %d", key)
		}
	}
}

// Peers come and go while those that stay go on.
func TestPeersChange(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	c.b.SetPeers([]uint8{1, 4})
	c.want(c.b, c.say(c.a, "flows"), Accepted)
	fourth := NewSession(0, Config{Node: 4, Peers: []uint8{2}, Ring: testRing(t, 3, 3), Random: seeded(8)})
	if _, _, v := c.b.Open(c.now, 4, c.buf, fourth.Append(nil, 0, []byte("x"))); v != BadLife || !c.b.HasChallenge() {
		t.Errorf("a new peer: %v, challenged %v", v, c.b.HasChallenge())
	}
	if to, _, ok := c.b.NextChallenge(nil); !ok || to != 4 || c.b.HasChallenge() {
		t.Errorf("challenge of %d, %v", to, ok)
	}
	c.b.SetPeers([]uint8{4})
	c.want(c.b, c.say(c.a, "flows"), BadNode)
	c.b.SetPeers([]uint8{1})
	c.want(c.b, c.say(c.a, "flows"), BadLife) // it is known no longer
}

// Plain datagrams are refused beside a key unless the configuration allows them, and even then
// while the peer's sealed ones are heard.
func TestPlainBesideAKey(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	plain := NewSession(0, Config{Node: 1, Peers: []uint8{2}, Ring: testRing(t, 0), Random: seeded(9)})
	c.want(c.b, plain.Append(nil, 0, []byte("x")), BadPlain)
	c.b.config.AllowPlain = true
	c.want(c.b, plain.Append(nil, 0, []byte("x")), BadPlain)
	c.now += plainRefused
	c.want(c.b, plain.Append(nil, 0, []byte("x")), BadLife) // and a challenge begins
	if _, _, ok := c.b.NextChallenge(nil); !ok {
		t.Error("the plain life is not challenged")
	}
	open := newCouple(t, testRing(t, 0))
	open.want(open.b, open.say(open.a, "flows"), Accepted)
}

// A node with keys that sends in the clear goes on in its life, also back to the seal, and its challenges are
// of the kind of what has led to them.
func TestPlainAlthoughThereIsAKey(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	c.a.SetPlain(true)
	c.b.SetAllowPlain(true)
	if c.a.Overhead() != HeaderLen {
		t.Errorf("overhead: %d", c.a.Overhead())
	}
	c.want(c.b, c.say(c.a, "x"), BadPlain)
	c.b.ForgetSealed(1)
	c.want(c.b, c.say(c.a, "x"), Accepted)
	c.a.SetPlain(false)
	c.want(c.b, c.say(c.a, "x"), Accepted)
	if c.a.Overhead() != HeaderLen+TagLen {
		t.Errorf("overhead: %d", c.a.Overhead())
	}
	for _, sealed := range []bool{true, false} {
		c := newCouple(t, testRing(t, 3, 3))
		c.b.SetAllowPlain(true)
		c.b.ForgetSealed(1)
		other := NewSession(0, Config{Node: 1, Peers: []uint8{2}, Ring: testRing(t, 3, 3), Random: seeded(9)})
		other.SetPlain(!sealed)
		c.want(c.b, other.Append(nil, 0, []byte("x")), BadLife)
		_, challenge, ok := c.b.NextChallenge(nil)
		if h, _ := ParseHeader(challenge); !ok || h.Kind != Challenge || h.Key != 0 != sealed {
			t.Errorf("sealed %v: the challenge is %+v", sealed, h)
		}
	}
}

// Check values tell keys of one number apart, and those of two clusters.
func TestCheck(t *testing.T) {
	a, err := NewRing("edge", map[uint8][KeyLen]byte{3: testKey(1), 4: testKey(2)}, 3)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := NewRing("edge", map[uint8][KeyLen]byte{3: testKey(1), 4: testKey(3)}, 3)
	other, _ := NewRing("core", map[uint8][KeyLen]byte{3: testKey(1)}, 3)
	if a.Check(3) != b.Check(3) || a.Check(4) == b.Check(4) || a.Check(3) == other.Check(3) || a.Check(9) != 0 || a.Check(200) != 0 {
		t.Errorf("%x %x, %x %x, %x", a.Check(3), a.Check(4), b.Check(3), b.Check(4), other.Check(3))
	}
	if derived := Derive(testKey(1), "edge", "check"); a.Check(3) != uint16(derived[0])<<8|uint16(derived[1]) {
		t.Errorf("%x", a.Check(3))
	}
}

// Keys are exchanged without a gap: add everywhere, send with the new one, remove the old one.
func TestKeyRotation(t *testing.T) {
	c := newCouple(t, testRing(t, 1, 1))
	for _, step := range []struct {
		s    *Session
		ring *Ring
	}{
		{c.a, testRing(t, 1, 1, 2)}, {c.b, testRing(t, 1, 1, 2)},
		{c.b, testRing(t, 2, 1, 2)}, {c.a, testRing(t, 2, 1, 2)},
		{c.a, testRing(t, 2, 2)}, {c.b, testRing(t, 2, 2)},
	} {
		step.s.SetRing(step.ring)
		c.want(c.b, c.say(c.a, "x"), Accepted)
		c.want(c.a, c.say(c.b, "x"), Accepted)
	}
	old := newCouple(t, testRing(t, 1, 1)).a
	c.want(c.b, old.Append(nil, 0, []byte("x")), BadKey)
}

// A receiver that restarts accepts nothing of what was sent before its challenge was answered,
// however it is replayed.
func TestReplayAroundARestart(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	var recorded [][]byte
	for range WindowLen {
		d := c.say(c.a, "flows")
		recorded = append(recorded, d)
		c.want(c.b, d, Accepted)
	}
	replay := func(when string) {
		t.Helper()
		for i, d := range recorded {
			if _, v := c.hear(c.b, d); v == Accepted {
				t.Fatalf("%s: datagram %d is accepted", when, i)
			}
		}
	}
	c.b = NewSession(c.now, Config{Node: 2, Peers: []uint8{1}, Ring: testRing(t, 3, 3), Random: seeded(77)})
	replay("before the challenge")
	_, challenge, ok := c.b.NextChallenge(nil)
	if !ok {
		t.Fatal("the unknown life is not challenged")
	}
	replay("while it is under way")
	c.want(c.a, challenge, Consumed)
	late := c.say(c.a, "late") // has the echo
	recorded = append(recorded, c.say(c.a, "next"))
	if _, v := c.hear(c.b, recorded[len(recorded)-1]); v != BadLife {
		t.Fatalf("a datagram without the echo: %v", v)
	}
	if payload, v := c.hear(c.b, late); v != Accepted || payload != "late" {
		t.Fatalf("the echo: %v with %q", v, payload)
	}
	recorded = recorded[:len(recorded)-1]
	recorded = append(recorded, late)
	replay("after it")
	c.want(c.b, c.say(c.a, "flows"), Accepted)
}

// A boot id that is announced replaces the one before without a datagram lost, and the one
// before is accepted for a while.
func TestRenewalLosesNothing(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	first := c.a.Boot()
	var kept []byte
	for c.a.Boot() == first {
		kept = c.say(c.a, "kept")
		c.now += 500 * time.Millisecond
		if c.now > 2*RenewAfter {
			t.Fatal("the boot id is not renewed")
		}
		c.a.Tick(c.now)
		c.want(c.b, c.say(c.a, "flows"), Accepted)
		c.want(c.a, c.say(c.b, "flows"), Accepted)
	}
	if c.now > RenewAfter+time.Second {
		t.Errorf("renewed after %v", c.now)
	}
	c.want(c.b, c.say(c.a, "flows"), Accepted)
	c.want(c.b, kept, Accepted) // was on its way meanwhile
	c.want(c.b, kept, Replayed)
	kept = c.say(c.a, "flows")
	c.want(c.b, kept, Accepted)
	c.now += OverlapAfter
	c.want(c.b, kept, Replayed)
	if c.b.peers[1].lifeOf(c.now, &first) != nil {
		t.Error("the boot id before is still accepted")
	}
}

// renewed lets time pass until a's boot id is another one.
func (c *couple) renewed() {
	for first := c.a.Boot(); c.a.Boot() == first; {
		c.now += 500 * time.Millisecond
		c.a.Tick(c.now)
		c.want(c.b, c.say(c.a, "flows"), Accepted)
		c.want(c.a, c.say(c.b, "flows"), Accepted)
	}
}

// An announcement that arrives after its boot id has come into use does not open the window of
// that boot id again.
func TestLateAnnouncement(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	c.now = RenewAfter
	c.a.Tick(c.now)
	late := c.say(c.a, "late") // has the announcement
	c.renewed()
	used := c.say(c.a, "flows")
	c.want(c.b, used, Accepted)
	c.want(c.b, late, Accepted)
	c.renewed()
	c.now += OverlapAfter
	c.want(c.b, used, BadLife)
}

// A machine that may be a copy of its past accepts nothing that its peers have sent since that
// past, and never seals with a counter again.
func TestRenewForgetsAllLives(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	sentSince, boot := c.say(c.a, "flows"), c.b.Boot()
	c.b.Renew(c.now)
	if c.b.Boot() == boot {
		t.Error("the boot id stays")
	}
	c.want(c.b, sentSince, BadLife)
	c.meet()
	c.want(c.b, sentSince, Replayed)
	c.want(c.b, c.say(c.a, "flows"), Accepted)
	c.want(c.a, c.say(c.b, "flows"), Accepted)
}

// Challenges are answered once, those for other nodes and replayed ones not.
func TestChallenges(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	challenge := c.b.append(nil, Challenge, true, 0, []byte{1, 1, 2, 3, 4, 5, 6, 7, 8})
	c.want(c.a, challenge, Consumed)
	if got := c.a.AppendControls(c.now, nil, 100); !bytes.Equal(got, []byte{byte(Echo), 9, 2, 1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("the answer is % x", got)
	}
	c.want(c.a, challenge, Replayed)
	c.want(c.a, c.b.append(nil, Challenge, true, 0, []byte{3, 1, 2, 3, 4, 5, 6, 7, 8}), Consumed)
	c.want(c.a, c.b.append(nil, Challenge, true, 0, []byte{1, 1}), Malformed)
	if got := c.a.AppendControls(c.now, nil, 100); len(got) != 0 || c.a.HasControls(c.now) {
		t.Errorf("and % x", got)
	}
	// Challenges of former lives can be replayed: the node answers a bounded number.
	for i := range byte(100) {
		former := NewSession(0, Config{Node: 2, Peers: []uint8{1}, Ring: testRing(t, 3, 3), Random: seeded(uint64(i) + 100)})
		c.want(c.a, former.append(nil, Challenge, true, 0, []byte{1, i, 2, 3, 4, 5, 6, 7, 8}), Consumed)
	}
	if got := c.a.AppendControls(c.now, nil, 1400); len(got) != maxEchoes*11 {
		t.Errorf("%d bytes answer 100 challenges", len(got))
	}
	// What does not fit waits.
	for i := range byte(3) {
		c.want(c.a, c.b.append(nil, Challenge, true, 0, []byte{1, i, 2, 3, 4, 5, 6, 7, 8}), Consumed)
	}
	for _, want := range []int{22, 11, 0} {
		if got := c.a.AppendControls(c.now, nil, 30); len(got) != want {
			t.Errorf("%d bytes of controls, want %d", len(got), want)
		}
	}
}

// A datagram of a life that does not exist leads to one challenge, whose answer in the current
// life ends the matter.
func TestForgedLifeIsChallengedOnce(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	forged := c.say(c.a, "flows")
	forged[5] ^= 1
	c.want(c.b, forged, BadLife)
	_, challenge, ok := c.b.NextChallenge(nil)
	if !ok {
		t.Fatal("no challenge")
	}
	c.want(c.b, forged, BadTag)
	if _, _, ok := c.b.NextChallenge(nil); ok {
		t.Error("a second challenge within a second")
	}
	wrong := append([]byte{byte(Echo), 9, 3}, c.b.peers[1].challenge[:]...)
	stranger := NewSession(0, Config{Node: 1, Peers: []uint8{2}, Ring: testRing(t, 3, 3), Random: seeded(50)})
	c.want(c.b, stranger.Append(nil, 0, append(wrong, "x"...)), BadLife) // echoes to another node
	c.want(c.a, challenge, Consumed)
	c.want(c.b, c.say(c.a, "flows"), Accepted)
	c.want(c.b, forged, BadLife) // is not opened any more
}

// Opening and sealing allocate nothing once the lives are known.
func TestNothingIsAllocatedPerDatagram(t *testing.T) {
	c := newCouple(t, testRing(t, 3, 3))
	payload, buf, out := bytes.Repeat([]byte{7}, 1300), make([]byte, 0, 2048), make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(100, func() {
		out = c.a.Append(out[:0], 0, payload)
		if _, got, v := c.b.Open(c.now, 1, buf, out); v != Accepted || len(got) != len(payload) {
			t.Fatal(v)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a datagram", n)
	}
}

// FuzzOpen: nothing but what the peer has sealed is accepted.
func FuzzOpen(f *testing.F) {
	c := newCouple(f, testRing(f, 3, 3))
	f.Add(c.say(c.a, "flows"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		c := newCouple(t, testRing(t, 3, 3))
		genuine := c.say(c.a, "flows")
		if _, v := c.hear(c.b, datagram); v == Accepted && !bytes.Equal(datagram, genuine) {
			t.Errorf("accepted % x", datagram)
		}
		// Whatever came before, the peer goes on.
		c.want(c.b, c.say(c.a, "flows"), Accepted)
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte(ExampleKey))
	good, _ := GenerateKey(seeded(1))
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseKey(text)
		if again := base64.StdEncoding.EncodeToString(key[:]); err == nil && again != strings.TrimSuffix(string(text), "\n") {
			t.Errorf("%q is read as %s", text, again)
		}
	})
}

// BenchmarkOpen is what datagrams of two sizes cost. No refused one costs more than an accepted one
// of its size, whatever its reason.
func BenchmarkOpen(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 9))
	for _, size := range []int{100, 1300} {
		for _, r := range []struct {
			name  string
			alter func(d []byte)
			want  []Verdict
		}{
			{"accepted", func([]byte) {}, []Verdict{Accepted}},
			{"tag", func(d []byte) { d[len(d)-1] ^= 1 }, []Verdict{BadTag}},
			{"replay", func(d []byte) { clear(d[20:HeaderLen]); d[HeaderLen-1] = 1 }, []Verdict{Replayed}},
			{"plain", func(d []byte) { d[0], d[1] = Version<<4, 0 }, []Verdict{BadPlain}},
			{"key", func(d []byte) { d[1] = 9 }, []Verdict{BadKey}},
			{"node", func(d []byte) { d[2] = 9 }, []Verdict{BadNode}},
			{"version", func(d []byte) { d[0] = 0x31 }, []Verdict{Malformed}},
			// While a challenge is under way.
			{"one life", func(d []byte) { d[5] ^= 1 }, []Verdict{BadTag, BadLife}},
			{"many lives", func(d []byte) { binary.BigEndian.PutUint64(d[5:], random.Uint64()) }, []Verdict{BadTag, BadLife}},
			{"challenges of many lives", func(d []byte) {
				d[0] = Version<<4 | byte(Challenge)
				binary.BigEndian.PutUint64(d[5:], random.Uint64())
			}, []Verdict{BadTag, BadLife}},
		} {
			b.Run(fmt.Sprintf("%d/%s", size, r.name), func(b *testing.B) {
				c := newCouple(b, testRing(b, 3, 3))
				c.b.beginChallenge(c.now, c.b.peers[1], true)
				payload, buf := bytes.Repeat([]byte{7}, size), make([]byte, 0, 2048)
				var batch [64][]byte
				b.SetBytes(int64(size))
				for i := 0; b.Loop(); i++ {
					if i%len(batch) == 0 {
						b.StopTimer()
						for j := range batch {
							batch[j] = c.a.Append(batch[j][:0], 0, payload)
							r.alter(batch[j])
						}
						b.StartTimer()
					}
					if _, _, v := c.b.Open(c.now, 1, buf, batch[i%len(batch)]); !slices.Contains(r.want, v) {
						b.Fatal(v)
					}
				}
			})
		}
	}
}

// While strangers flood a node with datagrams of invented lives, few of them are opened; a peer that
// starts anew then is found nevertheless, and all that it sends once it is known to be genuine is
// looked at.
func TestFloodOfInventedLives(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 10))
		c := newCouple(t, testRing(t, 3, 3))
		forged, opened := c.say(c.a, "flows"), 0
		flood := func(n int) {
			for range n {
				binary.BigEndian.PutUint64(forged[5:], random.Uint64())
				binary.BigEndian.PutUint64(forged[len(forged)-8:], random.Uint64())
				switch _, v := c.hear(c.b, forged); v {
				case BadTag:
					opened++
				case BadLife:
				default:
					t.Fatalf("%v", v)
				}
			}
		}
		const most = 20_000
		flood(most)
		if want := triesFree + most/triesPart; opened > want+want/10 {
			t.Errorf("seed %d: %d of %d were opened", seed, opened, most)
		}
		c.a = NewSession(c.now, Config{Node: 1, Peers: []uint8{2}, Ring: testRing(t, 3, 3), Random: seeded(seed + 50)})
		end := c.now + time.Minute
		for ; c.now < end && c.b.peers[1].current.boot != c.a.boot; c.now += 100 * time.Millisecond {
			flood(1500)
			if _, challenge, ok := c.b.NextChallenge(nil); ok {
				c.hear(c.a, challenge)
			}
			c.hear(c.b, c.say(c.a, "state"))
		}
		if c.now >= end {
			t.Errorf("seed %d: the peer is not found", seed)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	c := newCouple(b, testRing(b, 3, 3))
	payload, out := bytes.Repeat([]byte{7}, 1300), make([]byte, 0, 2048)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		out = c.a.Append(out[:0], 0, payload)
	}
}
