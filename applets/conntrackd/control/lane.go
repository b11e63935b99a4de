package control

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"
)

// lane limits the number of clients in one phase: sending their request, or being answered.
// If it is full, a new client replaces the one for which the daemon has waited longest, to
// read its request or to write its answer. Clients that send or read nothing, however many,
// therefore delay others only briefly. A client for which the daemon works keeps its place.
type lane struct {
	most    int
	grace   time.Duration // how long a client may take also while others wait for its place
	dropped func()        // called for each client that is dropped

	mu    sync.Mutex
	seats []*seat
	left  chan struct{}
}

// seat is a client's place in a lane.
type seat struct {
	lane *lane
	conn io.Closer

	// Guarded by the lane's mutex.
	waiting bool      // the daemon waits for the client
	since   time.Time // when waiting last changed
	dropped bool
}

func newLane(most int, grace time.Duration, dropped func()) *lane {
	return &lane{most: most, grace: grace, dropped: dropped, left: make(chan struct{}, 1)}
}

// enter waits for a place and returns it, or nil if ctx ends first. waiting is as in wait.
func (l *lane) enter(ctx context.Context, conn io.Closer, waiting bool) *seat {
	for {
		s, delay := l.tryEnter(conn, waiting, time.Now())
		if s != nil {
			return s
		}
		timer := time.NewTimer(delay)
		select {
		case <-l.left:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// recheck is how often enter checks whether a client has become one that it can drop.
const recheck = 100 * time.Millisecond

// tryEnter returns a place, or nil and the time to wait before the next try.
func (l *lane) tryEnter(conn io.Closer, waiting bool, now time.Time) (*seat, time.Duration) {
	l.mu.Lock()
	var victim *seat
	if len(l.seats) >= l.most {
		delay := recheck
		for _, s := range l.seats {
			if !s.waiting {
				continue
			}
			if left := s.since.Add(l.grace).Sub(now); left > 0 {
				delay = min(delay, left)
			} else if victim == nil || s.since.Before(victim.since) {
				victim = s
			}
		}
		if victim == nil {
			l.mu.Unlock()
			return nil, delay
		}
		victim.dropped = true
		l.remove(victim)
	}
	s := &seat{lane: l, conn: conn, waiting: waiting, since: now}
	l.seats = append(l.seats, s)
	l.mu.Unlock()
	if victim != nil {
		victim.conn.Close()
		l.dropped()
	}
	return s, 0
}

// remove takes a seat from the lane. The caller holds the mutex.
func (l *lane) remove(s *seat) {
	if i := slices.Index(l.seats, s); i >= 0 {
		l.seats = slices.Delete(l.seats, i, i+1)
	}
}

// wait records whether the daemon waits for the client from now on. It reports whether the
// client still has its place.
func (s *seat) wait(waiting bool) bool {
	now := time.Now()
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	s.waiting, s.since = waiting, now
	return !s.dropped
}

// leave frees the place. It reports whether the client still had it.
func (s *seat) leave() bool {
	s.lane.mu.Lock()
	defer s.lane.mu.Unlock()
	s.lane.remove(s)
	select {
	case s.lane.left <- struct{}{}:
	default:
	}
	return !s.dropped
}
