package sched

import "time"

// Timer is a Source that runs a function once, at the time that was set. Its methods need the
// Scheduler's lock.
type Timer struct {
	scheduler *Scheduler
	at        time.Duration // Never while it is not set
	do        func()
}

// NewTimer adds a Timer that is not set.
func (s *Scheduler) NewTimer(do func()) *Timer {
	t := &Timer{scheduler: s, at: Never, do: do}
	s.Add(t)
	return t
}

// Set makes the function run at a time of the Scheduler's clock. It replaces an earlier time.
func (t *Timer) Set(at time.Duration) { t.at = at }

// After sets the Timer to d from now.
func (t *Timer) After(d time.Duration) { t.Set(t.scheduler.Now() + d) }

// Stop cancels the Timer.
func (t *Timer) Stop() { t.at = Never }

// Pending reports whether the Timer is set.
func (t *Timer) Pending() bool { return t.at != Never }

// Due implements Source.
func (t *Timer) Due() time.Duration { return t.at }

// Run implements Source: it runs the function, which may set the Timer again.
func (t *Timer) Run() error {
	t.at = Never
	t.do()
	return nil
}
