// Package sched runs a node's work one piece at a time.
//
// A Scheduler is the one lock of a node and the one loop that does what is due. Every
// piece of a node's state belongs to a room (follow, replicate, commit, node), and may
// be read or changed only by code that holds the lock. Code holds the lock
//
//   - in a function given to Do, which any goroutine may call;
//   - between Lock (or TryLock) and Unlock, for a goroutine that reads a socket and
//     deals with what it has read itself: handing it to another goroutine would wake a
//     second thread for every few flows;
//   - in the Run of a Source, and in the functions of Timers and Steps, which the loop
//     calls;
//   - in the function that ends a task (Go).
//
// Work is cut into slices: no holder keeps the lock for longer than a fraction of a
// millisecond, however many flows there are. Before the lock is given up, by a reader
// or by the loop, Flush is called: it sends what the slice has produced.
//
// Time stands still while the lock is held: Now is that of the moment at which it was
// taken. It is monotonic and counts from the Scheduler's start, so that a step of the
// wall clock moves no timer.
package sched

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrStopped is the error of Do once the Scheduler has stopped or is about to.
var ErrStopped = errors.New("the daemon is shutting down")

// Never is the Due of a Source that has nothing to do.
const Never = time.Duration(1<<63 - 1)

// Source is a part of a node that has work of its own to do at certain times.
type Source interface {
	// Due returns when there is something to do, on the Scheduler's clock. A time
	// that has passed means now.
	Due() time.Duration
	// Run does a slice of what is due. An error ends the Scheduler's Run.
	Run() error
}

// Scheduler serialises the work of a node. The fields below the line are guarded by
// the lock.
type Scheduler struct {
	flush   func()
	start   time.Time
	lock    chan struct{} // full while held: those who wait are served in order
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
	guests  int         // holders that have let others in between (Yield)
	alarm   *time.Timer // wakes the loop
	armed   time.Duration
}

// New returns a Scheduler whose lock is held by the caller until it calls Run, which
// may be another goroutine. flush is called with the lock held whenever a slice of work
// has ended.
func New(flush func()) *Scheduler {
	s := &Scheduler{
		flush:   flush,
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

// Add has Run look after a Source from now on.
func (s *Scheduler) Add(source Source) { s.sources = append(s.sources, source) }

// Watch has the loop call f whenever c has something. There is one such channel; Watch is
// for before Run.
func (s *Scheduler) Watch(c <-chan struct{}, f func()) { s.watched, s.watcher = c, f }

// Start is the wall-clock time at which the Scheduler's clock began.
func (s *Scheduler) Start() time.Time { return s.start }

// Now is the time since Start at which the lock was taken.
func (s *Scheduler) Now() time.Duration { return s.now.Sub(s.start) }

// Lock takes the lock, unless ended is closed before: then it returns false.
func (s *Scheduler) Lock(ended <-chan struct{}) bool {
	select {
	case s.lock <- struct{}{}:
		s.now = time.Now()
		return true
	case <-ended:
		return false
	}
}

// TryLock takes the lock if nobody has it.
func (s *Scheduler) TryLock() bool {
	select {
	case s.lock <- struct{}{}:
		s.now = time.Now()
		return true
	default:
		return false
	}
}

// Unlock ends what Lock or TryLock began. What became due meanwhile wakes the loop.
func (s *Scheduler) Unlock() {
	s.flush()
	s.arm()
	<-s.lock
}

// Yield lets a call of Do and one waiting reader in between two slices of work. The
// holder must be prepared for what they change.
func (s *Scheduler) Yield() {
	s.guests++
	select {
	case call := <-s.calls:
		call()
	default:
	}
	// A channel serves those who wait in order, so that one of them has had the lock
	// when this comes back.
	<-s.lock
	s.lock <- struct{}{}
	s.guests--
}

// Wake has the loop look after the Sources soon. Any goroutine may call it, without
// the lock.
func (s *Scheduler) Wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// Do calls f with the lock held and waits for it: one call for a slice of work, never
// one for a flow. Any goroutine may call it that does not hold the lock. The error is
// ctx's, or ErrStopped; f has not been called then.
func (s *Scheduler) Do(ctx context.Context, f func()) error {
	if ctx.Err() != nil {
		return context.Cause(ctx) // of several ways a select takes any
	}
	done := make(chan struct{})
	select {
	case s.calls <- func() { f(); close(done) }:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.stopped:
		return ErrStopped
	}
	// The loop has taken the call and will not leave it undone.
	<-done
	return nil
}

// Stopped is closed when the Scheduler has stopped: calls of Do are in vain then.
func (s *Scheduler) Stopped() <-chan struct{} { return s.stopped }

// Step has work called once in each turn of the loop, until it returns false, so that a
// walk over a million entries holds up nothing. Several are done one after the other.
func (s *Scheduler) Step(work func() (more bool)) { s.steps = append(s.steps, work) }

// Steps is the number of those that have not ended.
func (s *Scheduler) Steps() int { return len(s.steps) }

// Run does what is due until ctx ends or a Source returns an error, which it returns;
// at the end of ctx it returns nil. Before it returns, closing is called with the lock
// held and all tasks have ended.
func (s *Scheduler) Run(ctx context.Context, begin, closing func()) error {
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	begin()
	err := s.loop(ctx)
	cancel()
	close(s.stopped)
	// A reader in the middle of its work may have let the loop have the lock (Yield),
	// and nobody else can give it back.
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
// that have no loop call it, too.
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

// sleep gives the lock up until the loop has something to do.
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

// Due is when the loop next has something to do.
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

// arm sets the time at which the loop wakes. Due times mostly move away; an alarm that
// rings too early costs less than setting it anew each time.
func (s *Scheduler) arm() {
	if next := s.Due(); next < s.armed && s.alarm != nil {
		s.alarm.Reset(max(next-s.Now(), 0))
		s.armed = next
	}
}
