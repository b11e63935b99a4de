package ready

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ctbox/internal/seeds"
)

var standard = Config{MaxLag: time.Second, StartGrace: 10 * time.Second, GiveUp: 300 * time.Second}

const quiet = 5 * time.Second

// at is the facts of a moment, in seconds, with peers that are heard unless they say otherwise.
func at(second float64, peers ...Peer) Facts {
	for i := range peers {
		if peers[i].Name == "" {
			peers[i].Name = "192.0.2.2"
		}
		if peers[i].ID == "" {
			peers[i].ID = peers[i].Name
		}
	}
	return Facts{Now: time.Duration(second * float64(time.Second)), Quiet: quiet, Peers: peers}
}

func with(f Facts, change func(*Facts)) Facts {
	change(&f)
	return f
}

func TestSteps(t *testing.T) {
	whole, coming, silent := Peer{Copy: CopyWhole}, Peer{Copy: CopyUnderWay}, Peer{Copy: CopyWhole, Silence: quiet}
	primary := func(f *Facts) { f.Primary = true }
	type step struct {
		facts      Facts
		why        string // of InSync
		promotable bool
		reason     string
	}
	for name, steps := range map[string][]step{
		"a node that returns waits for the bulk": {
			{at(0), "no peer has been heard", false, "not in sync since the start: no peer has been heard"},
			{at(1, Peer{}), "192.0.2.2 has not been asked for its flows", false, "not in sync since the start: 192.0.2.2 has not been asked for its flows"},
			{at(2, Peer{Copy: CopyAsked}), "192.0.2.2 has not acknowledged the request for its flows", false,
				"not in sync since the start: 192.0.2.2 has not acknowledged the request for its flows"},
			{at(30, coming), "the bulk of 192.0.2.2 is not complete", false, "not in sync since the start: the bulk of 192.0.2.2 is not complete"},
			{at(31, whole), "", true, "in sync"},
		},
		"a node without a peer": {
			{at(0), "no peer has been heard", false, "not in sync since the start: no peer has been heard"},
			{at(9.9), "no peer has been heard", false, "not in sync since the start: no peer has been heard"},
			{at(10), "no peer has been heard", true, "no peer was heard for 10 s after the start"},
			{at(20, Peer{}), "192.0.2.2 has not been asked for its flows", true, "no peer was heard for 10 s after the start"},
			{at(60, coming), "the bulk of 192.0.2.2 is not complete", true, "no peer was heard for 10 s after the start"},
			{at(61, whole), "", true, "in sync"},
		},
		"the table is read for longer than StartGrace": {
			{with(at(10), func(f *Facts) { f.Filling = true }), "no peer has been heard", false, "not in sync since the start: no peer has been heard"},
			{with(at(11, whole), func(f *Facts) { f.Filling = true }), "the kernel's table is being read for the first time", false,
				"not in sync since the start: the kernel's table is being read for the first time"},
			{at(12, whole), "", true, "in sync"},
		},
		"a peer that dies before the bulk is complete": {
			{at(1, coming), "the bulk of 192.0.2.2 is not complete", false, "not in sync since the start: the bulk of 192.0.2.2 is not complete"},
			{at(20, Peer{Copy: CopyUnderWay, Silence: 15 * time.Second}), "192.0.2.2 has been silent for 15 s", false,
				"not in sync since the start: 192.0.2.2 has been silent for 15 s"},
			{at(300, Peer{Copy: CopyUnderWay, Silence: 295 * time.Second}), "192.0.2.2 has been silent for 295 s", false,
				"not in sync since the start: 192.0.2.2 has been silent for 295 s"},
			{at(301, Peer{Copy: CopyUnderWay, Silence: 296 * time.Second}), "192.0.2.2 has been silent for 296 s", true,
				"no progress for 300 s: 192.0.2.2 has been silent for 296 s"},
		},
		"the survivor stays, and when the peer returns empty": {
			{at(1, whole), "", true, "in sync"},
			{at(10, silent), "192.0.2.2 has been silent for 5 s", true, "no peer is heard, in sync 9 s ago"},
			{at(900, silent), "192.0.2.2 has been silent for 5 s", true, "no peer is heard, in sync 899 s ago"},
			{at(901, Peer{Life: 1}), "192.0.2.2 has not been asked for its flows", true, "a peer has started anew, in sync 900 s ago"},
			{at(960, Peer{Life: 1, Copy: CopyUnderWay}), "the bulk of 192.0.2.2 is not complete", true, "a peer has started anew, in sync 959 s ago"},
			{at(961, Peer{Life: 1, Copy: CopyWhole}), "", true, "in sync"},
		},
		"the peer returns over another link": {
			{at(1, Peer{ID: "peer", Copy: CopyWhole}), "", true, "in sync"},
			{at(30, Peer{ID: "peer", Copy: CopyWhole, Silence: quiet}), "192.0.2.2 has been silent for 5 s", true, "no peer is heard, in sync 29 s ago"},
			{at(31, Peer{ID: "peer", Name: "203.0.113.2", Life: 1}), "203.0.113.2 has not been asked for its flows", true, "a peer has started anew, in sync 30 s ago"},
			{at(99, Peer{ID: "peer", Name: "203.0.113.2", Life: 1}), "203.0.113.2 has not been asked for its flows", true, "a peer has started anew, in sync 98 s ago"},
		},
		"a node that misses what a running peer has": {
			{at(1, whole), "", true, "in sync"},
			{at(2, Peer{Copy: CopyAsked}), "192.0.2.2 has not acknowledged the request for its flows", true, "in sync 1 s ago"},
			{at(2.1, Peer{Copy: CopyAsked}), "192.0.2.2 has not acknowledged the request for its flows", false,
				"no longer in sync: 192.0.2.2 has not acknowledged the request for its flows"},
			{at(3, whole), "", true, "in sync"},
		},
		"a link that returns": {
			{at(1, whole), "", true, "in sync"},
			{at(600, silent), "192.0.2.2 has been silent for 5 s", true, "no peer is heard, in sync 599 s ago"},
			{at(601, Peer{Copy: CopyAsked}), "192.0.2.2 has not acknowledged the request for its flows", true, "in sync 600 s ago"},
			{at(602, Peer{Copy: CopyAsked}), "192.0.2.2 has not acknowledged the request for its flows", false,
				"no longer in sync: 192.0.2.2 has not acknowledged the request for its flows"},
		},
		"a primary": {
			{with(at(1, whole), primary), "", true, "in sync"},
			{with(at(99, Peer{Copy: CopyAsked}), primary), "192.0.2.2 has not acknowledged the request for its flows", true, "it has taken over, in sync 98 s ago"},
			{at(100, Peer{Copy: CopyAsked}), "192.0.2.2 has not acknowledged the request for its flows", false,
				"no longer in sync: 192.0.2.2 has not acknowledged the request for its flows"},
		},
		"a primary that was never in sync": {
			{with(at(9, coming), primary), "the bulk of 192.0.2.2 is not complete", false, "not in sync since the start: the bulk of 192.0.2.2 is not complete"},
			{with(at(19, silent), primary), "192.0.2.2 has been silent for 5 s", true, "it has taken over and no peer was heard"},
			{with(at(29, Peer{Life: 1}), primary), "192.0.2.2 has not been asked for its flows", true, "it has taken over and no peer was heard"},
		},
		"a bulk that begins again is no progress": {
			{with(at(1, coming), func(f *Facts) { f.Held = 5 }), "the bulk of 192.0.2.2 is not complete", false, "not in sync since the start: the bulk of 192.0.2.2 is not complete"},
			{with(at(200, Peer{Copy: CopyAsked}), func(f *Facts) { f.Held = 1 }), "192.0.2.2 has not acknowledged the request for its flows", false,
				"not in sync since the start: 192.0.2.2 has not acknowledged the request for its flows"},
			{with(at(300, coming), func(f *Facts) { f.Held = 4 }), "the bulk of 192.0.2.2 is not complete", false, "not in sync since the start: the bulk of 192.0.2.2 is not complete"},
			{with(at(301, coming), func(f *Facts) { f.Held = 5 }), "the bulk of 192.0.2.2 is not complete", true, "no progress for 300 s: the bulk of 192.0.2.2 is not complete"},
			{with(at(400, coming), func(f *Facts) { f.Held = 6 }), "the bulk of 192.0.2.2 is not complete", true, "no progress for 300 s: the bulk of 192.0.2.2 is not complete"},
		},
		"the reasons": {
			{at(1, Peer{Copy: CopyWhole, Missing: 2, Waited: time.Second}), "", true, "in sync"},
			{at(2, Peer{Copy: CopyWhole, Missing: 2, Waited: 1100 * time.Millisecond}), "2 gaps in what 192.0.2.2 sent, the oldest for 1.1 s", true, "in sync 1 s ago"},
			{at(2, Peer{Copy: CopyWhole, Unproven: true}), "the copy of 192.0.2.2 is not proven to be equal", true, "in sync 1 s ago"},
			{at(2, Peer{Copy: CopyWhole, Lost: 1}), "192.0.2.2 has lost 1 event of its kernel", true, "in sync 1 s ago"},
			{with(at(2, whole), func(f *Facts) { f.Lag = 1500 * time.Millisecond }), "changes have been waiting to be sent for 1.5 s", true, "in sync 1 s ago"},
			{with(at(2, whole), func(f *Facts) { f.Full = true }), "the external cache is full: HashLimit is too small", true, "in sync 1 s ago"},
			{at(2, whole, Peer{Name: "192.0.2.3", Copy: CopyUnderWay}), "the bulk of 192.0.2.3 is not complete", true, "in sync 1 s ago"},
			{at(2, whole, Peer{Name: "192.0.2.3", Copy: CopyUnderWay, Silence: quiet}), "", true, "in sync"}, // the other one is heard
		},
	} {
		m := New(standard)
		for i, s := range steps {
			d := m.Step(&s.facts)
			if d.InSync != (s.why == "") || d.Why != s.why || d.Promotable != s.promotable || d.Reason != s.reason {
				t.Errorf("%s, step %d:\n got %q, promotable %v: %s\nwant %q, promotable %v: %s",
					name, i, d.Why, d.Promotable, d.Reason, s.why, s.promotable, s.reason)
			}
			if why := Check(&s.facts, standard.MaxLag); why != d.Why {
				t.Errorf("%s, step %d: Check: %q, Step: %q", name, i, why, d.Why)
			}
		}
	}
}

