package replicate

import (
	"net/netip"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/ready"
)

var (
	one = netip.MustParseAddr("192.0.2.2")
	two = netip.MustParseAddr("203.0.113.2")
)

// With FT-FW the addresses of one peer on several links are one peer, and a third node is none.
func TestFactsOfFTFW(t *testing.T) {
	r := unwired(conf.ModeFTFW)
	if f := r.Facts(); len(f.Peers) != 0 || f.Filling {
		t.Errorf("before a peer is heard: %+v", f)
	}
	r.sched.SetNow(20 * time.Second)
	r.peers[one] = &peer{last: 12 * time.Second, incomplete: 7}
	r.peers[two] = &peer{last: 19 * time.Second}
	r.peers[netip.MustParseAddr("192.0.2.3")] = &peer{last: 20 * time.Second, ignored: true}
	r.lives = 3
	f := r.Facts()
	want := ready.Peer{ID: "peer", Name: "203.0.113.2", Silence: time.Second, Life: 3, Lost: 7}
	if len(f.Peers) != 1 || f.Peers[0] != want || f.Quiet != peerQuiet {
		t.Errorf("%+v, want %+v", f, want)
	}
}

// In the other modes every address is a peer, and time has to do.
func TestFactsOfOtherModes(t *testing.T) {
	copies := func(r *Replicator, second int) (got [2]ready.Copy) {
		r.sched.SetNow(time.Duration(second) * time.Second)
		f := r.Facts()
		if len(f.Peers) != 2 || f.Peers[0].Name != "192.0.2.2" || f.Peers[1].Name != "203.0.113.2" {
			t.Fatalf("%+v", f)
		}
		return [2]ready.Copy{f.Peers[0].Copy, f.Peers[1].Copy}
	}
	const none, coming, whole = ready.CopyNone, ready.CopyUnderWay, ready.CopyWhole
	type moment struct {
		second int
		want   [2]ready.Copy
	}
	check := func(r *Replicator, moments ...moment) {
		t.Helper()
		r.peers[one] = &peer{first: time.Second}
		r.peers[two] = &peer{first: 9 * time.Second}
		for _, m := range moments {
			if got := copies(r, m.second); got != m.want {
				t.Errorf("at %d s: %v, want %v", m.second, got, m.want)
			}
		}
	}
	alarm := unwired(conf.ModeALARM) // RefreshTime is 15 s
	check(alarm, moment{15, [2]ready.Copy{coming, coming}}, moment{16, [2]ready.Copy{whole, coming}}, moment{24, [2]ready.Copy{whole, whole}})
	if f := alarm.Facts(); f.Quiet != peerQuiet+15*time.Second {
		t.Errorf("silence in ALARM: %v", f.Quiet)
	}
	alarm.CopyLost()
	check(alarm, moment{25, [2]ready.Copy{none, none}})

	notrack := unwired(conf.ModeNOTRACK)
	notrack.cfg = &conf.Sync{Mode: conf.ModeNOTRACK, Ready: conf.Ready{StartGrace: 10 * time.Second}}
	check(notrack, moment{15, [2]ready.Copy{none, none}})
	notrack.sched.SetNow(time.Second)
	notrack.asked = notrack.sched.Now() // the second one is heard only later: it has not got the request
	check(notrack, moment{10, [2]ready.Copy{coming, none}}, moment{11, [2]ready.Copy{whole, none}})
}

// A cache without room for more is not a copy.
func TestFactsOfAFullCache(t *testing.T) {
	r := unwiredWith(conf.ModeFTFW, cache.Config{Limit: 2})
	all := flowtest.Flows(2)
	r.external.Flows.Replace(&all[0], 0)
	if f := r.Facts(); f.Full || f.Held != 1 {
		t.Errorf("%+v", f)
	}
	r.external.Flows.Replace(&all[1], 0)
	if f := r.Facts(); !f.Full || f.Held != 2 {
		t.Errorf("%+v", f)
	}
}

// The decision is made twice a second: its facts cost nothing but the list of peers.
func TestFactsAllocateLittle(t *testing.T) {
	r := unwired(conf.ModeFTFW)
	r.peers[one] = &peer{last: 1}
	if n := testing.AllocsPerRun(100, func() { r.Facts() }); n > 3 {
		t.Errorf("%v allocations", n)
	}
}
