package node

import (
	"context"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
	"ctbox/sync/cache"
	"ctbox/sync/sched"
)

// Dump calls each for every object of one table of one cache, in the caller's
// goroutine. control.go has the contract.
func (n *Node) Dump(ctx context.Context, which Cache, table Tables, each func(*Entry) error) error {
	side := &n.internal
	if which == External {
		side = &n.external
	}
	// The tables are made with the node and stay, so that asking which there
	// are needs no turn of the loop.
	live := which == Internal && n.bypass
	if table == Expects && !n.expectSync ||
		!live && (table == Expects && side.expects == nil || table == Flows && side.flows == nil) {
		return ErrUnsupported
	}
	var t *sched.Task
	if err := n.sched.Do(ctx, func() { t = n.sched.Register(sched.KindAny) }); err != nil {
		return err
	}
	defer n.sched.Do(context.WithoutCancel(ctx), func() { n.sched.Unregister(t) })
	switch {
	case live && table == Expects:
		return n.dumpLiveExpects(ctx, each)
	case live:
		return n.dumpLiveFlows(ctx, each)
	case table == Expects:
		return dumpTable(ctx, n, t, side.expects, func(e *ctnetlink.Expect, entry *Entry) { entry.Expect = e }, each)
	}
	return dumpTable(ctx, n, t, side.flows, func(f *ctnetlink.Flow, entry *Entry) { entry.Flow = f }, each)
}

// table is what Dump needs of a cache's table of T.
type table[T any] interface {
	Next(c *cache.Cursor, batch []cache.Handle) (n int, more bool)
	Load(h cache.Handle, into *T) bool
	Times(h cache.Handle) (created, updated time.Duration, ok bool)
	Deadline(h cache.Handle) (at time.Duration, ok bool)
}

// dumpTable copies slices out of the table in the loop and hands them out beside
// it.
func dumpTable[T any](ctx context.Context, n *Node, t *sched.Task, from table[T], set func(*T, *Entry), each func(*Entry) error) error {
	handles := make([]cache.Handle, sliceLen)
	objects := make([]T, sliceLen)
	entries := make([]Entry, sliceLen)
	var cur cache.Cursor
	for more := true; more; {
		filled := 0
		if err := n.sched.Do(ctx, func() {
			var got int
			got, more = from.Next(&cur, handles)
			now := n.sched.Now()
			for _, h := range handles[:got] {
				if !from.Load(h, &objects[filled]) {
					continue
				}
				created, _, _ := from.Times(h)
				e := &entries[filled]
				*e = Entry{ActiveSince: now - created}
				if n.alarm != nil && any(from) != any(n.internal.flows) && any(from) != any(n.internal.expects) {
					at, ok := from.Deadline(h)
					e.Expires, e.ExpiresIn = ok, at-now
				}
				set(&objects[filled], e)
				filled++
			}
			t.Done += uint64(filled)
		}); err != nil {
			return err
		}
		for i := range entries[:filled] {
			if err := each(&entries[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// dumpLiveFlows and dumpLiveExpects hand out the kernel's tables where there is no
// internal cache.
func (n *Node) dumpLiveFlows(ctx context.Context, each func(*Entry) error) error {
	var f ctnetlink.Flow
	return n.dumpLive(ctx, ctnetlink.TypeFlowGet, func(m *nl.Message, filter *filter) error {
		if err := f.Decode(m.Attrs); err != nil {
			return err
		}
		if incomplete(&f) != "" || !filter.passes(&f, false) {
			return nil
		}
		return each(&Entry{Flow: &f, Live: true})
	})
}

func (n *Node) dumpLiveExpects(ctx context.Context, each func(*Entry) error) error {
	var e ctnetlink.Expect
	return n.dumpLive(ctx, ctnetlink.TypeExpectGet, func(m *nl.Message, filter *filter) error {
		if err := e.Decode(m.Attrs); err != nil {
			return err
		}
		if !filter.passesExpect(&e) {
			return nil
		}
		return each(&Entry{Expect: &e, Live: true})
	})
}

// dumpLive calls each, beside the loop, with the messages of a table and the filter
// of the moment.
func (n *Node) dumpLive(ctx context.Context, table nl.Type, each func(*nl.Message, *filter) error) error {
	var filter *filter
	if err := n.sched.Do(ctx, func() { filter = n.filter }); err != nil {
		return err
	}
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Dump(ctx, ctnetlink.Dump{Type: table}.Request(), func(m *nl.Message) error { return each(m, filter) })
	return err
}

// appendFlowLine and appendExpectLine name an entry in the log.
func appendFlowLine(dst []byte, f *ctnetlink.Flow) []byte {
	return format.AppendFlow(dst, f, &format.Style{Now: time.Now().UnixNano()}, nil)
}

func appendExpectLine(dst []byte, e *ctnetlink.Expect) []byte {
	return format.AppendExpect(dst, e, &format.Style{}, nil)
}
