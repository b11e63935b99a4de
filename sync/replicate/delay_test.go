package replicate

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/seeds"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/owner"
)

// delaying is a Replicator with delays whose clock the test moves, and what it has sent.
type delaying struct {
	*Replicator
	sent map[uint16]int // messages about living flows, by source port
	ends map[uint16]int
}

func newDelaying(mode conf.Mode, d conf.Delay) *delaying {
	r := &delaying{Replicator: unwired(mode), sent: map[uint16]int{}, ends: map[uint16]int{}}
	r.delay(d)
	return r
}

// delay puts another Delay clause in force, as a reload does.
func (r *delaying) delay(d conf.Delay) {
	s := *r.cfg
	s.Delay = d
	r.Reconfigure(&s, Keys{})
}

// event stores a flow as an event does, and returns its handle.
func (r *delaying) event(f *ctnetlink.Flow, begins bool) cache.Handle {
	put := r.internal.Flows.Put
	if begins {
		put = r.internal.Flows.Replace
	}
	h, _ := put(f, r.sched.Now())
	r.FlowStored(h, f, owner.ByKernel)
	return h
}

func (r *delaying) end(h cache.Handle) {
	r.internal.Flows.Kill(h)
	r.FlowEnded(h, true)
}

// turn is a turn of the loop: what is due is done, what is queued is sent.
func (r *delaying) turn() {
	for r.machine.Deadline() <= r.sched.Now() && r.machine.Stats().Waiting > 0 {
		before := r.machine.Stats().Waiting
		if (protocolSource{r.Replicator}).Run(); r.machine.Stats().Waiting == before {
			break
		}
	}
	var f ctnetlink.Flow
	for {
		s, ok := r.machine.Next()
		if !ok {
			break
		}
		if s.Control {
			continue
		}
		h := cache.Handle(s.Object.Handle)
		if _, err := r.encodeObject(nil, &s); err != nil {
			r.machine.Withheld(s.Object)
			continue
		}
		r.internal.Flows.Load(h, &f)
		if state, _ := r.internal.Flows.State(h); state == cache.Dead {
			r.ends[f.Orig.SrcPort]++
		} else {
			r.sent[f.Orig.SrcPort]++
		}
	}
	r.machine.Sent(r.sched.Now())
	r.freeReleased()
}

func (r *delaying) pass(d time.Duration) {
	r.sched.SetNow(r.sched.Now() + d)
	r.turn()
}

// young returns a flow that has just begun.
func young(port uint16, proto uint8) ctnetlink.Flow {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.Orig.SrcPort, f.Orig.Proto = port, proto
	f.Reply = f.Orig.Inverted()
	f.Has = ctnetlink.HasStatus | ctnetlink.HasID
	f.ID, f.Status = uint32(port)+1, ctnetlink.StatusConfirmed
	return f
}

var standard = conf.Delay{TCP: 3 * time.Second, UDP: 5 * time.Second, MinPackets: 3, Assured: true}

