package ctnetlink

import (
	"errors"
	"fmt"
	"io"
	"time"
	"unsafe"

	"ctbox/internal/recvmmsg"
	"ctbox/nl"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// eventSocket is the netlink socket of a Subscription. It is kept out of the
// runtime's poller, which would wake a thread for every event that arrives, also
// while the reader lets them gather: the reader waits in poll(2) itself.
type eventSocket struct {
	fd     int
	bell   int // an eventfd that ends a wait
	rcvbuf int
	polled [2]unix.PollFd

	memory     [9]uint32 // SO_MEMINFO's answer; kept, to be allocated once
	memorySize uint32
	dropped    dropCounter
	counts     bool   // the kernel has SO_MEMINFO: dropped is exact
	overruns   uint64 // otherwise: how often the kernel reported ENOBUFS

	reader *recvmmsg.Reader
}

const (
	eventsPerRead = 64
	// eventSize holds any event: the kernel allocates them with at most a page
	// for the fixed part, and a helper's private data never reaches events.
	eventSize = 8 << 10
)

func openEventSocket() (_ *eventSocket, err error) {
	s := &eventSocket{fd: -1, bell: -1}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	if s.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	s.reader = recvmmsg.NewReader(eventsPerRead, eventSize)
	return s, nil
}

func (s *eventSocket) Close() {
	for _, fd := range []int{s.fd, s.bell} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// ring ends a wait that is under way, or the next one.
func (s *eventSocket) ring() { _, _ = unix.Write(s.bell, native.AppendUint64(nil, 1)) }

// option sets a netlink option (netlink(7)), or a group's membership.
func (s *eventSocket) option(what string, name, value int) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, name, value); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// membership joins (NETLINK_ADD_MEMBERSHIP) or leaves groups.
func (s *eventSocket) membership(what string, name int, groups Group) error {
	for g := range 6 {
		if groups&(1<<g) == 0 {
			continue
		}
		if err := s.option(fmt.Sprintf("%s conntrack event group %d", what, g+1), name, g+1); err != nil {
			return err
		}
	}
	return nil
}

// setBuffer asks for a receive buffer of n bytes, beyond net.core.rmem_max when
// privileged, and keeps what was granted.
func (s *eventSocket) setBuffer(n int) error {
	err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n)
	if err != nil {
		err = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, n)
	}
	if err != nil {
		return fmt.Errorf("set netlink receive buffer: %w", err)
	}
	if s.rcvbuf, err = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil {
		return fmt.Errorf("read netlink receive buffer size: %w", err)
	}
	return nil
}

// setFilter replaces the filter; nil removes it.
func (s *eventSocket) setFilter(f *EventFilter) error {
	if f == nil {
		err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: it had no filter
			return fmt.Errorf("detach event filter: %w", err)
		}
		return nil
	}
	program, err := f.assemble()
	if err != nil {
		return err
	}
	return s.attach(program)
}

// attach installs a filter.
func (s *eventSocket) attach(program []bpf.RawInstruction) error {
	ins := make([]unix.SockFilter, len(program))
	for i, p := range program {
		ins[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	prog := unix.SockFprog{Len: uint16(len(ins)), Filter: &ins[0]}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		if errors.Is(err, unix.ENOMEM) {
			return ErrFilterTooLong
		}
		return fmt.Errorf("attach event filter: %w", err)
	}
	return nil
}

// drops returns the number of messages that the kernel could not queue on the socket, or a
// lower bound if the kernel does not count them. One goroutine at a time may call it.
func (s *eventSocket) drops() uint64 {
	const drops = 8 // SK_MEMINFO_DROPS
	if !s.counts || !s.readMemory() {
		return s.dropped.total + s.overruns
	}
	return s.dropped.advance(s.memory[drops])
}

// readMemory asks for SO_MEMINFO, which Linux has since 4.12, and reports whether it
// was answered.
func (s *eventSocket) readMemory() bool {
	s.memorySize = uint32(unsafe.Sizeof(s.memory))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&s.memory)), uintptr(unsafe.Pointer(&s.memorySize)), 0)
	return errno == 0 && uintptr(s.memorySize) == unsafe.Sizeof(s.memory)
}

// dropCounter follows the kernel's counter, whose 32 bits a daemon outlives.
type dropCounter struct {
	total uint64
	last  uint32
}

// advance takes the present value of the kernel's counter and returns the whole number.
func (d *dropCounter) advance(now uint32) uint64 {
	d.total += uint64(now - d.last)
	d.last = now
	return d.total
}

// read reads the queued datagrams, at most eventsPerRead, without waiting. The error is io.EOF
// if none is queued. No datagram and no error mean that messages were lost.
func (s *eventSocket) read() (int, error) {
	n, errno := s.reader.Read(uintptr(s.fd), eventsPerRead)
	switch errno {
	case 0:
		return n, nil
	case unix.EAGAIN:
		return 0, io.EOF
	case unix.ENOBUFS:
		// The kernel reports this once, for the first message that it could not queue,
		// and drops all messages until the queue is empty.
		s.overruns++
		return 0, nil
	}
	return 0, errno
}

// wait returns when something is queued, the bell was rung, or the time is over; a negative
// limit means no limit.
func (s *eventSocket) wait(limit time.Duration) error {
	timeout := -1
	if limit >= 0 {
		timeout = int(limit / time.Millisecond)
	}
	s.polled = [2]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.bell), Events: unix.POLLIN}}
	if _, err := unix.Poll(s.polled[:], timeout); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for events: %w", err)
	}
	return nil
}

// datagram returns datagram i of the last read, padded to the alignment of messages.
func (s *eventSocket) datagram(i int) []byte {
	b, _ := s.reader.Datagram(i)
	return b[:min(nl.Align(len(b)), eventSize)]
}
