package commit

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/follow"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// Flusher deletes what passes the filter from the kernel's tables. Its fields are guarded by
// the lock of sched.
type Flusher struct {
	sched   *sched.Scheduler
	filter  func() *follow.Filter // in force
	conn    *nl.Conn
	running bool
	flushes uint64 // one for each table
}

// NewFlusher returns a Flusher. filter returns the filter in force, and is called with the
// lock held.
func NewFlusher(s *sched.Scheduler, filter func() *follow.Filter) (*Flusher, error) {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return nil, err
	}
	return &Flusher{sched: s, filter: filter, conn: c}, nil
}

// Close closes the socket.
func (fl *Flusher) Close() { fl.conn.Close() }

// PortID returns the port id of the socket that changes the kernel's tables.
func (fl *Flusher) PortID() uint32 { return fl.conn.PortID() }

// Flushes returns how many times a table was flushed.
func (fl *Flusher) Flushes() uint64 { return fl.flushes }

// errFlushing reports that another flush of the kernel's tables is under way.
var errFlushing = errors.New("a flush of the kernel's tables is in progress")

// errNotWhole: what the kernel hid was not flushed.
var errNotWhole = errors.New("the kernel interrupted each reading of its table")

// Start begins a flush of the kernel's tables. ended is called with the lock held when it has
// ended. The caller holds the lock.
func (fl *Flusher) Start(tables cache.Tables, ended func(error)) {
	if fl.running {
		ended(errFlushing)
		return
	}
	fl.running = true
	filter := fl.filter()
	fl.sched.Go(sched.KindFlush, "flush of the kernel's tables", func(ctx context.Context, t *sched.Task) error {
		return fl.flush(ctx, tables, filter)
	}, func(err error) { fl.running = false; ended(err) })
}

// flush deletes the flows that pass the filter, beside the loop.
func (fl *Flusher) flush(ctx context.Context, tables cache.Tables, filter *follow.Filter) error {
	if tables&cache.ExpectTable != 0 {
		if err := fl.sched.Do(ctx, func() { fl.flushes++ }); err != nil {
			return err
		}
		if err := fl.conn.Do(ctx, nl.Request{Type: ctnetlink.TypeExpectDelete}, nil); err != nil {
			return fmt.Errorf("expectations: %w", err)
		}
	}
	if tables&cache.FlowTable == 0 {
		return nil
	}
	if err := fl.sched.Do(ctx, func() { fl.flushes++ }); err != nil {
		return err
	}
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	var failed error
	p := fl.conn.NewPipeline(ctx, func(b *nl.Batch) error {
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
		whole, err = follow.ReadWhole(func() (nl.DumpInfo, error) {
			return ctnetlink.DumpFlows(ctx, c, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
				if !filter.Passes(f, false) {
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
