package applets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Install creates a symbolic link to the running binary in dir for every applet that has one.
// An existing link to it is kept; a link to another ctbox, for example an older version, is
// replaced. Everything is checked before the first link is created: if a name is taken by
// anything else, Install changes nothing and its error names the path.
//
// If dir is the binary's own directory the links are relative, so that a tree staged under
// DESTDIR can be moved.
func Install(table []Applet, dir string) error {
	self, err := running()
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return install(table, dir, self)
}

// Copy writes the running binary to dir as ctbox and makes the links to it there, as
// Install does. It needs no other program, so an image that has nothing else can put
// ctbox on a Kubernetes node. An older ctbox in dir is replaced by a rename, which leaves
// running programs alone; one with the same content stays. Extended attributes, among
// them file capabilities, are not copied. Where a name is taken by anything else, Copy
// changes nothing and its error names the path.
func Copy(table []Applet, dir string) error {
	self, err := running()
	if err == nil {
		err = copyBinary(table, dir, self)
	}
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}

// running returns the path of the running binary, absolute and without links.
func running() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("find the running binary: %w", err)
	}
	return self, nil
}

// install is Install for the binary at self, an absolute path without links.
func install(table []Applet, dir, self string) error {
	links, err := planLinks(table, dir, self)
	if err == nil {
		err = links.create()
	}
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	return nil
}

// copyBinary is Copy of the binary at self.
func copyBinary(table []Applet, dir, self string) error {
	path := filepath.Join(dir, "ctbox")
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%s exists and is not a file; nothing was changed", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// The links' target need not exist yet. dir's own path may lead through links.
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return err
	}
	links, err := planLinks(table, dir, filepath.Join(real, "ctbox"))
	if err != nil {
		return err
	}
	if same, err := sameContent(self, path); err != nil {
		return err
	} else if !same {
		if err := replaceFile(self, path); err != nil {
			return err
		}
	}
	return links.create()
}

// links are those that install has to make, all to one target.
type links struct {
	target string
	todo   []link
}

type link struct {
	path    string
	replace bool
}

// planLinks finds out which links are missing in dir. It fails where a name is taken.
func planLinks(table []Applet, dir, self string) (links, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return links{}, err
	}
	if !info.IsDir() {
		return links{}, fmt.Errorf("%s is not a directory", dir)
	}
	l := links{target: self}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		if real, err = filepath.Abs(real); err == nil && real == filepath.Dir(self) {
			l.target = filepath.Base(self)
		}
	}
	for _, a := range Linked(table) {
		path := filepath.Join(dir, a.Name)
		switch old, err := os.Readlink(path); {
		case errors.Is(err, fs.ErrNotExist):
			l.todo = append(l.todo, link{path, false})
		case err != nil:
			// Readlink fails on what is no link; say that, not "invalid argument".
			return links{}, fmt.Errorf("%s exists and is not a link to ctbox; nothing was changed", path)
		case old == l.target || sameFile(path, self):
		case filepath.Base(old) == "ctbox":
			l.todo = append(l.todo, link{path, true})
		default:
			return links{}, fmt.Errorf("%s is a link to %s, not to ctbox; nothing was changed", path, old)
		}
	}
	return l, nil
}

func (l links) create() error {
	for _, link := range l.todo {
		if err := makeLink(l.target, link.path, link.replace); err != nil {
			return err
		}
	}
	return nil
}

// makeLink replaces by a rename, so that the name never is without a program.
func makeLink(target, path string, replace bool) error {
	if !replace {
		return os.Symlink(target, path)
	}
	temp := temporary(path)
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// temporary is the name beside path under which its replacement is made.
func temporary(path string) string { return fmt.Sprintf("%s.ctbox-%d", path, os.Getpid()) }

// replaceFile writes a copy of the program at from to path. It is complete, and on disk,
// before it has that name.
func replaceFile(from, path string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := temporary(path)
	// A file of that name is left of a copy that was interrupted.
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Chmod(0o755) // whatever the umask
	}
	if err == nil {
		err = out.Sync()
	}
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// sameContent reports whether both files have the same bytes. b may be missing.
func sameContent(a, b string) (bool, error) {
	have, err := os.ReadFile(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want, err := os.ReadFile(a)
	return err == nil && bytes.Equal(have, want), err
}

func sameFile(a, b string) bool {
	ia, err := os.Stat(a)
	if err != nil {
		return false
	}
	ib, err := os.Stat(b)
	return err == nil && os.SameFile(ia, ib)
}
