//go:build !no_cluster

package replicate

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
)

// faultTable is a table of the caches whose entries have numbers and a value.
type faultTable struct {
	name string // in the log
	// put and remove change a cache behind the protocol's back; announce and end change the
	// internal cache as an event of the kernel does.
	put      func(side cache.Side, i int, value uint32)
	remove   func(side cache.Side, i int)
	announce func(r *Replicator, i int, value uint32)
	end      func(r *Replicator, i int)
}

func faultFlow(i int, mark uint32) ctnetlink.Flow {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.Orig.SrcPort, f.Orig.DstPort = uint16(i), uint16(i>>16)
	f.Reply = f.Orig.Inverted()
	f.Has |= ctnetlink.HasMark
	f.Mark = mark
	return f
}

func faultExpect(i int, class uint32) ctnetlink.Expect {
	f := faultFlow(i, 0)
	x := testExpect(&f, 0)
	x.Has |= ctnetlink.ExpectHasClass
	x.Class = class
	return x
}

var faultTables = []faultTable{
	{"flows",
		func(side cache.Side, i int, value uint32) { f := faultFlow(i, value); side.Flows.Put(&f, 0) },
		func(side cache.Side, i int) { f := faultFlow(i, 0); side.Flows.Delete(side.Flows.Find(&f)) },
		func(r *Replicator, i int, value uint32) { f := faultFlow(i, value); r.rewrite(&f) },
		func(r *Replicator, i int) { f := faultFlow(i, 0); r.end(&f) },
	},
	{"expectations",
		func(side cache.Side, i int, value uint32) { x := faultExpect(i, value); side.Expects.Put(&x, 0) },
		func(side cache.Side, i int) { x := faultExpect(i, 0); side.Expects.Delete(side.Expects.Find(&x)) },
		func(r *Replicator, i int, value uint32) { x := faultExpect(i, value); r.storeExpect(&x) },
		func(r *Replicator, i int) {
			x := faultExpect(i, 0)
			h := r.internal.Expects.Find(&x)
			r.internal.Expects.Kill(h)
			r.ExpectEnded(h, true)
		},
	},
}

// fault damages the entry with number i, or makes one with number i+faultEntries.
type fault struct {
	name string
	// Where it happens: in the sender's internal cache, in the receiver's external one, or on
	// the way of a message, whose number arrives and whose contents do not.
	sender, receiver func(t *faultTable, side cache.Side, i int)
	message          func(t *faultTable, r *Replicator, i int)
}

const faultEntries = 500

func alter(t *faultTable, side cache.Side, i int)  { t.put(side, i, 99) }
func remove(t *faultTable, side cache.Side, i int) { t.remove(side, i) }
func add(t *faultTable, side cache.Side, i int)    { t.put(side, i+faultEntries, 1) }

var faults = []fault{
	{name: "original altered", sender: alter},
	{name: "original removed", sender: remove},
	{name: "copy altered", receiver: alter},
	{name: "copy removed", receiver: remove},
	{name: "copy added", receiver: add},
	{name: "new one swallowed", message: func(t *faultTable, r *Replicator, i int) { t.announce(r, i+faultEntries, 1) }},
	{name: "change swallowed", message: func(t *faultTable, r *Replicator, i int) { t.announce(r, i, 77) }},
	{name: "end swallowed", message: func(t *faultTable, r *Replicator, i int) { t.end(r, i) }},
}

// swallow has r apply messages to a cache that nobody reads, until restore is called: the stream
// counts them as delivered.
func (r *Replicator) swallow() (restore func()) {
	kept := r.external.Side
	r.external.Side = cache.NewSide(cache.Config{})
	return func() { r.external.Side = kept }
}

func said(log *bytes.Buffer, t *faultTable) (found, repaired int) {
	return strings.Count(log.String(), "the "+t.name+" of fw1 differ from the copy here"),
		strings.Count(log.String(), "the copy of the "+t.name+" of fw1 is equal again")
}

