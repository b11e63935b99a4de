package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// What can go wrong for a client besides the connection itself.
var (
	// ErrUnknown: the daemon answered nothing to a request WithOutcome, as those
	// of conntrack-tools do.
	ErrUnknown = errors.New("the running daemon does not know this request")
	// ErrCut: the daemon went before its answer was complete.
	ErrCut = errors.New("the daemon's answer was cut short")
	// ErrStranger: who listens is neither root nor this process's user, in a directory
	// where every user can make a socket, and could say anything: that a commit is done.
	ErrStranger = errors.New("another user listens on the control socket, in a directory for everybody")
)

// An Outcome is a daemon's account of why a request did not do all that was
// asked for.
type Outcome string

// Error implements error.
func (o Outcome) Error() string { return string(o) }

// A Remark is a daemon's account of a request that was carried out, but for single entries
// that are named in it. It consists of whole lines.
type Remark string

// Error implements error.
func (r Remark) Error() string { return strings.TrimSuffix(string(r), "\n") }

// ConnectError is a failure to reach the daemon at all.
type ConnectError struct{ Err error }

// Error implements error.
func (e *ConnectError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// An OutputError is a failure to write the answer to where it is to go.
type OutputError struct{ Err error }

// Error implements error.
func (e *OutputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.Err }

// Ask sends a request to the daemon at path and copies the text of its answer to
// w as it comes, until the daemon closes. Only requests WithOutcome can tell
// how it went: by ErrUnknown, ErrCut, an Outcome or a Remark. Other errors are a
// *ConnectError, ErrStranger, an *OutputError, or ctx's, whose end ends the conversation.
func Ask(ctx context.Context, path string, r Request, w io.Writer) error {
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
	var number [4]byte
	binary.NativeEndian.PutUint32(number[:], uint32(r))
	if _, err := conn.Write(number[:]); err != nil {
		return &ConnectError{err}
	}
	a := answer{text: w, outcome: r&WithOutcome != 0}
	_, err = io.Copy(&a, struct{ io.Reader }{conn}) // not conn itself: it knows better ways that pass a by
	outcome, remark, _ := bytes.Cut(a.end, []byte{0})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case a.err != nil:
		return &OutputError{a.err}
	case !a.outcome || a.ended && err == nil && len(a.end) == 0:
		return nil // a daemon that ends resets the connection at times
	case a.ended && len(outcome) == 0 && len(remark) > 0:
		return Remark(remark)
	case a.ended:
		return Outcome(outcome)
	case !a.any:
		return ErrUnknown
	}
	return ErrCut
}

// isStranger reports whether what listens at path may be a trap. The credentials are
// those of the process that began to listen. A daemon can have a user of its own, who
// is believed where the directory is not everybody's.
func isStranger(conn *net.UnixConn, path string) bool {
	uid, err := peer(conn)
	if err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
		return false
	}
	dir, err := os.Stat(filepath.Dir(path))
	return err != nil || dir.Mode()&0o002 != 0
}

// answer parts the text from the outcome behind it.
type answer struct {
	text    io.Writer
	outcome bool // there is to be one

	any   bool
	ended bool // the zero was there
	end   []byte
	err   error // of text
}

// maxOutcome is more than any daemon says.
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
