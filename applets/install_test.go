package applets

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// newBinary makes a file that stands for the running ctbox.
func newBinary(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "ctbox")
	if err := os.WriteFile(path, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantLink(t *testing.T, path, target string) {
	t.Helper()
	if got, err := os.Readlink(path); err != nil || got != target {
		t.Errorf("%s leads to %q (%v), want %q", filepath.Base(path), got, err, target)
	}
}

func TestInstallMakesLinks(t *testing.T) {
	self, dir := newBinary(t, t.TempDir()), t.TempDir()
	for range 2 { // the second time finds everything in place
		if err := install(testTable, dir, self); err != nil {
			t.Fatal(err)
		}
		wantLink(t, filepath.Join(dir, "alpha"), self)
		wantLink(t, filepath.Join(dir, "beta"), self)
	}
}

func TestInstallBesideTheBinaryIsRelative(t *testing.T) {
	dir := t.TempDir()
	if err := install(testTable, dir, newBinary(t, dir)); err != nil {
		t.Fatal(err)
	}
	wantLink(t, filepath.Join(dir, "alpha"), "ctbox")
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := install(testTable, moved, filepath.Join(moved, "ctbox")); err != nil {
		t.Error(err)
	}
	wantLink(t, filepath.Join(moved, "alpha"), "ctbox")
}

func TestInstallReplacesLinksToAnotherCtbox(t *testing.T) {
	self, dir := newBinary(t, t.TempDir()), t.TempDir()
	gone := filepath.Join(t.TempDir(), "old", "ctbox")
	if err := os.Symlink(gone, filepath.Join(dir, "alpha")); err != nil {
		t.Fatal(err)
	}
	if err := install(testTable, dir, self); err != nil {
		t.Fatal(err)
	}
	wantLink(t, filepath.Join(dir, "alpha"), self)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%d entries after a replacement, want 2 (%v)", len(entries), err)
	}
}

// The name that is taken is the second one, so that a first link made before
// the check would be seen.
func TestInstallRefusesWhatIsNotOurs(t *testing.T) {
	for name, occupy := range map[string]func(path string) error{
		"a file":              func(p string) error { return os.WriteFile(p, []byte("theirs"), 0o755) },
		"a directory":         func(p string) error { return os.Mkdir(p, 0o755) },
		"a link to something": func(p string) error { return os.Symlink("/bin/true", p) },
		"a dangling link":     func(p string) error { return os.Symlink("/nonexistent/conntrack", p) },
		"a link to itself":    func(p string) error { return os.Symlink(p, p) },
	} {
		t.Run(name, func(t *testing.T) {
			self, dir := newBinary(t, t.TempDir()), t.TempDir()
			path := filepath.Join(dir, "beta")
			if err := occupy(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			err = install(testTable, dir, self)
			if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line that names %s", err, path)
			}
			if _, err := os.Lstat(filepath.Join(dir, "alpha")); !os.IsNotExist(err) {
				t.Error("a link was made before the refusal")
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("%s was changed (%v)", path, err)
			}
		})
	}
}

func TestInstallNeedsADirectory(t *testing.T) {
	self := newBinary(t, t.TempDir())
	for _, dir := range []string{self, filepath.Join(t.TempDir(), "missing")} {
		if err := install(testTable, dir, self); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("install in %s: %v", dir, err)
		}
	}
}

func TestCopy(t *testing.T) {
	self, dir := newBinary(t, t.TempDir()), t.TempDir()
	// A capability of the image's file must not get to the node, where every user could
	// run the copy.
	netAdmin := []byte{3: 2, 5: 1 << (unix.CAP_NET_ADMIN - 8), 19: 0} // a struct vfs_cap_data
	if err := unix.Setxattr(self, "security.capability", netAdmin, 0); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "ctbox")
	if err := os.Symlink(old, filepath.Join(dir, "beta")); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "ctbox")
	check := func() os.FileInfo {
		t.Helper()
		if err := copyBinary(testTable, dir, self); err != nil {
			t.Fatal(err)
		}
		wantLink(t, filepath.Join(dir, "alpha"), "ctbox")
		wantLink(t, filepath.Join(dir, "beta"), "ctbox")
		want, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the copy has %q (%v), want %q", got, err, want)
		}
		info, err := os.Lstat(copied)
		if err != nil || info.Mode() != 0o755 {
			t.Fatalf("the copy has mode %v (%v)", info.Mode(), err)
		}
		if n, err := unix.Listxattr(copied, nil); err != nil || n != 0 {
			t.Errorf("the copy has %d bytes of extended attributes (%v)", n, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
			t.Errorf("%d entries, want 3 (%v)", len(entries), err)
		}
		return info
	}
	first := check()
	if again := check(); !os.SameFile(first, again) {
		t.Error("the same content was written again")
	}
	// A newer version: programs that run keep the old file. What an interrupted copy left is in the way.
	if err := os.WriteFile(self, []byte("newer"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(temporary(copied), []byte("half of something longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if newer := check(); os.SameFile(first, newer) {
		t.Error("the file was overwritten in place")
	}
	// The binary itself is in the directory.
	if err := copyBinary(testTable, filepath.Dir(self), self); err != nil {
		t.Error(err)
	}
}

func TestCopyRefusesWhatIsNotOurs(t *testing.T) {
	for name, occupy := range map[string]func(dir string) (string, error){
		"a program": func(dir string) (string, error) {
			path := filepath.Join(dir, "beta")
			return path, os.WriteFile(path, []byte("theirs"), 0o755)
		},
		"ctbox is a directory": func(dir string) (string, error) {
			path := filepath.Join(dir, "ctbox")
			return path, os.Mkdir(path, 0o755)
		},
		"ctbox is a link": func(dir string) (string, error) {
			path := filepath.Join(dir, "ctbox")
			return path, os.Symlink("/bin/true", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			self, dir := newBinary(t, t.TempDir()), t.TempDir()
			path, err := occupy(dir)
			if err != nil {
				t.Fatal(err)
			}
			err = copyBinary(testTable, dir, self)
			if err == nil || !strings.Contains(err.Error(), path) || !strings.HasSuffix(err.Error(), "; nothing was changed") {
				t.Errorf("error %v, want one that names %s", err, path)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("%d entries, want 1 (%v)", len(entries), err)
			}
		})
	}
}
