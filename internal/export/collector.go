package export

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// collector sends IPFIX messages over UDP or TCP.
type collector struct {
	to      Destination
	sender  *sender
	session *Session
	data    *Message // records that are not sent yet
	// Statistics are of no observation domain (RFC 7011, section 3.1), so they have sequence
	// numbers of their own: not every collector counts options data records.
	about   *Session
	control *Message
	refresh time.Duration
	lost    func() (observed, lost uint64) // flows seen, events lost

	mu   sync.Mutex
	conn net.Conn // nil while closed; mu guards the pointer

	templatesDue, statisticsDue time.Time
	checkDue                    time.Time // TCP: of the next look at what is not acknowledged

	// TCP: the messages of the present connection that are not acknowledged, and those of
	// earlier ones, which are sent again; oldest first.
	written uint64 // bytes over this connection
	unacked []written
	again   []written
	spare   [][]byte
}

// written is a message that was sent, with data records.
type written struct {
	end     uint64 // of its last byte, counted from the begin of the connection
	records int
	message []byte
}

const (
	statisticsPeriod = 10 * time.Second
	// checkPeriod is how soon a TCP connection is found to have failed while nothing is sent.
	checkPeriod = time.Second
	// dialPatience is how long a connection may take to be opened.
	dialPatience = 5 * time.Second
	// refusal is how long a new UDP socket waits for the news that nobody listens.
	refusal = 100 * time.Millisecond
	// tcpMessage is the size of messages over TCP: few system calls, and little to send
	// again after a reset.
	tcpMessage = 16 << 10
	// udpMost is the largest datagram where the path allows more: that of an Ethernet.
	udpMost = 1500
	// mostSpare bounds the memory that is kept for messages.
	mostSpare = 64
	// udpLeast is for a path whose MTU is unknown (RFC 7011, section 10.3.3).
	udpLeast = 512
)

func newCollector(to Destination, s *sender, x *IPFIX, domain uint32, refresh time.Duration, lost func() (observed, lost uint64)) *collector {
	session := NewSession(x, domain)
	session.Announce()
	about := NewSession(x, 0)
	return &collector{to: to, sender: s, session: session, data: session.NewMessage(udpLeast), about: about, control: about.NewMessage(udpLeast),
		refresh: refresh, lost: lost}
}

// dial connects over TCP or UDP. Dialer.DialContext, which takes names, would bring a resolver
// into the binary.
func dial(ctx context.Context, tcp bool, to netip.AddrPort) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: dialPatience}
	if tcp {
		conn, err = d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	} else {
		conn, err = d.DialUDP(ctx, "udp", netip.AddrPort{}, to)
	}
	return conn, short(err)
}

func dialUnix(ctx context.Context, network, path string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialPatience}
	conn, err := d.DialUnix(ctx, network, nil, &net.UnixAddr{Name: path, Net: network})
	return conn, short(err)
}

// short removes from an error of package net what the name of the exporter says already.
func short(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		var call *os.SyscallError
		if errors.As(op.Err, &call) {
			return fmt.Errorf("%s: %w", op.Op, call.Err)
		}
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}

func (c *collector) open(ctx context.Context) error {
	if c.conn == nil {
		conn, err := dial(ctx, c.to.TCP, c.to.Collector)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.conn = conn
		c.mu.Unlock()
		c.session.Restart()
		c.about.Restart()
		c.written = 0
	}
	err := c.begin()
	if err != nil {
		c.close(err)
	}
	return err
}

// begin sends what a collector needs first. Over UDP these messages, which may be lost without
// harm, also show whether somebody listens.
func (c *collector) begin() error {
	if c.to.TCP {
		c.data.SetSize(tcpMessage)
		if raw, err := c.conn.(syscall.Conn).SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(slow/time.Millisecond))
			})
		}
	} else {
		c.data.SetSize(c.datagram())
	}
	if err := c.sendTemplates(); err != nil {
		return err
	}
	if err := c.sendStatistics(); err != nil {
		return err
	}
	if c.to.TCP {
		return c.sendAgain()
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(refusal))
	var b [1]byte
	_, err := c.conn.Read(b[:])
	if ne, ok := err.(net.Error); err == nil || ok && ne.Timeout() {
		return nil
	}
	return short(err)
}

// datagram returns how many bytes a datagram carries on the path to the collector.
func (c *collector) datagram() int {
	headers, level, option := 20+8, unix.IPPROTO_IP, unix.IP_MTU
	if a, ok := c.conn.RemoteAddr().(*net.UDPAddr); ok && a.IP.To4() == nil {
		headers, level, option = 40+8, unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	size := udpLeast
	raw, err := c.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return size
	}
	_ = raw.Control(func(fd uintptr) {
		if mtu, err := unix.GetsockoptInt(int(fd), level, option); err == nil && mtu > headers {
			size = min(mtu, udpMost) - headers
		}
	})
	return size
}