// TestDelay covers each reason for which a flow waits or does not.
func TestDelay(t *testing.T) {
	const tcp, udp, sctp = ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoSCTP
	for _, mode := range []conf.Mode{conf.ModeFTFW, conf.ModeALARM, conf.ModeNOTRACK} {
		for _, c := range []struct {
			name   string
			delay  conf.Delay
			proto  uint8
			change func(*ctnetlink.Flow)
			want   time.Duration
		}{
			{"TCP", standard, tcp, nil, 3 * time.Second},
			{"UDP", standard, udp, nil, 5 * time.Second},
			{"others", standard, sctp, nil, 0},
			{"no delay", conf.Delay{MinPackets: 3, Assured: true}, tcp, nil, 0},
			{"assured", standard, tcp, func(f *ctnetlink.Flow) { f.Status |= ctnetlink.StatusAssured }, 0},
			{"assured does not count", conf.Delay{TCP: time.Second, MinPackets: 3}, tcp, func(f *ctnetlink.Flow) { f.Status |= ctnetlink.StatusAssured }, time.Second},
			{"a reply is two packets", conf.Delay{TCP: time.Second, MinPackets: 2}, tcp, func(f *ctnetlink.Flow) { f.Status |= ctnetlink.StatusSeenReply }, 0},
			{"and not three", standard, tcp, func(f *ctnetlink.Flow) { f.Status |= ctnetlink.StatusSeenReply }, 3 * time.Second},
			{"counters", standard, udp, func(f *ctnetlink.Flow) {
				f.Has |= ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply
				f.CountersOrig.Packets, f.CountersReply.Packets = 2, 1
			}, 0},
			{"few packets", standard, udp, func(f *ctnetlink.Flow) {
				f.Has |= ctnetlink.HasCountersOrig
				f.CountersOrig.Packets = 2
			}, 5 * time.Second},
			{"a helper", standard, tcp, func(f *ctnetlink.Flow) {
				f.Has |= ctnetlink.HasHelper
				copy(f.Helper[:], "ftp")
			}, 0},
			{"related", standard, tcp, func(f *ctnetlink.Flow) { f.Master = flowtest.TCP("192.0.2.9", "198.51.100.1").Orig }, 0},
			{"expected", standard, tcp, func(f *ctnetlink.Flow) { f.Status |= ctnetlink.StatusExpected }, 0},
		} {
			r := newDelaying(mode, c.delay)
			f := young(1000, c.proto)
			if c.change != nil {
				c.change(&f)
			}
			r.event(&f, true)
			r.turn()
			if c.want > 0 {
				if r.pass(c.want - time.Millisecond); r.sent[1000] != 0 || r.waitingFlows() != 1 {
					t.Errorf("%v, %s: sent %d times before its time", mode, c.name, r.sent[1000])
				}
				r.pass(100 * time.Millisecond)
			}
			if r.sent[1000] != 1 || r.waitingFlows() != 0 {
				t.Errorf("%v, %s: sent %d times", mode, c.name, r.sent[1000])
			}
			if mode == conf.ModeALARM && r.internal.Flows.Len() == 1 {
				if _, armed := r.internal.Flows.Deadline(r.internal.Flows.Find(&f)); !armed {
					t.Errorf("%s: ALARM does not announce it again", c.name)
				}
			}
		}
	}
}

func (r *delaying) waitingFlows() int { return r.machine.Stats().Waiting }

// What is found on the way ends a wait, and an expectation or a related flow that of the master.
func TestWaitsThatEnd(t *testing.T) {
	r := newDelaying(conf.ModeFTFW, standard)
	f := young(1000, ctnetlink.ProtoTCP)
	r.event(&f, true)
	f.Status |= ctnetlink.StatusSeenReply
	r.event(&f, false)
	if r.turn(); r.sent[1000] != 0 {
		t.Error("an update ended the wait")
	}
	f.Status |= ctnetlink.StatusAssured
	r.event(&f, false)
	if r.turn(); r.sent[1000] != 1 {
		t.Errorf("the assured flow was sent %d times", r.sent[1000])
	}
	f.Status &^= ctnetlink.StatusAssured
	r.event(&f, false)
	if r.turn(); r.sent[1000] != 2 {
		t.Error("a known flow waits")
	}

	// A reading for which nothing has changed shows counters.
	counted := young(1001, ctnetlink.ProtoTCP)
	h := r.event(&counted, true)
	counted.Has |= ctnetlink.HasCountersOrig
	counted.CountersOrig.Packets = 3
	r.FlowStored(h, &counted, owner.Silent)
	if r.turn(); r.sent[1001] != 1 {
		t.Errorf("a flow with enough packets was sent %d times", r.sent[1001])
	}

	// Expectations and related flows.
	for port, announce := range map[uint16]func(master *ctnetlink.Flow){
		2000: func(m *ctnetlink.Flow) {
			x := ctnetlink.Expect{Master: m.Orig, Tuple: m.Reply, Mask: m.Reply}
			h, _ := r.internal.Expects.Replace(&x, r.sched.Now())
			r.ExpectStored(h, true)
		},
		2001: func(m *ctnetlink.Flow) {
			child := young(3000, ctnetlink.ProtoTCP)
			child.Master = m.Orig
			r.event(&child, true)
		},
		2002: func(m *ctnetlink.Flow) { // a bulk has an expectation that no event announced
			x := ctnetlink.Expect{Master: m.Orig, Tuple: m.Reply, Mask: m.Reply}
			r.internal.Expects.Replace(&x, r.sched.Now())
			r.Bulk()
			r.sched.RunSteps()
		},
	} {
		master := young(port, ctnetlink.ProtoTCP)
		r.event(&master, true)
		if r.turn(); r.sent[port] != 0 {
			t.Errorf("master %d does not wait", port)
		}
		announce(&master)
		if r.turn(); r.sent[port] == 0 {
			t.Errorf("master %d waits on", port)
		}
	}
}

