package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Monitor reports changes of the links' interfaces that call for Open: an interface was
// created, removed, set up or down, or its carrier, MTU or addresses changed. It sends on
// Changed without blocking, so several changes may become one. It ignores changes of other
// interfaces, which are frequent on a host with containers.
type Monitor struct {
	Changed <-chan struct{}
	changed chan<- struct{}
	links   []*Link
	failed  func(error)
	buf     []byte
	pause   func() // after each read of the socket
	ended   chan struct{}
	done    chan struct{}

	// The socket is not in the runtime's poller, which would wake a thread for every
	// message that arrives, even during a pause.
	fd   int
	bell int // an eventfd that ends a wait
}

// monitored are the rtnetlink groups of links and addresses. Addresses matter because an
// interface that comes back gets its addresses later, and no socket can be bound to them
// before that.
const monitored = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR

const (
	// monitorPause is the least time between two drains of the socket. A change after a
	// quiet time is seen at once. On a host that creates and removes interfaces all the
	// time, a wake-up for each message would cost more than the rest of the daemon.
	monitorPause = 200 * time.Millisecond
	// perDrain is the most messages that one drain reads.
	perDrain = 1024
	// monitorBuffer holds the messages of a thousand interfaces that are created during a
	// pause. When it overflows, the links look up their interfaces again.
	monitorBuffer = 4 << 20
	// longestMessage has room for the part of a message that matters here, which is at its
	// beginning.
	longestMessage = 32 << 10
)

// NewMonitor returns a Monitor that listens to rtnetlink's events (rtnetlink(7)) in the
// calling thread's network namespace. It calls failed, which may be nil, from another
// goroutine once for each error of reading.
func NewMonitor(links []*Link, failed func(error)) (*Monitor, error) {
	return newMonitor(links, failed, nil)
}

// newMonitor is NewMonitor with a replaceable pause after each drain, for tests.
func newMonitor(links []*Link, failed func(error), pause func()) (*Monitor, error) {
	changed := make(chan struct{}, 1)
	m := &Monitor{
		Changed: changed, changed: changed, links: links, failed: failed, buf: make([]byte, longestMessage),
		pause: pause, ended: make(chan struct{}), done: make(chan struct{}), fd: -1, bell: -1,
	}
	if pause == nil {
		m.pause = func() { _ = m.wait(m.bell, monitorPause) }
	}
	if err := m.open(); err != nil {
		m.closeFiles()
		return nil, fmt.Errorf("listen to interface changes: %w", err)
	}
	go m.listen()
	return m, nil
}

func (m *Monitor) open() (err error) {
	if m.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if m.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	setBuffer(m.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, monitorBuffer)
	if err := unix.Bind(m.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: monitored}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func (m *Monitor) closeFiles() {
	for _, fd := range []int{m.fd, m.bell} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (m *Monitor) listen() {
	defer close(m.done)
	retry := backoff{report: m.failed}
	for {
		err := m.wait(m.fd, -1)
		select {
		case <-m.ended:
			return
		default:
		}
		affected := false
		if err == nil {
			affected, err = m.drain()
		}
		// After an error such as an overrun, any change may have been missed.
		if err != nil || affected {
			select {
			case m.changed <- struct{}{}:
			default:
			}
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			retry.failed(fmt.Errorf("listen to interface changes: %w", err), m.ended)
			continue
		}
		retry.worked()
		m.pause()
	}
}

// wait waits until fd is readable, the bell rings or the limit is over. A negative limit
// means forever.
func (m *Monitor) wait(fd int, limit time.Duration) error {
	polled := [...]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(m.bell), Events: unix.POLLIN}}
	timeout := -1
	if limit >= 0 {
		timeout = int(limit / time.Millisecond)
	}
	if _, err := unix.Poll(polled[:], timeout); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	return nil
}

// drain reads the messages that have arrived and reports whether any of them affects a
// link. It reads on after an overrun, which does not touch the messages that follow.
func (m *Monitor) drain() (affected bool, failure error) {
	for range perDrain {
		// This call never waits: see recvmmsg.Reader for why the runtime is not informed.
		size, _, err := unix.RawSyscall(unix.SYS_READ, uintptr(m.fd), uintptr(unsafe.Pointer(&m.buf[0])), uintptr(len(m.buf)))
		switch err {
		case 0:
			affected = m.affects(m.buf[:size]) || affected
		case unix.EINTR:
		case unix.EAGAIN:
			return affected, failure
		case unix.ENOBUFS:
			failure = err
		default:
			return affected, err
		}
	}
	return affected, failure
}

// affects reports whether one of the messages affects one of the links.
func (m *Monitor) affects(messages []byte) bool {
	for len(messages) >= unix.SizeofNlMsghdr {
		n := int(binary.NativeEndian.Uint32(messages))
		if n < unix.SizeofNlMsghdr {
			return false
		}
		n = min(n, len(messages)) // of a message that did not fit, the beginning is here
		typ := binary.NativeEndian.Uint16(messages[4:])
		for _, l := range m.links {
			if l.affectedBy(typ, messages[unix.SizeofNlMsghdr:n]) {
				return true
			}
		}
		messages = messages[min((n+3)&^3, len(messages)):]
	}
	return false
}

// Close stops the monitor and closes its socket.
func (m *Monitor) Close() {
	close(m.ended)
	_, _ = unix.Write(m.bell, binary.NativeEndian.AppendUint64(nil, 1))
	<-m.done
	m.closeFiles() // not before: another file may have the bell's number by then
}
