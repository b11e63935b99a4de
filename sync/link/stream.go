package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

const (
	redial       = time.Second // between two attempts to reach the peer
	dialTimeout  = 5 * time.Second
	peerGone     = 30 * time.Second // a peer that takes nothing for so long is gone
	streamChunk  = 128 << 10        // read at once; more than the longest message
	defaultQueue = 128
)

// stream is a TCP link: this node connects to its peer to send, and takes one
// connection from its peer to receive, as conntrackd does. The stream has no
// framing but the messages' own length.
type stream struct {
	link     *Link
	listener *net.TCPListener
	cancel   context.CancelFunc
	done     sync.WaitGroup

	server, client atomic.Bool // connected

	mu      sync.Mutex
	queue   [][]byte // what is to be written, oldest first
	limit   int
	dropped uint64
	wake    chan struct{}
}

func openStream(l *Link) (sockets, error) {
	c := &l.config
	// The functions of net that take an address and no text, here and in dial, do
	// without its resolver: 120 kB of flash.
	listener, err := net.ListenTCP(choose(l.is6(), "tcp4", "tcp6"), net.TCPAddrFromAddrPort(zoned(c.Address, c.Interface, c.Port)))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", endpoint(c.Address, c.Port), err)
	}
	raw, err := listener.SyscallConn()
	if err == nil {
		// Connections have the buffer that the listener has when they come.
		err = raw.Control(func(fd uintptr) { setBuffer(int(fd), unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, c.RecvBuffer) })
	}
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("listen on %s: %w", endpoint(c.Address, c.Port), err)
	}
	s := &stream{link: l, listener: listener, limit: c.ErrorQueue, wake: make(chan struct{}, 1)}
	if s.limit <= 0 {
		s.limit = defaultQueue
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.done.Add(2)
	go s.accept(ctx)
	go s.write(ctx)
	return s, nil
}

func choose(second bool, a, b string) string {
	if second {
		return b
	}
	return a
}

// zoned is an address to bind or connect to; a may be invalid, which is any.
func zoned(a netip.Addr, device string, port uint16) netip.AddrPort {
	if a.IsLinkLocalUnicast() {
		a = a.WithZone(device) // which IPv4 does not have, and ignores
	}
	return netip.AddrPortFrom(a, port)
}

func (s *stream) close() {
	s.cancel()
	s.listener.Close()
	s.done.Wait()
}

func (s *stream) status(out *Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out.ServerConnected, out.ClientConnected = s.server.Load(), s.client.Load()
	out.Queued, out.QueueLimit, out.QueueDropped = uint64(len(s.queue)), uint64(s.limit), s.dropped
}

// follow has nothing to do: each connection chooses its address.
func (s *stream) follow() error { return nil }

// busy asks the sender to wait while a connected peer is slow. While it is away
// the queue keeps what it can.
func (s *stream) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client.Load() && len(s.queue) >= max(s.limit/2, 1)
}

// send queues all messages of p as one write.
func (s *stream) send(p *wire.Packer) {
	if len(p.Bytes()) == 0 {
		return
	}
	s.mu.Lock()
	if len(s.queue) >= s.limit {
		s.dropFirst()
		s.dropped++
		s.link.counters.errorsSent.Add(1)
	}
	s.queue = append(s.queue, append([]byte(nil), p.Bytes()...))
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// first returns the oldest write that waits.
func (s *stream) first() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil
	}
	return s.queue[0]
}

// written takes the oldest write out of the queue, unless it was dropped already.
func (s *stream) written(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 && &s.queue[0][0] == &b[0] {
		s.dropFirst()
	}
}

// dropFirst takes the oldest write out of the queue. Nothing is moved for that:
// ErrorQueueLength may be large.
func (s *stream) dropFirst() {
	s.queue[0] = nil
	s.queue = s.queue[1:]
}

// write connects to the peer, again and again, and sends what is queued. A write
// that failed is repeated whole on the next connection: the old one's end has
// taken the half that may have arrived with it.
func (s *stream) write(ctx context.Context) {
	defer s.done.Done()
	for ctx.Err() == nil {
		if conn, err := s.dial(ctx); err == nil {
			s.client.Store(true)
			s.feed(ctx, conn)
			s.client.Store(false)
			conn.Close()
		}
		// A peer may accept and close at once: that is no reason to hurry.
		select {
		case <-time.After(redial):
		case <-ctx.Done():
		}
	}
}

