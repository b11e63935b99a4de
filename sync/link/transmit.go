package link

import (
	"errors"
	"os"
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

// txState is the memory of a datagram link's writes.
type txState struct {
	connected bool
	iov       [perWrite]unix.Iovec
	hdrs      [perWrite]mmsghdr
	first, n  int
	err       error
	fn        func(fd uintptr) bool
}

func (t *txState) init() {
	for i := range t.hdrs {
		t.hdrs[i].hdr.Iov = &t.iov[i]
		t.hdrs[i].hdr.SetIovlen(1)
	}
	t.fn = func(fd uintptr) bool {
		for t.first < t.n {
			sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&t.hdrs[t.first])),
				uintptr(t.n-t.first), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
			switch errno {
			case 0:
				t.first += int(sent)
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				t.err = errno
				return true
			}
		}
		return true
	}
}

// send transmits every datagram of p, many with one system call.
func (d *datagram) send(p *wire.Packer) {
	t := &d.tx
	total := p.Datagrams()
	if !t.connected && !d.reconnect() {
		d.link.counters.errorsSent.Add(uint64(total))
		return
	}
	_ = d.out.SetWriteDeadline(time.Now().Add(patience))
	for next := 0; next < total; {
		t.first, t.n = 0, min(total-next, perWrite)
		for i := range t.n {
			part := p.Datagram(next + i)
			t.iov[i].Base = &part[0]
			t.iov[i].SetLen(len(part))
		}
		d.write()
		next += t.n
	}
}

// write sends the prepared datagrams. An error may be that of an earlier one, told
// late (the peer's host has no listener yet): then the datagram it stopped at is
// tried once more, and only then lost.
func (d *datagram) write() {
	t, c := &d.tx, &d.link.counters
	retried := -1
	for t.first < t.n {
		before := t.first
		t.err = nil
		err := d.raw.Write(t.fn)
		if err == nil {
			err = t.err
		}
		for i := before; i < t.first; i++ {
			c.packetsSent.Add(1)
			c.bytesSent.Add(uint64(t.hdrs[i].len))
		}
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.errorsSent.Add(uint64(t.n - t.first))
			return
		}
		if t.first == retried || !errors.Is(err, unix.ECONNREFUSED) {
			c.errorsSent.Add(1)
			t.first++
			continue
		}
		retried = t.first
	}
}

// reconnect tries again to name the peer to the sending socket.
func (d *datagram) reconnect() bool {
	to := d.link.config.Destination
	if d.link.config.Transport == Multicast {
		to = d.link.config.Address
	}
	err := d.raw.Control(func(fd uintptr) {
		d.tx.connected = unix.Connect(int(fd), d.sockaddr(to, d.link.config.Port)) == nil
	})
	return err == nil && d.tx.connected
}
