package sched

import "time"

// Timer is a Source that runs a function once at a time that is set anew each time. Its
// methods need the Scheduler's lock.
type Timer struct {
	scheduler *Scheduler
	at        time.Duration // Never while it is not set
	do        func()
}

// NewTimer adds a Timer, which is not set yet.
func (s *Scheduler) NewTimer(do func()) *Timer {
	t := &Timer{scheduler: s, at: Never, do: do}
	s.Add(t)
	return t
}

// Set has the function run at a time of the Scheduler's clock, in the place of the time
// that was set before.
func (t *Timer) Set(at time.Duration) { t.at = at }

// After sets the Timer to d from now.
func (t *Timer) After(d time.Duration) { t.Set(t.scheduler.Now() + d) }

// Stop unsets the Timer.
func (t *Timer) Stop() { t.at = Never }

// Pending reports whether the Timer is set.
func (t *Timer) Pending() bool { return t.at != Never }

// Due is the time that is set.
func (t *Timer) Due() time.Duration { return t.at }

// Run unsets the Timer and runs its function, which may set it again.
func (t *Timer) Run() error {
	t.at = Never
	t.do()
	return nil
}
