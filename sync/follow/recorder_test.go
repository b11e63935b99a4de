package follow

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"

	"golang.org/x/sys/unix"
)

// records is a Recorder that notes what is reported, as text.
type records []string

func (r *records) note(what string, f *ctnetlink.Flow, c Cause) {
	by := "table"
	switch {
	case c.Event:
		by = "event"
	case c.First:
		by = "first"
	}
	start := ""
	if f.Has&ctnetlink.HasTimestampStart != 0 {
		start = fmt.Sprint(" start ", f.TimestampStart/1e9)
	}
	*r = append(*r, fmt.Sprintf("%s %d by %s of %d%s", what, f.ID, by, c.PortID, start))
}

func (r *records) FlowBegan(f *ctnetlink.Flow, c Cause) { r.note("begin", f, c) }
func (r *records) EventsLost(n uint64)                  { *r = append(*r, fmt.Sprint("lost ", n)) }
func (r *records) FlowEnded(f *ctnetlink.Flow, c Cause, known bool) {
	r.note(map[bool]string{true: "end", false: "unknown end"}[known], f, c)
}

// A Recorder gets each begin and each end once, whatever was lost in between.
func TestRecorder(t *testing.T) {
	flow := func(id uint32) *ctnetlink.Flow {
		f := flowtest.TCP("192.0.2.1", "198.51.100.1")
		f.ID, f.Has = id, f.Has|ctnetlink.HasID
		return &f
	}
	for name, c := range map[string]struct {
		do   func(l *life)
		want records
	}{
		"life": {func(l *life) { l.began(1); l.changed(1); l.ended(1) }, records{"begin 1 by event of 5 start 7", "end 1 by event of 6 start 7"}},
		"lost end": {func(l *life) { l.began(1); l.began(2); l.ended(2) },
			records{"begin 1 by event of 5 start 7", "end 1 by table of 0 start 7", "begin 2 by event of 5 start 7", "end 2 by event of 6 start 7"}},
		"lost begin":         {func(l *life) { l.filled = true; l.changed(1); l.ended(1) }, records{"begin 1 by table of 0", "end 1 by event of 6"}},
		"lost end and begin": {func(l *life) { l.filled = true; l.began(1); l.changed(2) }, records{"begin 1 by event of 5 start 7", "end 1 by table of 0 start 7", "begin 2 by table of 0"}},
		"lost end, begin of the next one and all else": {func(l *life) { l.began(1); l.ended(2) },
			records{"begin 1 by event of 5 start 7", "end 1 by table of 0 start 7", "end 2 by event of 6 start 7"}},
		"unknown":         {func(l *life) { l.ended(1) }, records{"unknown end 1 by event of 6"}},
		"first reading":   {func(l *life) { l.mergeFlow(flow(1), refill{}); l.changed(1) }, records{"begin 1 by first of 0"}},
		"older, changes":  {func(l *life) { l.changed(1); l.mergeFlow(flow(1), refill{}) }, records{"begin 1 by first of 0"}},
		"new, then read":  {func(l *life) { l.began(1); l.mergeFlow(flow(1), refill{}) }, records{"begin 1 by event of 5 start 7"}},
		"read, then new":  {func(l *life) { l.mergeFlow(flow(1), refill{}); l.began(1) }, records{"begin 1 by first of 0"}},
		"another reading": {func(l *life) { l.filled = true; l.mergeFlow(flow(1), refill{}) }, records{"begin 1 by table of 0"}},
		"gone from the table": {func(l *life) {
			l.began(1)
			h := l.cache.Flows.Find(flow(1))
			l.cache.Flows.BeginSweep()
			l.removeUnseen([]cache.Handle{h})
		}, records{"begin 1 by event of 5 start 7", "end 1 by table of 0 start 7"}},
		"full table": {func(l *life) {
			l.cache.Flows.SetLimit(1)
			l.cache.Flows.Put(&flowtest.Flows(9)[8], 0)
			l.began(1)
			l.changed(1)
			l.ended(1)
		}, records{"begin 1 by event of 5 start 7", "unknown end 1 by event of 6"}},
		"loss": {func(l *life) { l.eventsLost(3) }, records{"lost 3"}},
	} {
		var got records
		l := newLife(0)
		l.recorder = &got
		c.do(l)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func (l *life) event(typ nl.Type, flags uint16, portID, id uint32) {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.ID, f.Has = id, f.Has|ctnetlink.HasID
	l.flowEvent(&nl.Message{Type: typ, Flags: flags, PortID: portID, Attrs: f.Append(nil)}, time.Unix(7, 0))
}

func (l *life) began(id uint32) {
	l.event(ctnetlink.TypeFlowNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 5, id)
}
func (l *life) changed(id uint32) { l.event(ctnetlink.TypeFlowNew, 0, 0, id) }
func (l *life) ended(id uint32)   { l.event(ctnetlink.TypeFlowDelete, 0, 6, id) }

// A Follower that records lives only does not receive changes.
func TestLifeOnly(t *testing.T) {
	for only, want := range map[bool]ctnetlink.Group{
		true: ctnetlink.GroupFlowNew | ctnetlink.GroupFlowDestroy, false: ctnetlink.AllFlowEvents,
	} {
		if got := unwiredWith(Config{LifeOnly: only}).groups(); got != want {
			t.Errorf("LifeOnly %v: groups %#x, want %#x", only, got, want)
		}
	}
}
