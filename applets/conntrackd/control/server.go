package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/applets/conntrackd/report"
	"ctbox/internal/slog"
	"ctbox/sync/node"
)

// Node is what the server asks; *node.Node is one. See there for the contract of
// each method.
type Node interface {
	Status(context.Context) (node.Status, error)
	ResendQueue(context.Context) ([]node.Resend, error)
	Dump(ctx context.Context, cache node.Cache, table node.Tables, each func(*node.Entry) error) error
	Commit(context.Context, node.Tables) (node.CommitResult, error)
	Flush(context.Context, node.Cache) error
	FlushKernel(context.Context, node.Tables) error
	Refill(context.Context, node.Tables) error
	RequestResync(context.Context) error
	Bulk(context.Context) error
	SchedulePurge(context.Context) error
}

// Listen makes the socket at path. It belongs to its owner alone (mode 0600,
// whatever the umask), from the first moment on.
//
// A socket that a dead daemon left is replaced. One that somebody listens on is
// not, and neither is a file that is no socket: both are errors.
func Listen(path string) (*net.UnixListener, error) {
	l, err := bind(path)
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	return bind(path)
}

func bind(path string) (*net.UnixListener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close() // the listener has a descriptor of its own
	// The file that bind makes has the mode of the socket, less the umask.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, &net.OpError{Op: "listen", Net: "unix", Addr: address(path), Err: os.NewSyscallError("bind", err)}
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	unixListener := l.(*net.UnixListener)
	unixListener.SetUnlinkOnClose(true)
	return unixListener, nil
}

func address(path string) *net.UnixAddr { return &net.UnixAddr{Name: path, Net: "unix"} }

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // its owner was quicker
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	if Answers(path) {
		return fmt.Errorf("another process listens on %s", path)
	}
	return os.Remove(path)
}

// Answers reports whether somebody listens on the socket at path. In doubt, when
// it can't be asked, somebody does.
func Answers(path string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialUnix(context.Background(), "unix", nil, address(path))
	if err == nil {
		conn.Close()
		return true
	}
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
}

// How long a client may take, and how many are served at one time; others wait
// for their turn. A client that does not read may be a pager that its user looks
// at, so it has time; nothing but its own connection waits for it. Answers that can
// be longer than what a socket holds are counted apart, so that however many of
// their readers stand still, a commit has its turn.
const (
	readTimeout  = 5 * time.Second
	writeTimeout = 5 * time.Minute
	maxClients   = 64
	maxLong      = 64 // of answers without a bound

	lastWord = 100 * time.Millisecond // of a daemon that ends
)

// Server answers control clients. Its fields are set before Serve and not
// changed after.
type Server struct {
	Node Node
	Log  *slog.Logger
	// Stop begins the daemon's orderly end. The client that asked for it is
	// answered, by the end of its connection, when the process ends or Close is
	// called: it wants to know when everything is gone.
	Stop func()
	// Reload has the daemon read its configuration again. It returns what is to
	// be told of that, in lines. Without it there is no such request.
	Reload func(context.Context) (string, error)

	// Helpers returns the numbers of user-space helpers, nil without any; it may be
	// nil itself.
	Helpers func() *report.Helpers

	// ReadTimeout and WriteTimeout, where they are not zero, are other limits
	// than the usual ones for a client to send its request, and to take a part
	// of the answer.
	ReadTimeout, WriteTimeout time.Duration

	counters struct{ readFailed, unknown, refused atomic.Uint64 }

	mu      sync.Mutex
	waiting []net.Conn // those who wait for the end
}

// Serve answers every client of l until ctx ends, each in a goroutine of its
// own, and returns when l is closed and the last answer has ended. It always
// returns nil then; an error means that no more clients can be accepted.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	turn := make(chan struct{}, maxClients)
	long := make(chan struct{}, maxLong)
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// No descriptors or no memory, for this moment: others go on.
			s.Log.Warn("control socket: " + err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			return nil
		}
		clients.Go(func() {
			r, ok := s.hear(ctx, conn)
			if ok && r.long() {
				<-turn
				select {
				case long <- struct{}{}:
					s.respond(ctx, conn, r)
					<-long
				case <-ctx.Done():
					conn.Close()
				}
				return
			}
			if ok {
				s.respond(ctx, conn, r)
			}
			<-turn
		})
	}
}

