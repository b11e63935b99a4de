package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/sync/cache"
	"ctbox/sync/link"
	"ctbox/sync/sched"
	"ctbox/sync/wire"

	"github.com/google/go-cmp/cmp"
)

// A commit that could not go on has committed an unknown part: who asked for it is told.
func TestCommitThatEndsEarlyIsAnError(t *testing.T) {
	var conn *nl.Conn
	var err error
	conn, err = nl.Dial(nl.Config{NetNS: netnstest.New(t, "node").FD()})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	external := caches{cache.NewFlows(cache.Config{}), cache.NewExpects(cache.Config{})}
	for _, f := range flows(3) {
		external.flows.Put(&f, 0)
	}
	n := committing(t, conn, external)
	if r, err := n.Commit(t.Context(), Flows); err == nil || errors.Is(err, ErrUnsupported) || r.Flows.Committed != 0 ||
		strings.Contains(err.Error(), "\n") { // the same reason twice
		t.Errorf("%+v, %v", r, err)
	}
	if err := n.sched.Do(t.Context(), func() {
		if n.committing || n.commits.Count != 1 || n.taskFailed != 1 {
			t.Errorf("under way %v, %d ended, %d failed", n.committing, n.commits.Count, n.taskFailed)
		}
	}); err != nil {
		t.Error(err)
	}
}

// Who asks for a commit while one is under way gets that one's result, when it has ended.
// One who wants a table besides gets a commit of his own.
func TestCommitsBesideACommit(t *testing.T) {
	var conn *nl.Conn
	var err error
	netnstest.New(t, "node").Do(func() { conn, err = nl.Dial(nl.Config{}) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	external := caches{cache.NewFlows(cache.Config{}), cache.NewExpects(cache.Config{})}
	for _, f := range flows(3) {
		external.flows.Put(&f, 0)
	}
	n := committing(t, conn, external)
	type outcome struct {
		name   string
		result CommitResult
		err    error
	}
	ended := make(chan outcome, 4)
	if err := n.sched.Do(t.Context(), func() {
		n.expectSync = true
		for _, c := range []struct {
			name   string
			tables Tables
		}{{"first", Flows}, {"same", Flows}, {"more", Flows | Expects}, {"other", Expects}} {
			if err := n.startCommit(c.tables, func(r CommitResult, err error) { ended <- outcome{c.name, r, err} }); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	of := map[string]CommitResult{}
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
	if diff := cmp.Diff(of["more"], of["other"]); diff != "" || of["more"].Tables != Flows|Expects || of["more"].Began.Equal(of["first"].Began) {
		t.Errorf("more tables than the first: %s, %+v", diff, of["more"])
	}
	if err := n.sched.Do(t.Context(), func() {
		if n.committing || n.commits.Count != 2 || len(n.joined) != 0 {
			t.Errorf("under way %v, %d ended, %d wait", n.committing, n.commits.Count, len(n.joined))
		}
	}); err != nil {
		t.Error(err)
	}
}

// Tables that can't be read, for want of a socket say, are read again later.
func TestFailedRefillIsTriedAgain(t *testing.T) {
	n := committing(t, nil, caches{})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var began time.Duration
	if err := n.sched.Do(t.Context(), func() {
		n.sched.SetContext(ended)
		began = n.sched.Now()
		n.resync()
	}); err != nil {
		t.Fatal(err)
	}
	again := time.Duration(0)
	netnstest.Eventually(t, time.Minute, "the refill ends", func() (over bool) {
		if err := n.sched.Do(t.Context(), func() { over, again = !n.refilling, n.timers.resync.Due() }); err != nil {
			t.Fatal(err)
		}
		return over
	})
	if again < began+refillRetry || again == sched.Never {
		t.Errorf("begun at %v, to be tried again at %v", began, again)
	}
}

// A link that can't be opened is said to be so once, and again when it was open
// meanwhile: interfaces of others come and go all the time.
func TestLinkThatCannotBeOpenedIsSaidOnce(t *testing.T) {
	var log bytes.Buffer
	n := unwired(ModeStats)
	n.log = slog.New(slog.NewTextHandler(&log, nil))
	homeless := func(device string) *link.Link {
		return link.New(link.Config{Transport: link.UDP, Interface: device, Port: 3780,
			Address: netip.MustParseAddr("192.0.2.77"), Destination: netip.MustParseAddr("192.0.2.78")}, 0, nil, link.Reports{})
	}
	n.links = &links{node: n, all: []*link.Link{homeless("lo")}, said: make([]string, 1)}
	n.packer = wire.NewPacker(1400)
	ns := netnstest.New(t, "node")
	look := func(device string) {
		n.links.all[0] = homeless(device)
		ns.Do(func() {
			for range 3 {
				n.linkChanged()
			}
		})
	}
	const noAddress, noInterface = "192.0.2.77:3780: cannot assign requested address", "nowhere0: no such interface"
	look("lo")
	if got := strings.Count(log.String(), noAddress); got != 1 {
		t.Errorf("the missing address is said %d times\n%s", got, &log)
	}
	look("nowhere0")
	look("lo")
	if a, b := strings.Count(log.String(), noAddress), strings.Count(log.String(), noInterface); a != 2 || b != 1 {
		t.Errorf("the address is said %d times, the interface %d times\n%s", a, b, &log)
	}
}
