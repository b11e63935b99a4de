package node

import (
	"cmp"
	"context"
	"errors"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"

	"golang.org/x/sys/unix"
)

// refill says how the kernel's tables are merged into the internal caches.
type refill struct {
	tables Tables
	// send has what turns out to be new or changed replicated; without it the
	// caches change and nobody is told. What turns out to be gone always is: once it
	// has left the cache, nothing would remind of it.
	send bool
	// all has also what did not change replicated: polling is the only way that
	// its peers learn of it.
	all bool
	// sweep removes what the kernel no longer has. A DESTROY event that was lost
	// would leave its flow in the caches of both nodes for ever.
	sweep bool
	// routine says that nothing is repaired and nobody has asked: the start's and
	// polling's, which do not count as resynchronisations.
	routine bool
}

// count counts a table that is read.
func (r *refill) count(k *KernelStatus) {
	if !r.routine {
		k.Resyncs++
	}
}

// Refill merges the kernel's tables into the internal caches (-R).
func (n *Node) Refill(ctx context.Context, tables Tables) error {
	if n.mode == ModeNone {
		return ErrUnsupported
	}
	result := make(chan error, 1)
	var refused error
	if err := n.do(ctx, func() {
		if !n.expectSync {
			if tables == Expects {
				refused = ErrUnsupported
				return
			}
			tables &^= Expects
		}
		if n.internal.flows == nil {
			n.notice("resync is unsupported in this mode")
			refused = ErrUnsupported
			return
		}
		if tables&Flows != 0 {
			n.notice("resync with master conntrack table")
		}
		if tables&Expects != 0 {
			n.notice("resync with master expect table")
		}
		n.startRefill(refill{tables: tables, sweep: true}, func(err error) { result <- err })
	}); err != nil {
		return err
	}
	if refused != nil {
		return refused
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.stopped:
		return ErrStopped
	}
}

// startRefill begins a refill. The loop must call it.
func (n *Node) startRefill(r refill, ended func(error)) {
	if n.refilling {
		// One at a time: two sweeps would take each other's marks away. The one
		// under way began before this request, so another must follow.
		n.refillNext = append(n.refillNext, func() { n.startRefill(r, ended) })
		return
	}
	n.refilling = true
	n.run(TaskAny, "resynchronisation with the kernel", func(ctx context.Context, t *task) error {
		return n.refill(ctx, t, r)
	}, func(err error) {
		n.refilling = false
		if ended != nil {
			ended(err)
		}
		if len(n.refillNext) > 0 {
			next := n.refillNext[0]
			n.refillNext = n.refillNext[1:]
			next()
		}
	})
}

// refillRetry is after how long tables that could not be read are read again.
const refillRetry = 10 * time.Second

// retryRefill is for the end of a refill that nobody would ask for again: what it was
// to repair would stay as it is until something else goes wrong.
func (n *Node) retryRefill(err error) {
	if err != nil && n.timers.resync == 0 {
		n.timers.resync = n.clock() + refillRetry
	}
}

// refill runs beside the loop.
func (n *Node) refill(ctx context.Context, t *task, r refill) error {
	if r.tables&Flows != 0 {
		if err := n.refillFlows(ctx, t, r); err != nil {
			return err
		}
	}
	if r.tables&Expects != 0 {
		return n.refillExpects(ctx, t, r)
	}
	return nil
}

func (n *Node) refillFlows(ctx context.Context, t *task, r refill) error {
	table := n.internal.flows
	if err := n.do(ctx, func() { r.count(&n.kernel); table.BeginSweep(); n.beginDump() }); err != nil {
		return err
	}
	info, err := dump(ctx, n, t, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) { n.dumped(f, r) })
	err = errors.Join(err, n.do(ctx, n.endDump))
	if err != nil || !r.sweep || info.Interrupted {
		return err
	}
	return n.sweepFlows(ctx)
}

// maxBuried and maxTouched bound the memory for what ends and changes during a dump.
const (
	maxBuried  = 1 << 18
	maxTouched = 1 << 18
)

// beginDump and endDump enclose a dump of flows. What it shows is a little older
// than what the events have told by then: a flow that ended in between would come
// back, one that changed would change back, and nobody would ever tell of it again.
func (n *Node) beginDump() {
	n.buried = map[uint32]struct{}{}
	n.touched = map[cache.Handle]ctnetlink.Attr{}
	n.buriedExpects = map[expectKey]struct{}{}
}

func (n *Node) endDump() { n.buried, n.touched, n.buriedExpects = nil, nil, nil }

// touch notes the attributes that an event has told. An event has some only.
func (n *Node) touch(h cache.Handle, f *ctnetlink.Flow) {
	if n.touched != nil && len(n.touched) < maxTouched {
		n.touched[h] |= f.Has
	}
}

// bury notes the end of a flow, and born that its id may be another's now.
func (n *Node) bury(f *ctnetlink.Flow) {
	if n.buried != nil && f.Has&ctnetlink.HasID != 0 && len(n.buried) < maxBuried {
		n.buried[f.ID] = struct{}{}
	}
}

func (n *Node) born(f *ctnetlink.Flow) {
	if n.buried != nil && f.Has&ctnetlink.HasID != 0 {
		delete(n.buried, f.ID)
	}
}

