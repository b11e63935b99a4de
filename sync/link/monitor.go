package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Monitor reports when what a link's Open finds may have changed: its interface came,
// went, went up or down, has another carrier, MTU or address. It sends on Changed and
// never blocks; several changes may become one. Changes of other interfaces, of which a
// host of containers has many, end here.
type Monitor struct {
	Changed <-chan struct{}
	changed chan<- struct{}
	links   []*Link
	failed  func(error)
	buf     []byte
	pause   func() // after each look
	ended   chan struct{}
	done    chan struct{}

	// The socket is kept out of the runtime's poller, which would wake a thread for
	// every message that arrives, also while these are left to gather.
	fd   int
	bell int // an eventfd that ends a wait
}

// monitored are rtnetlink's events of links, and of addresses: an interface that
// comes back gets its addresses later, and before that nothing can be bound to them.
const monitored = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR

const (
	// monitorPause is the least time between two looks at what the kernel has sent. A change
	// after a quiet time is seen at once; on a host that makes and removes interfaces all the
	// time, to be woken for each message would cost more than all else that the daemon does.
	monitorPause = 200 * time.Millisecond
	// perLook is how many messages a look takes at most.
	perLook = 1024
	// monitorBuffer holds the messages of a thousand interfaces that are made in a pause.
	// What does not fit is noticed, and the links look at their interfaces again.
	monitorBuffer = 4 << 20
	// longestMessage is more than what a message has in front that is of interest here.
	longestMessage = 32 << 10
)

// NewMonitor listens to rtnetlink's events (rtnetlink(7)) for these links, in the
// calling thread's network namespace. failed is called, from another goroutine, when
// reading them fails, once for each error; it may be nil.
func NewMonitor(links []*Link, failed func(error)) (*Monitor, error) {
	return newMonitor(links, failed, nil)
}

// newMonitor is NewMonitor with another pause after each look, for tests.
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
	retry := backoff{say: m.failed}
	for {
		err := m.wait(m.fd, -1)
		select {
		case <-m.ended:
			return
		default:
		}
		concern := false
		if err == nil {
			concern, err = m.look()
		}
		// After an error, an overrun for one, nobody knows what was missed.
		if err != nil || concern {
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

// wait waits until fd can be read, the bell rings or the time is over; a negative limit
// is none.
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

// look reads what has arrived, and reports whether any of it is about what one of the
// links uses. After an error it reads on: an overrun is none of what follows.
func (m *Monitor) look() (concern bool, failure error) {
	for range perLook {
		// The runtime does not hear of a call that never waits, see rxState.
		size, _, err := unix.RawSyscall(unix.SYS_READ, uintptr(m.fd), uintptr(unsafe.Pointer(&m.buf[0])), uintptr(len(m.buf)))
		switch err {
		case 0:
			concern = m.concern(m.buf[:size]) || concern
		case unix.EINTR:
		case unix.EAGAIN:
			return concern, failure
		case unix.ENOBUFS:
			failure = err
		default:
			return concern, err
		}
	}
	return concern, failure
}

// concern reports whether one of the messages is about what one of the links uses.
func (m *Monitor) concern(messages []byte) bool {
	for len(messages) >= unix.SizeofNlMsghdr {
		n := int(binary.NativeEndian.Uint32(messages))
		if n < unix.SizeofNlMsghdr {
			return false
		}
		n = min(n, len(messages)) // one that did not fit has its beginning
		typ := binary.NativeEndian.Uint16(messages[4:])
		for _, l := range m.links {
			if l.concerns(typ, messages[unix.SizeofNlMsghdr:n]) {
				return true
			}
		}
		messages = messages[min((n+3)&^3, len(messages)):]
	}
	return false
}

// Close ends the listening.
func (m *Monitor) Close() {
	close(m.ended)
	_, _ = unix.Write(m.bell, binary.NativeEndian.AppendUint64(nil, 1))
	<-m.done
	m.closeFiles() // not before: another file may have the bell's number by then
}
