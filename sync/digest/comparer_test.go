package digest

import (
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/wire"
)

// announced is the cache of a sender of which only the digest matters: nothing of it changes.
type announced struct{}

func (announced) Track()                                      {}
func (announced) Soil()                                       {}
func (announced) Dirty(uint32) uint32                         { return 0 }
func (announced) DirtyLen() int                               { return 0 }
func (announced) Clean(uint32)                                {}
func (announced) At(slot uint32) cache.Handle                 { return cache.Handle(slot) }
func (announced) State(cache.Handle) (s cache.State, ok bool) { return cache.Alive, true }

// direct is a sender and a receiver, of as many flows as wanted, whose messages arrive at once.
type direct struct {
	t        *testing.T
	now      time.Duration
	flows    *cache.Flows // the receiver's
	sender   *Ledger      // with the slots of flows as they were at first
	answerer *Answerer
	comparer *Comparer
	bytes    uint64
	answers  [][]byte // of the sender, to the receiver
	wanted   []cache.Handle
	last     Action
}

func newDirect(t *testing.T, count int) *direct {
	x := &direct{t: t, now: time.Hour, flows: cache.NewFlows(cache.Config{Buckets: count})}
	for i := range count {
		f := simFlow(stable, i, 1)
		x.flows.Replace(&f, 0)
	}
	receiver := NewFlowLedger(Key{1}, x.flows)
	receiver.Settle()
	x.sender = &Ledger{hasher: NewHasher(Key{1}), cache: announced{}}
	for slot := range uint32(count) {
		x.sender.table.Set(slot+1, receiver.table.Get(slot+1))
	}
	x.comparer = NewComparer(1, 77, 0, receiver)
	x.answerer = NewAnswerer(x.now, 1, 77, x.sender, &Ledger{cache: announced{}}, Sender{
		Queued:   func(uint8, cache.Handle) bool { return false },
		Announce: func(_ uint8, h cache.Handle) { x.wanted = append(x.wanted, h) },
		Send: func(m *wire.StreamMessage) {
			b := m.Append(nil)
			x.bytes += uint64(len(b))
			x.answers = append(x.answers, b)
		},
	})
	return x
}

// ask passes on what the comparer sends.
func (x *direct) ask(a Action) {
	x.last.Ask = x.last.Ask || a.Ask
	x.last.Found = x.last.Found || a.Found
	x.last.Unrepaired = x.last.Unrepaired || a.Unrepaired
	for i := range a.Send {
		b := a.Send[i].Append(nil)
		x.bytes += uint64(len(b))
		var m wire.StreamMessage
		r := wire.ReadStream(b)
		if ok, err := r.Next(&m); !ok {
			x.t.Fatal(err)
		}
		x.answerer.Take(x.now, &m)
	}
	for _, h := range a.Remove {
		x.flows.Delete(h)
	}
}

// exchange lets both act at this time, until there is nothing to say.
func (x *direct) exchange(situation func() Situation) {
	if x.now >= x.answerer.Deadline() {
		x.answerer.Tick(x.now)
	}
	if x.now >= x.comparer.Deadline() {
		x.ask(x.comparer.Tick(x.now))
	}
	for len(x.answers) > 0 {
		b := x.answers[0]
		x.answers = x.answers[1:]
		r := wire.ReadStream(b)
		var m wire.StreamMessage
		if ok, err := r.Next(&m); !ok {
			x.t.Fatal(err)
		}
		x.ask(x.comparer.Take(x.now, &m, situation()))
	}
}

func (x *direct) run(d time.Duration, s Situation) {
	for end := x.now + d; x.now < end; x.now += 10 * time.Millisecond {
		x.exchange(func() Situation { return s })
	}
}

var whole = Situation{Whole: true}

