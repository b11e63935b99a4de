package node

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"ctbox/nl"
	"ctbox/sync/link"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// A commit says how far it is when it takes long, and not before.
func TestCommitProgress(t *testing.T) {
	var out bytes.Buffer
	n := &Node{log: slog.New(slog.NewTextHandler(&out, nil))}
	c := &commit{node: n, result: CommitResult{Began: time.Now()}}
	c.progress()
	if out.Len() != 0 {
		t.Errorf("said at once: %s", out.String())
	}
	c.result.Began = time.Now().Add(-5 * time.Second)
	c.said = time.Time{}
	c.result.Flows = CommitCount{Committed: 7, Failed: 1}
	c.progress()
	c.progress()
	if got := out.String(); strings.Count(got, "committing: 7 entries so far, 1 failed, after 5 seconds") != 1 {
		t.Errorf("got %q", got)
	}
}

// committing is a sleeping node of a mode that replicates, with an external cache or,
// as with DisableExternalCache, without one.
func committing(t *testing.T, conn *nl.Conn, external caches) *Node {
	t.Helper()
	n := sleeping(t, ModeNone)
	if err := n.sched.Do(t.Context(), func() {
		n.machine = proto.NewNoTrack(0, 1, false)
		closed := link.New(link.Config{}, 0, nil, link.Reports{})
		n.links = &links{node: n, monitor: &link.Monitor{}, all: []*link.Link{closed}}
		n.packer = wire.NewPacker(1400)
		n.conns.commit, n.external = conn, external
		n.cfg.Sync.PurgeTimeout = time.Hour
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A node that takes over must not have its kernel's table emptied by the purge that was
// scheduled when it became the backup, also where a commit has nothing else to do.
func TestCommitWithoutExternalCacheCancelsThePurge(t *testing.T) {
	n := committing(t, nil, caches{})
	if err := n.SchedulePurge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Commit(t.Context(), Flows|Expects); !errors.Is(err, ErrUnsupported) {
		t.Errorf("the commit of nothing: %v", err)
	}
	var due bool
	if err := n.sched.Do(t.Context(), func() { due = n.timers.purge.Pending() }); err != nil || due {
		t.Errorf("%v, the purge is scheduled: %v", err, due)
	}
}
