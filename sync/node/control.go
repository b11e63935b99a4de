// Package node is a conntrackd node. It wires the rooms to each other: follow (the kernel's
// tables into the internal cache), replicate (the caches and the peers), commit (the external
// cache into the kernel), which share one sched.Scheduler.
//
// Its methods are what an operator may ask of a running node (control.go, dump.go,
// status.go). Any goroutine may call them, many at once. Each takes the lock for a slice of
// work at a time, so that none holds up replication. A method returns ctx's error as soon as
// ctx ends; a change of the kernel's table that has begun is finished all the same. After the
// node has stopped every method returns ErrStopped.
package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/owner"
	"ctbox/sync/replicate"
	"ctbox/sync/sched"
)

// Errors of the control methods. The texts are for the person who typed the command.
var (
	// ErrStopped reports that the node has stopped or is about to.
	ErrStopped = sched.ErrStopped
	// ErrUnsupported reports that this mode or configuration lacks the function: a
	// commit in statistics mode, expectations without ExpectationSync. conntrack-tools
	// does nothing in such a case and reports success.
	ErrUnsupported = commit.ErrUnsupported
	// ErrCommitRunning reports that a commit is under way, beside which the request (a
	// flush of the external cache) cannot be carried out.
	ErrCommitRunning = errors.New("a commit is in progress")
)

// Cache is a set of caches, or one of them.
type Cache uint8

// The caches of a node. Statistics mode has one, which is Internal.
const (
	Internal Cache = 1 << iota
	External
)

// Entry is one object of a cache, as Dump hands it out. Either Flow or Expect is
// set; both point to memory that the next entry reuses.
type Entry struct {
	Flow   *ctnetlink.Flow
	Expect *ctnetlink.Expect

	// Live says that there is no cache (DisableInternalCache) and the entry
	// comes from the kernel's table itself: counters, timeout and use are true,
	// ActiveSince and ExpiresIn mean nothing.
	Live bool

	// Owner is the name of the peer that has announced an entry of the external cache, set in a
	// Cluster with several peers.
	Owner string

	ActiveSince time.Duration // since it was inserted
	// ExpiresIn is what is left until the cache forgets it, which only ALARM's
	// external entries have.
	ExpiresIn time.Duration
	Expires   bool
}

// do calls f with the lock held and returns its error, or that of the lock.
func (n *Node) do(ctx context.Context, f func() error) error {
	var refused error
	err := n.sched.Do(ctx, func() { refused = f() })
	return errors.Join(err, refused)
}

