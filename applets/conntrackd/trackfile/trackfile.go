// Package trackfile writes the file that keepalived tracks: a number and a newline.
//
// keepalived takes a file that is missing or empty for 0, which stands for a node that may
// take over. Therefore the file is replaced by rename and never removed, and written again
// when someone else has removed or changed it.
package trackfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// File is the file at one path. Its methods may be called concurrently.
type File struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	value   int         // of the last write
	written os.FileInfo // the file as it was then; nil before
	failing string      // the reason that the log has; "" if the last write succeeded
}

// New returns the file at path, an absolute one. Nothing is written yet.
func New(path string, log *slog.Logger) *File { return &File{path: path, log: log} }

// Path returns the path given to New.
func (f *File) Path() string { return f.path }

// MakeDir makes the file's directory if its parent exists and it does not, with mode 0755
// whatever the umask. The sandbox does not permit that, so it is for the start.
func (f *File) MakeDir() error {
	dir := filepath.Dir(f.path)
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// Set writes value, unless the file has it already. It logs an error that differs from the
// last one, and the end of an error; the caller is expected to call Set again and again.
func (f *File) Set(value int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := value != f.value || f.written == nil
	if !changed && f.untouched() {
		return nil
	}
	if err := f.replace(value); err != nil {
		f.fail(value, err)
		return err
	}
	switch {
	case f.failing != "":
		f.say(slog.LevelWarn, "File "+f.path+" is written again")
		f.failing = ""
	case !changed:
		f.say(slog.LevelWarn, "File "+f.path+" was removed or changed by someone else, and is written again")
	}
	return nil
}

// untouched reports whether the file is the one that was written last.
func (f *File) untouched() bool {
	now, err := os.Lstat(f.path)
	return err == nil && os.SameFile(now, f.written) && now.Size() == f.written.Size() && now.ModTime().Equal(f.written.ModTime())
}

// replace writes value to a new file and renames it.
func (f *File) replace(value int) error {
	draft := f.path + ".new"
	// A former process may have left one.
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(strconv.Itoa(value) + "\n")
	info, statErr := file.Stat()
	if err = errors.Join(err, statErr, file.Close()); err == nil {
		// Not os.Rename, which makes a call that differs between architectures: the sandbox
		// permits this one.
		err = unix.Renameat2(unix.AT_FDCWD, draft, unix.AT_FDCWD, f.path, 0)
	}
	if err != nil {
		_ = os.Remove(draft)
		return err
	}
	f.value, f.written = value, info
	return nil
}

func (f *File) fail(value int, err error) {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	reason := err.Error()
	if reason == f.failing {
		return
	}
	f.failing = reason
	if errors.Is(err, fs.ErrNotExist) {
		reason = "there is no directory " + filepath.Dir(f.path) + "; when there is one again, reload keepalived"
	}
	f.say(slog.LevelError, fmt.Sprintf("cannot write %d to File %s, which is tried again: %s", value, f.path, reason))
}

func (f *File) say(level slog.Level, text string) { f.log.Log(context.Background(), level, text) }