// Each fault behind the protocol's back is found within two seconds, repaired, counted once and
// said once.
func TestClusterFaults(t *testing.T) {
	eachTown(t, func(t *testing.T, w *town) {
		a, b := w.nodes[0], w.nodes[1]
		for i := range faultEntries {
			for _, table := range faultTables {
				table.announce(a.Replicator, i, 1)
			}
		}
		w.bothProven("before")
		i := 0
		for _, table := range faultTables {
			for _, k := range faults {
				what := table.name + ": " + k.name
				before := b.cluster.memberStatus(1)
				found, repaired := said(&b.log, &table)
				i++
				began := w.now
				switch {
				case k.sender != nil:
					k.sender(&table, a.internal, i)
				case k.receiver != nil:
					k.receiver(&table, b.external.Side, i)
				default:
					received := b.replica.Received
					restore := b.swallow()
					k.message(&table, a.Replicator, i)
					w.pass(10 * time.Millisecond)
					restore()
					if b.replica.Received != received+1 {
						t.Errorf("%s: %d messages were received", what, b.replica.Received-received)
					}
				}
				w.until(what, 2*time.Second-(w.now-began), func() bool { return b.cluster.memberStatus(1).Differences > before.Differences })
				w.until(what+": repair", time.Second, func() bool { return b.proven(w.now - began) })
				w.same(what)
				w.pass(2500 * time.Millisecond)
				after := b.cluster.memberStatus(1)
				if n, r := after.Differences-before.Differences, after.Repaired-before.Repaired; n != 1 || r != 1 || !after.Equal {
					t.Errorf("%s: %d differences, %d repaired: %+v", what, n, r, after)
				}
				if f, r := said(&b.log, &table); f != found+1 || r != repaired+1 {
					t.Errorf("%s: said %d times, its end %d times:\n%s", what, f-found, r-repaired, &b.log)
				}
			}
		}
		if m := a.cluster.memberStatus(2); m.Differences > 0 || m.Repaired > 0 {
			t.Errorf("the other way: %+v", m)
		}
		if bulks := a.machine.Stats().Bulks; bulks > 1 {
			t.Errorf("%d bulks", bulks)
		}
	})
}

// An entry that is added to the internal cache behind the protocol's back is announced within two
// seconds, and said once. One that is stored and not to be announced, as a flow of a commit, waits for
// the next bulk.
func TestClusterUnannounced(t *testing.T) {
	w := newTown(t)
	a, b := w.nodes[0], w.nodes[1]
	w.bothProven("before")
	for n, table := range faultTables {
		table.announce(a.Replicator, 1, 1)
		add(&table, a.internal, 1)
		w.until("announced", 2*time.Second, func() bool { return len(contents(b.external.Side)) == 2*n+2 })
		w.pass(3 * time.Second)
		if got := strings.Count(a.log.String(), "without having been announced, and announced now: 1"); got != n+1 {
			t.Errorf("%s: said %d times:\n%s", table.name, got, &a.log)
		}
	}
	a.store(new(faultFlow(3, 1)), false)
	x := faultExpect(3, 1)
	h, _ := a.internal.Expects.Put(&x, 0)
	a.ExpectStored(h, false)
	w.pass(3 * time.Second)
	if m := b.cluster.memberStatus(1); m.Differences > 0 || !m.Equal || len(contents(b.external.Side)) != 4 {
		t.Errorf("%+v\n%s", m, &b.log)
	}
	b.cluster.stream.RequestResync(w.now)
	w.until("a bulk", 5*time.Second, func() bool { return len(contents(b.external.Side)) == 6 })
	w.bothProven("after")
	if m := b.cluster.memberStatus(1); m.Differences > 0 {
		t.Errorf("%+v\n%s", m, &b.log)
	}
}

// One altered flow of 100,000 costs less than 10,000 bytes on the link, in both directions and with
// all else that it carries meanwhile.
func TestClusterFaultBytes(t *testing.T) {
	w := newTown(t, keyFile(t, newKey(t, 'a'), 0o600))
	a, b := w.nodes[0], w.nodes[1]
	for i := range 100_000 {
		faultTables[0].announce(a.Replicator, i, 1)
	}
	w.until("before", 20*time.Second, func() bool { return b.external.Flows.Len() == 100_000 && b.proven(100*time.Millisecond) })
	before, began := w.sent[0]+w.sent[1], w.now
	alter(&faultTables[0], b.external.Side, 50_000)
	w.until("found", 2*time.Second, func() bool { return b.cluster.memberStatus(1).Differences == 1 })
	w.until("repaired", time.Second, func() bool { return b.proven(w.now - began) })
	n := w.sent[0] + w.sent[1] - before
	t.Logf("%d bytes, %v", n, w.now-began)
	if m := b.cluster.memberStatus(1); n >= 10_000 || m.Repaired != 1 {
		t.Errorf("%d bytes: %+v", n, m)
	}
	f := faultFlow(50_000, 0)
	if h := b.external.Flows.Find(&f); !b.external.Flows.Load(h, &f) || f.Mark != 1 {
		t.Errorf("the copy has mark %d", f.Mark)
	}
}

