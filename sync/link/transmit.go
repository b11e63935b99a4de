package link

import (
	"net/netip"
	"time"
	"unsafe"

	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

const (
	perWrite = 64 // datagrams a system call
	// patience is how long the sender, which is the node's only goroutine for
	// this, waits for an interface that takes nothing.
	patience = 100 * time.Millisecond
)

// txState is the sending socket of a datagram link and the memory of its writes.
//
// The socket is left out of the runtime's poller: every datagram that leaves
// makes it writable again, and would wake a thread to hear of it.
type txState struct {
	to        netip.Addr
	fd        int
	connected bool
	iov       [perWrite]unix.Iovec
	hdrs      [perWrite]mmsghdr
}

func (t *txState) init(to netip.Addr) {
	t.to, t.fd = to, -1
	for i := range t.hdrs {
		t.hdrs[i].hdr.Iov = &t.iov[i]
		t.hdrs[i].hdr.SetIovlen(1)
	}
}

// write sends datagrams first to last-1 of what was prepared and returns how many
// went. A full socket is waited for, not too long: then the error is EAGAIN.
func (t *txState) write(first, last int) (int, error) {
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
			_, _ = unix.Poll(poll, int(patience/time.Millisecond))
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

// sendTo transmits every datagram of p, many with one system call. An error may be
// that of an earlier datagram, reported late (the peer's host has no listener yet, a
// router on the way has a smaller MTU): the one it stopped at is tried once more,
// and only then lost.
func (d *datagram) sendTo(t *txState, p *wire.Packer) {
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
				c.bytesSent.Add(uint64(t.hdrs[i].len))
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

// reconnect tries again to name the peer to a sending socket.
func (d *datagram) reconnect(t *txState) bool {
	t.connected = unix.Connect(t.fd, d.sockaddr(t.to, d.link.config.Port)) == nil
	return t.connected
}
