package sched

import (
	"context"
	"time"
)

// Task is a long piece of work that runs beside the loop, in a goroutine of its own.
// Its fields are guarded by the Scheduler's lock.
type Task struct {
	Kind  Kind
	Began time.Duration // on the Scheduler's clock
	Done  uint64        // entries so far
}

// Kind is what a task does, with the words of conntrack-tools' child processes.
type Kind uint8

// The kinds of tasks.
const (
	KindAny Kind = iota // a dump
	KindFlush
	KindCommit
)

// Register lists a task that its caller runs itself, until Unregister.
func (s *Scheduler) Register(kind Kind) *Task {
	t := &Task{Kind: kind, Began: s.Now()}
	s.running[t] = struct{}{}
	return t
}

// Unregister ends what Register began.
func (s *Scheduler) Unregister(t *Task) { delete(s.running, t) }

// Tasks calls each for every task that runs, in no particular order.
func (s *Scheduler) Tasks(each func(*Task)) {
	for t := range s.running {
		each(t)
	}
}

// Go starts work in a goroutine of its own, without the lock; its context ends when the
// Scheduler's Run does. Then ended is called with the lock held and work's error. The
// caller holds the lock, and must have been called by Run's loop or a Source.
func (s *Scheduler) Go(kind Kind, work func(ctx context.Context, t *Task) error, ended func(error)) {
	t := s.Register(kind)
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		err := work(s.ctx, t)
		_ = s.Do(context.WithoutCancel(s.ctx), func() {
			s.Unregister(t)
			ended(err)
		})
	}()
}

// Stopping reports whether Run is about to end: what fails then fails for that reason.
func (s *Scheduler) Stopping() bool { return s.ctx.Err() != nil }

// Context is that of Run, for what runs beside the loop but is no task.
func (s *Scheduler) Context() context.Context { return s.ctx }

// Beside runs f in a goroutine of its own, which Run waits for at its end, when ctx
// ends. It is for a worker that is no task.
func (s *Scheduler) Beside(f func(ctx context.Context)) {
	s.tasks.Go(func() { f(s.ctx) })
}
