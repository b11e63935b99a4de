package trackfile

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tracked is a File in a directory of its own, and its log.
type tracked struct {
	*File
	t   *testing.T
	dir string
	out bytes.Buffer
}

func newTracked(t *testing.T) *tracked {
	dir := filepath.Join(t.TempDir(), "run")
	tr := &tracked{t: t, dir: dir}
	tr.File = New(filepath.Join(dir, "ready"), slog.New(slog.NewTextHandler(&tr.out, nil)))
	if err := tr.MakeDir(); err != nil {
		t.Fatal(err)
	}
	return tr
}

// set sets the value and checks the file and the text that the log has got.
func (tr *tracked) set(value int, content string, logged string) {
	tr.t.Helper()
	err := tr.Set(value)
	got, readErr := os.ReadFile(tr.Path())
	if content == "" {
		if err == nil {
			tr.t.Errorf("Set(%d) has no error", value)
		}
	} else if err != nil || readErr != nil || string(got) != content {
		tr.t.Errorf("Set(%d): %v; the file has %q (%v), want %q", value, err, got, readErr, content)
	}
	if text := tr.out.String(); strings.Count(text, "\n") != min(1, len(logged)) || !strings.Contains(text, logged) {
		tr.t.Errorf("Set(%d) logged %q, want one line with %q", value, text, logged)
	}
	tr.out.Reset()
}

func (tr *tracked) must(err error) {
	tr.t.Helper()
	if err != nil {
		tr.t.Fatal(err)
	}
}

func TestValues(t *testing.T) {
	tr := newTracked(t)
	tr.set(-60, "-60\n", "")
	first, _ := os.Lstat(tr.Path())
	tr.set(-60, "-60\n", "")
	if again, err := os.Lstat(tr.Path()); err != nil || !os.SameFile(first, again) {
		t.Errorf("an equal value was written again: %v", err)
	}
	tr.set(0, "0\n", "")
	if info, err := os.Lstat(tr.Path()); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if names, err := os.ReadDir(tr.dir); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
	if info, err := os.Stat(tr.dir); err != nil || info.Mode() != fs.ModeDir|0o755 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	tr.must(tr.MakeDir()) // it exists
}

// What others do to the file is undone, in one line of the log each.
func TestFileOfOthers(t *testing.T) {
	const again = "was removed or changed by someone else"
	tr := newTracked(t)
	tr.must(os.WriteFile(tr.Path(), []byte("7"), 0o644))
	tr.must(os.WriteFile(tr.Path()+".new", []byte("left"), 0o644))
	tr.set(-60, "-60\n", "") // what is there at the start is replaced without a word
	tr.must(os.Remove(tr.Path()))
	tr.set(-60, "-60\n", again)
	tr.must(os.WriteFile(tr.Path(), nil, 0o600))
	tr.set(-60, "-60\n", again)
	tr.must(os.Remove(tr.Path()))
	target := filepath.Join(tr.dir, "target")
	tr.must(os.WriteFile(target, []byte("5\n"), 0o600))
	tr.must(os.Symlink(target, tr.Path()))
	tr.set(-60, "-60\n", again)
	if got, err := os.ReadFile(target); err != nil || string(got) != "5\n" {
		t.Errorf("the link's target has %q, %v", got, err)
	}
	tr.must(os.Symlink(target, tr.Path()+".new"))
	tr.set(0, "0\n", "")
	if got, err := os.ReadFile(target); err != nil || string(got) != "5\n" {
		t.Errorf("the draft's target has %q, %v", got, err)
	}
}

func TestNoDirectory(t *testing.T) {
	tr := newTracked(t)
	tr.set(0, "0\n", "")
	tr.must(os.RemoveAll(tr.dir))
	tr.set(0, "", "there is no directory "+tr.dir+"; when there is one again, reload keepalived")
	tr.set(-60, "", "") // said once
	tr.must(tr.MakeDir())
	tr.set(-60, "-60\n", "is written again")
	tr.set(0, "0\n", "")

	tr.must(os.Remove(tr.Path()))
	tr.must(os.Mkdir(tr.Path(), 0o700))
	tr.set(0, "", "tried again: is a directory")
	tr.must(os.Remove(tr.Path()))
	tr.set(0, "0\n", "is written again")
	if err := New("/nonexistent/run/ready", tr.log).MakeDir(); err == nil {
		t.Error("MakeDir made two levels")
	}
}

// A file system without room, and one that can't be written.
func TestFileSystem(t *testing.T) {
	tr := newTracked(t)
	tr.must(unix.Mount("none", tr.dir, "tmpfs", 0, "size=8192"))
	defer unix.Unmount(tr.dir, unix.MNT_DETACH)
	tr.set(-60, "-60\n", "")
	filling := filepath.Join(tr.dir, "filling")
	if err := os.WriteFile(filling, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the file system has no limit")
	}
	tr.set(0, "", "tried again: no space left on device")
	tr.set(0, "", "")
	if got, err := os.ReadFile(tr.Path()); err != nil || string(got) != "-60\n" {
		t.Errorf("the old value is gone: %q, %v", got, err)
	}
	if _, err := os.Lstat(tr.Path() + ".new"); err == nil {
		t.Error("the draft is left")
	}
	tr.must(os.Remove(filling))
	tr.set(0, "0\n", "is written again")
	tr.must(unix.Mount("none", tr.dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	tr.set(-60, "", "tried again: read-only file system")
	tr.must(unix.Mount("none", tr.dir, "tmpfs", unix.MS_REMOUNT, ""))
	tr.set(-60, "-60\n", "is written again")
}
