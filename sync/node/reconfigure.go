package node

import (
	"context"
	"errors"

	"ctbox/conf"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
)

// Reconfigure puts another configuration in force. It may differ from the one
// before in what a running daemon can change (conf.Change.Live); the rest must be
// the same. Caches, sequence numbers and links go on as they are. After an error
// nothing has changed.
//
// A changed filter applies to events from now on. Flows of the internal cache that no
// longer pass are removed and their end is replicated, since their real end would not be.
// Then the kernel's table is read for flows that pass now. Both happen after Reconfigure
// has returned. Without an internal cache the new filter applies to events only.
func (n *Node) Reconfigure(ctx context.Context, cfg *conf.Config) error {
	var refused error
	err := n.sched.Do(ctx, func() { refused = n.reconfigure(cfg) })
	return errors.Join(err, refused)
}

// reconfigure is the part of Reconfigure that needs the lock.
func (n *Node) reconfigure(cfg *conf.Config) error {
	g, before := &cfg.General, &n.cfg.General
	filter, refilter := n.filter, !g.Filter.Equal(&before.Filter)
	if refilter {
		filter = newFilter(&g.Filter, n.filter.helpers)
	}
	// Steps that can fail come first.
	if n.events != nil {
		if err := n.resubscribe(g, filter, refilter); err != nil {
			return err
		}
	}
	n.cfg, n.filter = cfg, filter
	n.grownOut = n.grownOut && g.NetlinkBufferSizeMaxGrowth == before.NetlinkBufferSizeMaxGrowth &&
		g.NetlinkBufferSizeFixed == before.NetlinkBufferSizeFixed
	if g.NetlinkOverrunResync != before.NetlinkOverrunResync {
		n.overrunDelay = 0
		if before.NetlinkOverrunResync == 0 && n.internal.flows != nil {
			n.watchSilent(nil)
		}
	}
	for _, c := range []caches{n.internal, n.external} {
		if c.flows != nil {
			c.flows.SetLimit(int(g.HashLimit))
		}
		if c.expects != nil {
			c.expects.SetLimit(int(g.HashLimit))
		}
	}
	if s := cfg.Sync; s != nil {
		n.restore = restorer{timeout: s.CommitTimeout, windowTracking: s.TCPWindowTracking}
		n.encoder.OmitTimeout, n.encoder.WindowTracking = s.CommitTimeout > 0, s.TCPWindowTracking
		if ftfw, ok := n.machine.(*proto.FTFW); ok {
			ftfw.SetLimits(int(s.ACKWindowSize), int(s.ResendQueueSize))
		}
		if n.alarm != nil {
			n.alarm.SetRefresh(s.RefreshTime)
		}
	}
	if refilter && n.internal.flows != nil {
		n.dropExcluded()
		n.startRefill(refill{tables: Flows | n.expectTables(), send: true}, func(err error) {
			n.watchSilent(err)
			n.retryRefill(err)
		})
	}
	return nil
}

// resubscribe changes the event socket to suit another configuration.
func (n *Node) resubscribe(g *conf.General, filter *filter, refilter bool) error {
	before := &n.cfg.General
	if refilter {
		if err := n.filterEvents(g, filter); err != nil {
			return err
		}
	}
	if sameBuffer(g, before) {
		return nil // what it has grown to since, it keeps
	}
	size, said := n.eventBuffer(g)
	if said != "" {
		n.notice(said)
	}
	if err := n.events.SetBuffer(size); err != nil {
		if refilter {
			err = errors.Join(err, n.filterEvents(before, n.filter))
		}
		return err
	}
	n.kernel.BufferSize = uint64(n.events.Buffer())
	return nil
}

// dropExcluded removes from the internal cache, slice by slice, flows that the filter no
// longer passes, and then their expectations.
func (n *Node) dropExcluded() {
	handles := make([]cache.Handle, sliceLen)
	var flows, expects cache.Cursor
	n.sched.Step(func() bool {
		got, more := n.internal.flows.Next(&flows, handles)
		for _, h := range handles[:got] {
			if n.internal.flows.Load(h, &n.known) && !n.filter.passes(&n.known, false) {
				n.goneFlow(h, true)
			}
		}
		return more
	})
	if n.internal.expects == nil {
		return
	}
	n.sched.Step(func() bool {
		got, more := n.internal.expects.Next(&expects, handles)
		for _, h := range handles[:got] {
			if n.internal.expects.Load(h, &n.expect) && n.internal.flows.FindTuple(&n.expect.Master, n.expect.Zone) == 0 {
				n.goneExpect(h, true)
			}
		}
		return more
	})
}
