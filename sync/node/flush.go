package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// Flush empties caches; the kernel's tables stay (-f). Without an internal cache
// the internal part of a flush is one of the kernel's flows.
func (n *Node) Flush(ctx context.Context, which Cache) error {
	if n.mode == ModeNone {
		return ErrUnsupported
	}
	var refused error
	fromKernel := false
	err := n.sched.Do(ctx, func() {
		switch which {
		case Internal:
			n.notice("flushing internal cache")
		case External:
			n.notice("flushing external cache")
		default:
			n.notice("flushing caches")
		}
		if which&External != 0 && n.committing {
			n.log.Error("ignoring flush command, commit still in progress")
			refused = ErrCommitRunning
			return
		}
		if which&Internal != 0 {
			n.cancelPurge()
			n.stepUp()
			n.flushInternal()
			fromKernel = n.bypass
		}
		if which&External != 0 && n.external.flows != nil {
			n.agreement.flushed = true
			n.forgetNotices() // of what these caches lack
			n.external.flows.Flush()
			n.external.expects.Flush()
		}
	})
	if err = errors.Join(err, refused); err != nil || !fromKernel {
		return err
	}
	return n.FlushKernel(ctx, Flows)
}

// FlushKernel deletes what passes the filter from the kernel's tables (-F).
func (n *Node) FlushKernel(ctx context.Context, tables Tables) error {
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
		if tables&Flows != 0 {
			n.notice("flushing kernel conntrack table")
		}
		if tables&Expects != 0 {
			n.notice("flushing kernel expect table")
		}
		n.startFlush(tables, func(err error) { result <- err })
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

// errFlushing reports that another flush of the kernel's tables is under way.
var errFlushing = errors.New("a flush of the kernel's tables is in progress")

// errNotWhole: what the kernel hid was not flushed.
var errNotWhole = errors.New("the kernel interrupted each reading of its table")

// startFlush begins a flush of the kernel's tables.
func (n *Node) startFlush(tables Tables, ended func(error)) {
	if n.flushing {
		ended(errFlushing)
		return
	}
	n.flushing = true
	filter := n.filter
	n.run(sched.KindFlush, "flush of the kernel's tables", func(ctx context.Context, t *sched.Task) error {
		return n.flushKernel(ctx, tables, filter)
	}, func(err error) { n.flushing = false; ended(err) })
}

// flushKernel deletes the flows that pass the filter, beside the loop.
func (n *Node) flushKernel(ctx context.Context, tables Tables, filter *filter) error {
	if tables&Expects != 0 {
		if err := n.sched.Do(ctx, func() { n.kernel.Flushes++ }); err != nil {
			return err
		}
		if err := n.conns.flush.Do(ctx, nl.Request{Type: ctnetlink.TypeExpectDelete}, nil); err != nil {
			return fmt.Errorf("expectations: %w", err)
		}
	}
	if tables&Flows == 0 {
		return nil
	}
	if err := n.sched.Do(ctx, func() { n.kernel.Flushes++ }); err != nil {
		return err
	}
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	var failed error
	p := n.conns.flush.NewPipeline(ctx, func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			if !errors.Is(f.Err, unix.ENOENT) {
				failed = f.Err
			}
		}
		return nil
	})
	batch, err := p.Batch()
	if err == nil {
		var gone ctnetlink.Flow
		var whole bool
		whole, err = readWhole(func() (nl.DumpInfo, error) {
			return ctnetlink.DumpFlows(ctx, c, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
				if !filter.passes(f, false) {
					return nil
				}
				gone = ctnetlink.Flow{Has: f.Has & (ctnetlink.HasID | ctnetlink.HasZone), Orig: f.Orig, ID: f.ID, Zone: f.Zone}
				batch.Add(nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Orig.Family, Attrs: gone.Append})
				if !batch.Full() {
					return nil
				}
				if err := p.Submit(batch); err != nil {
					return err
				}
				var err error
				batch, err = p.Batch()
				return err
			})
		})
		if err == nil && !whole {
			failed = errNotWhole
		}
	}
	if err == nil {
		err = p.Submit(batch)
	}
	err = cmp.Or(err, p.Close())
	return cmp.Or(err, failed) // which Close may have set
}

// SchedulePurge flushes the kernel's table after PurgeTimeout, unless a commit or
// a flush comes first (-t).
func (n *Node) SchedulePurge(ctx context.Context) error {
	var refused error
	err := n.sched.Do(ctx, func() {
		if n.cfg.Sync == nil {
			refused = ErrUnsupported
			return
		}
		if n.timers.purge.Pending() {
			return
		}
		n.stepDown()
		n.timers.purge.After(n.cfg.Sync.PurgeTimeout)
		n.notice(fmt.Sprintf("flushing conntrack table in %d secs", n.cfg.Sync.PurgeTimeout/time.Second))
	})
	return errors.Join(err, refused)
}

func (n *Node) cancelPurge() { n.timers.purge.Stop() }

// purge carries out a scheduled flush.
func (n *Node) purge() {
	n.stepUp()
	n.notice("flushing kernel conntrack table (scheduled)")
	n.flushInternal()
	n.startFlush(Flows, func(error) {})
}
