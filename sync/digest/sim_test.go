package digest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/wire"
)

// The simulation has a sender and a receiver with a lossy link in between. The stream is a
// simple one with the rules of version 2: what is lost is repeated with its number and its
// present contents, or is void if it was announced again since.

const step = time.Millisecond

// item is one message of a datagram.
type item struct {
	number  uint32 // of a numbered message
	again   bool
	void    bool
	end     bool
	bulk    int8   // +1: begin, -1: end
	body    []byte // of a flow
	control []byte // an encoded message of this package
}

type datagram struct {
	position uint32 // number of its first new message
	items    []item
	complete bool
}

// feedback is what the receiver sends.
type feedback struct {
	next     uint32
	missing  []uint32
	controls [][]byte
	ask      bool
}

type sent struct {
	handle cache.Handle
	bulk   int8
	end    bool
}

type simSender struct {
	flows    *cache.Flows
	ledger   *Ledger
	answerer *Answerer
	queue    []cache.Handle
	queued   map[cache.Handle]bool
	next     uint32
	log      map[uint32]sent
	lastSent map[cache.Handle]uint32
	complete bool
	out      datagram
	asked    bool
}

type simReceiver struct {
	flows    *cache.Flows
	comparer *Comparer
	ledger   *Ledger
	next     uint32
	missing  map[uint32]bool
	complete bool
	sweeping bool
	ended    bool // a bulk's end waits for the gaps before it
	swallow  int  // messages that are taken and not applied
	out      feedback
	found    int
}

type sim struct {
	t      *testing.T
	random *rand.Rand
	now    time.Duration
	loss   float64
	s      simSender
	r      simReceiver
	toR    []datagram
	toS    []feedback
	bytes  uint64 // of digests, questions and answers
	picked int    // stable flows that had a fault
}

func newSim(t *testing.T, seed uint64, loss float64) *sim {
	x := &sim{t: t, random: rand.New(rand.NewPCG(seed, 11)), loss: loss, now: time.Hour}
	key := Key{byte(seed)}
	x.s = simSender{flows: cache.NewFlows(cache.Config{}), queued: map[cache.Handle]bool{}, log: map[uint32]sent{}, lastSent: map[cache.Handle]uint32{}}
	x.s.ledger = NewFlowLedger(key, x.s.flows)
	x.s.answerer = NewAnswerer(x.now, 1, 77, x.s.ledger, NewExpectLedger(key, cache.NewExpects(cache.Config{})), Sender{
		Queued:   func(_ uint8, h cache.Handle) bool { return x.s.queued[h] },
		Announce: func(_ uint8, h cache.Handle) { x.announce(h) },
		Send: func(m *wire.StreamMessage) {
			x.s.out.items = append(x.s.out.items, item{control: x.encoded(m)})
		},
	})
	x.r = simReceiver{flows: cache.NewFlows(cache.Config{}), missing: map[uint32]bool{}}
	x.r.ledger = NewFlowLedger(key, x.r.flows)
	x.r.comparer = NewComparer(1, 77, 0, x.r.ledger)
	return x
}

func (x *sim) encoded(m *wire.StreamMessage) []byte {
	b := m.Append(nil)
	if int(messageLen(m)) != len(b) {
		x.t.Fatalf("a message of %d bytes is counted as %d: %+v", len(b), messageLen(m), m)
	}
	x.bytes += uint64(len(b))
	return b
}

func (x *sim) announce(h cache.Handle) {
	if !x.s.queued[h] {
		x.s.queued[h] = true
		x.s.queue = append(x.s.queue, h)
	}
}

// say encodes the present contents of h under a number.
func (x *sim) say(h cache.Handle, number uint32, again bool) bool {
	var f ctnetlink.Flow
	if !x.s.flows.Load(h, &f) {
		return false
	}
	state, _ := x.s.flows.State(h)
	body, err := wire.Encoder{WindowTracking: true}.AppendCompactFlow(nil, &f, state == cache.Dead)
	if err != nil {
		x.t.Fatal(err)
	}
	if state == cache.Dead {
		living := x.s.flows.Find(&f)
		x.s.ledger.Ended(h, living)
		if living != 0 {
			x.announce(living)
		}
	} else {
		x.s.ledger.SentFlow(h, &f)
	}
	body = wire.AppendCompactEpoch(body, x.s.flows.Epoch(h)&^cache.EpochMark)
	x.s.log[number] = sent{handle: h, end: state == cache.Dead}
	x.s.lastSent[h] = number
	x.s.out.items = append(x.s.out.items, item{number: number, again: again, end: state == cache.Dead, body: body})
	return true
}

func (x *sim) transmit(most int) {
	for ; most > 0 && len(x.s.queue) > 0; most-- {
		h := x.s.queue[0]
		x.s.queue = x.s.queue[1:]
		delete(x.s.queued, h)
		if x.say(h, x.s.next, false) {
			x.s.next++
		}
	}
}

