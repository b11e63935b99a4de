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
	// send replicates flows that turn out to be new or changed; without it only the
	// caches change. Flows that turn out to be gone are always replicated: once they
	// have left the cache nothing else would announce their end.
	send bool
	// all replicates unchanged flows, too: with polling peers learn of them in no other
	// way.
	all bool
	// sweep removes what the kernel no longer has. A DESTROY event that was lost
	// would leave its flow in the caches of both nodes for ever.
	sweep bool
	// routine is set for the readings at the start and of polling, which do not count as
	// resynchronisations.
	routine bool
	// look notes flows that no event has named, see silent.go.
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

// startRefill begins a refill.
func (n *Node) startRefill(r refill, ended func(error)) {
	if n.refilling {
		// One at a time: two sweeps would clear each other's marks. The refill under
		// way began before this request, so another follows it.
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

// refillRetry is the delay before tables that could not be read are read again.
const refillRetry = 10 * time.Second

// retryRefill schedules another reading after one that failed, where nothing else would
// ask for it again.
func (n *Node) retryRefill(err error) {
	if err != nil && !n.timers.resync.Pending() {
		n.timers.resync.After(refillRetry)
	}
}

// refill reads the tables, beside the loop.
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
			n.eventsMadeUp(missing)
		}
		switch {
		case !r.send && n.kernel.Lost != lost:
			// What this reading found by then was not replicated, and the next one
			// will not find it as new.
			n.untold = true
		case whole && r.all:
			n.untold = false
		}
	})
}

// mostReadings bounds how often a table is read in a row while the kernel interrupts each
// reading.
const mostReadings = 5

// readWhole repeats a reading until the kernel reports no interruption, which may hide or
// double entries. It returns false if mostReadings were interrupted.
func readWhole(read func() (nl.DumpInfo, error)) (whole bool, err error) {
	for range mostReadings {
		info, err := read()
		if err != nil || !info.Interrupted {
			return err == nil, err
		}
	}
	return false, nil
}

// readTable reads one of the kernel's tables for a refill and calls each for its entries
// with the lock held. It schedules another reading for what it could not find out.
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
	whole, err = readTable(ctx, n, t, r, ctnetlink.TypeFlowGet, n.internal.flows.BeginSweep, func(f *ctnetlink.Flow) { n.mergeFlow(f, r) })
	if err != nil || !whole || !r.sweep {
		return whole, err
	}
	return whole, n.sweepFlows(ctx)
}

// maxEnded and maxChanged bound the memory for flows that end or change during a dump.
const (
	maxEnded   = 1 << 18
	maxChanged = 1 << 18
)

// ends records what events report while a table is dumped. The dump shows a slightly
// older state: without the record a flow that ended meanwhile would come back, one that
// changed would change back, and no event would ever correct that.
type ends struct {
	flows   map[endedKey]struct{}
	expects map[expectKey]struct{}
	changed map[cache.Handle]ctnetlink.Attr // the attributes that events have set
	full    bool                            // an entry did not fit
}

// endedKey identifies a flow, also among flows that have the same tuple one after the
// other. The kernel's id alone is a 32-bit hash, which two flows may share.
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

// beginDump and endDump enclose a dump: the record exists in between.
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

// resyncDelay is the delay of readings that are necessary even with NetlinkOverrunResync
// off.
func (n *Node) resyncDelay() time.Duration {
	return cmp.Or(n.cfg.General.NetlinkOverrunResync, usualResync)
}

// recordChange records the attributes that an event has set, which are seldom all.
func (n *Node) recordChange(h cache.Handle, f *ctnetlink.Flow) {
	if n.ends == nil {
		return
	}
	before, known := n.ends.changed[h]
	if !known && len(n.ends.changed) >= maxChanged {
		n.ends.full = true
		return
	}
	n.ends.changed[h] = before | f.Has
}

// recordEnd records the end of a flow. recordBegin removes the record: a new flow may have
// taken the old one's place in the kernel's memory, and with it its id.
func (n *Node) recordEnd(f *ctnetlink.Flow) {
	switch {
	case n.ends == nil || f.Has&ctnetlink.HasID == 0:
	case len(n.ends.flows) < maxEnded:
		n.ends.flows[keyOfEnded(f)] = struct{}{}
	default:
		n.ends.full = true
	}
}

