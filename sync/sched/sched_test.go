package sched

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.RunTests(m)) }

const patience = 20 * time.Second

// running starts a Scheduler and runs its loop until the test ends.
func running(t *testing.T, flush func()) *Scheduler {
	t.Helper()
	return runningWith(t, flush, unexpected(t))
}

func runningWith(t *testing.T, flush func(), failed func(string, error)) *Scheduler {
	t.Helper()
	s := New(flush, failed)
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	begun := make(chan struct{})
	loop.Go(func() {
		if err := s.Run(ctx, func() { close(begun) }, func() {}); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); loop.Wait() })
	<-begun
	return s
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatal("still waiting: " + what)
	}
}

func nothing() {}

// unexpected fails the test when a task fails.
func unexpected(t *testing.T) func(string, error) {
	return func(what string, err error) { t.Errorf("%s: %v", what, err) }
}

// A reader stops waiting for the lock when code that holds the lock closes its socket.
func TestLockEnds(t *testing.T) {
	s := New(nothing, unexpected(t))
	ended, returned := make(chan struct{}), make(chan struct{})
	go func() {
		if s.Lock(ended) {
			t.Error("Lock took a lock that is held")
		}
		close(returned)
	}()
	close(ended)
	await(t, "Lock returns", returned)
	if s.TryLock() {
		t.Error("TryLock took a lock that is held")
	}
}

// Work that a reader leaves wakes the sleeping loop; each slice ends with a flush.
func TestReaderWakesTheLoop(t *testing.T) {
	flushed := make(chan struct{}, 100)
	s := running(t, func() {
		select {
		case flushed <- struct{}{}:
		default:
		}
	})
	stepped, rung := make(chan struct{}), make(chan struct{})
	if !s.Lock(nil) {
		t.Fatal("no lock")
	}
	timer := s.NewTimer(func() { close(rung) })
	timer.After(time.Millisecond)
	steps := 0
	s.Step(func() bool {
		if steps++; steps == 3 {
			close(stepped)
		}
		return steps < 3
	})
	for len(flushed) > 0 {
		<-flushed
	}
	s.Unlock()
	await(t, "the reader's flush", flushed)
	await(t, "the steps", stepped)
	await(t, "the timer", rung)
}

// Yield lets both a reader and a call of Do run.
func TestYield(t *testing.T) {
	s := New(nothing, unexpected(t))
	served := make(chan string, 2)
	go func() { s.calls <- func() { served <- "call" } }()
	go func() {
		s.Lock(nil)
		served <- "reader"
		s.Unlock()
	}()
	deadline := time.After(patience)
	for left := 2; left > 0; {
		s.Yield()
		select {
		case <-served:
			left--
		case <-deadline:
			t.Fatal("somebody was not served")
		default:
		}
	}
}

// A reader that has yielded the lock to the loop gets it back even if the loop ends meanwhile:
// the end waits for the reader.
func TestEndLetsAReaderFinish(t *testing.T) {
	s := New(nothing, unexpected(t))
	ctx, cancel := context.WithCancel(t.Context())
	closed := false
	ended, finished := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx, nothing, func() { closed = true }); err != nil {
			t.Error(err)
		}
	}()
	s.Lock(nil)
	cancel()
	go func() {
		defer close(finished)
		for over := false; !over; {
			s.Yield()
			select {
			case <-s.stopped:
				over = true
			default:
			}
		}
		s.Yield()
		if closed {
			t.Error("closed under a reader")
		}
		s.Unlock()
	}()
	await(t, "the reader finishes", finished)
	await(t, "the loop ends", ended)
	if err := s.Do(t.Context(), nothing); !errors.Is(err, ErrStopped) {
		t.Errorf("Do after the end: %v", err)
	}
}

type source struct {
	due time.Duration
	err error
	ran int
}

func (s *source) Due() time.Duration { return s.due }
func (s *source) Run() error         { s.ran++; s.due = Never; return s.err }

// A Source runs when it is due, and its error ends Run.
func TestSources(t *testing.T) {
	s := New(nothing, unexpected(t))
	due := &source{due: 0}
	later := &source{due: time.Hour}
	s.Add(due)
	s.Add(later)
	if err := s.Turn(); err != nil || due.ran != 1 || later.ran != 0 {
		t.Errorf("ran %d and %d times: %v", due.ran, later.ran, err)
	}
	if got := s.Due(); got != time.Hour {
		t.Errorf("next due at %v", got)
	}
	broken := errors.New("broken")
	s.Add(&source{due: 0, err: broken})
	if err := s.Run(t.Context(), nothing, nothing); err != broken {
		t.Errorf("Run: %v", err)
	}
}

// A task runs without the lock, is listed while it does, and reports its end with the
// lock held.
func TestTasks(t *testing.T) {
	failed := errors.New("failed")
	reported := ""
	s := runningWith(t, nothing, func(what string, err error) { reported = what + ": " + err.Error() })
	running, ended := make(chan struct{}), make(chan struct{})
	begin := func() {
		s.Go(KindFlush, "flush", func(ctx context.Context, task *Task) error {
			close(running)
			return errors.Join(failed, s.Do(ctx, func() { task.Done += 7 }))
		}, func(err error) {
			if !errors.Is(err, failed) {
				t.Errorf("ended by %v", err)
			}
			if reported != "flush: failed" {
				t.Errorf("reported %q", reported)
			}
			s.Tasks(func(*Task) { t.Error("still listed") })
			close(ended)
		})
		s.Tasks(func(task *Task) {
			if task.Kind != KindFlush || task.Done != 0 {
				t.Errorf("listed as %+v", task)
			}
		})
	}
	if err := s.Do(t.Context(), begin); err != nil {
		t.Fatal(err)
	}
	await(t, "the task runs", running)
	await(t, "the task ends", ended)
}

// The hot path of a reader allocates nothing.
func TestLockAllocations(t *testing.T) {
	s := running(t, nothing)
	s.Lock(nil)
	s.NewTimer(nothing).After(time.Hour)
	s.Unlock()
	if n := testing.AllocsPerRun(1000, func() { s.Lock(nil); s.Unlock() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkReader(b *testing.B) {
	s := New(nothing, func(string, error) {})
	for range 8 {
		s.NewTimer(nothing).Set(time.Hour)
	}
	<-s.lock
	for b.Loop() {
		s.Lock(nil)
		s.Unlock()
	}
}
