package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// versionOffer is the offer of a node of the cluster with hash 7.
func versionOffer(node uint8, plain bool, send uint8, keys ...wire.OfferKey) *wire.Offer {
	o := &wire.Offer{Cluster: 7, Node: node, Version: 2, Plain: plain, Send: send}
	copy(o.Keys[:], keys)
	return o
}

// What each offer leads to, at a node that has key 3 and AllowPlain.
func TestOffers(t *testing.T) {
	own := *versionOffer(1, true, 3, wire.OfferKey{Number: 3, Check: 30}, wire.OfferKey{Number: 4, Check: 40})
	other := *versionOffer(2, true, 3, wire.OfferKey{Number: 3, Check: 30})
	altered := func(change func(o *wire.Offer)) *wire.Offer { o := other; change(&o); return &o }
	for _, c := range []struct {
		name   string
		offer  *wire.Offer
		speaks Version
		events VersionEvents
	}{
		{"the same key", &other, Version2Sealed, VersionChanged | PeerOffers},
		{"no keys", versionOffer(2, true, 0), Version2Plain, VersionChanged | PeerOffers},
		{"a key that it cannot open", versionOffer(2, true, 4, wire.OfferKey{Number: 4, Check: 40}), Version2Plain, VersionChanged | PeerOffers | NoCommonKey},
		{"another file", versionOffer(2, true, 3, wire.OfferKey{Number: 3, Check: 31}), Version2Plain, VersionChanged | PeerOffers | KeyDiffers},
		{"another key, and this one", versionOffer(2, true, 4, wire.OfferKey{Number: 3, Check: 30}, wire.OfferKey{Number: 4, Check: 40}),
			Version2Sealed, VersionChanged | PeerOffers},
		{"it seals only, and lacks the key", versionOffer(2, false, 4, wire.OfferKey{Number: 4, Check: 40}), Version2Sealed,
			VersionChanged | PeerOffers | NoCommonKey},
		{"another cluster", altered(func(o *wire.Offer) { o.Cluster = 8 }), Version1, OtherCluster},
		{"our number", altered(func(o *wire.Offer) { o.Node = 1 }), Version1, SameNumber},
		{"a third number", altered(func(o *wire.Offer) { o.Node = 3 }), Version1, OtherNumber},
		{"version 1", altered(func(o *wire.Offer) { o.Version = 1 }), Version1, 0},
		{"version 3", altered(func(o *wire.Offer) { o.Version = 3 }), Version2Sealed, VersionChanged | PeerOffers},
	} {
		v := NewVersions(0, VersionsConfig{Offer: own, Peer: 2})
		if e := v.HeardOffer(time.Second, c.offer, Version1); e != c.events || v.Speaks() != c.speaks {
			t.Errorf("%s: speaks %v, events %b, want %v, %b", c.name, v.Speaks(), e, c.speaks, c.events)
		}
		if e := v.HeardOffer(2*time.Second, c.offer, Version1); e != 0 {
			t.Errorf("%s: the second time %b", c.name, e)
		}
		wrong := c.events&(OtherCluster|SameNumber|OtherNumber) != 0
		if apply, _ := v.Heard1(3*time.Second, false); v.RefusesPeer(3*time.Second) != wrong || apply != (c.speaks == Version1 && !wrong) {
			t.Errorf("%s: version 1 is applied: %v", c.name, apply)
		}
		if v.Trusts(false) != (c.speaks != Version1) || !v.Trusts(true) {
			t.Errorf("%s: trusts %v", c.name, v.Trusts(false))
		}
	}
}

