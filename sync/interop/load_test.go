package interop

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// load creates, changes and ends flows of a side at a steady rate through ctnetlink, the oldest
// first. The seed alone determines the order of changes; the clock only their number.
type load struct {
	side   *side
	conn   *nl.Conn
	random *rand.Rand
	rate   int // changes a second
	target int // simultaneous flows
	steady bool
	atOnce int // smallest number of changes per batch

	// The flows first to next-1 exist, as far as the load knows. acked are the states
	// that the kernel has confirmed, with their times.
	first, next uint32
	mu          sync.Mutex
	acked       []ack

	changes atomic.Int64
	done    chan struct{}
	stop    context.CancelFunc
	err     error // valid after done
}

// ack records that the kernel had the flows first to next-1 at that time.
type ack struct {
	at          time.Time
	first, next uint32
}

// settled is the age from which a change in the dead primary's kernel must be known to the
// backup.
const settled = 100 * time.Millisecond

// newLoad returns a load that does not run yet.
func newLoad(n *node, seed uint64, rate, target int) *load {
	l := &load{side: n.side, random: rand.New(rand.NewPCG(seed, 3)), rate: rate, target: target}
	l.moveTo(n)
	return l
}

// moveTo moves a stopped load to another node's kernel.
func (l *load) moveTo(n *node) {
	var err error
	l.conn, err = nl.Dial(nl.Config{NetNS: n.ns.FD()})
	if err != nil {
		n.kernel.t.Fatal(err)
	}
	conn := l.conn
	n.kernel.t.Cleanup(func() { conn.Close() })
}

// tick is the interval between a load's batches.
const tick = 20 * time.Millisecond

// begin runs the load until end.
func (l *load) begin() {
	ctx, stop := context.WithCancel(context.Background())
	l.stop, l.done = stop, make(chan struct{})
	go func() {
		defer close(l.done)
		l.err = l.run(ctx)
	}()
}

// end stops the load and waits for the kernel's answers.
func (l *load) end() error {
	l.stop()
	<-l.done
	return l.err
}

func (l *load) run(ctx context.Context) error {
	begin := time.Now()
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for done := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		due := int(time.Since(begin).Seconds()*float64(l.rate)) - done
		if due < l.atOnce {
			continue
		}
		done += due
		// After a pause of the machine the missed changes are not made up for at once.
		if err := l.burst(min(due, max(l.rate/4, l.atOnce))); err != nil {
			return err
		}
	}
}

// burst makes n changes as fast as possible.
func (l *load) burst(n int) error {
	p := l.conn.NewPipeline(context.Background(), l.complete)
	b, err := p.Batch()
	for i := 0; err == nil && i < n; i++ {
		b.Add(l.change())
		l.changes.Add(1)
		if b.Full() {
			b.Tag = ack{first: l.first, next: l.next}
			if err = p.Submit(b); err == nil {
				b, err = p.Batch()
			}
		}
	}
	if err == nil {
		b.Tag = ack{first: l.first, next: l.next}
		err = p.Submit(b)
	}
	return errors.Join(err, p.Close())
}

// complete checks the kernel's refusals: a flow may have been flushed, or created by a commit.
func (l *load) complete(b *nl.Batch) error {
	for _, f := range b.Failures() {
		if !errors.Is(f.Err, unix.ENOENT) && !errors.Is(f.Err, unix.EEXIST) && !errors.Is(f.Err, unix.EBUSY) {
			return fmt.Errorf("load of side %s: %w", l.side.name, f.Err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := b.Tag.(ack)
	a.at = time.Now()
	l.acked = append(l.acked, a)
	return nil
}

// change queues the next change. Once the target is reached, a third each are new flows,
// changes and ends. A steady load alternates between them.
func (l *load) change() nl.Request {
	live := l.next - l.first
	kind := l.random.IntN(3)
	if l.steady {
		kind = int(l.changes.Load() % 3)
	}
	switch {
	case live == 0 || kind == 0 && int(live) < 2*l.target || kind == 2 && int(live) < l.target:
		f := l.side.numbered(l.next)
		l.next++
		return nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.Family(), Attrs: f.Append}
	case kind == 1:
		f := l.side.numbered(l.first + l.random.Uint32N(live))
		c := marked(&f, l.random.Uint32())
		if f.Has&ctnetlink.HasTCPState != 0 {
			c.Has |= ctnetlink.HasTCPState
			c.TCPState = ctnetlink.TCPStateEstablished + uint8(l.random.IntN(3))
		}
		return nl.Request{Type: ctnetlink.TypeFlowNew, Family: f.Family(), Attrs: c.Append}
	}
	f := l.side.numbered(l.first)
	l.first++
	return nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Family(), Attrs: (&ctnetlink.Flow{Orig: f.Orig}).Append}
}

// fill creates flows until the target is reached.
func (l *load) fill() error {
	from := l.next
	l.next = l.first + uint32(l.target)
	p := l.conn.NewPipeline(context.Background(), l.complete)
	return errors.Join(l.submit(p, from, l.next, func(f *ctnetlink.Flow) nl.Request {
		return nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.Family(), Attrs: f.Append}
	}), p.Close())
}

