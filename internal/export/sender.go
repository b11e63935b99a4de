package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Destination is where records go: exactly one of the fields is set.
type Destination struct {
	Collector netip.AddrPort // IPFIX
	File      string         // JSON: a path, or "-" for standard output
	Socket    string         // JSON: the path of a Unix socket, stream or datagram
	Syslog    netip.AddrPort // JSON: of a logger that takes RFC 5424
	TCP       bool           // Collector, Syslog: over TCP, else UDP
}

// String returns the destination as messages and the status name it.
func (d *Destination) String() string {
	transport := "udp"
	if d.TCP {
		transport = "tcp"
	}
	switch {
	case d.Collector.IsValid():
		return transport + " " + d.Collector.String()
	case d.Syslog.IsValid():
		return "syslog " + transport + " " + d.Syslog.String()
	case d.Socket != "":
		return "socket " + d.Socket
	}
	return "file " + d.File
}

// transport delivers the records of a queue. Its methods are for one goroutine, but interrupt.
type transport interface {
	// open connects, or opens a file. After an error it is called again.
	open(context.Context) error
	// pump sends what the queue has, until it is empty.
	pump() error
	// due returns when periodic has something to do.
	due() time.Time
	// periodic sends what is due.
	periodic(now time.Time) error
	// close closes what open has opened, after a failure or, with nil, for good.
	close(failure error)
	// held returns how many records were taken from the queue and not delivered. It is called
	// when nothing else is.
	held() int
	// interrupt makes calls that wait for the other end fail after grace. Any goroutine may
	// call it.
	interrupt(grace time.Duration)
}

// counters of a sender, which its goroutine changes and any other reads.
type counters struct {
	messages, records, resent, failures, opened atomic.Uint64
}

// sender owns the goroutine of an exporter, which delivers records to the destination.
type sender struct {
	name  string
	log   *slog.Logger
	queue *queue
	count counters
	to    transport

	stopping chan struct{}
	done     chan struct{}
	stopped  sync.Once

	mu     sync.Mutex
	failed error // since the last success
}

const (
	// linger is how long records gather for one message or write.
	linger = 200 * time.Millisecond
	// leastBackoff is the delay after a first failure; it doubles up to mostBackoff.
	leastBackoff = 100 * time.Millisecond
	mostBackoff  = 5 * time.Second
	// sayThrown is how often the log says how many records were thrown away.
	sayThrown = 10 * time.Second
	// patience is how long an end waits for the destination to take what is queued.
	patience = 2 * time.Second
)

func newSender(name string, limit int, log *slog.Logger) *sender {
	return &sender{name: name, log: log, queue: newQueue(limit), stopping: make(chan struct{}), done: make(chan struct{})}
}

// start starts the goroutine, which delivers to t.
func (s *sender) start(t transport) {
	s.to = t
	go s.run()
}

// stop has the queue delivered and ends the goroutine. It waits for patience at most and
// returns how many records were not sent.
func (s *sender) stop() (left int) {
	s.stopped.Do(func() {
		s.queue.close()
		close(s.stopping)
		s.to.interrupt(patience)
	})
	left, _, _ = s.queue.state()
	select {
	case <-s.done:
		left, _, _ = s.queue.state()
		left += s.to.held()
	case <-time.After(patience + patience/4): // a write to a disk that hangs
	}
	return left
}

func (s *sender) run() {
	defer close(s.done)
	defer func() { s.to.close(nil) }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.stopping:
			time.AfterFunc(patience, cancel)
		case <-ctx.Done():
		}
	}()
	said, thrownSaid := time.Now(), uint64(0)
	backoff := leastBackoff
	for open := false; ; {
		err := error(nil)
		if !open {
			err = s.to.open(ctx)
			open = err == nil
			if open {
				s.count.opened.Add(1)
			}
		}
		if err == nil {
			err = s.to.pump()
		}
		if now := time.Now(); err == nil && !s.to.due().After(now) {
			err = s.to.periodic(now)
		}
		if now := time.Now(); now.Sub(said) >= sayThrown {
			if _, thrown, _ := s.queue.state(); thrown != thrownSaid {
				s.log.Warn(fmt.Sprintf("%s: %d records were thrown away: the queue was full", s.name, thrown-thrownSaid))
				thrownSaid = thrown
			}
			said = now
		}
		if err != nil {
			if open {
				s.to.close(err)
				open = false
			}
			s.fail(err)
			if !s.wait(nil, backoff) {
				return
			}
			backoff = min(2*backoff, mostBackoff)
			continue
		}
		s.succeed()
		backoff = leastBackoff
		if s.queue.ended() {
			return
		}
		if until := time.Until(s.to.due()); s.wait(s.queue.ready, min(until, sayThrown)) {
			s.gather()
		}
	}
}

// wait waits for c or for the time, and returns false if the sender is to stop.
func (s *sender) wait(c <-chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-s.stopping:
		return false
	case <-c:
	case <-timer.C:
	}
	return true
}

// gather lets records gather, unless there are many.
func (s *sender) gather() {
	if n, _, _ := s.queue.state(); n > 0 && n < s.queue.wake {
		s.wait(s.queue.ready, linger)
	}
}

// fail notes a failure. Only the first of a row is logged.
func (s *sender) fail(err error) {
	s.count.failures.Add(1)
	s.mu.Lock()
	first := s.failed == nil
	s.failed = err
	s.mu.Unlock()
	if first {
		s.log.Warn(fmt.Sprintf("%s: %v; up to %d records wait for the next try, then the oldest give way", s.name, err, s.queue.limit))
	}
}