func (n *Node) recordBegin(f *ctnetlink.Flow) {
	if n.ends != nil && len(n.ends.flows) > 0 && f.Has&ctnetlink.HasID != 0 {
		delete(n.ends.flows, keyOfEnded(f))
	}
}

// hasEnded reports whether an event has told the end of a flow that a dump shows.
func (n *Node) hasEnded(f *ctnetlink.Flow) bool {
	if n.ends == nil || len(n.ends.flows) == 0 || f.Has&ctnetlink.HasID == 0 {
		return false
	}
	_, ended := n.ends.flows[keyOfEnded(f)]
	return ended
}

// expectKey identifies an expectation, which has no stable id.
type expectKey struct {
	tuple, mask ctnetlink.Tuple
	zone        uint16
}

func keyOfExpect(e *ctnetlink.Expect) expectKey { return expectKey{e.Tuple, e.Mask, e.Zone} }

func (n *Node) recordExpectEnd(e *ctnetlink.Expect) {
	switch {
	case n.ends == nil:
	case len(n.ends.expects) < maxEnded:
		n.ends.expects[keyOfExpect(e)] = struct{}{}
	default:
		n.ends.full = true
	}
}

func (n *Node) recordExpectBegin(e *ctnetlink.Expect) {
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

// sends reports whether the findings of a reading are replicated. While events are
// missing they always are: a later reading would not find them as new.
func (n *Node) sends(r refill, outcome cache.Outcome) bool {
	return (r.send || n.kernel.Missing > 0) && (r.all || outcome != cache.Unchanged)
}

// mergeExpect merges an expectation of a dump into the internal cache.
func (n *Node) mergeExpect(e *ctnetlink.Expect, r refill) {
	if n.buriedExpect(e) || !n.wantsExpect(e) {
		return
	}
	n.makeRoom(n.internal.expects)
	h, outcome := n.internal.expects.Put(e, n.sched.Now())
	n.queueExpect(h, stored(outcome), n.sends(r, outcome))
}

// mergeFlow merges an entry of a dump into the internal cache.
func (n *Node) mergeFlow(f *ctnetlink.Flow, r refill) {
	if why := incomplete(f); why != "" {
		n.kernel.UnknownDumps++
		return
	}
	if !n.filter.passes(f, false) {
		return
	}
	if n.hasEnded(f) {
		return
	}
	f.Has &^= ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply | ctnetlink.HasUse
	if n.ends != nil && len(n.ends.changed) > 0 {
		f.Has &^= n.ends.changed[n.internal.flows.Find(f)] &^ ctnetlink.HasID
	}
	n.makeRoom(n.internal.flows)
	h, outcome := n.internal.flows.Put(f, n.sched.Now())
	if r.look && outcome == cache.Created {
		n.found(h)
	}
	if outcome == cache.Created || outcome == cache.Replaced {
		n.beganHere(h)
	}
	n.queueFlow(h, stored(outcome), n.sends(r, outcome))
}

// removeUnseen removes flows that the kernel did not have when it was asked, except flows
// that an event has named since.
func (n *Node) removeUnseen(gone []cache.Handle) {
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

// stored reports whether an insertion succeeded.
func stored(o cache.Outcome) bool { return o < cache.Full }

// sweepLen is how many flows the kernel is asked about at once: the answers must fit the
// socket's buffer, which may be small without privileges.
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
		err = n.sched.Do(ctx, func() { n.removeUnseen(gone) })
		gone = gone[:0]
	}
	return cmp.Or(err, p.Close())
}

func (n *Node) refillExpects(ctx context.Context, t *sched.Task, r refill) (whole bool, err error) {
	table := n.internal.expects
	whole, err = readTable(ctx, n, t, r, ctnetlink.TypeExpectGet, table.BeginSweep, func(e *ctnetlink.Expect) { n.mergeExpect(e, r) })
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