func TestAgeAndPeers(t *testing.T) {
	m := New(standard)
	f := at(1, Peer{Name: "192.0.2.2", Copy: CopyUnderWay}, Peer{Name: "192.0.2.3", Copy: CopyWhole})
	d := m.Step(&f)
	if d.Age != -1 || !slices.Equal(d.Peers, []string{"the bulk of 192.0.2.2 is not complete", ""}) {
		t.Errorf("age %v, peers %q", d.Age, d.Peers)
	}
	f = at(2, Peer{Copy: CopyWhole})
	m.Step(&f)
	f = at(7, Peer{Copy: CopyWhole, Silence: quiet})
	if d := m.Step(&f); d.Age != 5*time.Second {
		t.Errorf("age %v", d.Age)
	}
}

func TestConfigure(t *testing.T) {
	m := New(standard)
	f := at(2)
	if m.Step(&f).Promotable {
		t.Error("promotable before StartGrace")
	}
	m.Configure(Config{MaxLag: time.Second, StartGrace: time.Second})
	if !m.Step(&f).Promotable {
		t.Error("not promotable after the shorter StartGrace")
	}
}

// For random facts: a node is promotable for the first time only in sync, after StartGrace
// without any peer, or after GiveUp; and only what a running peer has makes it unfit again.
func TestRandomFacts(t *testing.T) {
	for seed := range seeds.Count(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		config := Config{MaxLag: time.Second, StartGrace: 10 * time.Second, GiveUp: time.Duration(r.IntN(3)) * 20 * time.Second}
		m := New(config)
		var f Facts
		f.Quiet = quiet
		var best Copy
		var most uint64
		var quietSince time.Duration // of progress
		ever, before, known := false, false, 0
		for range 300 {
			f.Now += time.Duration(r.IntN(1000)) * time.Millisecond
			if r.IntN(20) == 0 {
				f.Filling, f.Primary = r.IntN(4) == 0, r.IntN(2) == 0
			}
			f.Held = uint64(r.IntN(50))
			if len(f.Peers) < 2 && r.IntN(40) == 0 {
				f.Peers = append(f.Peers, Peer{ID: fmt.Sprint(len(f.Peers)), Name: fmt.Sprint("192.0.2.", len(f.Peers))})
			}
			anew, fresh := false, len(f.Peers) > known
			known = len(f.Peers)
			for i := range f.Peers {
				p := &f.Peers[i]
				if r.IntN(10) == 0 {
					p.Silence = time.Duration(r.IntN(10)) * time.Second
				}
				if r.IntN(10) == 0 {
					p.Copy = Copy(r.IntN(4))
				}
				if r.IntN(30) == 0 && !(fresh && i == known-1) {
					p.Life, anew = p.Life+1, true
				}
				if r.IntN(10) == 0 {
					p.Missing, p.Waited, p.Lost = r.IntN(2), time.Duration(r.IntN(3))*time.Second, uint64(r.IntN(2))
				}
			}
			d := m.Step(&f)
			grew := f.Held > most || slices.ContainsFunc(f.Peers, func(p Peer) bool { return p.Copy > best })
			if !before && grew {
				quietSince = f.Now
				most = max(most, f.Held)
				for _, p := range f.Peers {
					best = max(best, p.Copy)
				}
			}
			switch {
			case d.InSync && !d.Promotable:
				t.Fatalf("seed %d, %v: in sync and not promotable", seed, f.Now)
			case d.Promotable && !before && !d.InSync && !ever && len(f.Peers) == 0 && f.Now >= config.StartGrace:
			case d.Promotable && !before && f.Primary && len(f.Peers) > 0 && !heard(&f):
			case d.Promotable && !before && !d.InSync && (config.GiveUp == 0 || f.Now-quietSince < config.GiveUp):
				t.Fatalf("seed %d, %v: promotable too early: %s", seed, f.Now, d.Reason)
			case before && !d.Promotable && (f.Primary || anew || !heard(&f)):
				t.Fatalf("seed %d, %v: no longer promotable: %s", seed, f.Now, d.Reason)
			case !before && !d.Promotable && config.GiveUp != 0 && f.Now-quietSince > config.GiveUp+time.Second:
				t.Fatalf("seed %d, %v: has not given up: %s", seed, f.Now, d.Reason)
			}
			if d.InSync || before != d.Promotable {
				best, most, quietSince = CopyNone, 0, f.Now
				if before && !d.Promotable { // this step is the first of the wait
					most = f.Held
					for _, p := range f.Peers {
						best = max(best, p.Copy)
					}
				}
			}
			ever, before = ever || d.InSync, d.Promotable
		}
	}
}

