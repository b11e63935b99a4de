package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/replicate"
)

// With HotStandby the peers' flows are in this node's kernel, beside their copies. The internal cache
// does not have them: it has what this kernel owns, which is what this node announces.

// openStandby makes the Standby of a node with HotStandby.
func (n *Node) openStandby(s *conf.Sync, c *replicate.Config) (err error) {
	if s.Cluster == nil || !s.Cluster.HotStandby {
		return nil
	}
	n.log.Notice("hot standby: the peers' flows are kept in the kernel's table")
	n.standby, err = commit.NewStandby(n.sched, n.log, s, n.internal.Flows, commit.Copies{
		All: func() (all []commit.Source) {
			for _, c := range n.replicator.Copies() {
				all = append(all, commit.Source{Node: c.Node, Side: c.Side})
			}
			return all
		},
		Owns:      func(node uint8, h cache.Handle, f *ctnetlink.Flow) bool { return n.replicator.Shows(node, h, f) },
		Announced: func(orig *ctnetlink.Tuple, zone uint16) bool { return n.replicator.Announced(orig, zone) },
	})
	c.Injector = n.standby
	return err
}

// takeover is what a commit with HotStandby has left to do after it was answered.
type takeover struct {
	from  commit.Selection
	ended chan struct{} // closed at the end
	next  []func()      // what later commits have left to do
}

// takeOver is a commit with HotStandby. The kernel has the peers' flows, so ended is called at once. In the
// background the expectations are committed, the flows are read into the internal cache, and what is missing in
// the kernel is committed. Then the peers are sent what this node has now, and done is called.
func (n *Node) takeOver(asked, tables cache.Tables, from commit.Selection, ended func(commit.Result, error), done func()) error {
	result := commit.Result{Tables: tables, Began: time.Now(), Missing: n.replicator.PeersMissing(), Taken: slices.Clone(from.Taken), Kept: from.Kept}
	for i := range result.Taken {
		result.Taken[i].InKernel = true
	}
	from.Taken = result.Taken // for the commits of what is missing
	held := 0
	for i := range from.Sources {
		held += from.Sources[i].Side.Flows.Len()
	}
	n.log.Notice(fmt.Sprintf("taking over: the peers' flows, of which there are %d, are in the kernel", held))
	n.failback.TookOver()
	n.replicator.Committed()
	n.decide()
	ended(result, nil)
	n.bringTheRest(asked, tables, from, done)
	return nil
}

// bringTheRest does what takeOver leaves to the background, after the takeovers before it.
func (n *Node) bringTheRest(asked, tables cache.Tables, from commit.Selection, done func()) {
	if t := n.takeover; t != nil {
		t.next = append(t.next, func() { n.bringTheRest(asked, tables, from, done) })
		return
	}
	t := &takeover{from: from, ended: make(chan struct{})}
	n.takeover = t
	end := func() {
		n.takeover = nil
		close(t.ended)
		if !n.replicator.HasOwners() { // with owners, what was taken is announced by itself
			n.replicator.Bulk()
		}
		done()
		for _, next := range t.next {
			next()
		}
	}
	n.after(asked, tables&cache.ExpectTable, from, func() {
		n.follower.Refill(cache.FlowTable, func(err error) {
			if err != nil {
				end()
				return
			}
			missing := from
			missing.Wants = func(node uint8, h cache.Handle, f *ctnetlink.Flow) bool {
				return n.internal.Flows.Find(f) == 0 && (from.Wants == nil || from.Wants(node, h, f))
			}
			n.after(cache.FlowTable, cache.FlowTable, missing, end)
		})
	})
}

// after commits, if tables has any, and then calls do.
func (n *Node) after(asked, tables cache.Tables, from commit.Selection, do func()) {
	if tables == 0 || n.committer.Start(asked, tables, from, func(commit.Result, error) { do() }) != nil {
		do()
	}
}

// awaitTakeover waits until a takeover has nothing left to do: it needs the caches.
func (n *Node) awaitTakeover(ctx context.Context) error {
	var t *takeover
	if err := n.sched.Do(ctx, func() { t = n.takeover }); err != nil || t == nil {
		return err
	}
	select {
	case <-t.ended:
		return n.awaitTakeover(ctx) // another one may follow
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.sched.Stopped():
		return ErrStopped
	}
}

// skips reports whether a reading of the kernel's table leaves out a flow that the internal cache
// does not have: a peer's, unless this node takes it over.
func (n *Node) skips(f *ctnetlink.Flow) bool {
	if n.takeover != nil {
		from := &n.takeover.from
		for i := range from.Sources {
			s := &from.Sources[i]
			if h := s.Side.Flows.Find(f); h != 0 && (from.Wants == nil || from.Wants(s.Node, h, f)) {
				return false
			}
		}
	}
	return n.standby.Announced(f)
}

// stepAside hands the flows of the internal cache that a peer announces to the Standby. With purge, which is that of
// a node that has stepped down, it deletes the others from the kernel. As with a flush, no end is announced:
// the peers have taken over what goes on.
func (n *Node) stepAside(purge bool) {
	handles := make([]cache.Handle, sliceLen)
	var cur cache.Cursor
	var f ctnetlink.Flow
	n.sched.Step(func() bool {
		got, more := n.internal.Flows.Next(&cur, handles)
		for _, h := range handles[:got] {
			if n.internal.Flows.Load(h, &f) && (purge || n.standby.Announced(&f) && n.replicator.Owner(&f) != n.cfg.Sync.Cluster.NodeName) {
				n.replicator.Forget(h)
				n.internal.Flows.Delete(h)
				n.standby.Adopt(&f)
			}
		}
		return more
	})
}

// adoptLeft is called each time that the node has decided about its readiness. Once after the node's start,
// when it has the peers' flows, those of a former life that are in the kernel go from the internal cache, where the
// first reading has put them, to the Standby. A node that has the traffic keeps its own: where flows have
// owners that is decided for each flow.
func (n *Node) adoptLeft(inSync bool) {
	if n.standby == nil || n.adopted || !inSync {
		return
	}
	n.adopted = true
	if n.takeover == nil && (n.replicator.HasOwners() || !n.primary()) {
		n.stepAside(false)
	}
}
