package node

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"ctbox/internal/slog"
)

// A commit says how far it is when it takes long, and not before.
func TestCommitProgress(t *testing.T) {
	var out bytes.Buffer
	n := &Node{log: slog.New(slog.NewTextHandler(&out)), ctx: context.Background()}
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
