package link

import (
	"net/netip"
	"time"
	"unsafe"

	"ctbox/internal/recvmmsg"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

const (
	perWrite = 64 // datagrams per system call
	// sendTimeout is how long Send waits while the socket's buffer is full. It is short,
	// as the node does nothing else meanwhile.
	sendTimeout = 100 * time.Millisecond
)

// sender is a sending socket of a datagram link, with the memory of its writes.
//
// The socket is not in the runtime's poller: every datagram that leaves makes it writable
// again and would wake a thread for nothing. Its system calls, which never wait, are made
// without informing the runtime, for the reason that recvmmsg.Reader gives.
type sender struct {
	to        netip.AddrPort
	fd        int
	connected bool
	iov       [perWrite]unix.Iovec
	hdrs      [perWrite]recvmmsg.Header
}

func (t *sender) init(to netip.AddrPort) {
	t.to, t.fd = to, -1
	for i := range t.hdrs {
		t.hdrs[i].Msg.Iov = &t.iov[i]
		t.hdrs[i].Msg.SetIovlen(1)
	}
}

// write sends the prepared datagrams from first to last-1 and returns how many were sent.
// While the socket's buffer is full it waits, at most sendTimeout, and then returns EAGAIN.
func (t *sender) write(first, last int) (int, error) {
	waited := false
	for {
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(t.fd), uintptr(unsafe.Pointer(&t.hdrs[first])),
			uintptr(last-first), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(sent), nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			if waited {
				return 0, errno
			}
			waited = true
			poll := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(poll, int(sendTimeout/time.Millisecond))
		default:
			return 0, errno
		}
	}
}

// send transmits every datagram of p to every peer.
func (d *datagram) send(p *wire.Packer) {
	for i := range d.tx {
		d.sendTo(&d.tx[i], p)
	}
}

// sendTo transmits every datagram of p to one peer, many with one system call. The kernel
// may report the error of an earlier datagram late (the peer's host has no listener yet, a
// router on the path has a smaller MTU), so the datagram at which a call stopped is tried
// once more before it counts as lost.
func (d *datagram) sendTo(t *sender, p *wire.Packer) {
	c := &d.link.counters
	total := p.Datagrams()
	if !t.connected && !d.reconnect(t) {
		c.errorsSent.Add(uint64(total))
		return
	}
	for next := 0; next < total; {
		n := min(total-next, perWrite)
		for i := range n {
			part := p.Datagram(next + i)
			t.iov[i].Base = &part[0]
			t.iov[i].SetLen(len(part))
		}
		next += n
		retried := -1
		for first := 0; first < n; {
			sent, err := t.write(first, n)
			for i := first; i < first+sent; i++ {
				c.packetsSent.Add(1)
				c.bytesSent.Add(uint64(t.hdrs[i].Len))
			}
			first += sent
			switch {
			case err == unix.EAGAIN:
				c.errorsSent.Add(uint64(n - first))
				first = n
			case err != nil && first != retried:
				retried = first
			case err != nil:
				c.errorsSent.Add(1)
				first++
			}
		}
	}
}

// reconnect connects a socket to a peer that had no route when the socket was opened. It
// reports whether that worked.
func (d *datagram) reconnect(t *sender) bool {
	t.connected = unix.Connect(t.fd, d.sockaddr(t.to.Addr(), t.to.Port())) == nil
	return t.connected
}