// node is a node of the simulated pair, and what VRRP does with it.
type node struct {
	priority int
	up       bool
	booted   time.Duration
	died     time.Duration
	life     uint64
	m        *Machine
	d        Decision

	full    bool // it has every flow
	primary bool
	better  int // steps for which it should have been the master

	known bool // it has heard the other node in this life
	heard time.Duration
	of    uint64 // the other node's life that its copy is of
	copy  Copy
	left  int // steps until the bulk is complete
}

func (n *node) effective() int {
	if !n.d.Promotable {
		return n.priority - 60
	}
	return n.priority
}

// pair simulates two nodes with keepalived's election: the node with the highest effective
// priority takes over after seven steps of half a second.
type pair struct {
	r      *rand.Rand
	now    time.Duration
	link   bool
	nodes  [2]*node
	master *node
}

func (p *pair) boot(n *node) {
	*n = node{priority: n.priority, up: true, booted: p.now, life: n.life + 1, m: New(standard), copy: CopyNone}
}

func (p *pair) step(t *testing.T, seed uint64) {
	p.now += 500 * time.Millisecond
	switch p.r.IntN(60) {
	case 0:
		// A node dies, never both.
		if p.nodes[0].up && p.nodes[1].up {
			n := p.nodes[p.r.IntN(2)]
			n.up, n.full, n.died = false, false, p.now
			if p.master == n {
				p.master = nil
			}
		}
	case 1, 2:
		if p.link { // a node that cannot hear its peer at the start is what StartGrace is for
			for _, n := range p.nodes {
				if !n.up && p.now-n.died > 2*quiet {
					p.boot(n)
				}
			}
		}
	case 3:
		if p.nodes[0].up && p.nodes[1].up && p.nodes[0].d.Promotable && p.nodes[1].d.Promotable {
			p.link = p.r.IntN(2) == 0
		}
	case 4, 5, 6:
		p.link = true
	}
	for i, n := range p.nodes {
		if n.up {
			p.replicate(n, p.nodes[1-i])
			before := n.d.Promotable
			f := p.facts(n, p.nodes[1-i])
			n.d = n.m.Step(&f)
			if o := p.nodes[1-i]; before && !n.d.Promotable && !o.up && p.now-o.died > quiet {
				t.Fatalf("seed %d, %v: the survivor has demoted itself: %s", seed, p.now, n.d.Reason)
			}
		}
	}
	p.elect(t, seed)
}

