package link

import "time"

// The first and the longest pause of a loop whose reads fail.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
)

// backoff slows down a loop whose reads fail one after another. Without a pause the loop
// would take a CPU, at real-time priority, for as long as the error lasts.
type backoff struct {
	report   func(error) // may be nil
	reported map[string]struct{}
	delay    time.Duration
	sleep    func(time.Duration, <-chan struct{}) // replaced by tests; nil means pause
}

// failed reports an error that it has not reported before, then pauses, until ended is
// closed at most. The pause doubles with every failure in a row.
func (b *backoff) failed(err error, ended <-chan struct{}) {
	if _, known := b.reported[err.Error()]; !known && len(b.reported) < maxReported && b.report != nil {
		if b.reported == nil {
			b.reported = map[string]struct{}{}
		}
		b.reported[err.Error()] = struct{}{}
		b.report(err)
	}
	b.delay = min(max(2*b.delay, firstPause), lastPause)
	if b.sleep != nil {
		b.sleep(b.delay, ended)
		return
	}
	pause(b.delay, ended)
}

// worked resets the pause after a read that succeeded.
func (b *backoff) worked() { b.delay = 0 }

func pause(d time.Duration, ended <-chan struct{}) {
	select {
	case <-time.After(d):
	case <-ended:
	}
}
