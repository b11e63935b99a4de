package daemonize

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ctbox/applets/conntrackd/safefile"
)

// Lock is a lock file that this process holds. The file's existence keeps conntrack-tools'
// daemon from starting. Our daemon looks at the flock(2) on it, which the kernel releases
// when the owner dies, to see whether the owner is alive.
type Lock struct {
	path string
	file *os.File
}

// ErrLocked is the error when another daemon holds the lock file.
var ErrLocked = errors.New("the lock file is another daemon's")

// AcquireLock locks the file at path and writes our process id to it. takenOver reports
// that the file existed, left behind by a daemon that is no longer running.
//
// conntrack-tools' daemon creates the file and leaves it empty and unlocked. An empty file
// is therefore taken over only if alive returns false; otherwise the error is ErrLocked.
func AcquireLock(path string, alive func() bool) (_ *Lock, takenOver bool, err error) {
	for {
		file, existed, err := safefile.Open(path, os.O_RDWR)
		if err != nil {
			return nil, false, err
		}
		l := &Lock{path, file}
		switch err := l.lock(existed, alive); {
		case errors.Is(err, errReplaced):
			file.Close()
		case err != nil:
			file.Close()
			return nil, false, err
		default:
			return l, existed, nil
		}
	}
}

// errReplaced is the error when path names another file by now.
var errReplaced = errors.New("the lock file was replaced")

func (l *Lock) lock(existed bool, alive func() bool) error {
	switch err := unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrLocked
	case err != nil:
		return fmt.Errorf("lock: %w", err)
	}
	// The last owner may have removed the file after it was opened here.
	opened, err := l.file.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Stat(l.path); err != nil || !os.SameFile(opened, now) {
		return errReplaced
	}
	if existed {
		text, err := io.ReadAll(io.LimitReader(l.file, 32))
		if err != nil {
			return err
		}
		switch owner := strings.TrimSpace(string(text)); {
		case owner == "" && alive():
			return ErrLocked
		case owner != "" && strings.Trim(owner, "0123456789") != "":
			return errors.New("it exists and is not a lock file")
		}
	}
	// A full disk must not keep a firewall from starting: the process id is for
	// people, and a file without one is handled like one of conntrack-tools.
	if err := l.file.Truncate(0); err == nil {
		l.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return nil
}

// Release removes the file, if it is still the one at its path (or at the end of its
// symbolic links), and releases the lock.
func (l *Lock) Release() error {
	return errors.Join(l.remove(), l.file.Close())
}

// remove removes the file. It is called while the file is open, so that no other file can
// have its inode number.
func (l *Lock) remove() error {
	held, err := l.file.Stat()
	if err != nil {
		return err
	}
	path, err := filepath.EvalSymlinks(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(held, now) {
		return nil
	}
	return os.Remove(path)
}
