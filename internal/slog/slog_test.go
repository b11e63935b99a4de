package slog

import (
	"bytes"
	"context"
	stdlib "log/slog"
	"strings"
	"testing"
)

// The same calls on the standard library's logger write the same lines.
func TestLikeTheStandardLibrary(t *testing.T) {
	var got, want bytes.Buffer
	ours := New(NewTextHandler(&got))
	theirs := stdlib.New(stdlib.NewTextHandler(&want, &stdlib.HandlerOptions{
		ReplaceAttr: func(_ []string, a stdlib.Attr) stdlib.Attr {
			if a.Key == stdlib.TimeKey {
				return stdlib.Attr{}
			}
			return a
		},
	}))
	ours.Info("in formation")
	theirs.Info("in formation")
	ours.Warn("a \"word\" of\nwarning", "entry", "tcp      6")
	theirs.Warn("a \"word\" of\nwarning", "entry", "tcp      6")
	ours.Error("it is over", "a", "b c", "d", "e f")
	theirs.Error("it is over", "a", "b c", "d", "e f")
	for level := LevelDebug - 2; level < LevelError+2; level++ {
		ours.Log(context.Background(), level, "at this level")
		theirs.Log(context.Background(), stdlib.Level(level), "at this level")
		if got, want := ours.Enabled(context.Background(), level), theirs.Enabled(context.Background(), stdlib.Level(level)); got != want {
			t.Errorf("level %v is enabled: %v, want %v", level, got, want)
		}
		if got, want := level.String(), stdlib.Level(level).String(); got != want {
			t.Errorf("level %d is %s, want %s", level, got, want)
		}
	}
	if got.String() != want.String() || strings.Count(got.String(), "\n") < 10 {
		t.Errorf("wrote\n%swant\n%s", &got, &want)
	}
	New(DiscardHandler).Error("nothing")
}