func (s *sender) succeed() {
	s.mu.Lock()
	before := s.failed
	s.failed = nil
	s.mu.Unlock()
	if before != nil {
		s.log.Info(s.name + ": records are sent again")
	}
}

// failure returns the last failure of a sender that could not send since, or nil.
func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// lines sends lines of text: JSON objects, framed for syslog or not.
type lines struct {
	to       Destination
	sender   *sender
	openFile func(name string) (*os.File, error)
	syslog   *Syslog // nil without

	reopen atomic.Bool
	mu     sync.Mutex
	out    writer // nil while closed; mu guards the pointer
	// datagrams says that each line is a write of its own.
	datagrams bool

	batch  []byte // being written
	ends   []int  // of the lines in batch
	wrote  int    // lines
	thrown uint64 // records thrown away that the stream already says
	line   []byte
}

// writer is a file or connection.
type writer interface {
	Write([]byte) (int, error)
	SetWriteDeadline(time.Time) error
	Close() error
}

const (
	// batchBytes is about how much is written at once.
	batchBytes = 64 << 10
	// slow is how long one write may wait for the other end.
	slow = 30 * time.Second
)

// take fills the batch. When records were thrown away, a line that says so comes first.
func (l *lines) take() {
	l.batch, l.ends, l.wrote = l.batch[:0], l.ends[:0], 0
	now := time.Now()
	if _, thrown, _ := l.sender.queue.state(); thrown != l.thrown {
		l.line = AppendLost(l.line[:0], now.UnixNano(), "records", thrown-l.thrown)
		l.thrown = thrown
		l.add(now, l.line)
	}
	l.sender.queue.take(func(_ uint16, record []byte) bool {
		if len(l.batch)+len(record) > batchBytes {
			return false
		}
		l.add(now, record)
		return true
	})
}

func (l *lines) add(now time.Time, line []byte) {
	if l.syslog != nil {
		l.batch = l.syslog.Append(l.batch, now, line)
	} else {
		l.batch = append(l.batch, line...)
	}
	l.ends = append(l.ends, len(l.batch))
}

func (l *lines) pump() error {
	for {
		if l.reopen.Swap(false) {
			l.close(nil)
			if err := l.open(context.Background()); err != nil {
				return err
			}
		}
		if l.wrote == len(l.ends) {
			if l.take(); len(l.ends) == 0 {
				return nil
			}
		}
		if err := l.write(); err != nil {
			return err
		}
	}
}

// write writes the rest of the batch. What is not a whole line then is written again.
func (l *lines) write() error {
	for l.wrote < len(l.ends) {
		begin, end := l.at(l.wrote), len(l.batch)
		if l.datagrams {
			end = l.ends[l.wrote]
		}
		if conn, ok := l.out.(net.Conn); ok && !l.datagrams && hasEnded(conn) {
			return errClosed
		}
		l.setDeadline()
		n, err := l.out.Write(l.batch[begin:end])
		whole := 0
		for l.wrote < len(l.ends) && l.ends[l.wrote] <= begin+n {
			whole = l.ends[l.wrote] - begin
			l.wrote++
			l.sender.count.records.Add(1)
		}
		l.sender.count.messages.Add(1)
		if err != nil {
			if f, ok := l.out.(*os.File); ok && n > whole {
				cut(f, n-whole)
			}
			return err
		}
	}
	return nil
}

// at returns where a line of the batch begins.
func (l *lines) at(i int) int {
	if i == 0 {
		return 0
	}
	return l.ends[i-1]
}

// cut removes the last n bytes of a regular file: a part of a line.
func cut(f *os.File, n int) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		_ = f.Truncate(info.Size() - int64(n))
	}
}

func (l *lines) open(ctx context.Context) error {
	out, datagrams, err := l.connect(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.out, l.datagrams = out, datagrams
	l.mu.Unlock()
	return nil
}

func (l *lines) connect(ctx context.Context) (out writer, datagrams bool, err error) {
	switch d := &l.to; {
	case d.File == "-":
		return os.Stdout, false, nil
	case d.File != "":
		out, err = l.openFile(d.File)
		return out, false, err
	case d.Socket != "":
		conn, err := dialUnix(ctx, "unixgram", d.Socket)
		if err == nil {
			return conn, true, nil
		}
		conn, err = dialUnix(ctx, "unix", d.Socket)
		return conn, false, err
	default:
		conn, err := dial(ctx, d.TCP, d.Syslog)
		return conn, !d.TCP, err
	}
}

func (l *lines) close(error) {
	l.mu.Lock()
	out := l.out
	l.out = nil
	l.mu.Unlock()
	if out != nil && l.to.File != "-" {
		out.Close()
	}
}

// setDeadline bounds the next write, unless interrupt has done so.
func (l *lines) setDeadline() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.sender.stopping:
	default:
		_ = l.out.SetWriteDeadline(time.Now().Add(slow)) // regular files have none
	}
}

func (l *lines) interrupt(grace time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		_ = l.out.SetWriteDeadline(time.Now().Add(grace))
	}
}

func (l *lines) held() int                { return len(l.ends) - l.wrote }
func (l *lines) due() time.Time           { return time.Now().Add(time.Hour) }
func (l *lines) periodic(time.Time) error { return nil }

var errClosed = errors.New("the other end has closed the connection")
