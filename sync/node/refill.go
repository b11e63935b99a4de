package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"

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
	// look has flows noted that no event has named, see silent.go.
	look bool
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
	if err := n.sched.Do(ctx, func() {
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
	case <-n.sched.Stopped():
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
	n.run(sched.KindAny, "resynchronisation with the kernel", func(ctx context.Context, t *sched.Task) error {
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
	if err != nil && !n.timers.resync.Pending() {
		n.timers.resync.After(refillRetry)
	}
}

// refill runs beside the loop.
func (n *Node) refill(ctx context.Context, t *sched.Task, r refill) error {
	var missing, lost uint64
	if err := n.sched.Do(ctx, func() { missing, lost = n.kernel.Missing, n.kernel.Lost }); err != nil {
		return err
	}
	whole := r.sweep
	for _, table := range []struct {
		is     Tables
		refill func(context.Context, *sched.Task, refill) (whole bool, err error)
	}{{Flows, n.refillFlows}, {Expects, n.refillExpects}} {
		if r.tables&table.is == 0 {
			whole = whole && n.expectTables()&table.is == 0 && table.is != Flows
			continue
		}
		read, err := table.refill(ctx, t, r)
		if err != nil {
			return err
		}
		whole = whole && read
	}
	return n.sched.Do(ctx, func() {
		if whole {
			n.madeUp(missing)
		}
		switch {
		case !r.send && n.kernel.Lost != lost:
			// What this reading has found by then was not replicated, and the next
			// one does not find it any more.
			n.untold = true
		case whole && r.all:
			n.untold = false
		}
	})
}

// mostReadings is how often a table is read in a row that changes so that a reading is
// interrupted.
const mostReadings = 5

// readWhole reads a table again until the kernel does not say of a reading that it may
// have hidden or doubled entries. It reports whether it came to that.
func readWhole(read func() (nl.DumpInfo, error)) (whole bool, err error) {
	for range mostReadings {
		info, err := read()
		if err != nil || !info.Interrupted {
			return err == nil, err
		}
	}
	return false, nil
}

// readTable reads a table of the kernel's for a refill and has each called for its
// entries in the loop. What it could not find out another reading is to.
func readTable[T any, P decoded[T]](ctx context.Context, n *Node, t *sched.Task, r refill, typ nl.Type, begin func(), each func(P)) (whole bool, err error) {
	whole, err = readWhole(func() (nl.DumpInfo, error) {
		if err := n.sched.Do(ctx, func() { r.count(&n.kernel); begin(); n.beginDump() }); err != nil {
			return nl.DumpInfo{}, err
		}
		info, err := dump(ctx, n, t, ctnetlink.Dump{Type: typ}, each)
		return info, errors.Join(err, n.sched.Do(ctx, n.endDump))
	})
	if err == nil && !whole {
		err = n.sched.Do(ctx, func() {
			n.log.Warn(fmt.Sprintf("the kernel interrupted %d readings of its table in a row; it will be read again", mostReadings))
			n.scheduleResync(n.resyncDelay())
		})
	}
	return whole, err
}

func (n *Node) refillFlows(ctx context.Context, t *sched.Task, r refill) (whole bool, err error) {
	whole, err = readTable(ctx, n, t, r, ctnetlink.TypeFlowGet, n.internal.flows.BeginSweep, func(f *ctnetlink.Flow) { n.dumped(f, r) })
	if err != nil || !whole || !r.sweep {
		return whole, err
	}
	return whole, n.sweepFlows(ctx)
}

// maxBuried and maxTouched bound the memory for what ends and changes during a dump.
const (
	maxBuried  = 1 << 18
	maxTouched = 1 << 18
)

// ends is what events tell while a table is dumped. What the dump shows is a little
// older: a flow that ended in between would come back, one that changed would change
// back, and no event would ever correct that.
type ends struct {
	flows   map[endedKey]struct{}
	expects map[expectKey]struct{}
	touched map[cache.Handle]ctnetlink.Attr // the attributes that events have told
	full    bool                            // something was left out for want of room
}

// endedKey tells flows apart, also those that have the same tuple one after the other.
// The kernel's id alone is a hash of 32 bits, which two flows may have.
type endedKey struct {
	orig ctnetlink.Tuple
	zone uint16
	id   uint32
}

func keyOfEnded(f *ctnetlink.Flow) endedKey {
	k := endedKey{orig: f.Orig, id: f.ID}
	if f.Has&ctnetlink.HasZone != 0 {
		k.zone = f.Zone
	}
	return k
}

// beginDump and endDump enclose a dump.
func (n *Node) beginDump() {
	n.ends = &ends{map[endedKey]struct{}{}, map[expectKey]struct{}{}, map[cache.Handle]ctnetlink.Attr{}, false}
}

func (n *Node) endDump() {
	if n.ends.full {
		n.notice("too many flows ended or changed while the kernel's table was read; it will be read again")
		n.scheduleResync(n.resyncDelay())
	}
	n.ends = nil
}

// resyncDelay is the delay of readings that have to be also with NetlinkOverrunResync
// off.
func (n *Node) resyncDelay() time.Duration {
	return cmp.Or(n.cfg.General.NetlinkOverrunResync, usualResync)
}

// touch notes the attributes that an event has told. An event has some only.
func (n *Node) touch(h cache.Handle, f *ctnetlink.Flow) {
	if n.ends == nil {
		return
	}
	before, known := n.ends.touched[h]
	if !known && len(n.ends.touched) >= maxTouched {
		n.ends.full = true
		return
	}
	n.ends.touched[h] = before | f.Has
}

// bury notes the end of a flow, and born that another one may have its place in the
// kernel's memory now, and so its id.
func (n *Node) bury(f *ctnetlink.Flow) {
	switch {
	case n.ends == nil || f.Has&ctnetlink.HasID == 0:
	case len(n.ends.flows) < maxBuried:
		n.ends.flows[keyOfEnded(f)] = struct{}{}
	default:
		n.ends.full = true
	}
}

func (n *Node) born(f *ctnetlink.Flow) {
	if n.ends != nil && len(n.ends.flows) > 0 && f.Has&ctnetlink.HasID != 0 {
		delete(n.ends.flows, keyOfEnded(f))
	}
}

// buried reports whether an event has told the end of a flow that a dump shows.
func (n *Node) buried(f *ctnetlink.Flow) bool {
	if n.ends == nil || len(n.ends.flows) == 0 || f.Has&ctnetlink.HasID == 0 {
		return false
	}
	_, ended := n.ends.flows[keyOfEnded(f)]
	return ended
}

// expectKey tells expectations apart, which have no id.
type expectKey struct {
	tuple, mask ctnetlink.Tuple
	zone        uint16
}

func keyOfExpect(e *ctnetlink.Expect) expectKey { return expectKey{e.Tuple, e.Mask, e.Zone} }

func (n *Node) buryExpect(e *ctnetlink.Expect) {
	switch {
	case n.ends == nil:
	case len(n.ends.expects) < maxBuried:
		n.ends.expects[keyOfExpect(e)] = struct{}{}
	default:
		n.ends.full = true
	}
}

func (n *Node) bornExpect(e *ctnetlink.Expect) {
	if n.ends != nil {
		delete(n.ends.expects, keyOfExpect(e))
	}
}

func (n *Node) buriedExpect(e *ctnetlink.Expect) bool {
	if n.ends == nil {
		return false
	}
	_, ended := n.ends.expects[keyOfExpect(e)]
	return ended
}

// sends reports whether what a reading has found is replicated. While events are missing
// it is in any case: a later reading, which would send it, does not find it any more.
func (n *Node) sends(r refill, outcome cache.Outcome) bool {
	return (r.send || n.kernel.Missing > 0) && (r.all || outcome != cache.Unchanged)
}

// dumpedExpect merges an expectation of a dump into the internal cache.
func (n *Node) dumpedExpect(e *ctnetlink.Expect, r refill) {
	if n.buriedExpect(e) || !n.wantsExpect(e) {
		return
	}
	n.makeRoom(n.internal.expects)
	h, outcome := n.internal.expects.Put(e, n.sched.Now())
	n.tellExpect(h, stored(outcome), n.sends(r, outcome))
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
	if n.buried(f) {
		return
	}
	f.Has &^= ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply | ctnetlink.HasUse
	if n.ends != nil && len(n.ends.touched) > 0 {
		f.Has &^= n.ends.touched[n.internal.flows.Find(f)] &^ ctnetlink.HasID
	}
	n.makeRoom(n.internal.flows)
	h, outcome := n.internal.flows.Put(f, n.sched.Now())
	if r.look && outcome == cache.Created {
		n.found(h)
	}
	if outcome == cache.Created || outcome == cache.Replaced {
		n.beganHere(h)
	}
	n.tellFlow(h, stored(outcome), n.sends(r, outcome))
}

// swept removes flows that the kernel did not have when it was asked, except those
// that an event has named since.
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
		if err = n.sched.Do(ctx, func() {
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
		err = n.sched.Do(ctx, func() { n.swept(gone) })
		gone = gone[:0]
	}
	return cmp.Or(err, p.Close())
}

func (n *Node) refillExpects(ctx context.Context, t *sched.Task, r refill) (whole bool, err error) {
	table := n.internal.expects
	whole, err = readTable(ctx, n, t, r, ctnetlink.TypeExpectGet, table.BeginSweep, func(e *ctnetlink.Expect) { n.dumpedExpect(e, r) })
	if err != nil || !whole || !r.sweep {
		return whole, err
	}
	var cur cache.Cursor
	handles := make([]cache.Handle, sliceLen)
	for more := true; more; {
		if err := n.sched.Do(ctx, func() {
			var got int
			got, more = table.NextUnseen(&cur, handles)
			for _, h := range handles[:got] {
				n.goneExpect(h, true)
			}
		}); err != nil {
			return false, err
		}
	}
	return true, nil
}
