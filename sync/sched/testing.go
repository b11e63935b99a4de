package sched

import (
	"context"
	"time"
)

// What follows is for tests of rooms that have no loop running and turn the Scheduler by
// hand, holding its lock.

// SetNow stops the clock at a time.
func (s *Scheduler) SetNow(at time.Duration) { s.now = s.start.Add(at) }

// SetContext sets the context of tasks in the place of Run's.
func (s *Scheduler) SetContext(ctx context.Context) { s.ctx = ctx }

// RunSteps does all slices of all Steps.
func (s *Scheduler) RunSteps() {
	for len(s.steps) > 0 {
		s.step()
	}
}

// RunStep does one slice of the oldest Step.
func (s *Scheduler) RunStep() { s.step() }