// One altered flow of a million is found and repaired with less than 10 KB, and each flow takes
// at most 24 bytes.
func TestOneOfAMillion(t *testing.T) {
	x := newDirect(t, million)
	if per := float64(x.comparer.ledger.Bytes()) / million; per > 24 {
		t.Errorf("%.1f bytes for a flow", per)
	}
	x.run(2*time.Second, whole)
	if s := x.comparer.Stats(); !s.Proven || s.Differing {
		t.Fatalf("%+v", s)
	}
	f := simFlow(stable, million/8, 2)
	x.flows.Put(&f, 0)
	x.bytes = 0
	for at := x.now; len(x.wanted) == 0; {
		if x.run(10*time.Millisecond, whole); x.now-at > 1500*time.Millisecond {
			t.Fatalf("nothing is wanted: %+v", x.comparer.Stats())
		}
	}
	f = simFlow(stable, million/8, 1)
	if int(uint32(x.wanted[0])) != int(uint32(x.flows.Find(&f))) {
		t.Errorf("%v is wanted", x.wanted)
	}
	body, err := wire.Encoder{}.AppendCompactFlow(nil, &f, false)
	if err != nil {
		t.Fatal(err)
	}
	x.bytes += uint64(2 + len(body))
	x.flows.Replace(&f, 0)
	x.run(1500*time.Millisecond, whole)
	if s := x.comparer.Stats(); s.Differing || s.Differences != 1 || s.Wanted != 1 || s.Removed != 0 {
		t.Errorf("%+v", s)
	}
	if x.bytes >= 10_000 {
		t.Errorf("%d bytes", x.bytes)
	}
	t.Logf("%d bytes, of which %d are counted as repair", x.bytes, x.comparer.Stats().RepairBytes)
}

// Too many differences are repaired by a bulk, which is asked for once.
func TestTooMuchDiffers(t *testing.T) {
	x := newDirect(t, 20_000)
	x.flows.Flush()
	x.run(5*time.Second, whole)
	if s := x.comparer.Stats(); !x.last.Ask || s.Asks != 1 || s.Wanted != 0 || s.Differences != 1 {
		t.Fatalf("%+v", s)
	}
	for i := range 20_000 {
		f := simFlow(stable, i, 1)
		x.flows.Replace(&f, 0)
	}
	if x.run(2*time.Second, whole); x.comparer.Stats().Differing {
		t.Errorf("after the bulk: %+v", x.comparer.Stats())
	}
}

// The entries of many differing buckets are compared in parts.
func TestManyDifferences(t *testing.T) {
	for _, c := range []struct{ count, removed, altered int }{{2000, 1999, 1}, {30_000, 700, 100}} {
		x := newDirect(t, c.count)
		for i := range c.removed {
			f := simFlow(stable, i, 1)
			x.flows.Delete(x.flows.Find(&f))
		}
		for i := range c.altered {
			f := simFlow(stable, c.removed+i, 2)
			x.flows.Put(&f, 0)
		}
		x.run(1200*time.Millisecond, whole)
		if s := x.comparer.Stats(); s.Wanted < uint64(c.removed+c.altered) || s.Removed > 0 || s.Asks > 0 {
			t.Errorf("%+v: %+v", c, s)
		}
	}
}

// A full bucket is listed in several messages.
func TestAFullBucket(t *testing.T) {
	x := newDirect(t, 1000)
	for i := range uint64(201) {
		x.sender.table.Set(2000+uint32(i), 5<<bucketShift|i<<20|1)
	}
	x.run(1100*time.Millisecond, whole)
	if s := x.comparer.Stats(); s.Wanted < 201 || len(x.wanted)%201 != 0 {
		t.Errorf("%d are wanted: %+v", len(x.wanted), s)
	}
}

// A difference that may come from entries that were refused is said once and not repaired,
// until nothing has been refused for a while.
func TestRefusedEntries(t *testing.T) {
	for name, s := range map[string]Situation{"full": {Whole: true, Full: true}, "refused": {Whole: true, Refused: 5}} {
		x := newDirect(t, 1000)
		x.run(2*time.Second, whole)
		f := simFlow(stable, 7, 1)
		x.flows.Delete(x.flows.Find(&f))
		x.run(30*time.Second, s)
		if got := x.comparer.Stats(); !x.last.Found || !x.last.Unrepaired || !got.Unrepaired || got.Wanted > 0 || got.Differences != 1 || got.RepairBytes > 0 {
			t.Errorf("%s: %+v", name, got)
		}
		if s.Full {
			x.run(2*time.Second, whole)
		} else {
			x.run(time.Minute, s)
		}
		if got := x.comparer.Stats(); got.Unrepaired || got.Wanted == 0 {
			t.Errorf("%s: afterwards: %+v", name, got)
		}
	}
}

// While the stream is not whole nothing is compared, and not many digests are asked for.
func TestNothingIsComparedInAGap(t *testing.T) {
	x := newDirect(t, 1000)
	f := simFlow(stable, 7, 1)
	x.flows.Delete(x.flows.Find(&f))
	x.run(time.Minute, Situation{})
	if s := x.comparer.Stats(); s.Differences > 0 || s.Proven || s.Skipped < 60 || s.Skipped > 70 {
		t.Errorf("%+v", s)
	}
	// Gaps in the middle of a round delay it.
	messages := 0
	for range 500 {
		x.exchange(func() Situation {
			messages++
			return Situation{Whole: messages%3 > 0}
		})
		x.now += 10 * time.Millisecond
	}
	if s := x.comparer.Stats(); s.Differences != 1 || s.Wanted == 0 {
		t.Errorf("with gaps in a round: %+v", s)
	}
}

