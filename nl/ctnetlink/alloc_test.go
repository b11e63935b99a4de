package ctnetlink

import (
	"context"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"

	"golang.org/x/sys/unix"
)

// TestStreamAllocations checks that dumps, batches and events cause no allocation per flow,
// only initial ones for buffers and goroutines. One allocation per flow would be 1.
func TestStreamAllocations(t *testing.T) {
	ns := netnstest.New(t, "allocs")
	// Otherwise flows that are created before a process listens have no events.
	ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
	c := dialIn(t, ns)
	const (
		n    = 10_000
		most = 0.1
	)
	create(t, c, n, tcpFlow)
	check := func(what string, work func()) {
		t.Helper()
		if per := testing.AllocsPerRun(3, work) / n; per > most {
			t.Errorf("%s: %.3f allocations a flow, want at most %v", what, per, most)
		}
	}
	check("dump", func() {
		if got := count(t, c, Dump{}); got != n {
			t.Fatalf("%d flows, want %d", got, n)
		}
	})

	mark := uint32(1)
	update := func() {
		mark++
		remark(t, c, n, mark)
	}
	check("batches", update)

	s := subscribeIn(t, ns, EventOptions{Groups: GroupFlowUpdate})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var events *Events
	var f Flow
	seen := 0
	decode := func(m *nl.Message, _ time.Time) error {
		seen++
		return f.Decode(m.Attrs)
	}
	check("batches and their events", func() {
		update()
		for seen = 0; seen < n; {
			var err error
			if events, err = s.Next(ctx, events); err != nil {
				t.Fatal(err)
			}
			if err = events.Each(decode); err != nil {
				t.Fatal(err)
			}
			if events.Dropped != 0 {
				t.Fatalf("%d events dropped", events.Dropped)
			}
		}
	})
}

// remark sets a mark of the first n flows, with an answer for each.
func remark(t *testing.T, c *nl.Conn, n int, mark uint32) {
	t.Helper()
	answers := 0
	var got Flow
	p := c.NewPipeline(context.Background(), func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			return f.Err
		}
		return b.Answers(func(_ int, m *nl.Message) error {
			answers++
			return got.Decode(m.Attrs)
		})
	})
	b, err := p.Batch()
	var f, ask Flow
	for i := 0; i < n && err == nil; i++ {
		ask = tcpFlow(i)
		f = Flow{Orig: ask.Orig, Has: HasMark, Mark: mark}
		ask.Has = 0
		b.Add(nl.Request{Type: TypeFlowNew, Flags: unix.NLM_F_CREATE, Family: nl.FamilyIPv4, Attrs: f.Append})
		b.Add(nl.Request{Type: TypeFlowGet, Family: nl.FamilyIPv4, Attrs: ask.Append})
		if b.Full() {
			if err = p.Submit(b); err == nil {
				b, err = p.Batch()
			}
		}
	}
	if err == nil {
		err = p.Submit(b)
	}
	if end := p.Close(); err == nil {
		err = end
	}
	if err != nil || answers != n {
		t.Fatalf("%d of %d flows marked: %v", answers, n, err)
	}
}