// send sends a message.
func (c *collector) send(m *Message) error {
	c.setDeadline()
	b := m.Bytes(time.Now().Unix())
	n, err := c.conn.Write(b)
	if err != nil {
		return short(err)
	}
	c.sender.count.messages.Add(1)
	c.written += uint64(n)
	if c.to.TCP && m == c.data {
		c.acknowledged()
		var buf []byte
		if last := len(c.spare) - 1; last >= 0 {
			buf, c.spare = c.spare[last], c.spare[:last]
		}
		c.unacked = append(c.unacked, written{c.written, m.Records(), append(buf[:0], b...)})
	}
	return nil
}

// acknowledged forgets the messages that the collector's kernel has acknowledged. What the
// collector itself has read of these, nobody knows.
func (c *collector) acknowledged() {
	raw, err := c.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	var acked uint64
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.Bytes_acked > 0 {
			acked = info.Bytes_acked - 1 // the SYN
		}
	})
	n := 0
	for ; n < len(c.unacked) && c.unacked[n].end <= acked; n++ {
		if len(c.spare) < mostSpare {
			c.spare = append(c.spare, c.unacked[n].message)
		}
	}
	c.unacked = slices.Delete(c.unacked, 0, n)
}

// sendAgain sends what the connection before did not deliver for certain.
func (c *collector) sendAgain() error {
	for len(c.again) > 0 {
		w := c.again[0]
		be.PutUint32(w.message[8:], c.session.sequence)
		c.setDeadline()
		n, err := c.conn.Write(w.message)
		if err != nil {
			return short(err)
		}
		c.written += uint64(n)
		c.session.sequence += uint32(w.records)
		c.sender.count.messages.Add(1)
		c.sender.count.resent.Add(uint64(w.records))
		c.unacked = append(c.unacked, written{c.written, w.records, w.message})
		c.again = slices.Delete(c.again, 0, 1)
	}
	return nil
}

// held returns how many records were taken from the queue and have not been delivered, as far
// as that is known.
func (c *collector) held() int {
	n := c.data.Records()
	for _, w := range c.again {
		n += w.records
	}
	return n
}

func (c *collector) setDeadline() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.sender.stopping:
	default:
		_ = c.conn.SetWriteDeadline(time.Now().Add(slow))
	}
}

func (c *collector) sendTemplates() error {
	c.templatesDue = time.Now().Add(c.refresh)
	return c.session.Templates(c.data.size, c.send)
}

func (c *collector) sendStatistics() error {
	c.statisticsDue = time.Now().Add(statisticsPeriod)
	_, thrown, _ := c.sender.queue.state()
	s := Statistics{Messages: c.sender.count.messages.Load(), Records: c.sender.count.records.Load(), Thrown: thrown}
	s.Observed, s.Lost = c.lost()
	c.control.clear()
	c.control.AddStatistics(c.session.domain, &s)
	if err := c.send(c.control); err != nil {
		return err
	}
	c.control.Done()
	return nil
}

func (c *collector) pump() error {
	if c.to.TCP && hasEnded(c.conn) {
		return errClosed
	}
	for {
		full := false
		c.sender.queue.take(func(id uint16, record []byte) bool {
			full = !c.data.Add(id, record)
			return !full
		})
		if c.data.Records() == 0 {
			return nil
		}
		if err := c.send(c.data); err != nil {
			return err
		}
		c.sender.count.records.Add(uint64(c.data.Records()))
		c.data.Done()
		if !full {
			return nil
		}
	}
}

// hasEnded reports whether the other end has closed a connection: what would be written then
// would be lost.
func hasEnded(conn net.Conn) (ended bool) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_DONTWAIT)
		ended = err == nil && n == 0 || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return ended
}

func (c *collector) due() time.Time {
	other := c.templatesDue
	if c.to.TCP {
		other = c.checkDue
	}
	if (!c.to.TCP || len(c.unacked) > 0) && other.Before(c.statisticsDue) {
		return other
	}
	return c.statisticsDue
}

func (c *collector) periodic(now time.Time) error {
	if c.to.TCP {
		if hasEnded(c.conn) {
			return errClosed
		}
		c.acknowledged()
		c.checkDue = now.Add(checkPeriod)
	}
	if !c.to.TCP && !c.templatesDue.After(now) {
		c.data.SetSize(c.datagram())
		if err := c.sendTemplates(); err != nil {
			return err
		}
	}
	if c.statisticsDue.After(now) {
		return nil
	}
	return c.sendStatistics()
}

// close keeps a UDP socket that nobody listens to: another one, with another port, would be
// another session.
func (c *collector) close(failure error) {
	if !c.to.TCP && errors.Is(failure, unix.ECONNREFUSED) {
		return
	}
	if failure != nil && c.to.TCP && c.conn != nil {
		c.acknowledged()
		c.again = append(c.unacked, c.again...)
		c.unacked = nil
	}
	c.mu.Lock()
	conn := c.conn
	c.conn = nil
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

func (c *collector) interrupt(grace time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.SetWriteDeadline(time.Now().Add(grace))
	}
}
