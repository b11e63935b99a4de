package link

import "time"

// The pauses of a loop whose reads fail: the first, and the longest.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
)

// backoff is what a loop does about reads that fail one after another: without a pause
// it would take a CPU, at real-time priority, for as long as the error lasts.
type backoff struct {
	say   func(error) // may be nil
	said  map[string]struct{}
	delay time.Duration
	sleep func(time.Duration, <-chan struct{}) // for tests; nil is pause
}

// failed reports an error, unless it was reported before, and pauses, twice as long with
// every failure in a row, or until ended is closed.
func (b *backoff) failed(err error, ended <-chan struct{}) {
	if _, known := b.said[err.Error()]; !known && len(b.said) < maxNamed && b.say != nil {
		if b.said == nil {
			b.said = map[string]struct{}{}
		}
		b.said[err.Error()] = struct{}{}
		b.say(err)
	}
	b.delay = min(max(2*b.delay, firstPause), lastPause)
	if b.sleep != nil {
		b.sleep(b.delay, ended)
		return
	}
	pause(b.delay, ended)
}

// worked ends a row of failures.
func (b *backoff) worked() { b.delay = 0 }

func pause(d time.Duration, ended <-chan struct{}) {
	select {
	case <-time.After(d):
	case <-ended:
	}
}
