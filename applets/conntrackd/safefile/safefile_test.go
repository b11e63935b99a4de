package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// stranger is the id of a user other than root and the one who runs the test.
const stranger = 65534

// must fails the test on any error of its preparation.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Files placed by other users are not opened, and what they lead to stays unchanged. The
// result depends on the directory's owner and on who may write there.
func TestOpen(t *testing.T) {
	const victim = "victim"
	lay := map[string]func(t *testing.T, name string, uid int){
		"nothing": func(*testing.T, string, int) {},
		"link": func(t *testing.T, name string, uid int) {
			must(t, os.Symlink("../"+victim, name), os.Lchown(name, uid, uid))
		},
		"links": func(t *testing.T, name string, uid int) {
			must(t, os.Symlink("second", name), os.Symlink("../"+victim, filepath.Join(filepath.Dir(name), "second")),
				os.Lchown(filepath.Join(filepath.Dir(name), "second"), uid, uid))
		},
		"dangling link": func(t *testing.T, name string, uid int) {
			must(t, os.Symlink("../none", name), os.Lchown(name, uid, uid))
		},
		"endless link": func(t *testing.T, name string, uid int) {
			must(t, os.Symlink(filepath.Base(name), name), os.Lchown(name, uid, uid))
		},
		"hard link": func(t *testing.T, name string, _ int) {
			must(t, os.Link(filepath.Join(filepath.Dir(name), "..", victim), name))
		},
		"file": func(t *testing.T, name string, uid int) {
			must(t, os.WriteFile(name, nil, 0o666), os.Chown(name, uid, uid))
		},
		"pipe that nobody reads": func(t *testing.T, name string, uid int) {
			must(t, unix.Mkfifo(name, 0o666), os.Chown(name, uid, uid))
		},
	}
	for _, c := range []struct {
		mode    fs.FileMode // of the directory
		dir     int         // its user
		what    string
		uid     int
		err     error // nil: it is opened
		existed bool
	}{
		{0o755, 0, "nothing", 0, nil, false},
		{0o777, 0, "nothing", 0, nil, false},
		{0o755, 0, "link", 0, nil, true},
		{0o777, 0, "link", 0, nil, true},
		{0o755, 0, "links", 0, nil, true},
		{0o755, 0, "dangling link", 0, nil, false},
		{0o755, 0, "endless link", 0, unix.ELOOP, false},
		{0o755, 0, "hard link", 0, nil, true},
		{0o755, 0, "file", stranger, nil, true}, // as logrotate makes it
		{0o755, stranger, "file", stranger, nil, true},
		{0o777, 0, "file", 0, nil, true},

		{0o755, 0, "link", stranger, ErrUntrusted, false},
		{0o777, 0, "link", stranger, ErrUntrusted, false},
		{0o777, 0, "links", stranger, ErrUntrusted, false},
		{0o777, 0, "dangling link", stranger, ErrUntrusted, false},
		{0o755, stranger, "link", stranger, ErrUntrusted, false},
		{0o777, 0, "hard link", 0, ErrUntrusted, false},
		{0o755, stranger, "hard link", 0, ErrUntrusted, false},
		{0o777, 0, "file", stranger, ErrUntrusted, false},
		{0o777, 0, "pipe that nobody reads", stranger, ErrUntrusted, false},
	} {
		t.Run(fmt.Sprintf("%s of %d in %o of %d", c.what, c.uid, c.mode, c.dir), func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "dir")
			must(t, os.WriteFile(filepath.Join(root, victim), []byte("precious"), 0o600), os.Mkdir(dir, 0o700),
				os.Chmod(dir, c.mode|fs.ModeSticky), os.Chown(dir, c.dir, c.dir))
			name := filepath.Join(dir, "log")
			lay[c.what](t, name, c.uid)
			file, existed, err := Open(name, os.O_WRONLY|os.O_APPEND)
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("%v, want %v", err, c.err)
			}
			if err != nil {
				if text, _ := os.ReadFile(filepath.Join(root, victim)); string(text) != "precious" {
					t.Errorf("the victim has %q", text)
				}
				if _, err := os.Lstat(filepath.Join(root, "none")); err == nil {
					t.Error("a file was made where the link leads")
				}
				return
			}
			defer file.Close()
			if existed != c.existed {
				t.Errorf("existed: %v", existed)
			}
			info, _ := file.Stat()
			if !existed && info.Mode() != 0o600 {
				t.Errorf("made with mode %v", info.Mode())
			}
			if now, err := os.Stat(name); err != nil || !os.SameFile(info, now) {
				t.Errorf("another file was opened: %v", err)
			}
		})
	}
}

// /dev/stdout and the like lead to files without a name.
func TestOpenDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	name := filepath.Join(t.TempDir(), "stdout")
	must(t, os.Symlink(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), name))
	file, existed, err := Open(name, os.O_WRONLY)
	if err != nil || !existed {
		t.Fatal(existed, err)
	}
	defer file.Close()
	fmt.Fprintln(file, "x")
	buf := make([]byte, 8)
	if n, err := r.Read(buf); string(buf[:n]) != "x\n" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// Without /proc, files are opened by the same rules.
func TestWithoutProc(t *testing.T) {
	netnstest.WithoutProc(t, func(t *testing.T) { t.Run("open", TestOpen) })
}
