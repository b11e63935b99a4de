package nfqueue

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"ctbox/internal/recvmmsg"
	"ctbox/nl"

	"golang.org/x/sys/unix"
)

// queueSocket is the socket of Queues. It is in the runtime's poller, and its system
// calls, which never wait, are made without telling the runtime: told, or blocked in
// one, the runtime wakes its monitor for every packet, which then polls for a while.
type queueSocket struct {
	file   *os.File
	raw    syscall.RawConn
	reader *recvmmsg.Reader

	in, out   func(fd uintptr) bool // receive and write, made once
	most, got int                   // datagrams to take at a time, and taken
	message   []byte                // to be sent
	errno     syscall.Errno         // of the last call
}

// be and native are the two byte orders of nfnetlink_queue: attribute payloads and
// headers.
var (
	be     = binary.BigEndian
	native = binary.NativeEndian
)

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
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
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
	s.file = os.NewFile(uintptr(fd), "nfqueue")
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return fmt.Errorf("open netlink socket: %w", err)
	}
	s.in, s.out = s.receive, s.write
	s.reader = recvmmsg.NewReader(queueReads, queueMessage)
	return nil
}

func (s *queueSocket) close() error { return s.file.Close() }

// read waits for a datagram, takes what is there, at most so many, and returns how
// many these are.
func (s *queueSocket) read(most int) (int, error) {
	s.most = most
	if err := s.raw.Read(s.in); err != nil {
		return 0, err
	}
	if s.errno != 0 {
		return 0, s.errno
	}
	return s.got, nil
}

func (s *queueSocket) receive(fd uintptr) bool {
	s.got, s.errno = s.reader.Read(fd, s.most)
	return s.errno != unix.EAGAIN
}

// datagram returns datagram i of the last read; nil for one that did not fit, which
// can't be decoded.
func (s *queueSocket) datagram(i int) []byte {
	b, whole := s.reader.Datagram(i)
	if !whole {
		return nil
	}
	return b
}

// send sends to the kernel, which is netlink's default destination.
func (s *queueSocket) send(b []byte) error {
	s.message = b
	if err := s.raw.Write(s.out); err != nil {
		return err
	}
	if s.errno != 0 {
		return s.errno
	}
	return nil
}

func (s *queueSocket) write(fd uintptr) bool {
	for {
		_, _, s.errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&s.message[0])), uintptr(len(s.message)))
		if s.errno != unix.EINTR {
			return s.errno != unix.EAGAIN
		}
	}
}

// wake makes a read under way return: the kernel acknowledges a message that asks
// for nothing. Any goroutine may call it.
func (s *queueSocket) wake() error {
	b := native.AppendUint32(nil, nl.NetlinkHeaderLen)
	b = native.AppendUint16(b, unix.NLMSG_NOOP)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = native.AppendUint64(b, 0)
	_, err := s.file.Write(b)
	return err
}