// With keys and without AllowPlain there is no version 1 and no offer; with three nodes there is no version 1.
func TestVersion1IsRefused(t *testing.T) {
	sealed := VersionsConfig{Offer: *versionOffer(1, false, 3, wire.OfferKey{Number: 3}), Peer: 2}
	for _, c := range []struct {
		name   string
		config VersionsConfig
		speaks Version
	}{
		{"sealed only", sealed, Version2Sealed},
		{"three nodes", VersionsConfig{Offer: *versionOffer(1, true, 0), Peer: 2, Only2: true}, Version2Plain},
	} {
		v := NewVersions(0, c.config)
		apply, e := v.Heard1(time.Hour, true)
		_, again := v.Heard1(time.Hour, true)
		if v.Speaks() != c.speaks || v.Offers() || apply || e != Version1Refused || again != 0 {
			t.Errorf("%s: speaks %v, offers %v; version 1: %v, %b, %b", c.name, v.Speaks(), v.Offers(), apply, e, again)
		}
	}
	v := NewVersions(0, sealed)
	if e := v.HeardOffer(0, versionOffer(2, true, 0), Version1); e != 0 || v.Speaks() != Version2Sealed {
		t.Errorf("an offer in the clear: %b", e)
	}
}

// A peer that comes back with version 1 is served it: after 2 s if it says that it has started, else after 5 s,
// and not before 10 s after its last sealed datagram.
func TestOlderPeer(t *testing.T) {
	keys := wire.OfferKey{Number: 3}
	for _, c := range []struct {
		name   string
		own    *wire.Offer
		hello  bool
		served time.Duration // after the last of version 2
	}{
		{"HELLO", versionOffer(1, true, 0), true, 3 * time.Second},
		{"no HELLO", versionOffer(1, true, 0), false, 5 * time.Second},
		{"sealed before", versionOffer(1, true, 3, keys), true, 10 * time.Second},
	} {
		v := NewVersions(0, VersionsConfig{Offer: *c.own, Peer: 2})
		o := versionOffer(2, true, c.own.Send)
		o.Keys = c.own.Keys
		v.HeardOffer(0, o, Version1)
		v.Heard2(0, c.own.Send != 0)
		for now := time.Second; ; now += 100 * time.Millisecond {
			apply, e := v.Heard1(now, c.hello)
			if apply != (now >= c.served) || apply && (e != VersionChanged|PeerOlder || v.Speaks() != Version1) {
				t.Fatalf("%s: %v: applied %v, %b", c.name, now, apply, e)
			}
			if apply {
				if v.Trusts(false) {
					t.Errorf("%s: what follows is trusted", c.name)
				}
				break
			}
		}
		if e := v.HeardOffer(11*time.Second, o, Version1); e != VersionChanged|PeerOffers {
			t.Errorf("%s: the next offer: %b", c.name, e)
		}
	}
}

// Where version 2 does not get through, the attempts become rarer.
func TestVersion2DoesNotArrive(t *testing.T) {
	v := NewVersions(0, VersionsConfig{Offer: *versionOffer(1, true, 0), Peer: 2})
	attempts := 0
	for now := time.Duration(0); now < time.Hour; now += time.Second {
		if v.HeardOffer(now, versionOffer(2, true, 0), Version1)&VersionChanged != 0 {
			attempts++
		}
		v.Heard1(now, false)
	}
	if attempts < 5 || attempts > 15 {
		t.Errorf("%d attempts in an hour", attempts)
	}
	v.Heard2(time.Hour, false)
	if v.Speaks() != Version2Plain {
		t.Error("version 2 is heard, and not spoken")
	}
}

// A peer that announces, sealed, that it has given up its key is not waited for, nor is one that this node can no
// longer open.
func TestPlainExpected(t *testing.T) {
	key := wire.OfferKey{Number: 3}
	start := func() *Versions {
		v := NewVersions(0, VersionsConfig{Offer: *versionOffer(1, true, 3, key), Peer: 2})
		v.HeardOffer(0, versionOffer(2, true, 3, key), Version1)
		v.Heard2(time.Second, true)
		return v
	}
	v := start()
	if e := v.HeardOffer(2*time.Second, versionOffer(2, true, 0), Version1); e != 0 || v.Speaks() != Version2Sealed {
		t.Errorf("in the clear: %b", e)
	}
	if e := v.HeardOffer(2*time.Second, versionOffer(2, true, 0), Version2Sealed); e != SealingChanged|PlainExpected || v.Speaks() != Version2Plain {
		t.Errorf("sealed: %b", e)
	}
	v = start()
	if e := v.SetConfig(2*time.Second, VersionsConfig{Offer: *versionOffer(1, true, 0), Peer: 2}); e != SealingChanged|PlainExpected {
		t.Errorf("by this node's file: %b", e)
	}
}

