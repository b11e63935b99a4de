package logging

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/applets/conntrackd/process"
)

// File is a log file that outlives its disk being full, or, as a pipe, its reader
// being asleep. It belongs to one goroutine, or to who holds its owner's lock.
type File struct {
	name   string
	format Format // of what it says itself
	file   *os.File
	lost   uint64 // lines that could not be written since the last that could

	// How long the reader of a pipe may keep us waiting for room. When lines were
	// lost already it is much less.
	patience time.Duration
}

// OpenFile opens a file for appending, and makes it (mode 0600) if need be, by the
// rules of process.Open. patience is for the reader of a pipe.
func OpenFile(name string, patience time.Duration) (*File, error) {
	file, err := openAppend(name)
	if err != nil {
		return nil, err
	}
	return &File{name: name, file: file, patience: patience}, nil
}

func openAppend(name string) (*os.File, error) {
	// A named pipe that nobody reads would not open until somebody does.
	const flags = os.O_APPEND | unix.O_NONBLOCK
	file, _, err := process.Open(name, os.O_WRONLY|flags)
	if errors.Is(err, unix.ENXIO) {
		file, _, err = process.Open(name, os.O_RDWR|flags)
	}
	// The name is in what the caller says already.
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return nil, pathErr.Err
	}
	return file, err
}

// Write appends whole lines. It never fails: lines that the file does not take
// are counted, and when it takes some again they are preceded by how many were
// lost.
func (f *File) Write(lines []byte) (int, error) {
	patience := f.patience
	if f.lost > 0 {
		patience /= 50
	}
	_ = f.file.SetWriteDeadline(time.Now().Add(patience)) // a file on a disk has none
	if f.lost > 0 {
		note := record{at: time.Now(), level: levels[1],
			text: fmt.Sprintf("%d lines were lost: the log could not be written", f.lost)}
		if n, err := f.file.Write(note.append(nil, f.format)); err != nil {
			f.undo(n)
			f.lost += count(lines)
			return len(lines), nil
		}
		f.lost = 0
	}
	if n, err := f.file.Write(lines); err != nil {
		f.undo(n)
		f.lost += count(lines)
	}
	return len(lines), nil
}

// undo removes the first n bytes of lines that did not fit as a whole, so that
// no half line stands there. A file that can't be cut (a pipe, a terminal) keeps it.
func (f *File) undo(n int) {
	if info, err := f.file.Stat(); n > 0 && err == nil && info.Mode().IsRegular() {
		f.file.Truncate(info.Size() - int64(n))
	}
}

func count(lines []byte) (n uint64) {
	for _, c := range lines {
		if c == '\n' {
			n++
		}
	}
	return n
}

// Lost returns how many lines wait to be reported as lost.
func (f *File) Lost() uint64 { return f.lost }

// Reopen opens the file by its name again. If that fails the old one stays.
func (f *File) Reopen() error {
	file, err := openAppend(f.name)
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	f.file.Close()
	f.file = file
	return nil
}

// Close closes the file.
func (f *File) Close() { f.file.Close() }
