package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Errors of Ask besides those of the connection.
var (
	// ErrUnknown is the error if the daemon did not answer a request WithOutcome, as
	// conntrack-tools' daemon does not.
	ErrUnknown = errors.New("the running daemon does not know this request")
	// ErrCut is the error if the daemon ended before its answer was complete.
	ErrCut = errors.New("the daemon's answer was cut short")
	// ErrStranger is the error if the listening process belongs to neither root nor this
	// process's user, in a world-writable directory: it could answer anything, even that a
	// commit is done.
	ErrStranger = errors.New("another user listens on the control socket, in a directory for everybody")
)

// Outcome is the reason, as the daemon words it, why a request failed.
type Outcome string

// Error implements error.
func (o Outcome) Error() string { return string(o) }

// Remark is the daemon's text about a request that was carried out except for single
// entries, which it names. It consists of whole lines.
type Remark string

// Error implements error.
func (r Remark) Error() string { return strings.TrimSuffix(string(r), "\n") }

// ConnectError is a failure to connect to the daemon.
type ConnectError struct{ Err error }

// Error implements error.
func (e *ConnectError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// OutputError is a failure to write the answer to Ask's writer.
type OutputError struct{ Err error }

// Error implements error.
func (e *OutputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.Err }

// Ask sends a request, with a Selection that may be nil, to the daemon at path and copies the
// text of its answer to w as it arrives, until the daemon closes the connection or ctx ends.
// Requests WithOutcome or with a Selection can return ErrUnknown, ErrCut, an Outcome or a
// Remark. Other errors are a *ConnectError, ErrStranger, an *OutputError, or the context's.
func Ask(ctx context.Context, path string, r Request, s *Selection, w io.Writer) error {
	var dialer net.Dialer
	conn, err := dialer.DialUnix(ctx, "unix", nil, address(path))
	if err != nil {
		return &ConnectError{err}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if isStranger(conn, path) {
		return ErrStranger
	}
	if _, err := conn.Write(appendRequest(nil, r, s)); err != nil {
		return &ConnectError{err}
	}
	a := answer{text: w, outcome: r&WithOutcome != 0 || !s.Empty()}
	_, err = io.Copy(&a, struct{ io.Reader }{conn}) // hides WriteTo, which would bypass a
	outcome, remark, _ := bytes.Cut(a.end, []byte{0})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case a.err != nil:
		return &OutputError{a.err}
	case !a.outcome || a.ended && err == nil && len(a.end) == 0:
		return nil // without an outcome, a reset is not an error: a daemon that ends can cause it
	case a.ended && len(outcome) == 0 && len(remark) > 0:
		return Remark(remark)
	case a.ended:
		return Outcome(outcome)
	case !a.any:
		return ErrUnknown
	}
	return ErrCut
}

// isStranger reports whether the listener at path may be another user's trap. The credentials
// are those of the process that called listen. The daemon may run as a user of its own, which
// is trusted if the directory is not world-writable.
func isStranger(conn *net.UnixConn, path string) bool {
	uid, err := peer(conn)
	if err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
		return false
	}
	dir, err := os.Stat(filepath.Dir(path))
	return err != nil || dir.Mode()&0o002 != 0
}

// answer separates the text from the outcome that follows it.
type answer struct {
	text    io.Writer
	outcome bool // one is expected

	any   bool // something was received
	ended bool // the zero byte was received
	end   []byte
	err   error // of text
}

// maxOutcome is more than any daemon sends.
const maxOutcome = 64 << 10

func (a *answer) Write(p []byte) (int, error) {
	n := len(p)
	a.any = true
	if a.outcome && !a.ended {
		if i := bytes.IndexByte(p, 0); i >= 0 {
			a.ended = true
			if _, a.err = a.text.Write(p[:i]); a.err != nil {
				return 0, a.err
			}
			p = p[i+1:]
		}
	}
	if a.ended {
		a.end = append(a.end, p[:min(len(p), maxOutcome-len(a.end))]...)
		return n, nil
	}
	if _, a.err = a.text.Write(p); a.err != nil {
		return 0, a.err
	}
	return n, nil
}