func TestVersionsAllocations(t *testing.T) {
	key := wire.OfferKey{Number: 3}
	v := NewVersions(0, VersionsConfig{Offer: *versionOffer(1, true, 3, key), Peer: 2})
	o := versionOffer(2, true, 3, key)
	if n := testing.AllocsPerRun(100, func() {
		v.Heard2(time.Second, true)
		v.HeardOffer(time.Second, o, Version2Sealed)
		v.Heard1(time.Second, true)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHeard2(b *testing.B) {
	key := wire.OfferKey{Number: 3}
	v := NewVersions(0, VersionsConfig{Offer: *versionOffer(1, true, 3, key), Peer: 2})
	v.HeardOffer(0, versionOffer(2, true, 3, key), Version1)
	for b.Loop() {
		v.Heard2(time.Second, true)
	}
}

// FuzzVersions checks that no series of events makes a node speak or accept what its file forbids.
func FuzzVersions(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte{0x13, 0x22, 0x91, 0x04, 0xff, 0x31})
	f.Fuzz(func(t *testing.T, events []byte) {
		configs := []VersionsConfig{
			{Offer: *versionOffer(1, true, 0), Peer: 2},
			{Offer: *versionOffer(1, true, 3, wire.OfferKey{Number: 3}), Peer: 2},
			{Offer: *versionOffer(1, false, 3, wire.OfferKey{Number: 3}), Peer: 2},
			{Offer: *versionOffer(1, true, 0), Peer: 2, Only2: true},
		}
		offers := []*wire.Offer{versionOffer(2, true, 0), versionOffer(2, true, 3, wire.OfferKey{Number: 3}),
			versionOffer(2, false, 3, wire.OfferKey{Number: 3, Check: 1}), versionOffer(1, true, 0)}
		c, now := configs[0], time.Duration(0)
		v := NewVersions(now, c)
		for _, b := range events {
			now += time.Duration(b>>5) * time.Second
			arg := int(b >> 3 & 3)
			before := v.Speaks()
			var e VersionEvents
			switch b & 7 {
			case 0, 1:
				e = v.HeardOffer(now, offers[arg], Version(b&1)*Version2Sealed)
			case 2, 3:
				var apply bool
				if apply, e = v.Heard1(now, b&8 != 0); apply && v.Speaks() != Version1 {
					t.Fatal("version 1 is applied and not spoken")
				}
			case 4:
				e = v.Heard2(now, b&8 != 0)
			case 5:
				c = configs[arg]
				e = v.SetConfig(now, c)
			case 6:
				e = v.Unopened(now)
			default:
				v.Challenged(now)
			}
			after := v.Speaks()
			if changed := (before == Version1) != (after == Version1); changed != (e&VersionChanged != 0) {
				t.Fatalf("from %v to %v: %b", before, after, e)
			}
			if !c.Offer.Plain && after != Version2Sealed || c.Offer.Send == 0 && after == Version2Sealed || c.Only2 && after == Version1 {
				t.Fatalf("speaks %v with %+v", after, c)
			}
		}
	})
}

// During a pause an offer counts only in a datagram of version 2, which shows that version 2 comes through.
func TestVersionsPauseEnds(t *testing.T) {
	v := NewVersions(0, VersionsConfig{Offer: *versionOffer(1, true, 0), Peer: 2})
	now := time.Duration(0)
	for range 2 {
		v.HeardOffer(now, versionOffer(2, true, 0), Version1)
		now += 6 * time.Second
		v.Heard1(now, false)
	}
	if e := v.HeardOffer(now, versionOffer(2, true, 0), Version1); e != 0 || v.Speaks() != Version1 {
		t.Errorf("in version 1: %b, %v", e, v.Speaks())
	}
	if e := v.HeardOffer(now, versionOffer(2, true, 0), Version2Plain); e&VersionChanged == 0 || v.Speaks() != Version2Plain {
		t.Errorf("in version 2: %b, %v", e, v.Speaks())
	}
}
