package nl

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queueSocket is the socket of Queues. Like an eventSocket it is not in the
// runtime's poller; and since its only reader has nothing else to wait for, a
// read blocks in the kernel: one system call for what has arrived, where a poller
// takes three.
type queueSocket struct {
	fd   int
	buf  []byte
	iov  [queueReads]unix.Iovec
	hdrs [queueReads]mmsghdr
}

const (
	// queueReads is how many packets one system call takes.
	queueReads = 16
	// queueMessage is the room for a message: the longest packet, and what stands
	// around it. Only the pages that packets really fill are ever touched.
	queueMessage = maxPacket + 1 + 8<<10
	// queueSendBuffer holds verdicts with packets of the greatest length.
	queueSendBuffer = 1 << 20
)

func (s *queueSocket) open(buffer int) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	s.fd = fd
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	for option, n := range map[[2]int]int{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}: buffer,
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}: queueSendBuffer,
	} {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[0], n)
		if err != nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option[1], n)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("set netlink buffers: %w", err)
		}
	}
	s.buf = make([]byte, queueReads*queueMessage)
	for i := range s.hdrs {
		s.iov[i].Base = &s.buf[i*queueMessage]
		s.iov[i].SetLen(queueMessage)
		s.hdrs[i].hdr.Iov = &s.iov[i]
		s.hdrs[i].hdr.SetIovlen(1)
	}
	return nil
}

func (s *queueSocket) close() error { return unix.Close(s.fd) }

// read waits for a datagram at least and returns how many it took; with
// MSG_WAITFORONE it takes all that are there, otherwise one.
func (s *queueSocket) read(flags int) (int, error) {
	most := uintptr(1)
	if flags&unix.MSG_WAITFORONE != 0 {
		most = queueReads
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.hdrs[0])),
			most, uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// datagram is one of those that the last read took. One that did not fit is
// empty: there is no telling what it was.
func (s *queueSocket) datagram(i int) []byte {
	if n := s.hdrs[i].len; n <= queueMessage {
		return s.buf[i*queueMessage:][:n]
	}
	return nil
}

func (s *queueSocket) send(b []byte) error {
	for {
		_, err := unix.Write(s.fd, b) // netlink's default destination is the kernel
		if err != unix.EINTR {
			return err
		}
	}
}

// wake makes a read under way return: the kernel acknowledges a message that asks
// for nothing.
func (s *queueSocket) wake() error {
	b := native.AppendUint32(nil, nlmsgHeader)
	b = native.AppendUint16(b, unix.NLMSG_NOOP)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = native.AppendUint64(b, 0)
	return s.send(b)
}