func (x *sim) mark(bulk int8) {
	x.s.log[x.s.next] = sent{bulk: bulk}
	x.s.out.items = append(x.s.out.items, item{number: x.s.next, bulk: bulk})
	x.s.next++
}

func (x *sim) flush() {
	d := x.s.out
	d.complete = x.s.complete
	x.s.out = datagram{position: x.s.next}
	if x.random.Float64() >= x.loss {
		x.toR = append(x.toR, d)
	}
}

// hear takes the receiver's feedback.
func (x *sim) hear(f feedback) {
	for number := range x.s.log {
		if number < f.next && !slices.Contains(f.missing, number) {
			if e := x.s.log[number]; e.end {
				x.s.flows.Release(e.handle)
			}
			delete(x.s.log, number)
		}
	}
	for _, number := range f.missing {
		e, ok := x.s.log[number]
		switch {
		case ok && e.bulk != 0:
			x.s.out.items = append(x.s.out.items, item{number: number, again: true, bulk: e.bulk})
		case ok && x.s.queued[e.handle]:
			x.transmit(len(x.s.queue))
			x.void(number)
		case !ok || x.s.lastSent[e.handle] != number || !x.say(e.handle, number, true):
			x.void(number)
		}
	}
	x.s.asked = x.s.asked || f.ask
	x.read(f.controls, func(m *wire.StreamMessage) { x.s.answerer.Take(x.now, m) })
}

func (x *sim) void(number uint32) {
	x.s.out.items = append(x.s.out.items, item{number: number, void: true})
}

func (x *sim) read(controls [][]byte, take func(*wire.StreamMessage)) {
	for _, b := range controls {
		reader := wire.ReadStream(b)
		var m wire.StreamMessage
		if ok, err := reader.Next(&m); !ok {
			x.t.Fatalf("% x: %v", b, err)
		}
		take(&m)
	}
}

func (x *sim) all() {
	var c cache.Cursor
	var batch [64]cache.Handle
	for more := true; more; {
		var n int
		n, more = x.s.flows.Next(&c, batch[:])
		for _, h := range batch[:n] {
			x.announce(h)
		}
	}
}

// receive takes a datagram.
func (x *sim) receive(d datagram) {
	for ; x.r.next != d.position; x.r.next++ {
		x.r.missing[x.r.next] = true
	}
	for _, i := range d.items {
		switch {
		case i.control != nil:
			x.read([][]byte{i.control}, func(m *wire.StreamMessage) {
				x.act(x.r.comparer.Take(x.now, m, Situation{Whole: len(x.r.missing) == 0 && x.r.complete}))
			})
			continue
		case i.void:
			delete(x.r.missing, i.number)
		case i.again && !x.r.missing[i.number]:
			continue
		case i.again:
			delete(x.r.missing, i.number)
			x.apply(i)
		case i.number != x.r.next:
			x.t.Fatalf("number %d, want %d", i.number, x.r.next)
		default:
			x.r.next++
			x.apply(i)
		}
		if x.r.ended && len(x.r.missing) == 0 {
			x.r.ended, x.r.sweeping = false, false
			var c cache.Cursor
			var batch [64]cache.Handle
			for more := true; more; {
				var n int
				n, more = x.r.flows.NextUnseen(&c, batch[:])
				for _, h := range batch[:n] {
					x.r.flows.Delete(h)
				}
			}
		}
	}
	x.r.complete = x.r.complete || d.complete
	x.r.ledger.Refresh(50)
}

func (x *sim) apply(i item) {
	switch {
	case i.bulk > 0:
		x.r.sweeping = true
		x.r.flows.BeginSweep()
		return
	case i.bulk < 0:
		x.r.ended = x.r.sweeping
		return
	case x.r.swallow > 0:
		x.r.swallow--
		return
	}
	var f ctnetlink.Flow
	epoch, err := wire.ParseCompactFlow(i.body, &f, i.end)
	if err != nil {
		x.t.Fatal(err)
	}
	if i.end {
		x.r.flows.Delete(x.r.flows.Find(&f))
	} else {
		h, _ := x.r.flows.Replace(&f, x.now)
		x.r.flows.SetEpoch(h, epoch)
		if x.random.IntN(2) == 0 {
			x.r.ledger.Stored(h)
		}
	}
}

func (x *sim) act(a Action) {
	for i := range a.Send {
		x.r.out.controls = append(x.r.out.controls, x.encoded(&a.Send[i]))
	}
	for _, h := range a.Remove {
		if !x.r.flows.Delete(h) {
			x.t.Error("what is to be removed is not there")
		}
	}
	if a.Ask {
		x.r.out.ask = true
	}
	if a.Found {
		x.r.found++
	}
}

