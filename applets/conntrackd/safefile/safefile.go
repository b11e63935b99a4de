// Package safefile opens files for writing in directories where other users may have placed
// traps, such as a symbolic link at the path of a log file.
package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUntrusted is the error for a file that another user may have placed there for us to
// write to.
var ErrUntrusted = errors.New("may be a trap of another user")

// fileMode hides flows from other users.
const fileMode = 0o600

// Open opens a file for writing with flags of open(2), and creates it (mode 0600) if it does
// not exist. The directory may be one where every user can create files; Open refuses what
// such users have placed there, whatever the fs.protected_* sysctls (proc_sys_fs(5)) say:
//
//   - symbolic links are followed, in any directory, only if they belong to this
//     process's user or to root;
//   - in a world-writable directory, the file itself must belong to one of them, too;
//   - there, and in another user's directory, it must not have another hard link.
//
// existed reports that the file was not created. An error wraps ErrUntrusted or is the
// system's.
func Open(path string, flags int) (_ *os.File, existed bool, err error) {
	const most = 40 // links, as in the kernel (path_resolution(7)), and retries
	for range most {
		file, err := os.OpenFile(path, flags|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, fileMode)
		if !errors.Is(err, fs.ErrExist) {
			return file, false, err
		}
		target, file, err := openExisting(path, flags)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it was removed meanwhile
		case err != nil || file != nil:
			return file, true, err
		default:
			path = target
		}
	}
	return nil, false, &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// openExisting opens the file at path, or returns the target if it is a symbolic link. It
// checks the open descriptor, so the file cannot be exchanged between check and use.
func openExisting(path string, flags int) (target string, _ *os.File, err error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if !isOurs(&st) {
			return "", nil, fmt.Errorf("%w: a symbolic link of user %d", ErrUntrusted, st.Uid)
		}
		return follow(path, fd, flags)
	}
	var dir unix.Stat_t
	if err := unix.Stat(filepath.Dir(path), &dir); err != nil {
		return "", nil, &fs.PathError{Op: "stat", Path: filepath.Dir(path), Err: err}
	}
	worldWritable := dir.Mode&0o002 != 0
	switch {
	case worldWritable && !isOurs(&st):
		return "", nil, fmt.Errorf("%w: it belongs to user %d, in a directory for everybody", ErrUntrusted, st.Uid)
	case (worldWritable || !isOurs(&dir)) && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1:
		return "", nil, fmt.Errorf("%w: it has another name, in a directory of others", ErrUntrusted)
	}
	file, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = openSame(path, flags, &st)
	}
	var failed *fs.PathError
	if errors.As(err, &failed) {
		failed.Path = path
	}
	return "", file, err
}

// openSame opens by its name the file that st describes, for systems without /proc. If the name
// meanwhile belongs to another file, the error is fs.ErrNotExist and no file is open.
func openSame(path string, flags int, st *unix.Stat_t) (*os.File, error) {
	file, err := os.OpenFile(path, flags|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		opened, ok := info.Sys().(*syscall.Stat_t)
		if ok && opened.Dev == st.Dev && opened.Ino == st.Ino {
			return file, nil
		}
		err = fs.ErrNotExist
	}
	file.Close()
	return nil, err
}

// isOurs reports whether a file is this process's user's or root's.
func isOurs(st *unix.Stat_t) bool { return st.Uid == 0 || int(st.Uid) == os.Geteuid() }

// follow returns the target of the link that is open as fd. The links of /proc, to which
// /dev/stdout leads for example, refer to files without a path: they are opened.
func follow(path string, fd, flags int) (target string, _ *os.File, err error) {
	if strings.HasPrefix(path, "/proc/") {
		file, err := os.OpenFile(path, flags, 0)
		return "", file, err
	}
	name := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", name)
	if err != nil {
		return "", nil, &fs.PathError{Op: "readlink", Path: path, Err: err}
	}
	target = string(name[:n])
	if !filepath.IsAbs(target) {
		// Not cleaned: the meaning of a .. depends on the directory.
		target = filepath.Dir(path) + "/" + target
	}
	return target, nil, nil
}