// A flow that ends before is never sent, and is not in a bulk. Flows of a commit and of the first
// reading are in the cache without waiting.
func TestFlowsThatAreNeverSent(t *testing.T) {
	for _, mode := range []conf.Mode{conf.ModeFTFW, conf.ModeALARM, conf.ModeNOTRACK} {
		r := newDelaying(mode, standard)
		f := young(1, ctnetlink.ProtoTCP)
		h := r.event(&f, true)
		r.Bulk()
		r.sched.RunSteps()
		r.pass(time.Second)
		r.end(h)
		r.pass(time.Hour)
		if len(r.sent)+len(r.ends) != 0 || r.internal.Flows.Stats().Objects != 0 {
			t.Errorf("%v: %v and ends %v are sent, %+v", mode, r.sent, r.ends, r.internal.Flows.Stats())
		}
		known := young(2, ctnetlink.ProtoTCP)
		h, _ = r.internal.Flows.Put(&known, r.sched.Now())
		r.FlowStored(h, &known, owner.Silent)
		r.Bulk()
		r.sched.RunSteps()
		r.turn()
		if want := map[bool]int{true: 0, false: 1}[mode == conf.ModeALARM]; r.sent[2] != want { // which has no bulks
			t.Errorf("%v: a known flow was sent %d times in a bulk", mode, r.sent[2])
		}
		r.event(&known, false)
		before := r.sent[2]
		if r.turn(); r.sent[2] != before+1 {
			t.Errorf("%v: the change of a known flow waits", mode)
		}
	}
}

// life is a flow of the simulation.
type life struct {
	flow         ctnetlink.Flow
	handle       cache.Handle
	began, ended time.Duration
	urgent       bool          // it has become assured where that counts, or was committed
	longest      time.Duration // of the delays in force during its life
}

func (l *life) port() uint16 { return l.flow.Orig.SrcPort }

