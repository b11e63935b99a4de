package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"ctbox/applets/conntrackd/accept"
	"ctbox/applets/conntrackd/report"
	"ctbox/internal/export"
	"ctbox/internal/listen"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/node"
	"ctbox/sync/owner"
	"ctbox/sync/replicate"

	"golang.org/x/sys/unix"
)

// Node is the part of *node.Node that the server uses. The methods are documented there.
type Node interface {
	Status(context.Context) (node.Status, error)
	Ready(ctx context.Context, maxLag time.Duration) (node.Readiness, error)
	ResendQueue(context.Context) ([]replicate.Resend, error)
	Dump(ctx context.Context, cache node.Cache, table cache.Tables, owner uint8, each func(*node.Entry) error) error
	Commit(context.Context, cache.Tables, owner.Selector) (commit.Result, error)
	NodeNumber(name string) (number uint8, ok bool)
	Flush(context.Context, node.Cache) error
	FlushKernel(context.Context, cache.Tables) error
	Refill(context.Context, cache.Tables) error
	RequestResync(context.Context) error
	Bulk(context.Context) error
	SchedulePurge(context.Context) error
}

// Listen creates the socket at path, with mode 0600 from the beginning, whatever the umask.
//
// A socket that a daemon left behind is replaced. A socket on which a process listens, and a
// file that is not a socket, are errors.
func Listen(path string) (*Listener, error) {
	l, err := bind(path)
	if !errors.Is(err, unix.EADDRINUSE) {
		return l, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	return bind(path)
}

func bind(path string) (_ *Listener, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	// bind creates the file with the socket's mode, minus the umask.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, os.NewSyscallError("fchmod", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, &net.OpError{Op: "listen", Net: "unix", Addr: address(path), Err: os.NewSyscallError("bind", err)}
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	made, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	l, err := listen.New(file, address(path))
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: l, path: path, made: made}, nil
}

// Listener is a socket that Listen created.
type Listener struct {
	*listen.Listener
	path string
	made os.FileInfo // the file at path
	once sync.Once
}

// Close removes the file that Listen created, if it is still the one at its path, and closes
// the socket. A second call does nothing: by then the path can belong to another daemon.
func (l *Listener) Close() (err error) {
	l.once.Do(func() {
		// The open socket holds its inode, so no other file can have the inode's number.
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
			_ = os.Remove(l.path)
		}
		err = l.Listener.Close()
	})
	return err
}

func address(path string) *net.UnixAddr { return &net.UnixAddr{Name: path, Net: "unix"} }

// removeStale removes a socket on which no process listens.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // its owner has removed it
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

// Answers reports whether a process listens on the socket at path. It returns true if that
// cannot be determined.
func Answers(path string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialUnix(context.Background(), "unix", nil, address(path))
	if err == nil {
		conn.Close()
		return true
	}
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
}

// How long a client may take (Timeout), and how long it may take while other clients wait for
// its place (Grace, see lane). Clients send their request as soon as they are connected. A
// client that does not read may be a pager, so the limits for writing are long.
const (
	readTimeout  = 5 * time.Second
	readGrace    = 200 * time.Millisecond
	writeTimeout = 5 * time.Minute
	writeGrace   = time.Second

	lastWord = 100 * time.Millisecond // to take the answer of a daemon that ends
)

// places are the limits for clients of a user at the same time. Answers that can exceed a
// socket's buffer have places of their own, so that a commit does not wait for clients that
// do not read.
type places struct {
	silent int // clients that have not sent their request, or wait for one of the other places
	short  int // clients that get an answer of limited length
	long   int // clients that get an answer of any length
}

// Root has places of its own: if the daemon runs as another user, that user's clients cannot
// delay root's commands.
var (
	placesOfRoot   = places{silent: 256, short: 64, long: 64}
	placesOfOthers = places{silent: 64, short: 16, long: 16}
)