// Close ends the connections of the clients that asked for the daemon's end.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.waiting {
		conn.Close()
	}
	s.waiting = nil
}

// Local returns the numbers of the daemon beside those of the node.
func (s *Server) Local() report.Local {
	c := &s.counters
	l := report.Local{ReadFailed: c.readFailed.Load(), Unknown: c.unknown.Load(), Refused: c.refused.Load()}
	if s.Helpers != nil {
		l.Helpers = s.Helpers()
	}
	return l
}

// hear reads a client's request. Where it is not to be answered the connection is
// closed, or kept for the daemon's end, and ok is false.
func (s *Server) hear(ctx context.Context, conn *net.UnixConn) (r Request, ok bool) {
	defer atEnd(ctx, conn)()
	if uid, err := peer(conn); err != nil || uid != 0 && uid != uint32(os.Geteuid()) {
		s.counters.refused.Add(1)
		s.Log.Warn(fmt.Sprintf("control socket: refused a client of user %d", uid))
		conn.Close()
		return 0, false
	}
	r, err := s.read(conn)
	if err != nil {
		if ctx.Err() == nil {
			s.counters.readFailed.Add(1)
		}
		conn.Close()
		return 0, false
	}
	if r == Kill {
		s.mu.Lock()
		s.waiting = append(s.waiting, conn)
		s.mu.Unlock()
		s.Stop()
		return 0, false
	}
	return r, true
}

// atEnd has what waits for the client end with the daemon, too, until stop is called.
func atEnd(ctx context.Context, conn net.Conn) (stop func()) {
	undo := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now().Add(lastWord)) })
	return func() { undo() }
}

// respond answers a request and closes the connection.
func (s *Server) respond(ctx context.Context, conn net.Conn, r Request) {
	defer atEnd(ctx, conn)()
	defer conn.Close()
	out := &writer{ctx: ctx, conn: conn, timeout: orElse(s.WriteTimeout, writeTimeout)}
	err := s.answer(ctx, r, out)
	if out.flush() != nil {
		return // the client has gone
	}
	if errors.Is(err, context.Canceled) {
		err = node.ErrStopped // that is why
	}
	if r&WithOutcome != 0 && !errors.Is(err, errUnknown) {
		out.outcome(err)
	}
}

func (s *Server) read(conn net.Conn) (Request, error) {
	if err := conn.SetReadDeadline(time.Now().Add(orElse(s.ReadTimeout, readTimeout))); err != nil {
		return 0, err
	}
	var number [4]byte
	if _, err := io.ReadFull(conn, number[:]); err != nil {
		return 0, err
	}
	return Request(binary.NativeEndian.Uint32(number[:])), nil
}

func orElse(d, usual time.Duration) time.Duration {
	if d != 0 {
		return d
	}
	return usual
}

// peer returns the user of the process at the other end.
func peer(conn *net.UnixConn) (uid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// writer collects an answer and sends it in large parts. After an error nothing
// is sent any more.
type writer struct {
	ctx     context.Context
	conn    net.Conn
	timeout time.Duration
	buf     []byte
	err     error
}

const part = 32 << 10

// full sends what there is if it is enough for a part.
func (w *writer) full() error {
	if len(w.buf) < part {
		return w.err
	}
	return w.flush()
}

func (w *writer) flush() error {
	if w.err == nil && len(w.buf) > 0 {
		w.err = w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
		// Asked after that, so that an end in between shortens the time all the same.
		if w.ctx.Err() != nil {
			w.err = w.conn.SetWriteDeadline(time.Now().Add(lastWord))
		}
		if w.err == nil {
			_, w.err = w.conn.Write(w.buf)
		}
	}
	w.buf = w.buf[:0]
	return w.err
}

func (w *writer) outcome(err error) {
	w.buf = append(w.buf, 0)
	if err != nil {
		w.buf = append(w.buf, err.Error()...)
	}
	w.flush()
}
