package applets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Install makes a symbolic link to the running binary in dir for every applet
// that has one. A link that is there already stays; one that leads to another
// ctbox (an older version's, say) is replaced. Everything is checked before the first
// link is made: where a name is taken by anything else, Install changes
// nothing and its error names the path.
//
// Where dir is the binary's own directory the links are relative, so that a
// tree staged under DESTDIR can be moved.
func Install(table []Applet, dir string) error {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return fmt.Errorf("install: find the running binary: %w", err)
	}
	return install(table, dir, self)
}

// install is Install for the binary at self, an absolute path without links.
func install(table []Applet, dir, self string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("install: %s is not a directory", dir)
	}
	target := self
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		if real, err = filepath.Abs(real); err == nil && real == filepath.Dir(self) {
			target = filepath.Base(self)
		}
	}

	type link struct {
		path    string
		replace bool
	}
	var todo []link
	for _, a := range Linked(table) {
		path := filepath.Join(dir, a.Name)
		switch old, err := os.Readlink(path); {
		case errors.Is(err, fs.ErrNotExist):
			todo = append(todo, link{path, false})
		case err != nil:
			// Readlink fails on what is no link; say that, not "invalid argument".
			return fmt.Errorf("install: %s exists and is not a link to ctbox; nothing was changed", path)
		case old == target || sameFile(path, self):
		case filepath.Base(old) == "ctbox":
			todo = append(todo, link{path, true})
		default:
			return fmt.Errorf("install: %s is a link to %s, not to ctbox; nothing was changed", path, old)
		}
	}
	for _, l := range todo {
		if err := makeLink(target, l.path, l.replace); err != nil {
			return fmt.Errorf("install: %w", err)
		}
	}
	return nil
}

// makeLink replaces by a rename, so that the name never is without a program.
func makeLink(target, path string, replace bool) error {
	if !replace {
		return os.Symlink(target, path)
	}
	temp := fmt.Sprintf("%s.ctbox-%d", path, os.Getpid())
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

func sameFile(a, b string) bool {
	ia, err := os.Stat(a)
	if err != nil {
		return false
	}
	ib, err := os.Stat(b)
	return err == nil && os.SameFile(ia, ib)
}
