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

// File is a log file that survives a full disk or, if it is a pipe, a reader that does not
// read. It is used by one goroutine.
type File struct {
	name    string
	format  Format // of the File's own lines
	file    *os.File
	regular bool
	lost    uint64 // lines lost since the last that was written

	// How long a write waits for the reader of a pipe. After lines are lost, it is much
	// less.
	patience time.Duration
}

// OpenFile opens a file for appending with safefile.Open, which creates it (mode 0600) if it
// does not exist. patience is how long a write waits for the reader of a pipe.
func OpenFile(name string, patience time.Duration) (*File, error) {
	file, err := OpenAppend(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	return &File{name: name, file: file, regular: err == nil && info.Mode().IsRegular(), patience: patience}, nil
}

// OpenAppend opens a file for appending and creates it (mode 0600) if it does not exist. A named
// pipe needs no reader. The error does not have the name.
func OpenAppend(name string) (*os.File, error) {
	// Without O_NONBLOCK, opening a named pipe blocks until it has a reader.
	const flags = os.O_APPEND | unix.O_NONBLOCK
	file, _, err := safefile.Open(name, os.O_WRONLY|flags)
	if errors.Is(err, unix.ENXIO) {
		file, _, err = safefile.Open(name, os.O_RDWR|flags)
	}
	// The caller's message has the name already.
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return nil, pathErr.Err
	}
	return file, err
}

// Write appends whole lines. It never fails: lines that cannot be written are counted, and the
// count precedes the next lines that can.
func (f *File) Write(lines []byte) (int, error) {
	patience := f.patience
	if f.lost > 0 {
		patience /= 50
	}
	_ = f.file.SetWriteDeadline(time.Now().Add(patience)) // fails for regular files, which have no deadlines
	if f.lost > 0 {
		if rest := f.writeLines(lostNote(f.lost, "the log").appendTo(nil, f.format)); len(rest) > 0 {
			f.lost += count(lines)
			return len(lines), nil
		}
		f.lost = 0
	}
	f.lost += count(f.writeLines(lines))
	return len(lines), nil
}

// pipeWrite is the largest write to a pipe that is atomic (PIPE_BUF).
const pipeWrite = 4096

// writeLines writes as many lines as possible and returns the rest. A partial line is removed
// from a file; in a pipe, only a line longer than pipeWrite can be partial.
func (f *File) writeLines(lines []byte) (rest []byte) {
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

// Lost returns how many lost lines are not reported yet.
func (f *File) Lost() uint64 { return f.lost }

// Close closes the file.
func (f *File) Close() { f.file.Close() }

// fileSpool is the spool of a File.
type fileSpool struct {
	*spool
	name   string
	format Format
	losing atomic.Bool // lines are lost, and that was logged
	full   atomic.Pointer[func()]
}

// newFileSpool returns the spool of a log file. It closes the file when it ends.
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
		} else if report := s.full.Load(); report != nil && s.losing.CompareAndSwap(false, true) {
			(*report)()
		}
	}, f.Close)
	return s
}

// onLoss sets the function that is called when the file begins to lose lines.
func (s *fileSpool) onLoss(f func()) { s.full.Store(&f) }