// replicate moves the copy that n has of o.
func (p *pair) replicate(n, o *node) {
	switch {
	case !o.up || !p.link:
		if p.master == o && o.up && n.copy == CopyWhole && p.now-n.heard > quiet {
			n.full, n.copy = false, CopyAsked // what it misses will be noticed when the link is back
		}
	case !n.known || n.of != o.life:
		n.known, n.of, n.copy, n.left = true, o.life, CopyAsked, 2+p.r.IntN(100)
	case n.copy == CopyAsked:
		n.copy, n.left = CopyUnderWay, 2+p.r.IntN(100)
	case n.copy == CopyUnderWay:
		if n.left--; n.left <= 0 {
			n.copy = CopyWhole
			n.full = n.full || o.full
		}
	}
	if o.up && p.link {
		n.heard = p.now
	}
}

func (p *pair) facts(n, o *node) Facts {
	f := Facts{Now: p.now - n.booted, Quiet: quiet, Primary: n.primary}
	if n.known {
		seen := n.copy
		silence := p.now - n.heard
		if !p.link && seen == CopyAsked {
			seen = CopyWhole // nothing tells it yet
		}
		f.Peers = []Peer{{Name: "192.0.2.9", Silence: silence, Life: n.of, Copy: seen}}
		f.Held = uint64(max(0, 200-n.left))
	}
	return f
}

