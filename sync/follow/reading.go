package follow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// refill says how the kernel's tables are merged into the internal caches.
type refill struct {
	tables cache.Tables
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
func (r *refill) count(s *Status) {
	if !r.routine {
		s.Resyncs++
	}
}

// Refill merges the kernel's tables into the cache (-R). ended is called with the lock held
// when the reading has ended, with its error.
func (fo *Follower) Refill(tables cache.Tables, ended func(error)) {
	fo.startRefill(refill{tables: tables, sweep: true}, ended)
}

// startRefill begins a refill.
func (fo *Follower) startRefill(r refill, ended func(error)) {
	if fo.refilling {
		// One at a time: two sweeps would clear each other's marks. The refill under
		// way began before this request, so another follows it.
		fo.refillNext = append(fo.refillNext, func() { fo.startRefill(r, ended) })
		return
	}
	fo.refilling = true
	fo.sched.Go(sched.KindAny, "resynchronisation with the kernel", func(ctx context.Context, t *sched.Task) error {
		return fo.refill(ctx, t, r)
	}, func(err error) {
		fo.refilling = false
		if ended != nil {
			ended(err)
		}
		if len(fo.refillNext) > 0 {
			next := fo.refillNext[0]
			fo.refillNext = fo.refillNext[1:]
			next()
		}
	})
}

// refillRetry is the delay before tables that could not be read are read again.
const refillRetry = 10 * time.Second

// retryRefill schedules another reading after one that failed, where nothing else would
// ask for it again.
func (fo *Follower) retryRefill(err error) {
	if err != nil && !fo.timers.resync.Pending() {
		fo.timers.resync.After(refillRetry)
	}
}

// refill reads the tables, beside the loop.
func (fo *Follower) refill(ctx context.Context, t *sched.Task, r refill) error {
	var missing, lost uint64
	if err := fo.sched.Do(ctx, func() { missing, lost = fo.status.Missing, fo.status.Lost }); err != nil {
		return err
	}
	whole := r.sweep
	for _, table := range []struct {
		is     cache.Tables
		refill func(context.Context, *sched.Task, refill) (whole bool, err error)
	}{{cache.FlowTable, fo.refillFlows}, {cache.ExpectTable, fo.refillExpects}} {
		if r.tables&table.is == 0 {
			whole = whole && fo.expectTables()&table.is == 0 && table.is != cache.FlowTable
			continue
		}
		read, err := table.refill(ctx, t, r)
		if err != nil {
			return err
		}
		whole = whole && read
	}
	return fo.sched.Do(ctx, func() {
		fo.filled = fo.filled || r.tables&cache.FlowTable != 0
		if whole {
			fo.eventsMadeUp(missing)
		}
		switch {
		case !r.send && fo.status.Lost != lost:
			// What this reading found by then was not replicated, and the next one
			// will not find it as new.
			fo.unsent = true
		case whole && r.all:
			fo.unsent = false
		}
	})
}

// mostReadings bounds how often a table is read in a row while the kernel interrupts each
// reading.
const mostReadings = 5

// ReadWhole repeats a reading until the kernel reports no interruption, which may hide or
// double entries. It returns false if mostReadings were interrupted.
func ReadWhole(read func() (nl.DumpInfo, error)) (whole bool, err error) {
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
func readTable[T any, P decoded[T]](ctx context.Context, fo *Follower, t *sched.Task, r refill, typ nl.Type, begin func(), each func(P)) (whole bool, err error) {
	whole, err = ReadWhole(func() (nl.DumpInfo, error) {
		if err := fo.sched.Do(ctx, func() { r.count(&fo.status); begin(); fo.beginDump() }); err != nil {
			return nl.DumpInfo{}, err
		}
		info, err := dump(ctx, fo, t, typ, each, nil)
		return info, errors.Join(err, fo.sched.Do(ctx, fo.endDump))
	})
	if err == nil && !whole {
		err = fo.sched.Do(ctx, func() {
			fo.log.Warn(fmt.Sprintf("the kernel interrupted %d readings of its table in a row; it will be read again", mostReadings))
			fo.scheduleResync(fo.resyncDelay())
		})
	}
	return whole, err
}

func (fo *Follower) refillFlows(ctx context.Context, t *sched.Task, r refill) (whole bool, err error) {
	whole, err = readTable(ctx, fo, t, r, ctnetlink.TypeFlowGet, fo.cache.Flows.BeginSweep, func(f *ctnetlink.Flow) { fo.mergeFlow(f, r) })
	if err != nil || !whole || !r.sweep {
		return whole, err
	}
	return whole, fo.sweepFlows(ctx)
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
	flows   map[ctnetlink.FlowKey]struct{}
	expects map[expectKey]struct{}
	changed map[cache.Handle]change
	full    bool // an entry did not fit
}

// change is what events have set of a flow while a table is dumped.
type change struct {
	id    uint32 // the flow's
	attrs ctnetlink.Attr
}

// beginDump and endDump enclose a dump: the record exists in between.
func (fo *Follower) beginDump() {
	fo.ends = &ends{map[ctnetlink.FlowKey]struct{}{}, map[expectKey]struct{}{}, map[cache.Handle]change{}, false}
}

func (fo *Follower) endDump() {
	if fo.ends.full {
		fo.log.Notice("too many flows ended or changed while the kernel's table was read; it will be read again")
		fo.scheduleResync(fo.resyncDelay())
	}
	fo.ends = nil
}

// resyncDelay is the delay of readings that are necessary even with NetlinkOverrunResync
// off.
func (fo *Follower) resyncDelay() time.Duration {
	return cmp.Or(fo.cfg.NetlinkOverrunResync, usualResync)
}

// recordChange records the attributes that an event has set, which are seldom all.
func (fo *Follower) recordChange(h cache.Handle, f *ctnetlink.Flow) {
	if fo.ends == nil {
		return
	}
	before, known := fo.ends.changed[h]
	if !known && len(fo.ends.changed) >= maxChanged {
		fo.ends.full = true
		return
	}
	if before.id != f.ID {
		before = change{id: f.ID} // another flow has taken the place of the one before
	}
	before.attrs |= f.Has
	fo.ends.changed[h] = before
}

// changed returns the attributes that events have set of a flow that a dump shows. They are newer
// than the dump's, unless the dump shows a flow that has replaced the one of the events: the event
// that says so is still under way.
func (fo *Follower) changed(f *ctnetlink.Flow) ctnetlink.Attr {
	if fo.ends == nil || len(fo.ends.changed) == 0 {
		return 0
	}
	c := fo.ends.changed[fo.cache.Flows.Find(f)]
	if c.id != f.ID {
		return 0
	}
	return c.attrs
}

// recordEnd records the end of a flow. recordBegin removes the record: a new flow may have
// taken the old one's place in the kernel's memory, and with it its id.
func (fo *Follower) recordEnd(f *ctnetlink.Flow) {
	switch {
	case fo.ends == nil || f.Has&ctnetlink.HasID == 0:
	case len(fo.ends.flows) < maxEnded:
		fo.ends.flows[f.Key()] = struct{}{}
	default:
		fo.ends.full = true
	}
}

func (fo *Follower) recordBegin(f *ctnetlink.Flow) {
	if fo.ends != nil && len(fo.ends.flows) > 0 && f.Has&ctnetlink.HasID != 0 {
		delete(fo.ends.flows, f.Key())
	}
}

// hasEnded reports whether an event has reported the end of a flow that a dump shows.
func (fo *Follower) hasEnded(f *ctnetlink.Flow) bool {
	if fo.ends == nil || len(fo.ends.flows) == 0 || f.Has&ctnetlink.HasID == 0 {
		return false
	}
	_, ended := fo.ends.flows[f.Key()]
	return ended
}

// expectKey identifies an expectation, which has no stable id, as far as the kernel does: it does not
// send the zone.
type expectKey struct {
	tuple, mask ctnetlink.Tuple
}

func keyOfExpect(e *ctnetlink.Expect) expectKey { return expectKey{e.Tuple, e.Mask} }

func (fo *Follower) recordExpectEnd(e *ctnetlink.Expect) {
	switch {
	case fo.ends == nil:
	case len(fo.ends.expects) < maxEnded:
		fo.ends.expects[keyOfExpect(e)] = struct{}{}
	default:
		fo.ends.full = true
	}
}

func (fo *Follower) recordExpectBegin(e *ctnetlink.Expect) {
	if fo.ends != nil {
		delete(fo.ends.expects, keyOfExpect(e))
	}
}

func (fo *Follower) expectHasEnded(e *ctnetlink.Expect) bool {
	if fo.ends == nil {
		return false
	}
	_, ended := fo.ends.expects[keyOfExpect(e)]
	return ended
}

// sends reports whether the findings of a reading are replicated. While events are
// missing they always are: a later reading would not find them as new.
func (fo *Follower) sends(r refill, outcome cache.Outcome) bool {
	return (r.send || fo.status.Missing > 0) && (r.all || outcome != cache.Unchanged)
}

// changedIf returns the reason to store a flow that a reading has found.
func changedIf(announce bool) owner.Why {
	if announce {
		return owner.Changed
	}
	return owner.Silent
}

// mergeExpect merges an expectation of a dump into the internal cache.
func (fo *Follower) mergeExpect(e *ctnetlink.Expect, r refill) {
	if fo.expectHasEnded(e) || !fo.wantsExpect(e) {
		return
	}
	fo.announcer.MakeRoom(cache.ExpectTable)
	if h, outcome := fo.cache.Expects.Put(e, fo.sched.Now()); outcome.Stored() {
		fo.announcer.ExpectStored(h, fo.sends(r, outcome))
	}
}

// mergeFlow merges an entry of a dump into the internal cache.
func (fo *Follower) mergeFlow(f *ctnetlink.Flow, r refill) {
	if why := Incomplete(f); why != "" {
		fo.status.UnknownDumps++
		return
	}
	if !fo.filter.Passes(f, false) {
		if fo.changed(f)&ctnetlink.HasMark == 0 {
			fo.dropUnmarked(f, true)
		}
		return
	}
	if fo.hasEnded(f) || fo.skip != nil && fo.cache.Flows.Find(f) == 0 && fo.skip(f) {
		return
	}
	if fo.recorder != nil {
		fo.recordSeen(f, Cause{First: !fo.filled, At: time.Now()})
	}
	f.Has &^= fo.changed(f) &^ ctnetlink.HasID
	fo.announcer.MakeRoom(cache.FlowTable)
	h, outcome := fo.cache.Flows.Put(f, fo.sched.Now())
	if !outcome.Stored() {
		return
	}
	fo.noteZone(f)
	if r.look && outcome == cache.Created {
		fo.found(h)
	}
	if outcome == cache.Created || outcome == cache.Replaced {
		fo.announcer.FlowBegan(h)
	}
	fo.announcer.FlowStored(h, f, changedIf(fo.sends(r, outcome)))
}

// removeUnseen removes flows that the kernel did not have when it was asked, except flows
// that an event has named since.
func (fo *Follower) removeUnseen(gone []cache.Handle) {
	for _, h := range gone {
		if !fo.cache.Flows.Unseen(h) {
			continue
		}
		if fo.recorder != nil && fo.cache.Flows.Load(h, &fo.known) {
			fo.recorder.FlowEnded(&fo.known, Cause{At: time.Now()}, true)
		}
		if fo.observer != nil && fo.cache.Flows.Load(h, &fo.known) {
			fo.observer.FlowEnded(&fo.known)
		}
		fo.goneFlow(h, true)
	}
}

// sweepLen is how many flows the kernel is asked about at once: the answers must fit the
// socket's buffer, which may be small without privileges.
const sweepLen = 32

// sweepFlows asks the kernel about every flow that the dump did not show, and
// removes those that it does not have.
func (fo *Follower) sweepFlows(ctx context.Context) error {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	table := fo.cache.Flows
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
		if err = fo.sched.Do(ctx, func() {
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
			ask := ctnetlink.Flow{Orig: flows[i].Orig, Has: flows[i].Has & ctnetlink.HasZone, Zone: flows[i].Zone}
			b.Add(nl.Request{Type: ctnetlink.TypeFlowGet, Family: ask.Orig.Family, Attrs: ask.Append})
		}
		if err = cmp.Or(p.Submit(b), p.Drain()); err != nil {
			break
		}
		err = fo.sched.Do(ctx, func() { fo.removeUnseen(gone) })
		gone = gone[:0]
	}
	return cmp.Or(err, p.Close())
}

func (fo *Follower) refillExpects(ctx context.Context, t *sched.Task, r refill) (whole bool, err error) {
	table := fo.cache.Expects
	whole, err = readTable(ctx, fo, t, r, ctnetlink.TypeExpectGet, table.BeginSweep, func(e *ctnetlink.Expect) { fo.mergeExpect(e, r) })
	if err != nil || !whole || !r.sweep {
		return whole, err
	}
	var cur cache.Cursor
	handles := make([]cache.Handle, sliceLen)
	for more := true; more; {
		if err := fo.sched.Do(ctx, func() {
			var got int
			got, more = table.NextUnseen(&cur, handles)
			for _, h := range handles[:got] {
				fo.goneExpect(h, true)
			}
		}); err != nil {
			return false, err
		}
	}
	return true, nil
}

// ReadLive reads the kernel's tables where there is no cache, and calls flows and expects for
// what passes the filter with the lock held, slice by slice. After each slice it calls wait
// without the lock. ended is called with the lock held when the reading has ended, also if it
// failed. The caller holds the lock.
func (fo *Follower) ReadLive(flows func(*ctnetlink.Flow), expects func(*ctnetlink.Expect), wait func(context.Context) error, ended func()) {
	missing := fo.status.Missing
	whole := false
	fo.sched.Go(sched.KindAny, "bulk update", func(ctx context.Context, t *sched.Task) (err error) {
		whole, err = ReadWhole(func() (nl.DumpInfo, error) {
			return dump(ctx, fo, t, ctnetlink.TypeFlowGet, func(f *ctnetlink.Flow) {
				if Incomplete(f) == "" && fo.filter.Passes(f, false) {
					flows(f)
				}
			}, wait)
		})
		if err != nil || !fo.expectSync {
			return err
		}
		all, err := ReadWhole(func() (nl.DumpInfo, error) {
			return dump(ctx, fo, t, ctnetlink.TypeExpectGet, func(e *ctnetlink.Expect) {
				if fo.filter.PassesExpect(e) {
					expects(e)
				}
			}, wait)
		})
		whole = whole && all
		return err
	}, func(err error) {
		if err == nil && whole {
			fo.eventsMadeUp(missing)
		}
		ended()
	})
}

// sliceLen is how many flows or expectations are handled at once with the lock held: a
// fraction of a millisecond's work.
const sliceLen = 256

// decoded is what a dump's messages are decoded into.
type decoded[T any] interface {
	*T
	Decode(attrs []byte) error
}

// dump reads one of the kernel's tables and calls each for all entries with the lock held,
// slice by slice, and wait, if it is not nil, after each slice. Decoding and the kernel's part
// run beside the loop.
func dump[T any, P decoded[T]](ctx context.Context, fo *Follower, t *sched.Task, typ nl.Type, each func(P), wait func(context.Context) error) (nl.DumpInfo, error) {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return nl.DumpInfo{}, err
	}
	defer c.Close()
	slice := make([]T, 0, sliceLen)
	hand := func() error {
		err := fo.sched.Do(ctx, func() {
			for i := range slice {
				each(&slice[i])
			}
			t.Done += uint64(len(slice))
		})
		slice = slice[:0]
		if err != nil || wait == nil {
			return err
		}
		return wait(ctx)
	}
	unread := uint64(0)
	defer func() {
		if unread > 0 {
			_ = fo.sched.Do(ctx, func() { fo.status.UnknownDumps += unread })
		}
	}()
	info, err := c.Dump(ctx, ctnetlink.Dump{Type: typ}.Request(), func(m *nl.Message) error {
		slice = slice[:len(slice)+1]
		if P(&slice[len(slice)-1]).Decode(m.Attrs) != nil {
			// One entry that can't be read must not hide all others.
			unread++
			slice = slice[:len(slice)-1]
			return nil
		}
		if len(slice) < sliceLen {
			return nil
		}
		return hand()
	})
	if err == nil {
		err = hand()
	}
	return info, err
}
