package node

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
	"ctbox/sync/replicate"
	"ctbox/sync/sched"
)

// No goroutine outlives what it belongs to.
func TestMain(m *testing.M) { os.Exit(netnstest.RunTests(m)) }

// sleeping is a node with an external cache and no kernel, whose loop runs.
func sleeping(t *testing.T, external cache.Side) *Node {
	t.Helper()
	n := &Node{log: daemonlog.Log{Logger: slog.New(slog.DiscardHandler)}}
	n.sched = sched.New(func() {}, n.taskEnded)
	n.replicator = replicate.New(n.sched, n.log, replicate.Config{Sync: &conf.Sync{Mode: conf.ModeFTFW}, External: external})
	running(t, func(ctx context.Context) error { return n.sched.Run(ctx, func() {}, func() {}) })
	return n
}

// running calls run, whose context ends with the test.
func running(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		if err := run(ctx); err != nil {
			t.Errorf("the loop ended by %v", err)
		}
	})
	t.Cleanup(func() { cancel(); loop.Wait() })
}

// taskCount is the number of tasks that run.
func (n *Node) taskCount() (running int) {
	n.sched.Tasks(func(*sched.Task) { running++ })
	return running
}

// A node that takes over must not have its kernel's table emptied by the purge that was
// scheduled when it became the backup, also where a commit has nothing else to do.
func TestCommitWithoutExternalCacheCancelsThePurge(t *testing.T) {
	cfg := &conf.Config{Sync: &conf.Sync{Mode: conf.ModeFTFW, DisableExternalCache: true, PurgeTimeout: time.Hour,
		ResendQueueSize: 100, ACKWindowSize: 10,
		Links: []*conf.Link{{Transport: conf.UDP, Interface: "lo", Default: true, Port: 3780,
			Address: netip.MustParseAddr("127.0.0.1"), Destination: netip.MustParseAddr("127.0.0.2")}}}}
	var n *Node
	var err error
	netnstest.New(t, "node").Do(func() { n, err = New(cfg, slog.New(slog.DiscardHandler), nil) })
	if err != nil {
		t.Fatal(err)
	}
	running(t, n.Run)
	due := func() (due bool) {
		if err := n.sched.Do(t.Context(), func() { due = n.purge.Pending() }); err != nil {
			t.Fatal(err)
		}
		return due
	}
	if err := n.SchedulePurge(t.Context()); err != nil || !due() {
		t.Fatalf("no purge is scheduled: %v", err)
	}
	if _, err := n.Commit(t.Context(), cache.FlowTable|cache.ExpectTable, owner.Selector{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("the commit of nothing: %v", err)
	}
	if due() {
		t.Error("the purge is still scheduled")
	}
}

// Tasks have the same order in each answer.
func TestTasksAreInOrder(t *testing.T) {
	n := &Node{}
	n.sched = sched.New(n.flush, n.taskEnded)
	n.sched.SetNow(time.Minute)
	want := []TaskStatus{{sched.KindAny, time.Minute, 3}, {sched.KindAny, time.Minute, 2}, {sched.KindCommit, time.Minute, 9}, {sched.KindAny, time.Second, 5}}
	for _, i := range []int{2, 0, 3, 1} {
		task := n.sched.Register(want[i].Type)
		task.Began, task.Done = n.sched.Now()-want[i].Running, want[i].Done
	}
	for range 20 { // a map's order is another one each time
		if got := n.snapshot().Tasks; !slices.Equal(got, want) {
			t.Fatalf("tasks %v", got)
		}
	}
}
