package sched

import (
	"context"
	"time"
)

// The functions below are for tests of packages that use a Scheduler without a running loop.
// The tests hold its lock.

// SetNow stops the clock at the given time.
func (s *Scheduler) SetNow(at time.Duration) { s.now = s.start.Add(at) }

// SetContext sets the context of tasks instead of Run's.
func (s *Scheduler) SetContext(ctx context.Context) { s.ctx = ctx }

// RunSteps runs all Steps to their end.
func (s *Scheduler) RunSteps() {
	for len(s.steps) > 0 {
		s.step()
	}
}

// RunStep runs one slice of the oldest Step.
func (s *Scheduler) RunStep() { s.step() }
