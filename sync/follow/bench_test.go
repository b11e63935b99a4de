package follow

import (
	"log/slog"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// life is the events of flows that begin and end.
type life struct {
	*Follower
	begin, end []nl.Message
}

func newLife(count int) *life {
	side := cache.NewSide(cache.Config{})
	l := &life{Follower: New(sched.New(func() {}, func(string, error) {}), daemonlog.Log{Logger: slog.New(slog.DiscardHandler)},
		Config{General: &conf.General{}, Cache: side, Announcer: Local{side}})}
	for _, f := range flowtest.Flows(count) {
		attrs := f.Append(nil)
		l.begin = append(l.begin, nl.Message{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Attrs: attrs})
		l.end = append(l.end, nl.Message{Type: ctnetlink.TypeFlowDelete, Attrs: attrs})
	}
	return l
}

func (l *life) run() {
	for i := range l.begin {
		l.flowEvent(&l.begin[i], time.Time{})
	}
	for i := range l.end {
		l.flowEvent(&l.end[i], time.Time{})
	}
}

// Following a flow from its begin to its end allocates nothing.
func TestFollowingAllocatesNothing(t *testing.T) {
	l := newLife(1000)
	l.run()
	if got := l.cache.Flows.Stats(); got.Created != 1000 || got.Destroyed != 1000 {
		t.Fatalf("the events were not followed: %+v", got)
	}
	if n := testing.AllocsPerRun(5, l.run); n > 0 {
		t.Errorf("%v allocations for 1,000 flows", n)
	}
}

// BenchmarkFollow measures the begin and the end of a flow, from the event's attributes to
// the cache.
func BenchmarkFollow(b *testing.B) {
	l := newLife(1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at := i % len(l.begin)
		l.flowEvent(&l.begin[at], time.Time{})
		l.flowEvent(&l.end[at], time.Time{})
	}
}
