package node

import (
	"context"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/sched"
	"ctbox/sync/wire"
)

// startBulk sends the whole internal cache to the peers, slice by slice.
func (n *Node) startBulk() {
	if n.filling {
		// A peer that starts together with this node asks before the kernel's table
		// has been read here: a bulk now would be empty.
		n.bulkWaits = true
		return
	}
	if !n.machine.BeginBulk(n.sched.Now()) {
		return
	}
	if n.bypass {
		n.startLiveBulk()
		return
	}
	n.notice("sending bulk update")
	handles := make([]cache.Handle, sliceLen)
	var flows, expects cache.Cursor
	n.sched.Step(func() bool {
		got, more := n.internal.flows.Next(&flows, handles)
		n.bulk(proto.Flows, handles[:got])
		return more
	})
	n.sched.Step(func() bool {
		got, more := n.internal.expects.Next(&expects, handles)
		n.bulk(proto.Expects, handles[:got])
		if !more {
			n.machine.EndBulk()
		}
		return more
	})
}

// startLiveBulk is startBulk without an internal cache: the kernel's own tables are
// sent, every flow and then every expectation as a new one.
func (n *Node) startLiveBulk() {
	missing := n.kernel.Missing
	whole := false
	n.run(sched.KindAny, "bulk update", func(ctx context.Context, t *sched.Task) (err error) {
		whole, err = readWhole(func() (nl.DumpInfo, error) {
			return dump(ctx, n, t, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) {
				if incomplete(f) != "" || !n.filter.passes(f, false) {
					return
				}
				n.sendFlow(wire.FlowNew, f)
			})
		})
		if err != nil || !n.expectSync {
			return err
		}
		expects, err := readWhole(func() (nl.DumpInfo, error) {
			return dump(ctx, n, t, ctnetlink.Dump{Type: ctnetlink.TypeExpectGet}, func(e *ctnetlink.Expect) {
				if !n.filter.passesExpect(e) {
					return
				}
				n.sendExpect(wire.ExpectNew, e)
			})
		})
		whole = whole && expects
		return err
	}, func(err error) {
		if err == nil && whole {
			n.eventsMadeUp(missing)
		}
		n.machine.EndBulk()
	})
}

func (n *Node) bulk(table proto.Table, handles []cache.Handle) {
	for _, h := range handles {
		n.machine.Bulk(proto.Object{Table: table, Handle: uint64(h)})
	}
}

// clocked is one of ALARM's tables with the action for objects whose timer has ended.
type clocked struct {
	table interface {
		Expired(now time.Duration, batch []cache.Handle) (n int, more bool)
		NextExpiry() (at time.Duration, ok bool)
	}
	due func(cache.Handle)
}

// clocks returns ALARM's tables: internal objects are announced again, external objects
// that were not announced again expire.
func (n *Node) clocks() [4]clocked {
	return [4]clocked{
		{n.internal.flows, func(h cache.Handle) { n.internal.flows.Settle(h); n.changedFlow(h) }},
		{n.internal.expects, func(h cache.Handle) { n.internal.expects.Settle(h); n.changedExpect(h) }},
		{n.external.flows, func(h cache.Handle) { n.external.flows.Delete(h) }},
		{n.external.expects, func(h cache.Handle) { n.external.expects.Delete(h) }},
	}
}

// expire handles ALARM's ended timers, one slice of each table in a turn of the loop: a
// million may end at once.
func (n *Node) expire(now time.Duration) {
	n.expiring = false
	for _, c := range n.clocks() {
		got, more := c.table.Expired(now, n.expired[:])
		for _, h := range n.expired[:got] {
			c.due(h)
		}
		n.expiring = n.expiring || more
	}
}

// nextExpiry returns when expire next has something to do.
func (n *Node) nextExpiry() time.Duration {
	next := proto.None
	for _, c := range n.clocks() {
		if at, ok := c.table.NextExpiry(); ok {
			next = min(next, at)
		}
	}
	return next
}