// TestDelaySimulation runs the lives of random flows, with bulks, reloads, readings of the kernel's table
// after lost events, and commits in between, and checks of each: it is not sent before its time, at
// least once if it lives longer, and its end only if it was.
func TestDelaySimulation(t *testing.T) {
	for seed := range seeds.Count(100) {
		if simulateDelay(t, seed); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func simulateDelay(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	seconds := func() time.Duration { return time.Duration(rng.IntN(5)) * time.Second }
	d := conf.Delay{TCP: seconds(), UDP: seconds(), MinPackets: 3, Assured: rng.IntN(2) == 0}
	r := newDelaying([]conf.Mode{conf.ModeFTFW, conf.ModeALARM, conf.ModeNOTRACK}[rng.IntN(3)], d)
	delayOf := func(l *life) time.Duration {
		if l.flow.Orig.Proto == ctnetlink.ProtoUDP {
			return r.cfg.Delay.UDP
		}
		return r.cfg.Delay.TCP
	}
	var living, done []*life
	// turn sends what is due, and checks that no flow is sent before its time.
	turn := func() {
		var early []*life
		for _, l := range living {
			l.longest = max(l.longest, delayOf(l))
			if r.sent[l.port()] == 0 && !l.urgent && r.sched.Now() < l.began+delayOf(l) {
				early = append(early, l)
			}
		}
		r.turn()
		for _, l := range early {
			if r.sent[l.port()] > 0 {
				t.Errorf("flow %d was sent before its time", l.port())
			}
		}
	}
	for port := uint16(0); port < 200; {
		r.sched.SetNow(r.sched.Now() + time.Duration(rng.IntN(300))*time.Millisecond)
		turn()
		switch do := rng.IntN(10); {
		case do <= 3 || len(living) == 0:
			l := &life{flow: young(port, []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP}[rng.IntN(2)]), began: r.sched.Now()}
			switch rng.IntN(5) {
			case 0: // the beginning is lost, and a reading or the next event shows the flow
				l.handle = r.event(&l.flow, false)
			case 1: // it comes from a commit, so peers have it
				l.handle, _ = r.internal.Flows.Put(&l.flow, r.sched.Now())
				r.FlowStored(l.handle, &l.flow, owner.Silent)
				l.urgent = true
				r.sent[port]++
			default:
				l.handle = r.event(&l.flow, true)
			}
			living = append(living, l)
			port++
		case do <= 5:
			l := living[rng.IntN(len(living))]
			l.flow.Status |= ctnetlink.StatusSeenReply
			if rng.IntN(3) == 0 {
				l.flow.Status |= ctnetlink.StatusAssured
			}
			l.urgent = l.urgent || d.Assured && l.flow.Status&ctnetlink.StatusAssured != 0
			r.event(&l.flow, false)
		case do <= 7:
			i := rng.IntN(len(living))
			l := living[i]
			living = slices.Delete(living, i, i+1)
			l.ended = r.sched.Now()
			r.end(l.handle)
			done = append(done, l)
		case do == 8:
			r.Bulk()
			r.sched.RunSteps()
		case do == 9 && rng.IntN(2) == 0: // a reading
			for _, l := range living {
				f := l.flow
				f.Has |= ctnetlink.HasCountersOrig
				f.CountersOrig.Packets = uint64(rng.IntN(4))
				l.urgent = l.urgent || f.CountersOrig.Packets >= 3
				h, outcome := r.internal.Flows.Put(&f, r.sched.Now())
				why := owner.Silent
				if outcome != cache.Unchanged {
					why = owner.Changed
				}
				r.FlowStored(h, &f, why)
			}
		case do == 9:
			d.TCP, d.UDP = seconds(), seconds()
			r.delay(d)
		}
		turn()
	}
	r.pass(10 * time.Second)
	for _, l := range living {
		if r.sent[l.port()] == 0 {
			t.Errorf("flow %d was never sent", l.port())
		}
	}
	for _, l := range done {
		switch p, lived := l.port(), l.ended-l.began; {
		case r.sent[p] == 0 && r.ends[p] > 0:
			t.Errorf("only the end of flow %d was sent", p)
		case r.sent[p] > 0 && r.ends[p] == 0:
			t.Errorf("the end of flow %d was not sent", p)
		case r.sent[p] == 0 && lived > l.longest+time.Second:
			t.Errorf("flow %d lived for %v and was never sent", p, lived)
		}
	}
}

// Nothing is allocated for a flow that ends while it waits.
func TestShortFlowAllocations(t *testing.T) {
	r := newDelaying(conf.ModeFTFW, standard)
	r.turn()
	all := make([]ctnetlink.Flow, 1000)
	for i := range all {
		all[i] = young(uint16(i), ctnetlink.ProtoUDP)
	}
	run := func() {
		for i := range all {
			r.end(r.event(&all[i], true))
		}
		r.freeReleased()
	}
	run()
	if n := testing.AllocsPerRun(10, run); n > 1 {
		t.Errorf("%v allocations for %d short flows", n, len(all))
	}
}

// BenchmarkShortFlow is a flow that begins, has a reply and ends while it waits, without the kernel.
func BenchmarkShortFlow(b *testing.B) {
	r := newDelaying(conf.ModeFTFW, standard)
	f := young(1, ctnetlink.ProtoUDP)
	b.ReportAllocs()
	for b.Loop() {
		r.event(&f, true)
		h := r.event(&f, false)
		r.end(h)
		r.freeReleased()
	}
}
