package ctnetlink

import (
	"context"
	"ctbox/nl"
	"io"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Group is a bit per multicast group of ctnetlink (NFNLGRP_*).
type Group uint32

// Groups of events. AllFlowEvents is the three of flows, AllExpectEvents those
// of expectations.
const (
	GroupFlowNew Group = 1 << iota
	GroupFlowUpdate
	GroupFlowDestroy
	GroupExpectNew
	GroupExpectUpdate
	GroupExpectDestroy

	AllFlowEvents   = GroupFlowNew | GroupFlowUpdate | GroupFlowDestroy
	AllExpectEvents = GroupExpectNew | GroupExpectUpdate | GroupExpectDestroy
)

// EventOptions are the settings of a Subscription.
type EventOptions struct {
	Groups Group
	NetNS  int // as in nl.Config: whose events
	// Buffer is the kernel's receive buffer in bytes, that of DefaultEvents if 0.
	// It exceeds net.core.rmem_max only with CAP_NET_ADMIN; Subscription.Buffer returns
	// the granted size.
	Buffer int
	// Backlog bounds the received events that wait in this process, in bytes,
	// that of DefaultEvents if 0.
	Backlog int
	// Filter, if not nil, lets the kernel drop events that cannot match.
	Filter *EventFilter
	// Reliable makes the kernel keep and retry events that it could not deliver
	// (NETLINK_BROADCAST_SEND_ERROR), at the price of flows that linger.
	Reliable bool
	// Coalesce is how long the reader waits after a read that followed the one before
	// within this time: a busy consumer gets fewer and larger runs. The first event after
	// a pause is never delayed. 0 reads without waiting. The wait occupies a P of the
	// runtime, so it should be less than the 10 ms after which the runtime preempts, and
	// GOMAXPROCS at least 2.
	Coalesce time.Duration
	// Arrived, if not nil, is called by the reader, instead of the send on Ready, after it
	// has read everything. While it runs nothing is read: it may take a few events, which
	// saves waking another thread, and must not wait.
	Arrived func()

	uncounted bool // for tests: as if the kernel had no SO_MEMINFO
}

// Subscription receives events. A goroutine of its own only reads the socket, many events with
// one system call, so that printing or replicating them does not delay it (but see
// EventOptions.Arrived).
type Subscription struct {
	sock       *eventSocket
	groups     Group
	backlog    int
	pause      time.Duration // EventOptions.Coalesce
	busy       bool          // the reader's: events came since the last look for drops
	unnotified bool          // the reader's: something has arrived since notify was last called
	ready      chan struct{}
	notify     func() // EventOptions.Arrived
	closing    sync.Once

	mu       sync.Mutex
	arrived  *sync.Cond // signalled when something below changes
	waiting  []*Events  // oldest first; the reader appends to the last
	spare    []*Events
	bytes    int // in waiting and with the consumer
	drops    uint64
	reported uint64 // drops that the consumer has seen
	err      error
	closed   bool
	left     bool // no longer a member of a group: only queued events are left
	done     chan struct{}

	watched context.Context // the context of the last Next, whose end wakes the next one
	stop    func() bool     // undoes the watch
}

// Events is a run of received events in the order of arrival.
type Events struct {
	buf   []byte
	marks []mark
	msg   nl.Message // the current one of Each
	// Dropped is how many events the kernel has dropped, since the
	// subscription began, before the end of this run (SO_MEMINFO's drop
	// counter). Each undelivered message counts one, so it is exact; it is a
	// lower bound where Subscription.CountsDrops is false.
	Dropped uint64
}

// mark is the time at which the events up to an offset were received.
type mark struct {
	end int
	at  time.Time
}

// Subscribe joins the groups. Everything that happens in the kernel after it has
// returned is received or counted as dropped. The Subscription must be closed.
// Joining needs CAP_NET_ADMIN; the error then is EPERM.
func Subscribe(opts EventOptions) (*Subscription, error) {
	var sock *eventSocket
	err := nl.InNetNS(opts.NetNS, func() (err error) {
		sock, err = openEventSocket()
		return err
	})
	if err != nil {
		return nil, err
	}
	buffer, backlog := DefaultEvents(KernelMemory())
	if opts.Buffer == 0 {
		opts.Buffer = buffer
	}
	if opts.Backlog == 0 {
		opts.Backlog = backlog
	}
	if err := sock.subscribe(opts); err != nil {
		sock.Close()
		return nil, err
	}
	s := &Subscription{sock: sock, groups: opts.Groups, backlog: opts.Backlog, pause: opts.Coalesce,
		notify: opts.Arrived, ready: make(chan struct{}, 1), done: make(chan struct{})}
	s.arrived = sync.NewCond(&s.mu)
	if s.notify == nil {
		s.notify = func() {
			select {
			case s.ready <- struct{}{}:
			default:
			}
		}
	}
	go s.run()
	return s, nil
}

func (s *eventSocket) subscribe(opts EventOptions) error {
	if err := s.setBuffer(opts.Buffer); err != nil {
		return err
	}
	// If ENOBUFS is reported, the kernel drops everything from the first overrun until the
	// socket is empty; otherwise only events that do not fit, and the drop counter gives
	// the exact loss. On a kernel without that counter ENOBUFS is the only sign of a loss.
	if s.counts = !opts.uncounted && s.readMemory(); s.counts {
		if err := s.option("set NETLINK_NO_ENOBUFS", unix.NETLINK_NO_ENOBUFS, 1); err != nil {
			return err
		}
	}
	if opts.Reliable {
		if err := s.option("set NETLINK_BROADCAST_SEND_ERROR", unix.NETLINK_BROADCAST_ERROR, 1); err != nil {
			return err
		}
	}
	if opts.Filter != nil {
		if err := s.setFilter(opts.Filter); err != nil {
			return err
		}
	}
	return s.membership("join", unix.NETLINK_ADD_MEMBERSHIP, opts.Groups)
}

// Buffer returns the kernel's receive buffer in bytes, as it reports it.
func (s *Subscription) Buffer() int { return s.sock.rcvbuf }

// CountsDrops reports whether the kernel counts dropped events (SO_MEMINFO). Before Linux 4.12
// it does not: Events.Dropped then grows by one for each overrun, regardless of the number of
// events.
func (s *Subscription) CountsDrops() bool { return s.sock.counts }

// SetBuffer changes the size of the kernel's receive buffer; Buffer returns the granted size.
// One goroutine at a time may call it.
func (s *Subscription) SetBuffer(n int) error { return s.sock.setBuffer(n) }

// SetFilter replaces EventOptions.Filter; nil removes it. No event is lost in between. One
// goroutine at a time may call it.
func (s *Subscription) SetFilter(f *EventFilter) error { return s.sock.setFilter(f) }

// Close ends the subscription: nothing more is received. Next returns the events that have
// arrived, and then os.ErrClosed or the reader's error. A second call does nothing; no other
// method that changes the socket may be called after the first.
func (s *Subscription) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.unwatch()
		s.arrived.Broadcast()
		s.mu.Unlock()
		s.sock.ring()
		<-s.done
		s.sock.Close()
	})
	return nil
}