// Server answers control clients. Its fields must not change after Serve is called.
type Server struct {
	Node Node
	Log  *slog.Logger
	// Stop begins the daemon's shutdown. The client that requested it waits for the end of
	// its connection, which comes with Close or the end of the process, so that it returns
	// when the daemon has released everything.
	Stop func()
	// Reload makes the daemon read its configuration again. It returns the lines to print.
	// If it is nil, the request is unknown.
	Reload func(context.Context) (string, error)

	// Helpers returns the statistics of user-space helpers, nil without helpers. It may be
	// nil itself.
	Helpers func() *report.Helpers

	// Peers returns the names of the peers of the Cluster, nil without Cluster clause. It may be
	// nil itself.
	Peers func() []string
	// Exports returns the statistics of the exporters, nil without any. It may be nil itself.
	Exports func() []export.Status

	// ReadTimeout and WriteTimeout limit the time for a client to send its request, and to
	// take a part of the answer. Zero is the default.
	ReadTimeout, WriteTimeout time.Duration

	counters struct{ readFailed, unknown, refused, dropped atomic.Uint64 }

	mu      sync.Mutex
	waiting []net.Conn // clients that wait for the end of the daemon
}

// Serve answers the clients of l until ctx ends, each in a goroutine of its own, and returns
// nil when l is closed and the last client is answered. An error means that l was closed by
// someone else.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	return s.serve(ctx, l, uint32(os.Geteuid()))
}

// serve is Serve for a daemon that runs as the given user.
func (s *Server) serve(ctx context.Context, l *Listener, user uint32) error {
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	root, others := s.attend(ctx, &clients, placesOfRoot), s.attend(ctx, &clients, placesOfOthers)
	defer close(root)
	defer close(others)
	loop := accept.Loop[*net.UnixConn]{Name: "control socket", Log: s.Log, Accept: l.AcceptUnix, Close: l.Close, Handle: func(conn *net.UnixConn) {
		switch uid, err := peer(conn); {
		case err == nil && uid == 0:
			select {
			case root <- conn:
			case <-ctx.Done():
				conn.Close()
			}
		case err == nil && uid == user:
			select {
			case others <- conn:
			default: // these must not delay root's clients
				conn.Close()
				s.drop()
			}
		default:
			s.counters.refused.Add(1)
			s.Log.Warn(fmt.Sprintf("control socket: refused a client of user %d", uid))
			conn.Close()
		}
	}}
	return loop.Run(ctx)
}

// attend serves the clients that are sent to the channel it returns, until the channel is
// closed.
func (s *Server) attend(ctx context.Context, clients *sync.WaitGroup, p places) chan<- *net.UnixConn {
	arrived := make(chan *net.UnixConn, p.silent)
	lanes := lanes{
		silent: newLane(p.silent, readGrace, s.drop),
		short:  newLane(p.short, writeGrace, s.drop),
		long:   newLane(p.long, writeGrace, s.drop),
	}
	clients.Go(func() {
		for conn := range arrived {
			ctx, cancel := context.WithCancel(ctx)
			c := &client{Conn: conn, cancel: cancel}
			if c.seat = lanes.silent.enter(ctx, c, true); c.seat == nil {
				c.Close()
				continue
			}
			clients.Go(func() { s.attendOne(ctx, c, &lanes) })
		}
	})
	return arrived
}

// lanes are the lanes for clients of a user.
type lanes struct{ silent, short, long *lane }

// client is a connection with its place in a lane. Close also cancels the work for it.
type client struct {
	net.Conn
	cancel context.CancelFunc
	seat   *seat
}

// Close closes the connection and cancels the client's context.
func (c *client) Close() error {
	c.cancel()
	return c.Conn.Close()
}

