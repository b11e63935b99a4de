package proto

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"ctbox/sync/wire"
)

// Alarm is the mode ALARM: a node announces every object periodically, and the others
// remove objects that are no longer announced. The mode has no control messages, and any
// number of nodes may share a group.
//
// The owner keeps the timers: it calls Changed for an internal object after RefreshDelay,
// and removes an external object after the CacheTimeout of the configuration.
type Alarm struct {
	queues
	seq     wire.Seq
	refresh time.Duration
	// random is Int64N of a rand.Rand, as a function: a field of that type makes the linker keep its other methods,
	// with their tables, wherever text/template is linked.
	random func(n int64) int64
}

// NewAlarm returns an ALARM machine. first is its first sequence number, the time of day
// in seconds. refresh is the RefreshTime of the configuration, at least a second. seed
// makes the random delays repeatable.
func NewAlarm(first wire.Seq, refresh time.Duration, seed uint64) *Alarm {
	m := &Alarm{seq: first, refresh: refresh, random: rand.New(rand.NewPCG(seed, uint64(first))).Int64N}
	m.init()
	return m
}

// SetRefresh changes RefreshTime, at least a second, for the delays from now on.
func (m *Alarm) SetRefresh(d time.Duration) { m.refresh = d }

// RefreshDelay returns how long after an insertion, update or announcement an object is
// announced again: 1 to RefreshTime seconds plus a random fraction, which spreads the
// announcements of objects that were inserted together.
func (m *Alarm) RefreshDelay() time.Duration {
	seconds := m.random(int64(m.refresh/time.Second)) + 1
	fifths := m.random(5) + 1
	return time.Duration(seconds)*time.Second + time.Duration(fifths)*200*time.Millisecond - time.Microsecond
}

// SetIncomplete implements Machine. The mode has no message for it.
func (m *Alarm) SetIncomplete(time.Duration, uint32) {}

// Withheld implements Machine.
func (m *Alarm) Withheld(o Object) { m.seq--; m.unsent(o) }

// RequestResync implements Machine. The mode has no such request.
func (m *Alarm) RequestResync(time.Duration) {}

// BeginBulk implements Machine. The mode needs no bulk: it announces all objects
// periodically.
func (m *Alarm) BeginBulk(time.Duration) bool { return false }

// Bulk implements Machine.
func (m *Alarm) Bulk(Object) {}

// EndBulk implements Machine.
func (m *Alarm) EndBulk() {}

// Receive implements Receiver. It ignores messages with a flag, which are control messages
// of other modes.
func (m *Alarm) Receive(_ time.Duration, _ int, _ netip.Addr, h wire.Header) (Verdict, Events) {
	switch {
	case h.Flags != 0:
		return Handled, 0
	case h.Kind() != wire.KindData:
		return BadType, 0
	}
	return Apply, 0
}

// Tick implements Machine.
func (m *Alarm) Tick(time.Duration) Events { return 0 }

// Deadline implements Machine.
func (m *Alarm) Deadline() time.Duration { return m.waitDeadline() }

// Next implements Machine.
func (m *Alarm) Next() (Send, bool) {
	i, e, ok := m.pop(&m.transmit)
	if !ok {
		return Send{}, false
	}
	s := Send{Header: wire.Header{Seq: m.seq}, Object: m.named(i, e)}
	m.seq++
	e.held = !e.dead
	m.done(i, e)
	return s, true
}

// Sent implements Machine.
func (m *Alarm) Sent(time.Duration) {}

// Stats implements Machine.
func (m *Alarm) Stats() Stats { return Stats{Transmit: m.transmit.len, Waiting: m.waitingLen()} }