// Leave ends the stream with a complete count: no event after it is received; Next returns the
// events before it, with their number of drops, and then io.EOF.
func (s *Subscription) Leave() error {
	if err := s.sock.membership("leave", unix.NETLINK_DROP_MEMBERSHIP, s.groups); err != nil {
		return err
	}
	s.mu.Lock()
	s.left = true
	s.mu.Unlock()
	s.sock.ring()
	return nil
}

// Next returns what has arrived, waiting for at least one event or for a change
// of the drop counter. The Events are the caller's until its next call of Next,
// which must give them back as reuse (nil the first time). The error is ctx's,
// or the one that ended the reading.
func (s *Subscription) Next(ctx context.Context, reuse *Events) (*Events, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch(ctx)
	s.giveBack(reuse)
	for {
		if e, err := s.take(); e != nil || err != nil {
			return e, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.arrived.Wait()
	}
}

// watch makes the end of ctx wake a caller that waits in Next. It is kept for the next call,
// which usually has the same ctx.
func (s *Subscription) watch(ctx context.Context) {
	if s.watched == ctx {
		return
	}
	s.unwatch()
	s.watched = ctx
	s.stop = context.AfterFunc(ctx, func() {
		s.mu.Lock()
		s.arrived.Broadcast()
		s.mu.Unlock()
	})
}

func (s *Subscription) unwatch() {
	if s.stop != nil {
		s.stop()
	}
	s.watched, s.stop = nil, nil
}

// Ready is sent to when Take may have something to return. It is for one
// receiver, which uses Take and not Next.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Take is Next without waiting: nil when nothing has arrived. The receiver calls
// it until then.
func (s *Subscription) Take(reuse *Events) (*Events, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.giveBack(reuse)
	return s.take()
}

// Dropped returns the number of events that the kernel has dropped so far, including those
// dropped after runs that Take has not returned yet.
func (s *Subscription) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drops
}

// giveBack accepts the consumer's Events for reuse.
func (s *Subscription) giveBack(e *Events) {
	if e == nil {
		return
	}
	s.bytes -= len(e.buf)
	e.buf, e.marks = e.buf[:0], e.marks[:0]
	if len(s.spare) < maxSpare {
		s.spare = append(s.spare, e)
	}
	s.arrived.Broadcast()
}