// attendOne serves a client that has a place in the lane of silent clients.
func (s *Server) attendOne(ctx context.Context, c *client, lanes *lanes) {
	q, err := s.hear(ctx, c)
	if stays := c.seat.wait(false); err != nil || !stays {
		if stays && ctx.Err() == nil {
			s.counters.readFailed.Add(1)
		}
		c.seat.leave()
		c.Close()
		return
	}
	if q.Request == Kill && !q.selected {
		c.seat.leave()
		s.mu.Lock()
		s.waiting = append(s.waiting, c)
		s.mu.Unlock()
		s.Stop()
		return
	}
	defer c.Close()
	lane := lanes.short
	if q.long() {
		// While it waits for its place it can be dropped in favour of a new client, which
		// may want to commit.
		lane = lanes.long
		c.seat.wait(true)
	}
	next := lane.enter(ctx, c, false)
	if next == nil {
		c.seat.leave()
		return
	}
	defer next.leave()
	if c.seat.leave() {
		c.seat = next
		s.respond(ctx, c, &q)
	}
}

// drop counts and logs a dropped client.
func (s *Server) drop() {
	s.counters.dropped.Add(1)
	s.Log.Warn("control socket: dropped a client that kept others waiting")
}

// Close ends the connections of the clients that requested the daemon's shutdown.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.waiting {
		conn.Close()
	}
	s.waiting = nil
}

// Local returns the statistics of the daemon outside the node.
func (s *Server) Local() report.Local {
	c := &s.counters
	l := report.Local{ReadFailed: c.readFailed.Load(), Unknown: c.unknown.Load(), Refused: c.refused.Load(), Dropped: c.dropped.Load()}
	if s.Helpers != nil {
		l.Helpers = s.Helpers()
	}
	if s.Exports != nil {
		l.Exports = s.Exports()
	}
	return l
}

// hear reads a client's request.
func (s *Server) hear(ctx context.Context, c *client) (question, error) {
	defer atEnd(ctx, c)()
	if err := c.SetReadDeadline(time.Now().Add(orElse(s.ReadTimeout, readTimeout))); err != nil {
		return question{}, err
	}
	return readQuestion(c)
}

// atEnd limits waiting for the client to lastWord when ctx ends, until stop is called.
func atEnd(ctx context.Context, conn net.Conn) (stop func()) {
	undo := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now().Add(lastWord)) })
	return func() { undo() }
}

// respond answers a request.
func (s *Server) respond(ctx context.Context, c *client, q *question) {
	defer atEnd(ctx, c)()
	out := &writer{ctx: ctx, conn: c, timeout: orElse(s.WriteTimeout, writeTimeout)}
	err := s.answer(ctx, q, out)
	if out.flush() != nil {
		return // the client has gone
	}
	if errors.Is(err, context.Canceled) {
		err = node.ErrStopped // the daemon is shutting down
	}
	if q.outcome() && !errors.Is(err, errUnknown) {
		out.outcome(err)
	}
}

func orElse(d, usual time.Duration) time.Duration {
	if d != 0 {
		return d
	}
	return usual
}

// peer returns the user id of the process at the other end.
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

// writer collects an answer and sends it in large parts. After an error it sends nothing.
type writer struct {
	ctx     context.Context
	conn    *client
	timeout time.Duration
	buf     []byte
	err     error
}

const part = 32 << 10

// full sends the buffer if it holds a whole part.
func (w *writer) full() error {
	if len(w.buf) < part {
		return w.err
	}
	return w.flush()
}

func (w *writer) flush() error {
	if w.err == nil && len(w.buf) > 0 {
		w.err = w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
		// Checked after the deadline is set, so that an end in between still shortens it.
		if w.ctx.Err() != nil {
			w.err = w.conn.SetWriteDeadline(time.Now().Add(lastWord))
		}
		if w.err == nil {
			w.conn.seat.wait(true)
			_, w.err = w.conn.Write(w.buf)
			w.conn.seat.wait(false)
		}
	}
	w.buf = w.buf[:0]
	return w.err
}

func (w *writer) outcome(err error) {
	w.buf = append(w.buf, 0)
	var remark Remark
	if errors.As(err, &remark) {
		w.buf = append(append(w.buf, 0), remark...)
	} else if err != nil {
		w.buf = append(w.buf, err.Error()...)
	}
	w.flush()
}