// With loss in both directions while every flow changes there is no false difference, and at 1 %
// the last proof is never five seconds old.
func TestClusterNoFalseDifference(t *testing.T) {
	const flows = 200
	for _, percent := range []int{1, 10} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%d percent, seed %d", percent, seed), func(t *testing.T) {
				w := newTown(t)
				for i := range flows {
					w.nodes[i%2].store(new(faultFlow(i, 0)), true)
				}
				w.bothProven("before")
				random, lost := rand.New(rand.NewPCG(seed, uint64(percent))), 0
				w.lose = func(int, []byte) bool {
					lose := random.IntN(100) < percent
					if lose {
						lost++
					}
					return lose
				}
				oldest := time.Duration(0)
				for round := range 150 {
					for i := range flows {
						faultTables[0].announce(w.nodes[i%2].Replicator, i, uint32(1+round))
						if i%10 == 0 {
							w.pass(10 * time.Millisecond)
						}
					}
					for i, v := range w.nodes {
						m := v.cluster.memberStatus(uint8(2 - i))
						oldest = max(oldest, m.LastEqual)
						if m.Differences > 0 || m.Repaired > 0 || percent == 1 && m.LastEqual >= 5*time.Second {
							t.Fatalf("round %d: %+v\n%s", round, m, &v.log)
						}
					}
				}
				t.Logf("%d datagrams lost, the oldest proof %v", lost, oldest)
				if lost == 0 {
					t.Error("nothing was lost")
				}
				w.lose = nil
				w.bothProven("after")
			})
		}
	}
}

// All faults at once, of two nodes that run by themselves over UDP.
func TestClusterFaultsOverUDP(t *testing.T) {
	t.Parallel()
	p := newSitedPair(t)
	a, b := p.nodes[0], p.nodes[1]
	a.do(func() {
		for i := range faultEntries {
			for _, table := range faultTables {
				table.announce(a.Replicator, i, 1)
			}
		}
	})
	b.awaits("before", faultEntries)
	each := func(do func(t *faultTable, k *fault, i int)) {
		for ti := range faultTables {
			for ki := range faults {
				do(&faultTables[ti], &faults[ki], 1+ki)
			}
		}
	}
	var restore func()
	var received uint64
	b.do(func() { restore, received = b.swallow(), b.replica.Received })
	messages := uint64(0)
	a.do(func() {
		each(func(t *faultTable, k *fault, i int) {
			if k.message != nil {
				k.message(t, a.Replicator, i)
				messages++
			}
		})
	})
	netnstest.Eventually(t, 20*time.Second, "the messages to swallow arrive", func() (all bool) {
		b.do(func() { all = b.replica.Received >= received+messages })
		return all
	})
	b.do(func() {
		restore()
		each(func(t *faultTable, k *fault, i int) {
			if k.receiver != nil {
				k.receiver(t, b.external.Side, i)
			}
		})
	})
	a.do(func() {
		each(func(t *faultTable, k *fault, i int) {
			if k.sender != nil {
				k.sender(t, a.internal, i)
			}
		})
	})
	began := time.Now()
	const flows = faultEntries - 2 + 1 // one was removed, one has ended, one is new
	b.awaits("after", flows)
	t.Logf("repaired within %v", time.Since(began))
	var from, to map[string]string
	a.do(func() { from = contents(a.internal) })
	b.do(func() {
		to = contents(b.external.Side)
		m := b.cluster.memberStatus(1)
		if m.Differences < 2 || m.Repaired < uint64(len(faultTables)*len(faults)) {
			t.Errorf("%+v", m)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		sum := 0
		for i := range faultTables {
			found, repaired := said(&b.log, &faultTables[i])
			if sum += found; found == 0 || found != repaired {
				t.Errorf("%s: said %d times, its end %d times:\n%s", faultTables[i].name, found, repaired, &b.log)
			}
		}
		if uint64(sum) != m.Differences {
			t.Errorf("said %d times: %+v", sum, m)
		}
	})
	if len(from) != len(to) {
		t.Errorf("%d entries, the peer has %d", len(from), len(to))
	}
	for key, value := range from {
		if to[key] != value {
			t.Errorf("%q has %q, the peer %q", key, value, to[key])
		}
	}
}
