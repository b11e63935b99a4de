package logging

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/applets/conntrackd/safefile"
)

// File is a log file that outlives its disk being full, or, as a pipe, its reader
// being asleep. It belongs to one goroutine.
type File struct {
	name    string
	format  Format // of what it says itself
	file    *os.File
	regular bool
	lost    uint64 // lines that could not be written since the last that could

	// How long the reader of a pipe may keep us waiting for room. When lines were
	// lost already it is much less.
	patience time.Duration
}

// OpenFile opens a file for appending, and makes it (mode 0600) if need be, by the
// rules of safefile.Open. patience is for the reader of a pipe.
func OpenFile(name string, patience time.Duration) (*File, error) {
	file, err := openAppend(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	return &File{name: name, file: file, regular: err == nil && info.Mode().IsRegular(), patience: patience}, nil
}

func openAppend(name string) (*os.File, error) {
	// A named pipe that nobody reads would not open until somebody does.
	const flags = os.O_APPEND | unix.O_NONBLOCK
	file, _, err := safefile.Open(name, os.O_WRONLY|flags)
	if errors.Is(err, unix.ENXIO) {
		file, _, err = safefile.Open(name, os.O_RDWR|flags)
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
		if rest := f.append(lostNote(f.lost, "the log").append(nil, f.format)); len(rest) > 0 {
			f.lost += count(lines)
			return len(lines), nil
		}
		f.lost = 0
	}
	f.lost += count(f.append(lines))
	return len(lines), nil
}

// pipeWrite is how much a pipe takes whole or not at all (PIPE_BUF).
const pipeWrite = 4096

// append writes what the file takes and returns the lines that it does not. A file
// keeps no half line; a pipe keeps one only of a line longer than pipeWrite.
func (f *File) append(lines []byte) (rest []byte) {
	for len(lines) > 0 {
		part := lines
		if !f.regular && len(part) > pipeWrite {
			part = part[:1+max(bytes.LastIndexByte(part[:pipeWrite], '\n'), bytes.IndexByte(part, '\n'))]
		}
		n, err := f.file.Write(part)
		if err != nil {
			whole := bytes.LastIndexByte(part[:n], '\n') + 1
			if f.regular && n > whole {
				f.cut(n - whole)
			}
			return lines[whole:]
		}
		lines = lines[len(part):]
	}
	return nil
}

// cut removes the last n bytes.
func (f *File) cut(n int) {
	if info, err := f.file.Stat(); err == nil {
		_ = f.file.Truncate(info.Size() - int64(n))
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

// Close closes the file.
func (f *File) Close() { f.file.Close() }

// fileSpool is the spool of a File.
type fileSpool struct {
	*spool
	name   string
	format Format
	losing atomic.Bool // lines are lost, and that was said
	full   atomic.Pointer[func()]
}

// newFileSpool returns the spool of a log file, and closes the file at its end.
func newFileSpool(f *File, format Format) *fileSpool {
	f.format = format
	s := &fileSpool{name: f.name, format: format}
	s.spool = newSpool(logRoom, func(b *batch, lost uint64) {
		f.Write(b.text)
		if lost > 0 {
			f.lost += lost
			f.Write(nil)
		}
		if f.lost == 0 {
			s.losing.Store(false)
		} else if say := s.full.Load(); say != nil && s.losing.CompareAndSwap(false, true) {
			(*say)()
		}
	}, f.Close)
	return s
}

// onLoss sets what is called when the file begins to lose lines.
func (s *fileSpool) onLoss(say func()) { s.full.Store(&say) }
