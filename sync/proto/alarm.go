package proto

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"ctbox/sync/wire"
)

// Alarm is the mode ALARM: every object is told again and again, and what a node
// has not heard of for a while it forgets. There are no control messages. Any
// number of nodes may share a group (sheet section 10).
//
// The times are kept by the owner's caches: an internal object is to be Changed
// again after RefreshDelay, an external one removed after the CacheTimeout of
// the configuration.
type Alarm struct {
	queues
	seq     wire.Seq
	refresh time.Duration
	random  *rand.Rand
}

// NewAlarm returns an ALARM machine. first is its first sequence number, the time
// of day in seconds; refresh the RefreshTime of the configuration, at least a
// second; seed makes its delays repeatable.
func NewAlarm(first wire.Seq, refresh time.Duration, seed uint64) *Alarm {
	m := &Alarm{seq: first, refresh: refresh, random: rand.New(rand.NewPCG(seed, uint64(first)))}
	m.init()
	return m
}

// SetRefresh changes RefreshTime, at least a second, for the delays from now on.
func (m *Alarm) SetRefresh(d time.Duration) { m.refresh = d }

// RefreshDelay is when to tell an object again that was inserted, updated or told
// just now: 1 to RefreshTime seconds and a random fraction, so that a table that
// was filled at once is not told again at once.
func (m *Alarm) RefreshDelay() time.Duration {
	seconds := m.random.Int64N(int64(m.refresh/time.Second)) + 1
	fifths := m.random.Int64N(5) + 1
	return time.Duration(seconds)*time.Second + time.Duration(fifths)*200*time.Millisecond - time.Microsecond
}

// SetIncomplete implements Machine. The mode has no message for it.
func (m *Alarm) SetIncomplete(time.Duration, uint32) {}

// Withheld implements Machine.
func (m *Alarm) Withheld(Object) { m.seq-- }

// RequestResync implements Machine: there is nothing to ask for.
func (m *Alarm) RequestResync(time.Duration) {}

// BeginBulk implements Machine: everything is told by and by anyway.
func (m *Alarm) BeginBulk(time.Duration) bool { return false }

// Bulk implements Machine.
func (m *Alarm) Bulk(Object) {}

// EndBulk implements Machine.
func (m *Alarm) EndBulk() {}

// Receive implements Machine. Whatever has a flag is taken for a control message
// and ignored.
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
func (m *Alarm) Deadline() time.Duration { return None }

// Next implements Machine.
func (m *Alarm) Next() (Send, bool) {
	i, e, ok := m.pop(&m.transmit)
	if !ok {
		return Send{}, false
	}
	s := Send{Header: wire.Header{Seq: m.seq}, Object: m.named(i, e)}
	m.seq++
	m.done(i, e)
	return s, true
}

// Sent implements Machine.
func (m *Alarm) Sent(time.Duration) {}

// Stats implements Machine.
func (m *Alarm) Stats() Stats { return Stats{Transmit: m.transmit.len} }
