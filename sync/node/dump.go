package node

import (
	"context"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/follow"
	"ctbox/sync/replicate"
	"ctbox/sync/sched"
)

// Dump calls each for every object of one table of one cache, in the caller's goroutine,
// reading the cache in slices. An object that is there from beginning to end is handed out
// exactly once; one that comes or goes meanwhile may be or not. each may block for as long as
// it likes, and nothing waits for it. An error from each ends the dump and is returned.
//
// owner is the number of the peer whose entries of the external cache are handed out, 0 for all
// peers. If there is no such peer the error is ErrUnsupported. Where flows have owners a flow of the
// external cache is handed out once, as its owner has announced it, and not if this node owns it.
func (n *Node) Dump(ctx context.Context, which Cache, table cache.Tables, owner uint8, each func(*Entry) error) error {
	live := which == Internal && n.internal.Flows == nil && n.replicator != nil && owner == 0
	if table == cache.ExpectTable && !n.expectSync {
		return ErrUnsupported
	}
	var t *sched.Task
	var from []replicate.Copy
	if err := n.sched.Do(ctx, func() {
		t = n.sched.Register(sched.KindAny)
		from = n.dumped(which, owner)
	}); err != nil {
		return err
	}
	defer n.sched.Do(context.WithoutCancel(ctx), func() { n.sched.Unregister(t) })
	switch {
	case live && table == cache.ExpectTable:
		return n.dumpLiveExpects(ctx, each)
	case live:
		return n.dumpLiveFlows(ctx, each)
	case len(from) == 0:
		return ErrUnsupported
	}
	for _, c := range from {
		var err error
		if table == cache.ExpectTable {
			err = dumpTable(ctx, n, t, c.Side.Expects, func(_ cache.Handle, e *ctnetlink.Expect, entry *Entry) bool {
				entry.Expect, entry.Owner = e, c.Name
				return true
			}, each)
		} else {
			err = dumpTable(ctx, n, t, c.Side.Flows, func(h cache.Handle, f *ctnetlink.Flow, entry *Entry) bool {
				entry.Flow, entry.Owner = f, c.Name
				if which == Internal && n.replicator != nil {
					entry.Owner = n.replicator.Owner(f)
				}
				return which == Internal || n.replicator.Shows(c.Node, h, f)
			}, each)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dumped returns the tables that a dump walks, with the names of their owners where there are several
// peers.
func (n *Node) dumped(which Cache, owner uint8) (from []replicate.Copy) {
	if which == Internal {
		if n.internal.Flows != nil && owner == 0 {
			from = []replicate.Copy{{Side: n.internal}}
		}
		return from
	}
	all := n.copies()
	for _, c := range all {
		if len(all) == 1 && owner == 0 {
			c.Name = ""
		}
		if owner == 0 || owner == c.Node {
			from = append(from, c)
		}
	}
	return from
}

// sliceLen is how many entries are copied at once with the lock held.
const sliceLen = 256

// table is what Dump needs of a cache's table of T.
type table[T any] interface {
	Next(c *cache.Cursor, batch []cache.Handle) (n int, more bool)
	Load(h cache.Handle, into *T) bool
	Times(h cache.Handle) (created, updated time.Duration, ok bool)
	Deadline(h cache.Handle) (at time.Duration, ok bool)
}

// dumpTable copies slices out of the table in the loop and hands them out beside
// it. set, which is called with the lock held, completes an entry and reports whether it is handed out.
func dumpTable[T any](ctx context.Context, n *Node, t *sched.Task, from table[T], set func(cache.Handle, *T, *Entry) bool, each func(*Entry) error) error {
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
				if n.mode == ModeALARM && any(from) != any(n.internal.Flows) && any(from) != any(n.internal.Expects) {
					at, ok := from.Deadline(h)
					e.Expires, e.ExpiresIn = ok, at-now
				}
				if set(h, &objects[filled], e) {
					filled++
				}
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
	return n.dumpLive(ctx, ctnetlink.TypeFlowGet, func(m *nl.Message, filter *follow.Filter) error {
		if err := f.Decode(m.Attrs); err != nil {
			return err
		}
		if follow.Incomplete(&f) != "" || !filter.Passes(&f, false) {
			return nil
		}
		return each(&Entry{Flow: &f, Live: true})
	})
}

func (n *Node) dumpLiveExpects(ctx context.Context, each func(*Entry) error) error {
	var e ctnetlink.Expect
	return n.dumpLive(ctx, ctnetlink.TypeExpectGet, func(m *nl.Message, filter *follow.Filter) error {
		if err := e.Decode(m.Attrs); err != nil {
			return err
		}
		if !filter.PassesExpect(&e) {
			return nil
		}
		return each(&Entry{Expect: &e, Live: true})
	})
}

// dumpLive calls each, beside the loop, with the messages of a table and the filter
// of the moment.
func (n *Node) dumpLive(ctx context.Context, table nl.Type, each func(*nl.Message, *follow.Filter) error) error {
	var filter *follow.Filter
	if err := n.sched.Do(ctx, func() { filter = n.follower.Filter() }); err != nil {
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
