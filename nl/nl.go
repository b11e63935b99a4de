// Package nl is the netlink transport of nfnetlink: sockets, requests, dumps, batches,
// and the codec of messages and attributes. The packages below this one define the
// messages: ctnetlink (flows, expectations, events), nfqueue (packets), cttimeout and
// cthelper.
//
// Conn does the I/O: Do for one request, Dump for a table, Pipeline for many changes.
// The package does not print or log.
//
// Byte order: netlink and attribute headers are in the machine's order, payloads in
// network order, with the exceptions that the packages below name.
package nl

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is a socket for requests to the kernel. One goroutine at a time may use it; a Dump
// uses it until it returns, a Pipeline until it is closed. If a context has ended a call, the
// Conn has unread answers and must be closed.
type Conn struct {
	nl     *netlink.Conn
	raw    syscall.RawConn
	seq    uint32
	rcvbuf int // effective receive buffer, as SO_RCVBUF reports it
	in     ioOp
	out    ioOp
	reply  []byte
}

// ioOp is one non-blocking read or write. The function is kept so that passing
// it to the poller allocates once per Conn and not once per call.
type ioOp struct {
	buf []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

// requestRcvbuf is asked for on request sockets, so that the acknowledgements
// and answers of a whole batch fit. The kernel doubles it, and takes memory only
// as answers wait.
const requestRcvbuf = 2 << 20

// Config is the settings of a socket. The zero Config is the default.
type Config struct {
	// NetNS is a descriptor of the network namespace in which the socket is opened,
	// /run/netns/NAME for example; 0 is the namespace of the calling thread. The
	// descriptor is not needed after Dial has returned.
	NetNS int
}

// Dial opens a socket. Opening needs no privilege (another namespace needs
// CAP_SYS_ADMIN), requests do. The error names the step that failed: "open
// netlink socket: …".
func Dial(config Config) (*Conn, error) {
	c, err := dial(config)
	if err != nil {
		return nil, err
	}
	// Extended and capped acknowledgements came with Linux 4.12 and 4.3.
	// Without them errors are less detailed.
	_ = c.nl.SetOption(netlink.ExtendedAcknowledge, true)
	_ = c.nl.SetOption(netlink.CapAcknowledge, true)
	if err := c.setReceiveBuffer(requestRcvbuf); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func dial(config Config) (*Conn, error) {
	sock, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: config.NetNS})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		sock.Close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &Conn{nl: sock, raw: raw, seq: uint32(time.Now().Unix())}
	c.in.fn = func(fd uintptr) bool {
		c.in.n, c.in.err = retryIntr(unix.Read, int(fd), c.in.buf)
		return c.in.err != unix.EAGAIN
	}
	c.out.fn = func(fd uintptr) bool {
		c.out.n, c.out.err = retryIntr(unix.Write, int(fd), c.out.buf)
		return c.out.err != unix.EAGAIN
	}
	return c, nil
}

func retryIntr(op func(int, []byte) (int, error), fd int, buf []byte) (int, error) {
	for {
		n, err := op(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// setReceiveBuffer asks for n bytes, beyond net.core.rmem_max when privileged,
// and keeps what the kernel granted.
func (c *Conn) setReceiveBuffer(n int) error {
	if err := c.nl.SetReadBuffer(n); err != nil {
		return fmt.Errorf("set netlink receive buffer: %w", err)
	}
	granted, err := c.nl.ReadBuffer()
	if err != nil {
		return fmt.Errorf("read netlink receive buffer size: %w", err)
	}
	c.rcvbuf = granted
	return nil
}

// Close releases the socket. Calls under way return with an error.
func (c *Conn) Close() error { return c.nl.Close() }

// PortID returns the socket's netlink port id, which is the PortID of the events that this
// Conn's requests cause.
func (c *Conn) PortID() uint32 { return c.nl.PID() }

// ReceiveBuffer returns the receive buffer's size in bytes as the kernel reports it.
func (c *Conn) ReceiveBuffer() int { return c.rcvbuf }

func (c *Conn) recv(buf []byte) ([]byte, error) {
	c.in.buf = buf
	if err := c.raw.Read(c.in.fn); err != nil {
		return nil, err
	}
	return buf[:max(c.in.n, 0)], c.in.err
}

func (c *Conn) send(buf []byte) error {
	c.out.buf = buf
	if err := c.raw.Write(c.out.fn); err != nil {
		return err
	}
	return c.out.err
}

// until makes reads end when ctx does; the returned function undoes that, also
// where ctx ends at the same moment, so that the Conn's next read can wait again.
func (c *Conn) until(ctx context.Context) func() {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.nl.SetReadDeadline(time.Unix(1, 0))
		close(done)
	})
	return func() {
		if !stop() {
			<-done
			_ = c.nl.SetReadDeadline(time.Time{})
		}
	}
}

// ctxError prefers the reason why ctx ended to the read error that it caused.
func ctxError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Conn) nextSeq() uint32 {
	c.seq++
	return c.seq
}

// replySize is enough for any answer: the kernel builds dumps in buffers of at
// most 32 KiB and single answers in smaller ones.
const replySize = 32 << 10

// ErrTruncated reports a message that is cut in the middle: the kernel's doing, never
// the user's.
var ErrTruncated = errors.New("truncated netlink message")

// Do sends one request and waits for its acknowledgement. The kernel's answers,
// if any, go to answer, which may be nil. A refusal is an *Error.
func (c *Conn) Do(ctx context.Context, r Request, answer func(*Message) error) error {
	if c.reply == nil {
		c.reply = make([]byte, replySize)
	}
	defer c.until(ctx)()
	seq := c.nextSeq()
	if err := c.send(r.append(c.reply[:0], seq, unix.NLM_F_ACK)); err != nil {
		return fmt.Errorf("send netlink request: %w", err)
	}
	var m Message
	for {
		b, err := c.recv(c.reply)
		if err != nil {
			return ctxError(ctx, fmt.Errorf("receive netlink answer: %w", err))
		}
		ms := Messages{Rest: b}
		for ms.Next() {
			if ms.Seq() != seq {
				continue
			}
			if ms.Type() == unix.NLMSG_ERROR {
				return ParseAck(ms.Raw)
			}
			if err := m.Parse(ms.Raw); err != nil {
				return err
			}
			if answer != nil {
				if err := answer(&m); err != nil {
					return err
				}
			}
		}
		if ms.Bad {
			return ErrTruncated
		}
	}
}