// run lets time pass. Each step does what change says.
func (x *sim) run(d time.Duration, change func()) {
	for end := x.now + d; x.now < end; x.now += step {
		if change != nil {
			change()
		}
		toR := x.toR
		x.toR = nil
		for _, d := range toR {
			x.receive(d)
		}
		if x.now >= x.r.comparer.Deadline() {
			x.act(x.r.comparer.Tick(x.now))
		}
		toS := x.toS
		x.toS = nil
		for _, f := range toS {
			x.hear(f)
		}
		if x.s.asked {
			x.s.asked = false
			x.mark(1)
			x.all()
			x.transmit(len(x.s.queue))
			x.mark(-1)
		}
		if x.now >= x.s.answerer.Deadline() {
			x.s.answerer.Tick(x.now)
		}
		x.transmit(20)
		if len(x.s.queue) == 0 {
			x.s.complete = true
		}
		x.flush()
		if x.now/step%5 == 0 || len(x.r.out.controls) > 0 || x.r.out.ask {
			f := x.r.out
			x.r.out = feedback{}
			f.next = x.r.next
			for number := range x.r.missing {
				f.missing = append(f.missing, number)
			}
			slices.Sort(f.missing)
			if x.random.Float64() >= x.loss {
				x.toS = append(x.toS, f)
			}
		}
	}
}

// flow returns flow i of a kind; kinds have no flow in common.
func simFlow(kind byte, i int, mark uint32) ctnetlink.Flow {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.Orig.Src[3], f.Orig.Dst[3], f.Orig.SrcPort = kind, byte(i>>16), uint16(i)
	f.Reply = f.Orig.Inverted()
	f.Has |= ctnetlink.HasMark | ctnetlink.HasStatus | ctnetlink.HasTimeout
	f.Mark, f.Status, f.Timeout = mark, ctnetlink.StatusConfirmed|ctnetlink.StatusSeenReply, mark
	return f
}

// store puts a flow into the sender's cache as an event does.
func (x *sim) store(f ctnetlink.Flow) {
	h, outcome := x.s.flows.Put(&f, x.now)
	claimed := x.random.IntN(8) == 0
	if claimed {
		x.s.flows.SetEpoch(h, x.s.flows.Epoch(h)+1)
	}
	if claimed || outcome != cache.Unchanged {
		x.announce(h)
	}
}

const (
	busy   = 1 // flows that change
	stable = 2
	alien  = 3
)

// churn changes flows as a kernel does: most are updated, some end, and begin again.
func (x *sim) churn() {
	for range x.random.IntN(5) {
		f := simFlow(busy, x.random.IntN(2000), x.random.Uint32N(1000))
		for _, flows := range []*cache.Flows{x.s.flows, x.r.flows} {
			// The mark is each node's own.
			h := flows.Find(&f)
			flows.SetEpoch(h, flows.Epoch(h)^cache.EpochMark)
		}
		if h := x.s.flows.Find(&f); h != 0 && x.random.IntN(4) == 0 {
			x.s.flows.Kill(h)
			x.announce(h)
			if x.random.IntN(2) == 0 {
				continue
			}
		}
		x.store(f)
	}
}

// contents returns what a cache has, as its hashes.
func contents(t *testing.T, flows *cache.Flows) []uint64 {
	var out []uint64
	hasher := NewHasher(Key{9})
	var c cache.Cursor
	var batch [64]cache.Handle
	var f ctnetlink.Flow
	for more := true; more; {
		var n int
		n, more = flows.Next(&c, batch[:])
		for _, h := range batch[:n] {
			flows.Load(h, &f)
			hash, ok := hasher.Flow(&f, flows.Epoch(h)&^cache.EpochMark)
			if !ok {
				t.Fatal("no hash")
			}
			out = append(out, hash)
		}
	}
	slices.Sort(out)
	return out
}

func (x *sim) start() {
	for i := range 300 {
		x.store(simFlow(stable, i, 1))
	}
	for i := range 1000 {
		x.store(simFlow(busy, i, 1))
	}
	x.run(3*time.Second, x.churn)
}

func (x *sim) finish() {
	x.run(5*time.Second, nil)
	if !slices.Equal(contents(x.t, x.s.flows), contents(x.t, x.r.flows)) {
		x.t.Errorf("the tables differ at the end: %+v", x.r.comparer.Stats())
	}
	if s := x.r.comparer.Stats(); s.Differing || !s.Proven || x.now-s.LastEqual > 3*time.Second {
		x.t.Errorf("at %v: %+v", x.now, s)
	}
	if x.r.found != int(x.r.comparer.Stats().Differences) {
		x.t.Errorf("%d differences are said, %d counted", x.r.found, x.r.comparer.Stats().Differences)
	}
}

