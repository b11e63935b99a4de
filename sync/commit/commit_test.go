package commit

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/sched"

	"github.com/google/go-cmp/cmp"
)

// No goroutine outlives what it belongs to.
func TestMain(m *testing.M) { os.Exit(netnstest.RunTests(m)) }

// A commit says how far it is when it takes long, and not before.
func TestCommitProgress(t *testing.T) {
	var out bytes.Buffer
	c := &commit{Committer: &Committer{log: daemonlog.Log{Logger: slog.New(slog.NewTextHandler(&out, nil))}}, result: Result{Began: time.Now()}}
	c.progress()
	if out.Len() != 0 {
		t.Errorf("said at once: %s", out.String())
	}
	c.result.Began = time.Now().Add(-5 * time.Second)
	c.said = time.Time{}
	c.result.Flows = Count{Committed: 7, Failed: 1}
	c.progress()
	c.progress()
	if got := out.String(); strings.Count(got, "committing: 7 entries so far, 1 failed, after 5 seconds") != 1 {
		t.Errorf("got %q", got)
	}
}

// committer is a Committer in a namespace of its own, whose loop runs.
type committer struct {
	*Committer
	ns       *netnstest.NS
	external cache.Side
	failed   []string // the tasks that have failed
}

func committing(t testing.TB, external cache.Side) *committer {
	t.Helper()
	return committingIn(t, netnstest.New(t, "node"), external)
}

func committingIn(t testing.TB, ns *netnstest.NS, external cache.Side) *committer {
	t.Helper()
	c := &committer{ns: ns, external: external}
	s := sched.New(func() {}, func(what string, _ error) { c.failed = append(c.failed, what) })
	log := daemonlog.Log{Logger: slog.New(slog.DiscardHandler)}
	c.ns.Do(func() {
		failback, err := NewFailback(s, cache.Side{}, func(orig *ctnetlink.Tuple, zone uint16) bool { return external.Flows.FindTuple(orig, zone) != 0 })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(failback.Close)
		hooks := Hooks{Began: func() {}, Ended: func(cache.Tables) {}, PeersMissing: func() uint64 { return 0 }}
		if c.Committer, err = NewCommitter(s, log, &conf.Sync{}, failback, hooks); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(c.Close)
	running(t, s)
	return c
}

// outcome is the end of a commit that was asked for under a name.
type outcome struct {
	name   string
	result Result
	err    error
}

func (c *committer) start(t testing.TB, name string, tables cache.Tables, ended chan<- outcome) {
	c.startFrom(t, name, tables, Selection{Sources: []Source{{Side: c.external}}}, ended)
}

func (c *committer) startFrom(t testing.TB, name string, tables cache.Tables, from Selection, ended chan<- outcome) {
	if err := c.Start(tables, tables, from, func(r Result, err error) { ended <- outcome{name, r, err} }); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// A commit that could not go on has committed an unknown part, and says so.
func TestCommitThatEndsEarlyIsAnError(t *testing.T) {
	external := cache.NewSide(cache.Config{})
	for _, f := range flowtest.Flows(3) {
		external.Flows.Put(&f, 0)
	}
	c := committing(t, external)
	c.conn.Close()
	ended := make(chan outcome, 1)
	if err := c.sched.Do(t.Context(), func() { c.start(t, "broken", cache.FlowTable, ended) }); err != nil {
		t.Fatal(err)
	}
	if o := <-ended; o.err == nil || o.result.Flows.Committed != 0 || strings.Contains(o.err.Error(), "\n") { // the same reason twice
		t.Errorf("%+v", o)
	}
	if err := c.sched.Do(t.Context(), func() {
		if s := c.Status(); s.Running || s.Count != 1 || len(c.failed) != 1 {
			t.Errorf("%+v, %q failed", s, c.failed)
		}
	}); err != nil {
		t.Error(err)
	}
}

// A request for a commit while one is under way has the result of that one. A request for
// another table leads to another commit.
func TestCommitsBesideACommit(t *testing.T) {
	external := cache.NewSide(cache.Config{})
	for _, f := range flowtest.Flows(3) {
		external.Flows.Put(&f, 0)
	}
	c := committing(t, external)
	const both = cache.FlowTable | cache.ExpectTable
	ended := make(chan outcome, 4)
	if err := c.sched.Do(t.Context(), func() {
		c.start(t, "first", cache.FlowTable, ended)
		c.start(t, "same", cache.FlowTable, ended)
		c.start(t, "more", both, ended)
		c.start(t, "other", cache.ExpectTable, ended)
	}); err != nil {
		t.Fatal(err)
	}
	of := map[string]Result{}
	var order []string
	for range 4 {
		o := <-ended
		if o.err != nil {
			t.Errorf("%s: %v", o.name, o.err)
		}
		of[o.name] = o.result
		order = append(order, o.name)
	}
	if diff := cmp.Diff([]string{"first", "same", "more", "other"}, order); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(of["first"], of["same"]); diff != "" {
		t.Errorf("the same tables: %s", diff)
	}
	if diff := cmp.Diff(of["more"], of["other"]); diff != "" || of["more"].Tables != both || of["more"].Began.Equal(of["first"].Began) {
		t.Errorf("more tables than the first: %s, %+v", diff, of["more"])
	}
	if err := c.sched.Do(t.Context(), func() {
		if s := c.Status(); s.Running || s.Count != 2 || len(c.joined) != 0 {
			t.Errorf("%+v, %d wait", s, len(c.joined))
		}
	}); err != nil {
		t.Error(err)
	}
}