func (s *stream) dial(ctx context.Context) (*net.TCPConn, error) {
	c := &s.link.config
	d := net.Dialer{Timeout: dialTimeout, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			setBuffer(int(fd), unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, c.SendBuffer)
			// A peer whose host is off acknowledges nothing: without this the kernel
			// takes what is written for a quarter of an hour, and tries so seldom in
			// the end that it is minutes until it sees the host back (tcp(7)).
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(s.link.gone/time.Millisecond))
		})
	}}
	// The peer expects us at our address; without one the system chooses.
	return d.DialTCP(ctx, choose(s.link.is6(), "tcp4", "tcp6"), zoned(c.Address, c.Interface, 0),
		zoned(c.Destination, c.Interface, c.Port))
}

// feed writes to one connection until it breaks.
func (s *stream) feed(ctx context.Context, conn net.Conn) {
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	// The peer sends nothing here; a read tells that it has closed.
	gone := make(chan struct{})
	go func() {
		var b [1]byte
		_, _ = conn.Read(b[:])
		close(gone)
	}()
	c := &s.link.counters
	for {
		b := s.first()
		if b == nil {
			select {
			case <-s.wake:
			case <-gone:
				return
			case <-ctx.Done():
				return
			}
			continue
		}
		select {
		case <-gone:
			return
		default:
		}
		_ = conn.SetWriteDeadline(time.Now().Add(s.link.gone))
		if ctx.Err() != nil {
			return // or else its deadline may be the one just taken away
		}
		if _, err := conn.Write(b); err != nil {
			c.errorsSent.Add(1)
			return
		}
		c.packetsSent.Add(1)
		c.bytesSent.Add(uint64(len(b)))
		s.written(b)
	}
}

// accept takes the peer's connection; a new one replaces the old.
func (s *stream) accept(ctx context.Context) {
	defer s.done.Done()
	var reading sync.WaitGroup
	var current *net.TCPConn
	defer func() {
		if current != nil {
			current.Close()
		}
		reading.Wait()
	}()
	retry := backoff{say: s.link.failed, sleep: s.link.sleep}
	for {
		conn, err := s.listener.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.link.counters.errorsRecv.Add(1)
			retry.failed(s.link.wrap(fmt.Errorf("accept: %w", err)), ctx.Done())
			continue
		}
		retry.worked()
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
		if peer, _ := s.link.peer(from); !peer {
			s.link.refuse(from)
			conn.Close()
			continue
		}
		if current != nil {
			current.Close()
			reading.Wait()
		}
		current = conn
		reading.Add(1)
		go func() {
			defer reading.Done()
			s.server.Store(true)
			s.read(ctx, conn, from)
			s.server.Store(false)
			conn.Close()
		}()
	}
}

// read delivers whole messages of one connection until it ends, or until its
// bytes cease to be messages.
func (s *stream) read(ctx context.Context, conn net.Conn, from netip.Addr) {
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	b := &Batch{Link: s.link.number}
	buf := make([]byte, streamChunk)
	have := 0
	c := &s.link.counters
	for {
		whole, broken := 0, false
		for whole == 0 && !broken {
			n, err := conn.Read(buf[have:])
			if n > 0 {
				c.packetsRecv.Add(1)
				c.bytesRecv.Add(uint64(n))
				have += n
			}
			if err != nil {
				return
			}
			whole, broken = wholeMessages(buf[:have])
		}
		// The reader of a broken stream counts why; then the peer has to begin
		// anew.
		end := whole
		if broken {
			end = have
		}
		b.empty()
		b.add(from, buf[:end])
		s.link.deliver(b, ctx.Done())
		if broken || ctx.Err() != nil {
			return
		}
		have = copy(buf, buf[end:have])
	}
}

// wholeMessages is how many bytes of b are complete messages, and whether what
// follows can't become one.
func wholeMessages(b []byte) (whole int, broken bool) {
	for len(b)-whole >= wire.HeaderLen {
		n := int(binary.BigEndian.Uint16(b[whole+2:]))
		if n < wire.HeaderLen {
			return whole, true
		}
		if n > len(b)-whole {
			break
		}
		whole += n
	}
	return whole, false
}
