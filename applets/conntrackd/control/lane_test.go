package control

import (
	"testing"
	"time"
)

// parted is a connection that records whether it was closed.
type parted struct{ closed bool }

func (p *parted) Close() error {
	p.closed = true
	return nil
}

// A full lane drops the client that has kept the daemon waiting longest, but not one for which
// the daemon works or whose grace has not passed.
func TestLane(t *testing.T) {
	dropped := 0
	l := newLane(3, time.Second, func() { dropped++ })
	begin := time.Now()
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	enter := func(waiting bool, ms int) (*seat, *parted, time.Duration) {
		conn := &parted{}
		s, delay := l.tryEnter(conn, waiting, at(ms))
		return s, conn, delay
	}
	worked, workedConn, _ := enter(false, 0)
	first, firstConn, _ := enter(true, 0)
	second, secondConn, _ := enter(true, 950)
	if s, _, delay := enter(true, 960); s != nil || delay != 40*time.Millisecond {
		t.Errorf("in the grace of all: %v, %v", s, delay)
	}
	third, thirdConn, _ := enter(false, 1000)
	if third == nil || !firstConn.closed || dropped != 1 {
		t.Fatalf("the one that had waited longest has %+v", first)
	}
	if first.wait(false) || first.leave() {
		t.Error("it still has its place")
	}
	if s, _, delay := enter(false, 1100); s != nil || delay != recheck {
		t.Errorf("then the other was %v too short: %v", delay, s)
	}
	if !worked.leave() {
		t.Error("one that was worked for had lost its place")
	}
	if s, _, _ := enter(true, 1100); s == nil || secondConn.closed {
		t.Errorf("a place that was left: %v", s)
	}
	if s, _, _ := enter(true, 1950); s == nil || !secondConn.closed {
		t.Errorf("after its grace: %v", s)
	}
	if workedConn.closed || thirdConn.closed || dropped != 2 || !second.dropped {
		t.Errorf("%d dropped", dropped)
	}
	if len(l.seats) != l.most {
		t.Errorf("%d seats", len(l.seats))
	}
}
