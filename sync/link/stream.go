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

	"ctbox/internal/listen"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

const (
	redial       = time.Second // between two attempts to connect to the peer
	dialTimeout  = 5 * time.Second
	streamChunk  = 128 << 10 // bytes per read; more than the longest message
	defaultQueue = 128
	// defaultPeerTimeout is how long a peer may accept no data before its connection is
	// given up.
	defaultPeerTimeout = 30 * time.Second
)

// stream is a TCP link. As in conntrack-tools' conntrackd, this node connects to its peer
// to send, and accepts one connection from its peer to receive. The stream has no framing
// except the length in each message's header.
type stream struct {
	link     *Link
	listener *listen.Listener
	cancel   context.CancelFunc
	done     sync.WaitGroup

	server, client atomic.Bool // connected

	mu      sync.Mutex
	queue   [][]byte // pending writes, oldest first
	limit   int
	dropped uint64
	wake    chan struct{}
}

func openStream(l *Link) (sockets, error) {
	c := &l.config
	// Here and in dial, the functions of net that take a netip address keep the resolver,
	// 120 kB, out of the binary.
	listener, err := listen.TCP(choose(l.is6(), "tcp4", "tcp6"), zoned(c.Address, c.Interface, c.Port), func(fd int) error {
		// Accepted connections inherit the listener's buffer size.
		setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, c.RecvBuffer)
		return nil
	})
	if err != nil {
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

// zoned returns an address to bind or connect to, with the interface as zone where IPv6
// needs one. The zero Addr means any address.
func zoned(a netip.Addr, device string, port uint16) netip.AddrPort {
	if a.IsLinkLocalUnicast() {
		a = a.WithZone(device) // no effect on IPv4
	}
	return netip.AddrPortFrom(a, port)
}

func (s *stream) Close() {
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

// updateSource does nothing: the kernel chooses an address for each connection.
func (s *stream) updateSource() error { return nil }

// busy reports whether a connected peer is so slow that the queue is half full. It is
// false without a connection: then the queue keeps the newest writes.
func (s *stream) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client.Load() && len(s.queue) >= max(s.limit/2, 1)
}

// send queues all messages of p as one write. A full queue loses its oldest write.
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

// first returns the oldest queued write, nil if the queue is empty.
func (s *stream) first() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil
	}
	return s.queue[0]
}

// written removes a write that is complete from the queue, unless send has dropped it
// meanwhile.
func (s *stream) written(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) > 0 && &s.queue[0][0] == &b[0] {
		s.dropFirst()
	}
}

// dropFirst removes the oldest write from the queue, without moving the others:
// ErrorQueueLength may be large.
func (s *stream) dropFirst() {
	s.queue[0] = nil
	s.queue = s.queue[1:]
}

// write connects to the peer, reconnects whenever the connection ends, and sends what is
// queued. A write that failed is repeated as a whole on the next connection: the peer
// discards an incomplete message when a connection ends.
func (s *stream) write(ctx context.Context) {
	defer s.done.Done()
	for ctx.Err() == nil {
		if conn, err := s.dial(ctx); err == nil {
			s.client.Store(true)
			s.feed(ctx, conn)
			s.client.Store(false)
			conn.Close()
		}
		// Wait in any case: a peer may accept connections and close them at once.
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
			// A peer whose host is off acknowledges nothing. Without this option the
			// kernel would accept writes for a quarter of an hour, with retransmissions
			// so rare in the end that it would notice the host's return minutes late
			// (tcp(7)).
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(s.link.peerTimeout/time.Millisecond))
		})
	}}
	// The peer checks the source address. Without a configured one the kernel chooses.
	return d.DialTCP(ctx, choose(s.link.is6(), "tcp4", "tcp6"), zoned(c.Address, c.Interface, 0),
		zoned(c.Destination, c.Interface, c.Port))
}

// feed writes to one connection until it ends.
func (s *stream) feed(ctx context.Context, conn net.Conn) {
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	// The peer sends nothing on this connection: a read returns when it is closed.
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
		_ = conn.SetWriteDeadline(time.Now().Add(s.link.peerTimeout))
		if ctx.Err() != nil {
			return // the deadline set at the end of ctx may just have been overwritten
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

// accept accepts connections from the peer, each of which replaces the one before.
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
	retry := backoff{report: s.link.failed, sleep: s.link.sleep}
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

// read delivers the whole messages of one connection until it ends or sends something
// that can't be a message.
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
		// What can't be a message is delivered, too, for the owner to count. Then the
		// connection is closed, and the peer has to connect again.
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

// wholeMessages returns how many bytes of b are complete messages, and whether the bytes
// after them can't become one.
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