// take returns the oldest waiting run, an empty one if only the drop counter has changed, or
// nil.
func (s *Subscription) take() (*Events, error) {
	switch {
	case len(s.waiting) > 0:
		first := s.waiting[0]
		s.waiting = s.waiting[:copy(s.waiting, s.waiting[1:])]
		s.reported = first.Dropped
		return first, nil
	case s.drops != s.reported:
		s.reported = s.drops
		e := s.empty()
		e.Dropped = s.drops
		return e, nil
	case s.err != nil:
		return nil, s.err
	case s.closed:
		return nil, os.ErrClosed
	}
	return nil, nil
}

// empty returns Events without content.
func (s *Subscription) empty() *Events {
	if n := len(s.spare); n > 0 {
		e := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return e
	}
	return &Events{}
}

// Len returns the size of the run in bytes.
func (e *Events) Len() int { return len(e.buf) }

// Each calls each for every event with the time of its reception. The Message is valid until
// each returns; an error of each ends the walk and is returned.
func (e *Events) Each(each func(m *nl.Message, received time.Time) error) error {
	ms := nl.Messages{Rest: e.buf}
	at := 0
	for ms.Next() {
		for at < len(e.marks)-1 && len(e.buf)-len(ms.Rest) > e.marks[at].end {
			at++
		}
		if ms.Type() < unix.NLMSG_MIN_TYPE {
			continue
		}
		if err := e.msg.Parse(ms.Raw); err != nil {
			return err
		}
		if err := each(&e.msg, e.marks[at].at); err != nil {
			return err
		}
	}
	if ms.Bad {
		return nl.ErrTruncated
	}
	return nil
}

// dropPoll is the interval at which an otherwise idle reader checks the drop counter: without
// ENOBUFS nothing else wakes it after a loss.
const dropPoll = 200 * time.Millisecond

func (s *Subscription) run() {
	defer close(s.done)
	var last time.Time // when the last read ended
	for {
		s.mu.Lock()
		left := s.left
		s.mu.Unlock()
		n, err := s.receive(left)
		drops := s.sock.drops()
		now := time.Now()

		s.mu.Lock()
		if n > 0 {
			s.file(n, now, drops)
		}
		if n > 0 || drops != s.drops || err != nil {
			s.unnotified = true
			s.arrived.Broadcast()
		}
		s.drops = drops
		s.err = err
		// After a full read more is usually queued; one notification for all is better.
		enough := n < eventsPerRead || len(s.waiting) > 1 || s.bytes > s.backlog
		s.mu.Unlock()
		if enough {
			s.notifyOnce()
		}
		s.mu.Lock()
		// The reader waits here while the backlog is full; meanwhile events go into the
		// kernel's buffer, and the kernel counts those that do not fit.
		for s.bytes > s.backlog && !s.closed {
			s.arrived.Wait()
		}
		end := s.closed || err != nil
		s.mu.Unlock()
		if end {
			return
		}
		if s.pause > 0 && n > 0 {
			// After a full read more is queued already.
			if n < eventsPerRead && now.Sub(last) < 2*s.pause {
				gather(s.pause)
				now = time.Now()
			}
			last = now
		}
	}
}

// receive reads the queued events, waiting for a while if there are none. After Leave it does
// not wait, and its error is io.EOF at the end.
func (s *Subscription) receive(left bool) (int, error) {
	n, err := s.sock.read()
	if err != io.EOF || left {
		s.busy = s.busy || n > 0
		return n, err
	}
	s.notifyOnce()
	// A drop without ENOBUFS can only follow events.
	limit := time.Duration(-1)
	if s.busy {
		limit = dropPoll
	}
	if err := s.sock.wait(limit); err != nil {
		return 0, err
	}
	n, err = s.sock.read()
	if err == io.EOF {
		s.busy, err = false, nil
	}
	return n, err
}

// notifyOnce notifies the receiver if something has arrived since the last time.
func (s *Subscription) notifyOnce() {
	if s.unnotified {
		s.unnotified = false
		s.notify()
	}
}

// gather waits without informing the runtime, which assumes that the goroutine is computing.
// Otherwise the runtime finds the process idle, and after each wake-up its monitor polls for a
// millisecond and its threads look for work, which costs more than the events. A signal, with
// which the runtime preempts, ends the wait early. Meanwhile the rest of the process needs a
// second P (GOMAXPROCS).
func gather(pause time.Duration) {
	ts := unix.NsecToTimespec(int64(pause))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}

const (
	eventsRun = 128 << 10 // a run is full beyond this
	maxSpare  = 8         // runs kept for reuse
)

// file appends the n datagrams just read to the waiting runs.
func (s *Subscription) file(n int, now time.Time, drops uint64) {
	last := len(s.waiting) - 1
	if last < 0 || len(s.waiting[last].buf) >= eventsRun {
		s.waiting = append(s.waiting, s.empty())
		last++
	}
	e := s.waiting[last]
	before := len(e.buf)
	for i := range n {
		e.buf = append(e.buf, s.sock.datagram(i)...)
	}
	e.marks = append(e.marks, mark{end: len(e.buf), at: now})
	e.Dropped = drops
	s.bytes += len(e.buf) - before
}