// While a bulk is expected a difference means nothing, and equality ends the wait.
func TestABulkIsExpected(t *testing.T) {
	x := newDirect(t, 1000)
	f := simFlow(stable, 7, 1)
	x.flows.Delete(x.flows.Find(&f))
	x.run(10*time.Second, Situation{Whole: true, Asked: true})
	if s := x.comparer.Stats(); s.Differences > 0 || s.Proven || s.RepairBytes > 0 || s.Skipped < 9 {
		t.Errorf("%+v", s)
	}
	x.flows.Replace(&f, 0)
	x.run(2*time.Second, Situation{Whole: true, Asked: true})
	if s := x.comparer.Stats(); !s.Proven {
		t.Errorf("with equal tables: %+v", s)
	}
}

// Answers that are lost are asked for again, a few times; then a digest begins a new round.
func TestAnswersThatAreLost(t *testing.T) {
	x := newDirect(t, 1000)
	f := simFlow(stable, 7, 1)
	x.flows.Delete(x.flows.Find(&f))
	asked := 0
	take := func(a Action) {
		for i := range a.Send {
			if a.Send[i].Level == wire.LevelGroups {
				asked++
			}
		}
	}
	digest := wire.StreamMessage{Type: wire.Digest, Entries: 1000, Root: x.sender.table.root}
	take(x.comparer.Take(x.now, &digest, whole))
	for range 1000 {
		x.now += 10 * time.Millisecond
		take(x.comparer.Tick(x.now))
	}
	if asked != 1+mostRetries {
		t.Errorf("it is asked for %d times", asked)
	}
	if x.comparer.Deadline() != None {
		t.Errorf("the next deadline is %v", x.comparer.Deadline())
	}
	take(x.comparer.Take(x.now, &digest, whole))
	if asked != 2+mostRetries {
		t.Error("the next digest begins no round")
	}
}

// A difference that stays is looked for at longer and longer intervals.
func TestADifferenceThatStays(t *testing.T) {
	x := newDirect(t, 1000)
	f := simFlow(stable, 7, 1)
	x.flows.Delete(x.flows.Find(&f))
	x.run(10*time.Minute, whole) // the wanted flow is never announced
	if s := x.comparer.Stats(); s.Wanted < 8 || s.Wanted > 25 || s.Differences != 1 || !s.Differing {
		t.Errorf("%+v", s)
	}
	x.comparer.Restart(78)
	if s := x.comparer.Stats(); s.Differing || s.Differences != 1 {
		t.Errorf("after a restart: %+v", s)
	}
}

// Answers have a rate; what is beyond it is not sent, and the node of a question matters.
func TestRateOfAnswers(t *testing.T) {
	x := newDirect(t, 1000)
	m := wire.StreamMessage{Type: wire.Compare, Node: 1, Stream: 77, Level: wire.LevelBuckets}
	for i := range uint16(quarters) {
		m.Indexes = append(m.Indexes, i)
	}
	for range 1000 {
		x.answerer.Take(x.now, &m)
		x.now += 5 * time.Millisecond
	}
	if limit := uint64(6 * answerRate); x.bytes > limit || x.bytes < limit*8/10 || x.answerer.Refused() == 0 {
		t.Errorf("%d bytes in 5 s, limit %d, %d refused", x.bytes, limit, x.answerer.Refused())
	}
	x.now += time.Minute
	before := x.bytes
	for _, other := range []wire.StreamMessage{{Node: 2, Stream: 77}, {Node: 1, Stream: 78}, {Node: 1, Stream: 77, Table: 2},
		{Node: 1, Stream: 77, Indexes: []uint16{quarters}}} {
		other.Type, other.Level = wire.Compare, wire.LevelBuckets
		if len(other.Indexes) == 0 {
			other.Indexes = []uint16{1}
		}
		x.answerer.Take(x.now, &other)
	}
	if x.bytes != before {
		t.Error("a question for another is answered")
	}
	m = wire.StreamMessage{Type: wire.Want, Node: 1, Stream: 77, Sums: []uint64{0, 12345, x.sender.table.Get(3)}}
	x.answerer.Take(x.now, &m)
	if len(x.wanted) != 1 || x.wanted[0] != 3 {
		t.Errorf("%v is announced", x.wanted)
	}
}