// expectKey tells expectations apart, which have no id.
type expectKey struct {
	tuple, mask ctnetlink.Tuple
	zone        uint16
}

func keyOfExpect(e *ctnetlink.Expect) expectKey { return expectKey{e.Tuple, e.Mask, e.Zone} }

func (n *Node) buryExpect(e *ctnetlink.Expect) {
	if n.buriedExpects != nil && len(n.buriedExpects) < maxBuried {
		n.buriedExpects[keyOfExpect(e)] = struct{}{}
	}
}

func (n *Node) bornExpect(e *ctnetlink.Expect) {
	if n.buriedExpects != nil {
		delete(n.buriedExpects, keyOfExpect(e))
	}
}

// dumpedExpect merges an expectation of a dump into the internal cache.
func (n *Node) dumpedExpect(e *ctnetlink.Expect, r refill) {
	if _, ended := n.buriedExpects[keyOfExpect(e)]; ended || !n.wantsExpect(e) {
		return
	}
	n.makeRoom(n.internal.expects)
	h, outcome := n.internal.expects.Put(e, n.clock())
	n.tellExpect(h, stored(outcome), r.send && (r.all || outcome != cache.Unchanged))
}

// dumped merges an entry of a dump into the internal cache.
func (n *Node) dumped(f *ctnetlink.Flow, r refill) {
	if why := incomplete(f); why != "" {
		n.kernel.UnknownDumps++
		return
	}
	if !n.filter.passes(f, false) {
		return
	}
	if _, ended := n.buried[f.ID]; ended && f.Has&ctnetlink.HasID != 0 {
		return
	}
	f.Has &^= ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply | ctnetlink.HasUse
	if len(n.touched) > 0 {
		f.Has &^= n.touched[n.internal.flows.Find(f)] &^ ctnetlink.HasID
	}
	n.makeRoom(n.internal.flows)
	h, outcome := n.internal.flows.Put(f, n.clock())
	n.tellFlow(h, stored(outcome), r.send && (r.all || outcome != cache.Unchanged))
}

// swept removes flows that the kernel did not have when it was asked, but for
// those that it has told of since.
func (n *Node) swept(gone []cache.Handle) {
	for _, h := range gone {
		if !n.internal.flows.Unseen(h) {
			continue
		}
		if n.ended != nil && n.internal.flows.Load(h, &n.known) {
			n.ended(&n.known)
		}
		n.goneFlow(h, true)
	}
}

// stored reports whether an insertion left an object behind.
func stored(o cache.Outcome) bool { return o < cache.Full }

// sweepLen is how many flows the kernel is asked about at once: their answers must
// fit into the socket's buffer, which may be small without privileges.
const sweepLen = 32

// sweepFlows asks the kernel about every flow that the dump did not show, and
// removes those that it does not have.
func (n *Node) sweepFlows(ctx context.Context) error {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	table := n.internal.flows
	var cur cache.Cursor
	handles := make([]cache.Handle, sweepLen)
	flows := make([]ctnetlink.Flow, sweepLen)
	gone := make([]cache.Handle, 0, sweepLen)
	p := c.NewPipeline(ctx, func(b *nl.Batch) error {
		unseen := b.Tag.([]cache.Handle)
		for _, f := range b.Failures() {
			if errors.Is(f.Err, unix.ENOENT) {
				gone = append(gone, unseen[f.Index])
			}
		}
		return nil
	})
	for more := true; more && err == nil; {
		got := 0
		if err = n.do(ctx, func() {
			got, more = table.NextUnseen(&cur, handles)
			for i, h := range handles[:got] {
				table.Load(h, &flows[i])
			}
		}); err != nil || got == 0 {
			continue
		}
		var b *nl.Batch
		if b, err = p.Batch(); err != nil {
			break
		}
		unseen, _ := b.Tag.([]cache.Handle)
		b.Tag = append(unseen[:0], handles[:got]...)
		for i := range flows[:got] {
			var ask ctnetlink.Flow
			key(&ask, &flows[i])
			b.Add(nl.Request{Type: ctnetlink.TypeFlowGet, Family: ask.Orig.Family, Attrs: ask.Append})
		}
		if err = cmp.Or(p.Submit(b), p.Drain()); err != nil {
			break
		}
		err = n.do(ctx, func() { n.swept(gone) })
		gone = gone[:0]
	}
	return cmp.Or(err, p.Close())
}

func (n *Node) refillExpects(ctx context.Context, t *task, r refill) error {
	table := n.internal.expects
	if err := n.do(ctx, func() { r.count(&n.kernel); table.BeginSweep(); n.beginDump() }); err != nil {
		return err
	}
	info, err := dump(ctx, n, t, ctnetlink.Dump{Type: ctnetlink.TypeExpectGet}, func(e *ctnetlink.Expect) { n.dumpedExpect(e, r) })
	err = errors.Join(err, n.do(ctx, n.endDump))
	if err != nil || !r.sweep || info.Interrupted {
		return err
	}
	var cur cache.Cursor
	handles := make([]cache.Handle, sliceLen)
	for more := true; more; {
		if err := n.do(ctx, func() {
			var got int
			got, more = table.NextUnseen(&cur, handles)
			for _, h := range handles[:got] {
				n.goneExpect(h, true)
			}
		}); err != nil {
			return err
		}
	}
	return nil
}