// wait calls begin with the lock held, which starts work, and then waits until the work has
// called ended with its error. If ctx ends before, the work goes on.
func (n *Node) wait(ctx context.Context, begin func(ended func(error)) error) error {
	result := make(chan error, 1)
	if err := n.do(ctx, func() error { return begin(func(err error) { result <- err }) }); err != nil {
		return err
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

// Commit writes what s selects of the external cache into the kernel's tables (-c) and returns
// when that has ended; commit.Committer.Start says how. Even with nothing to commit this node
// takes over, so a purge that was scheduled when it became the backup is cancelled. Where flows
// have owners the empty Selector asks these first, and takes from those that do not answer.
func (n *Node) Commit(ctx context.Context, tables cache.Tables, s owner.Selector) (result commit.Result, err error) {
	done := make(chan commit.Result, 1)
	err = n.wait(ctx, func(ended func(error)) error {
		asked := tables
		if !n.expectSync {
			tables &^= cache.ExpectTable
		}
		if n.replicator == nil || tables == 0 {
			return ErrUnsupported
		}
		n.purge.Stop()
		n.failback.Requested()
		answer := func(r commit.Result, err error) { done <- r; ended(err) }
		if n.replicator.HasOwners() {
			n.queueTakeover(request{asked: asked, tables: tables, selector: s, ended: answer})
			return nil
		}
		return n.bringIn(asked, tables, n.selection(s), answer, func() {})
	})
	select {
	case result = <-done:
	default:
	}
	return result, err
}

// selection returns what a commit with Selector s takes.
func (n *Node) selection(s owner.Selector) commit.Selection {
	from := commit.Selection{By: s}
	copies := n.copies()
	for _, c := range copies {
		if s.Node == 0 || s.Node == c.Node || len(copies) == 1 {
			from.Sources = append(from.Sources, commit.Source{Node: c.Node, Side: c.Side})
			if len(copies) > 1 || !s.Empty() {
				from.Taken = append(from.Taken, n.taken(&c, len(copies) == 1))
			}
		}
	}
	conditions := s
	conditions.Node = 0
	if !conditions.Empty() {
		from.Wants = func(_ uint8, _ cache.Handle, f *ctnetlink.Flow) bool { return s.Matches(f) }
		from.WantsExpect = func(node uint8, x *ctnetlink.Expect) bool {
			i := slices.IndexFunc(from.Sources, func(c commit.Source) bool { return c.Node == node })
			return masterMatches(from.Sources[i].Side.Flows, x, &s)
		}
	}
	return from
}

// taken returns what is known of a copy at the begin of a commit that takes it. A copy that is the
// only one may be of a peer that speaks version 1, whose number is not known.
func (n *Node) taken(c *replicate.Copy, only bool) commit.Taken {
	t := commit.Taken{Node: c.Node, Name: c.Name, Heard: -1}
	peers := n.replicator.Peers()
	for i := range peers {
		p := &peers[i]
		m := p.Member
		if p.Ignored || m == nil && !only || m != nil && m.Node != c.Node {
			continue
		}
		if t.Heard < 0 || p.LastMessage < t.Heard { // it may have several addresses
			t.Heard = p.LastMessage
		}
		t.Holes = p.Gaps
		if m != nil {
			t.Proven, t.Equal, t.Unproven = m.Proven, m.LastEqual, m.Unproven
		}
	}
	return t
}

// masterMatches reports whether the master of x, a flow of the same copy, meets s. The kernel does
// not say in which zone an expectation is, so its master is looked up in the zone that s names.
func masterMatches(flows *cache.Flows, x *ctnetlink.Expect, s *owner.Selector) bool {
	if s.HasZone && x.Has&ctnetlink.ExpectHasZone == 0 {
		zoned := *x
		zoned.Has, zoned.Zone = x.Has|ctnetlink.ExpectHasZone, s.Zone
		x = &zoned
	}
	var f ctnetlink.Flow
	return flows.Load(flows.FindMaster(x), &f) && s.Matches(&f)
}

// NodeNumber returns the number of the peer of the Cluster that name names: its name, or its
// number in decimal. ok is false where there is none.
func (n *Node) NodeNumber(name string) (number uint8, ok bool) {
	_ = n.sched.Do(context.Background(), func() {
		if n.cfg.Sync == nil || n.cfg.Sync.Cluster == nil {
			return
		}
		for i := range n.cfg.Sync.Cluster.Peers {
			p := &n.cfg.Sync.Cluster.Peers[i]
			if p.Name == name {
				number, ok = p.Number, true
				return
			}
			if strconv.Itoa(int(p.Number)) == name { // unless another peer's name is this number
				number, ok = p.Number, true
			}
		}
	})
	return number, ok
}

// Refill merges the kernel's tables into the internal cache (-R).
func (n *Node) Refill(ctx context.Context, tables cache.Tables) error {
	if n.mode == ModeNone {
		return ErrUnsupported
	}
	return n.wait(ctx, func(ended func(error)) error {
		tables, err := n.supported(tables)
		if err != nil {
			return err
		}
		if n.internal.Flows == nil {
			n.log.Notice("resync is unsupported in this mode")
			return ErrUnsupported
		}
		if tables&cache.FlowTable != 0 {
			n.log.Notice("resync with master conntrack table")
		}
		if tables&cache.ExpectTable != 0 {
			n.log.Notice("resync with master expect table")
		}
		n.follower.Refill(tables, ended)
		return nil
	})
}

// supported returns those of tables that this node has.
func (n *Node) supported(tables cache.Tables) (cache.Tables, error) {
	if n.expectSync {
		return tables, nil
	}
	if tables == cache.ExpectTable {
		return 0, ErrUnsupported
	}
	return tables &^ cache.ExpectTable, nil
}

// Flush empties caches, flows and expectations (-f). The kernel's tables stay, except that
// with DisableInternalCache the flows that pass the filter are deleted from the kernel in the
// place of the internal cache, as conntrack-tools does.
func (n *Node) Flush(ctx context.Context, which Cache) error {
	if n.mode == ModeNone {
		return ErrUnsupported
	}
	if err := n.awaitTakeover(ctx); err != nil {
		return err
	}
	if err := n.do(ctx, func() error { return n.flushCaches(which) }); err != nil {
		return err
	}
	if which&Internal != 0 && n.internal.Flows == nil {
		return n.FlushKernel(ctx, cache.FlowTable)
	}
	return nil
}

func (n *Node) flushCaches(which Cache) error {
	switch which {
	case Internal:
		n.log.Notice("flushing internal cache")
	case External:
		n.log.Notice("flushing external cache")
	default:
		n.log.Notice("flushing caches")
	}
	if which&External != 0 && n.committer != nil && n.committer.Running() {
		n.log.Error("ignoring flush command, commit still in progress")
		return ErrCommitRunning
	}
	if which&Internal != 0 {
		n.purge.Stop()
		n.flushInternal()
	}
	if which&External != 0 && n.replicator != nil {
		n.replicator.FlushExternal()
		if len(n.copies()) > 0 && !n.primary() {
			n.replicator.CopyLost() // a primary has the flows in its kernel
		}
	}
	return nil
}

// flushInternal empties the internal cache without announcing the ends.
func (n *Node) flushInternal() {
	if n.replicator != nil {
		n.failback.StepUp()
		n.replicator.ForgetInternal()
	}
	n.follower.Flush()
}

// FlushKernel deletes what passes the filter from the kernel's tables (-F).
func (n *Node) FlushKernel(ctx context.Context, tables cache.Tables) error {
	if n.mode == ModeNone {
		return ErrUnsupported
	}
	return n.wait(ctx, func(ended func(error)) error {
		tables, err := n.supported(tables)
		if err != nil {
			return err
		}
		if tables&cache.FlowTable != 0 {
			n.log.Notice("flushing kernel conntrack table")
		}
		if tables&cache.ExpectTable != 0 {
			n.log.Notice("flushing kernel expect table")
		}
		n.flusher.Start(tables, ended)
		return nil
	})
}

// SchedulePurge flushes the kernel's table after PurgeTimeout, unless a commit or a flush
// comes first (-t). It is no error if that is scheduled already.
func (n *Node) SchedulePurge(ctx context.Context) error {
	return n.do(ctx, func() error {
		if n.replicator == nil {
			return ErrUnsupported
		}
		if n.purge.Pending() {
			return nil
		}
		n.failback.StepDown()
		n.decide() // the peers hear of it at once
		n.purge.After(n.cfg.Sync.PurgeTimeout)
		n.log.Notice(fmt.Sprintf("flushing conntrack table in %d secs", n.cfg.Sync.PurgeTimeout/time.Second))
		return nil
	})
}

// purgeKernel carries out a scheduled flush.
func (n *Node) purgeKernel() {
	n.log.Notice("flushing kernel conntrack table (scheduled)")
	if n.standby != nil {
		n.failback.StepUp()
		n.stepAside(true)
		return
	}
	n.flushInternal()
	n.flusher.Start(cache.FlowTable, func(error) {})
}

// RequestResync asks the peers for everything that they have (-n).
func (n *Node) RequestResync(ctx context.Context) error {
	return n.withDialogue(ctx, func() { n.replicator.RequestResync() })
}

// Bulk sends all of the internal cache to the peers (-B).
func (n *Node) Bulk(ctx context.Context) error {
	return n.withDialogue(ctx, func() { n.replicator.Bulk() })
}

// withDialogue does what only modes have in which nodes answer each other.
func (n *Node) withDialogue(ctx context.Context, do func()) error {
	if n.mode != ModeFTFW && n.mode != ModeNOTRACK {
		return ErrUnsupported
	}
	return n.sched.Do(ctx, do)
}

// ResendQueue lists what the peer has not acknowledged yet, oldest first. It needs FT-FW.
func (n *Node) ResendQueue(ctx context.Context) (queue []replicate.Resend, err error) {
	err = n.do(ctx, func() error {
		if n.replicator == nil {
			return ErrUnsupported
		}
		var ok bool
		if queue, ok = n.replicator.ResendQueue(); !ok {
			return ErrUnsupported
		}
		return nil
	})
	return queue, err
}
