package node

import (
	"cmp"
	"context"
	"sort"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/follow"
	"ctbox/sync/replicate"
	"ctbox/sync/sched"
)

// Mode is what a node does.
type Mode uint8

// The modes. ModeNone is a daemon without Sync and Stats clause: it runs helpers
// at most.
const (
	ModeNone Mode = iota
	ModeStats
	ModeFTFW
	ModeALARM
	ModeNOTRACK
)

// Sync reports whether the mode replicates.
func (m Mode) Sync() bool { return m >= ModeFTFW }

// Status is all numbers of a node at one moment. It is a copy: nothing in it
// changes after it was handed out. Counters count from the node's start.
type Status struct {
	Mode Mode
	// ExpectationSync says whether the node has tables of expectations.
	ExpectationSync bool

	Internal, External CacheStatus // External is empty in statistics mode

	Traffic          follow.Traffic
	Kernel           KernelStatus
	replicate.Status // empty in statistics mode
	Commits          commit.Status
	Tasks            []TaskStatus  // what runs beside the loop at this moment, the longest first
	Uptime           time.Duration // since the node's start
	TaskFail         uint64        // tasks that ended with an error
	Ready            Readiness     // whether the node may take over; empty without Sync
	// Standby counts what was done in the kernel's table with the peers' flows. It is empty without HotStandby.
	Standby CacheStatus
}

// CacheStatus is one cache with its two tables.
type CacheStatus struct {
	Kind           CacheKind
	Flows, Expects cache.TableStatus
}

// CacheKind is what a node has as a cache, or in its place.
type CacheKind uint8

// A cache may be replaced: the internal one by a bypass (DisableInternalCache:
// kernel events are sent as they come), the external one by an injector
// (DisableExternalCache: what peers send goes to the kernel at once).
const (
	CacheAbsent CacheKind = iota
	CacheStored
	CacheBypass
	CacheInject
)

// KernelStatus counts what went over netlink.
type KernelStatus struct {
	follow.Status
	Flushes uint64 // of the kernel's tables, one for each table
}

// TaskStatus is a long piece of work that runs beside the loop, where
// conntrack-tools has a child process.
type TaskStatus struct {
	Type    sched.Kind
	Running time.Duration // since its start
	Done    uint64        // entries so far
}

// Status returns all numbers of this moment.
func (n *Node) Status(ctx context.Context) (Status, error) {
	var s Status
	err := n.sched.Do(ctx, func() { s = n.snapshot() })
	return s, err
}

func (n *Node) snapshot() Status {
	s := Status{Mode: n.mode, ExpectationSync: n.expectSync, Uptime: n.sched.Now(), TaskFail: n.taskFailed}
	n.sched.Tasks(func(t *sched.Task) {
		s.Tasks = append(s.Tasks, TaskStatus{Type: t.Kind, Running: n.sched.Now() - t.Began, Done: t.Done})
	})
	sort.Slice(s.Tasks, func(i, j int) bool { // slices.SortFunc costs 16 kB for each type
		a, b := &s.Tasks[i], &s.Tasks[j]
		return cmp.Or(cmp.Compare(b.Running, a.Running), cmp.Compare(a.Type, b.Type), cmp.Compare(b.Done, a.Done)) < 0
	})
	s.Internal = n.cacheStatus(n.internal)
	for _, c := range n.copies() {
		of := n.cacheStatus(c.Side)
		s.External.Kind = of.Kind
		s.External.Flows.Add(&of.Flows)
		s.External.Expects.Add(&of.Expects)
	}
	if n.follower != nil {
		s.Traffic = n.follower.Traffic()
		s.Kernel = KernelStatus{Status: n.follower.Status(), Flushes: n.flusher.Flushes()}
	}
	if n.replicator == nil {
		return s
	}
	s.Status, s.Commits = n.replicator.Status(), n.committer.Status()
	s.Replica.EndedByPeer = n.failback.Removed()
	n.readiness(&s)
	if n.standby != nil {
		s.Standby.Kind = CacheInject
		s.Standby.Flows, _ = n.standby.Status()
	}
	if n.internal.Flows == nil {
		s.Internal.Kind = CacheBypass
		s.Internal.Flows, s.Internal.Expects = n.replicator.Forwarded()
	}
	if n.injector != nil {
		s.External.Kind = CacheInject
		s.External.Flows, s.External.Expects = n.injector.Status()
	}
	return s
}

func (n *Node) cacheStatus(side cache.Side) CacheStatus {
	if side.Flows == nil {
		return CacheStatus{}
	}
	s := CacheStatus{Kind: CacheStored, Flows: n.tableStatus(side.Flows.Stats(), side.Flows.Bytes())}
	if side.Expects != nil {
		s.Expects = n.tableStatus(side.Expects.Stats(), side.Expects.Bytes())
	}
	return s
}

func (n *Node) tableStatus(s cache.Stats, bytes int) cache.TableStatus {
	return cache.TableStatus{
		Active: uint64(s.Active), Objects: uint64(s.Objects), Limit: uint64(n.cfg.General.HashLimit), Bytes: uint64(bytes),
		Created: s.Created, CreateFailed: s.CreateFailed, NoSpace: s.NoSpace, Updated: s.Updated, Destroyed: s.Destroyed,
	}
}