func (p *pair) elect(t *testing.T, seed uint64) {
	for i, n := range p.nodes {
		o := p.nodes[1-i]
		if !n.up || p.master == n || o.up && o.effective() >= n.effective() {
			n.better = 0
			continue
		}
		if n.better++; n.better < 7 {
			continue
		}
		n.better = 0
		if p.master != nil && p.master.full && !n.full {
			t.Fatalf("seed %d, %v: node %d takes over from a living master and lacks flows: %s", seed, p.now, i, n.d.Reason)
		}
		if p.master != nil {
			p.master.primary = false
		}
		p.master, n.primary = n, true
		n.full = true // whatever it has is all that there is now
	}
}

// In no sequence of deaths, starts and failures of the dedicated link does a node without
// all flows take over from one that lives and has them.
func TestPair(t *testing.T) {
	taken := 0
	for seed := range seeds.Count(1000) {
		p := &pair{r: rand.New(rand.NewPCG(seed, 1)), link: true}
		p.nodes = [2]*node{{priority: 100}, {priority: 90}}
		p.boot(p.nodes[0])
		p.boot(p.nodes[1])
		var last *node
		for range 3000 {
			p.step(t, seed)
			if p.master != last {
				taken, last = taken+1, p.master
			}
		}
	}
	if taken < 10*int(seeds.Count(1000)) {
		t.Errorf("only %d changes of the master", taken)
	}
}
