package sched

import (
	"context"
	"time"
)

// Task is a long piece of work in a goroutine of its own. The Scheduler's lock guards its
// fields.
type Task struct {
	Kind  Kind
	Began time.Duration // on the Scheduler's clock
	Done  uint64        // entries so far
}

// Kind is the kind of a task, with the words for conntrack-tools' child processes.
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

// Unregister removes a task that Register listed.
func (s *Scheduler) Unregister(t *Task) { delete(s.running, t) }

// Tasks calls each for every running task, in no particular order.
func (s *Scheduler) Tasks(each func(*Task)) {
	for t := range s.running {
		each(t)
	}
}

// Go starts work in a goroutine of its own, without the lock; its context ends when the
// Scheduler's Run does. Then ended, if it is not nil, is called with the lock held and
// work's error. An error is also reported to the function given to New, with what, the
// name of the work. The caller holds the lock, and must have been called by Run's loop or
// a Source.
func (s *Scheduler) Go(kind Kind, what string, work func(ctx context.Context, t *Task) error, ended func(error)) {
	t := s.Register(kind)
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		err := work(s.ctx, t)
		_ = s.Do(context.WithoutCancel(s.ctx), func() {
			s.Unregister(t)
			if err != nil && !s.Stopping() {
				s.failed(what, err)
			}
			if ended != nil {
				ended(err)
			}
		})
	}()
}

// Stopping reports whether Run is about to end, which is then the reason for other failures.
func (s *Scheduler) Stopping() bool { return s.ctx.Err() != nil }

// Context returns the context of Run, for goroutines that are not tasks.
func (s *Scheduler) Context() context.Context { return s.ctx }

// Beside runs f in a goroutine that is not a task. Run waits for it at its end; ctx ends then.
func (s *Scheduler) Beside(f func(ctx context.Context)) {
	s.tasks.Go(func() { f(s.ctx) })
}