var losses = []float64{0, 0.01, 0.1}

// Without a fault no difference is found, however much is lost while everything changes, and
// the proof is never old.
func TestNoFalseDifference(t *testing.T) {
	for _, loss := range losses {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("loss=%v/seed=%d", loss, seed), func(t *testing.T) {
				x := newSim(t, seed, loss)
				x.start()
				var oldest time.Duration
				x.run(10*time.Second, func() {
					x.churn()
					oldest = max(oldest, x.now-x.r.comparer.Stats().LastEqual)
				})
				if s := x.r.comparer.Stats(); s.Differences > 0 || s.Wanted > 0 || s.Removed > 0 {
					t.Errorf("%+v", s)
				}
				if oldest > 5*time.Second {
					t.Errorf("the proof was %v old", oldest)
				}
				x.finish()
			})
		}
	}
}

// Each kind of fault is found within two seconds, and repaired.
func TestFaultsAreFoundAndRepaired(t *testing.T) {
	number := 0
	pick := func(x *sim) ctnetlink.Flow { // another one each time
		x.picked++
		return simFlow(stable, 29*x.picked%300, 77)
	}
	for _, fault := range []struct {
		name string
		do   func(*sim)
	}{
		{"altered here", func(x *sim) { f := pick(x); x.r.flows.Put(&f, x.now) }},
		{"another epoch here", func(x *sim) { f := pick(x); x.r.flows.SetEpoch(x.r.flows.Find(&f), 1000) }},
		{"another epoch there", func(x *sim) { f := pick(x); x.s.flows.SetEpoch(x.s.flows.Find(&f), 1000|cache.EpochMark) }},
		{"removed here", func(x *sim) { f := pick(x); x.r.flows.Delete(x.r.flows.Find(&f)) }},
		{"added here", func(x *sim) { number++; f := simFlow(alien, number, 1); x.r.flows.Put(&f, x.now) }},
		{"altered there", func(x *sim) { f := pick(x); x.s.flows.Put(&f, x.now) }},
		{"removed there", func(x *sim) { f := pick(x); x.s.flows.Delete(x.s.flows.Find(&f)) }},
		{"ended there", func(x *sim) { f := pick(x); x.s.flows.Kill(x.s.flows.Find(&f)) }},
		{"swallowed", func(x *sim) {
			f := pick(x)
			for range 20 { // among the others of this moment
				x.store(f)
				f.Orig.SrcPort, f.Reply.DstPort = f.Orig.SrcPort^512, f.Reply.DstPort^512
			}
			x.r.swallow = 40
		}},
		{"many", func(x *sim) {
			for i := range 100 {
				f := simFlow(stable, i, 88)
				switch i % 3 {
				case 0:
					x.r.flows.Put(&f, x.now)
				case 1:
					x.r.flows.Delete(x.r.flows.Find(&f))
				case 2:
					f = simFlow(alien, 1000+i, 1)
					x.r.flows.Put(&f, x.now)
				}
			}
		}},
		{"everything is flushed here", func(x *sim) { x.r.flows.Flush() }},
	} {
		for _, loss := range losses {
			for seed := range uint64(seeds) {
				t.Run(fmt.Sprintf("%s/loss=%v/seed=%d", fault.name, loss, seed), func(t *testing.T) {
					x := newSim(t, seed, loss)
					x.start()
					for i := range uint64(3) {
						x.run(time.Duration(x.random.IntN(1000))*step, x.churn)
						fault.do(x)
						at := x.now
						within := 2 * time.Second
						if loss > 0.05 {
							within = 8 * time.Second // digests are lost too
						}
						for x.r.comparer.Stats().Differences <= i && x.now-at < within {
							x.run(10*step, x.churn)
						}
						if x.r.comparer.Stats().Differences != i+1 {
							t.Fatalf("fault %d: %v later: %+v", i, x.now-at, x.r.comparer.Stats())
						}
						for x.r.comparer.Stats().Differing && x.now-at < 15*time.Second {
							x.run(10*step, x.churn)
						}
						if x.r.comparer.Stats().Differing {
							t.Fatalf("fault %d is not repaired %v later: %+v", i, x.now-at, x.r.comparer.Stats())
						}
					}
					x.finish()
				})
			}
		}
	}
}

// What the sender has without having announced it is found and announced.
func TestUnannouncedFlowsAreFound(t *testing.T) {
	x := newSim(t, 1, 0)
	x.start()
	f := simFlow(alien, 1, 1)
	x.s.flows.Put(&f, x.now)
	x.run(2*time.Second, x.churn)
	if x.r.flows.Find(&f) == 0 {
		t.Error("the receiver does not have it")
	}
	x.finish()
	if s := x.r.comparer.Stats(); s.Differences > 0 {
		t.Errorf("%+v", s)
	}
}