// submit sends the same request for the flows from to to-1.
func (l *load) submit(p *nl.Pipeline, from, to uint32, request func(*ctnetlink.Flow) nl.Request) error {
	b, err := p.Batch()
	for i := from; err == nil && i < to; i++ {
		f := l.side.numbered(i)
		b.Add(request(&f))
		if b.Full() {
			b.Tag = ack{first: l.first, next: i + 1}
			if err = p.Submit(b); err == nil {
				b, err = p.Batch()
			}
		}
	}
	if err != nil {
		return err
	}
	b.Tag = ack{first: l.first, next: to}
	return p.Submit(b)
}

// firstNumbered is the lowest source port of numbered flows.
const firstNumbered = 1024

// numbered returns flow number i of a side: TCP and UDP, both families, all kinds of NAT. The
// tuples of any 400,000 consecutive flows are distinct, in both directions.
func (s *side) numbered(i uint32) ctnetlink.Flow {
	const perDestination, destinations = 50000, 8
	turn, low := i/perDestination, uint16(i%perDestination)
	f := s.flow(firstNumbered + low)
	t := &f.Orig
	t.DstPort = 80 + uint16(turn%destinations)
	_, t.Src = parseAddr(s.host4(1 + int(turn/destinations%90)))
	snat := func(addr string) {
		f.Has |= ctnetlink.HasNATSrc
		f.NATSrc = ctnetlink.NAT{HasAddr: true, HasPort: true, Port: 10000 + low}
		_, f.NATSrc.Addr = parseAddr(addr)
	}
	dnat := func() {
		f.Has |= ctnetlink.HasNATDst
		f.NATDst = ctnetlink.NAT{HasAddr: true, HasPort: true, Port: 8080 + uint16(turn%destinations)}
		_, f.NATDst.Addr = parseAddr(s.host4(server + 1))
	}
	switch i % 8 {
	case 1:
		snat(s.outside)
	case 2:
		dnat()
	case 3:
		snat(s.outside)
		dnat()
	case 5:
		snat(s.outside)
		fallthrough
	case 4:
		t.Proto = ctnetlink.ProtoUDP
		f.Has &^= ctnetlink.HasTCPState
	case 6, 7:
		t.Family, t.Src = parseAddr(s.host6(1 + int(turn/destinations%90)))
		_, t.Dst = parseAddr(s.host6(server))
		if i%8 == 7 {
			snat(s.host6(300))
		}
	}
	f.Reply = f.Orig.Inverted()
	return f
}

// by is the last that the kernel had confirmed by then.
func (l *load) by(then time.Time) (last ack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.acked {
		if a.at.After(then) {
			break
		}
		last = a
	}
	return last
}

// repair makes what the load did in the last moments of a dead primary come true
// in its new kernel.
func (l *load) repair(then ack) error {
	l.acked = nil
	p := l.conn.NewPipeline(context.Background(), l.complete)
	err := l.submit(p, then.next, l.next, func(f *ctnetlink.Flow) nl.Request {
		return nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.Family(), Attrs: f.Append}
	})
	if err == nil {
		err = l.submit(p, then.first, l.first, func(f *ctnetlink.Flow) nl.Request {
			return nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Family(), Attrs: (&ctnetlink.Flow{Orig: f.Orig}).Append}
		})
	}
	return errors.Join(err, p.Close())
}
