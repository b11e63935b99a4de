// Package sched runs a node's work one piece at a time.
//
// A Scheduler is the one lock of a node and the one loop that does what is due. Every
// piece of a node's state belongs to a room (follow, replicate, commit, node), and may
// be read or changed only by code that holds the lock. Code holds the lock
//
//   - in a function given to Do, which any goroutine may call;
//   - between Lock (or TryLock) and Unlock, for a goroutine that reads a socket and
//     processes the input itself: handing it to another goroutine would wake a second
//     thread for every few flows;
//   - in the Run of a Source, and in the functions of Timers and Steps, which the loop
//     calls;
//   - in the function that ends a task (Go).
//
// Work is cut into slices: no holder keeps the lock for longer than a fraction of a
// millisecond, regardless of the number of flows. Before a reader or the loop releases the
// lock, flush is called: it sends what the slice has produced.
//
// Now does not change while the lock is held: it is the time at which the lock was taken. It
// is monotonic and counts from the Scheduler's start, so that a step of the wall clock moves
// no timer.
package sched

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrStopped is the error of Do after the Scheduler has stopped or while it stops.
var ErrStopped = errors.New("the daemon is shutting down")

// Never is the Due of a Source that has nothing to do.
const Never = time.Duration(1<<63 - 1)

// Source is a part of a node that has work at certain times.
type Source interface {
	// Due returns the time of the next work, on the Scheduler's clock. A time in the
	// past means now.
	Due() time.Duration
	// Run does a slice of what is due. An error ends the Scheduler's Run.
	Run() error
}

// Scheduler serialises the work of a node. The fields below the line are guarded by
// the lock.
type Scheduler struct {
	flush   func()
	failed  func(what string, err error)
	start   time.Time
	lock    chan struct{} // full while held: waiting goroutines get it in order
	calls   chan func()
	wakeup  chan struct{}
	watched <-chan struct{} // Watch
	watcher func()
	stopped chan struct{} // closed when Run has ended its loop
	tasks   sync.WaitGroup
	ctx     context.Context // Run's, for tasks

	// ---

	now     time.Time // at which the lock was taken
	sources []Source
	steps   []func() (more bool)
	running map[*Task]struct{}
	guests  int         // holders that have released the lock in Yield
	alarm   *time.Timer // wakes the loop
	armed   time.Duration
}

// New returns a Scheduler whose lock the caller holds until Run is called, possibly by another
// goroutine. flush is called with the lock held at the end of every slice of work, and failed
// when a task has ended with an error.
func New(flush func(), failed func(what string, err error)) *Scheduler {
	s := &Scheduler{
		flush:   flush,
		failed:  failed,
		start:   time.Now(),
		lock:    make(chan struct{}, 1),
		calls:   make(chan func()),
		wakeup:  make(chan struct{}, 1),
		stopped: make(chan struct{}),
		running: map[*Task]struct{}{},
		armed:   Never,
	}
	s.now = s.start
	s.lock <- struct{}{}
	return s
}

// Add adds a Source, which Run serves from now on.
func (s *Scheduler) Add(source Source) { s.sources = append(s.sources, source) }

// Watch makes the loop call f whenever c can be received from. It must be called before Run,
// for at most one channel.
func (s *Scheduler) Watch(c <-chan struct{}, f func()) { s.watched, s.watcher = c, f }

// Start returns the wall-clock time at which the Scheduler's clock began.
func (s *Scheduler) Start() time.Time { return s.start }

// Now returns the time, since Start, at which the lock was taken.
func (s *Scheduler) Now() time.Duration { return s.now.Sub(s.start) }

// Lock takes the lock and returns true, or returns false if ended is closed first.
func (s *Scheduler) Lock(ended <-chan struct{}) bool {
	select {
	case s.lock <- struct{}{}:
		s.now = time.Now()
		return true
	case <-ended:
		return false
	}
}

// TryLock takes the lock if it is free.
func (s *Scheduler) TryLock() bool {
	select {
	case s.lock <- struct{}{}:
		s.now = time.Now()
		return true
	default:
		return false
	}
}

