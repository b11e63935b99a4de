package node

import (
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/owner"
)

// request is a request to take flows over (-c), where flows have owners.
type request struct {
	asked, tables cache.Tables
	selector      owner.Selector
	nodes         owner.Nodes // whose flows to take; 0: the selector, or the peers' answers, decide
	ended         func(commit.Result, error)
}

// requests are those that wait, and whether one is under way.
type requests struct {
	waiting []request
	running bool
}

// queueTakeover takes flows over, after the takeovers before it.
func (n *Node) queueTakeover(q request) {
	n.requests.waiting = append(n.requests.waiting, q)
	n.nextTakeover()
}

// nextTakeover begins the next takeover, unless one is under way.
func (n *Node) nextTakeover() {
	all := &n.requests
	if all.running || len(all.waiting) == 0 {
		return
	}
	q := all.waiting[0]
	all.waiting, all.running = all.waiting[1:], true
	switch {
	case q.nodes != 0 || !n.replicator.HasOwners():
		n.takeFrom(q, q.nodes, 0)
	case q.selector.Empty():
		n.replicator.AskOwners(func(take, kept owner.Nodes) { n.takeFrom(q, take, kept) })
	case q.selector.Node != 0:
		n.takeFrom(q, owner.NodesOf(q.selector.Node), 0)
	default:
		n.takeFrom(q, n.replicator.CopyNodes(), 0)
	}
}

// takeFrom takes the flows of these nodes over; those that have kept theirs are named in the result.
// If a reload has left one peer since the request, flows have no owners and nodes does not matter.
func (n *Node) takeFrom(q request, nodes, kept owner.Nodes) {
	from := n.selection(q.selector)
	if n.replicator.HasOwners() {
		from = n.selectionOf(nodes, kept, q.selector)
	}
	done := func() {
		n.replicator.EndTake()
		n.requests.running = false
		n.nextTakeover()
	}
	if err := n.bringIn(q.asked, q.tables, from, q.ended, done); err != nil {
		q.ended(commit.Result{}, err)
		done()
	}
}

// selectionOf returns what a takeover of these nodes' flows takes, and begins it.
func (n *Node) selectionOf(nodes, kept owner.Nodes, s owner.Selector) commit.Selection {
	from := commit.Selection{Sources: []commit.Source{}, By: s}
	from.Wants, from.WantsExpect = n.replicator.BeginTake(nodes, s)
	copies := n.copies()
	for i := range copies {
		switch c := &copies[i]; {
		case nodes.Has(c.Node):
			from.Sources = append(from.Sources, commit.Source{Node: c.Node, Side: c.Side})
			from.Taken = append(from.Taken, n.taken(c, false))
		case kept.Has(c.Node):
			from.Kept = append(from.Kept, c.Name)
		}
	}
	return from
}

// bringIn brings what from selects into the kernel, where it may be already (HotStandby). ended is
// called with the result, and done when nothing is left to do, both with the lock held; neither is called
// after an error.
func (n *Node) bringIn(asked, tables cache.Tables, from commit.Selection, ended func(commit.Result, error), done func()) error {
	if n.standby != nil && tables&cache.FlowTable != 0 {
		return n.takeOver(asked, tables, from, ended, done)
	}
	return n.committer.Start(asked, tables, from, func(r commit.Result, err error) {
		ended(r, err)
		done()
	})
}

// released takes over from nodes that have refused this node's last takeover and have stepped down
// since.
func (n *Node) released(nodes owner.Nodes) {
	tables := cache.FlowTable | cache.ExpectTable
	if !n.expectSync {
		tables = cache.FlowTable
	}
	n.queueTakeover(request{asked: tables, tables: tables, nodes: nodes, ended: func(commit.Result, error) {}})
}