// Digests come each second, or sooner if a peer asks, but not as often as it asks.
func TestDigestsThatAreAskedFor(t *testing.T) {
	x := newDirect(t, 10)
	m := wire.StreamMessage{Type: wire.Compare, Node: 1, Stream: 77, Level: wire.LevelDigest}
	count := func(ask bool) int {
		x.answers = nil
		for range 500 {
			if x.now += 10 * time.Millisecond; ask {
				x.answerer.Take(x.now, &m)
			}
			x.answerer.Tick(x.now)
		}
		return len(x.answers) / 2 // of two tables
	}
	if n := count(false); n != 5 {
		t.Errorf("%d digests in 5 s", n)
	}
	if n := count(true); n < 40 || n > 50 {
		t.Errorf("%d digests in 5 s, when they are asked for", n)
	}
}

// An end and a new flow with the same tuple are one entry of the receiver, in whatever order
// they are announced.
func TestEndAndSuccessor(t *testing.T) {
	flows := cache.NewFlows(cache.Config{})
	l := NewFlowLedger(Key{1}, flows)
	hasher := NewHasher(Key{1})
	none := func(cache.Handle) bool { return false }
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	old, _ := flows.Replace(&f, 0)
	l.SentFlow(old, &f)
	flows.Kill(old)
	f.Has |= ctnetlink.HasMark
	f.Mark = 9
	successor, _ := flows.Replace(&f, 0)
	want, _ := hasher.Flow(&f, 0)
	l.SentFlow(successor, &f)
	l.SettleSent(func(h cache.Handle) bool { return h == old }, nil)
	if l.table.root != want || l.table.count != 1 {
		t.Errorf("with both announced: %d entries", l.table.count)
	}
	l.Ended(old, successor)
	if l.table.count != 0 {
		t.Errorf("after the end: %d entries", l.table.count)
	}
	l.SentFlow(successor, &f)
	flows.Release(old)
	l.SettleSent(none, func(cache.Handle) { t.Error("something is found") })
	if l.table.root != want || l.Dirty() != 0 {
		t.Errorf("at the end: %d entries, %d dirty", l.table.count, l.Dirty())
	}
}

// What a message has stored counts at once, with what the cache holds.
func TestStored(t *testing.T) {
	flows := cache.NewFlows(cache.Config{})
	l := NewFlowLedger(Key{1}, flows)
	for round := range uint32(3) {
		for i := range 100 {
			f := simFlow(stable, i, round)
			h, _ := flows.Replace(&f, 0)
			flows.SetEpoch(h, round|cache.EpochMark)
			l.Stored(h)
			if want, _ := NewHasher(Key{1}).Flow(&f, round); l.Dirty() != 0 || l.Table().Get(uint32(h)) != want {
				t.Fatalf("flow %d: hash %x, want %x; %d dirty", i, l.Table().Get(uint32(h)), want, l.Dirty())
			}
		}
	}
	root := l.Table().Root()
	flows.Soil()
	if l.Settle(); l.Table().Len() != 100 || l.Table().Root() != root {
		t.Errorf("%d entries, root %x, want %x", l.Table().Len(), l.Table().Root(), root)
	}
}

// What was in a table before its ledger, and under another key, is hashed.
func TestLedgerOfAFilledTable(t *testing.T) {
	flows, expects := cache.NewFlows(cache.Config{}), cache.NewExpects(cache.Config{})
	for i := range 1000 {
		f := simFlow(stable, i, 1)
		flows.Replace(&f, 0)
		x := ctnetlink.Expect{Master: f.Orig, Tuple: f.Reply, Mask: f.Reply}
		expects.Replace(&x, 0)
	}
	for name, l := range map[string]*Ledger{"flows": NewFlowLedger(Key{1}, flows), "expectations": NewExpectLedger(Key{1}, expects)} {
		if more := l.Refresh(400); !more || l.Table().Len() != 400 || l.Dirty() != 600 {
			t.Errorf("%s: %d after 400, %d dirty", name, l.Table().Len(), l.Dirty())
		}
		l.Settle()
		root := l.Table().Root()
		if l.Table().Len() != 1000 || l.Dirty() != 0 || root == 0 {
			t.Errorf("%s: %d entries", name, l.Table().Len())
		}
		l.Rekey(Key{2})
		if l.Settle(); l.Table().Len() != 1000 || l.Table().Root() == root {
			t.Errorf("%s: another key gives %d entries", name, l.Table().Len())
		}
		l.Rekey(Key{1})
		if l.Settle(); l.Table().Root() != root {
			t.Errorf("%s: the first key gives another root", name)
		}
	}
	flows.Flush()
	expects.Flush()
}