// Unlock releases the lock after Lock or TryLock. It wakes the loop if work has become due.
func (s *Scheduler) Unlock() {
	s.flush()
	s.arm()
	<-s.lock
}

// Yield lets a call of Do and one waiting reader run between two slices of the holder's work.
// The holder must expect that they change the state.
func (s *Scheduler) Yield() {
	s.guests++
	select {
	case call := <-s.calls:
		call()
	default:
	}
	// A channel serves waiting goroutines in order, so one of them has had the lock when
	// this returns.
	<-s.lock
	s.lock <- struct{}{}
	s.guests--
}

// Wake makes the loop check the Sources soon. Any goroutine may call it, without the lock.
func (s *Scheduler) Wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// Do calls f with the lock held and waits for it. It is for a slice of work, not for a single
// flow. Any goroutine that does not hold the lock may call it. If the error is not nil, it is
// ctx's or ErrStopped, and f was not called.
func (s *Scheduler) Do(ctx context.Context, f func()) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // a select would choose any ready case
	}
	done := make(chan struct{})
	select {
	case s.calls <- func() { f(); close(done) }:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.stopped:
		return ErrStopped
	}
	// The loop has taken the call and will complete it.
	<-done
	return nil
}

// Stopped returns a channel that is closed when the Scheduler has stopped, after which Do fails.
func (s *Scheduler) Stopped() <-chan struct{} { return s.stopped }

// Step makes the loop call work once per iteration until it returns false, so that a walk over
// a million entries delays nothing else. Several Steps run one after the other.
func (s *Scheduler) Step(work func() (more bool)) { s.steps = append(s.steps, work) }

// Steps returns the number of Steps that have not ended.
func (s *Scheduler) Steps() int { return len(s.steps) }

// Run is the loop. It does what is due until ctx ends, when it returns nil, or until a Source
// returns an error, which it returns. Before it returns, closing is called with the lock held,
// and all tasks have ended.
func (s *Scheduler) Run(ctx context.Context, begin, closing func()) error {
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	begin()
	err := s.loop(ctx)
	cancel()
	close(s.stopped)
	// A reader may have yielded the lock to the loop in the middle of its work, and only
	// the loop can give it back.
	for s.guests > 0 {
		<-s.lock
		s.lock <- struct{}{}
	}
	closing()
	s.tasks.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (s *Scheduler) loop(ctx context.Context) error {
	s.alarm = time.NewTimer(0)
	defer s.alarm.Stop()
	s.armed = s.Now()
	for {
		if err := s.Turn(); err != nil {
			return err
		}
		s.arm()
		if err := s.sleep(ctx); err != nil {
			return err
		}
	}
}

// Turn does a slice of everything that is due: the loop's work between two sleeps. Tests
// without a running loop call it too.
func (s *Scheduler) Turn() error {
	for _, source := range s.sources {
		if source.Due() <= s.Now() {
			if err := source.Run(); err != nil {
				return err
			}
		}
	}
	s.step()
	s.flush()
	return nil
}

func (s *Scheduler) step() {
	if len(s.steps) > 0 && !s.steps[0]() {
		s.steps = s.steps[1:]
	}
}

// sleep releases the lock until the loop has something to do.
func (s *Scheduler) sleep(ctx context.Context) (err error) {
	var call func()
	rang := false
	<-s.lock
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case call = <-s.calls:
	case <-s.watched:
		call = s.watcher
	case <-s.wakeup:
	case <-s.alarm.C:
		rang = true
	}
	s.lock <- struct{}{}
	s.now = time.Now()
	if rang {
		s.armed = Never
	}
	if call != nil {
		call()
	}
	return err
}

// Due returns the time at which the loop next has something to do.
func (s *Scheduler) Due() time.Duration {
	if len(s.steps) > 0 {
		return s.Now()
	}
	next := Never
	for _, source := range s.sources {
		next = min(next, source.Due())
	}
	return next
}

// arm sets the time at which the loop wakes. Due times mostly move into the future: an alarm
// that fires too early costs less than resetting it each time.
func (s *Scheduler) arm() {
	if next := s.Due(); next < s.armed && s.alarm != nil {
		s.alarm.Reset(max(next-s.Now(), 0))
		s.armed = next
	}
}
