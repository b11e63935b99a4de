package nfqueue

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"syscall"
	"unsafe"

	"ctbox/internal/recvmmsg"

	gonfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// queueSocket receives and sends on the connection that go-nfqueue has opened
// (Nfqueue.Con). The connection is in the runtime's poller. The system calls here never
// wait and are made without informing the runtime: otherwise the runtime wakes its
// monitor thread for every packet, which then polls for a while.
//
// It has no field of type Nfqueue. Queues is used as an interface, and text/template makes the
// linker keep every method of all types in such a value: 36 kB of the library's own receiver.
type queueSocket struct {
	con    *netlink.Conn
	close  func() error
	raw    syscall.RawConn
	reader *recvmmsg.Reader

	in, out   func(fd uintptr) bool // receive and write, made once
	most, got int                   // datagrams to read at most, and read
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
	// queueReads is the number of packets per system call.
	queueReads = 16
	// queueMessage is the room for a message: the longest packet with its headers and
	// attributes. Only the pages that packets fill are ever touched.
	queueMessage = maxPacket + 1 + 8<<10
	// queueSendBuffer holds verdicts with packets of the greatest length.
	queueSendBuffer = 1 << 20
)

func (s *queueSocket) open(netns, buffer int) error {
	// Bind sends a queue's settings: this connection has several queues, and go-nfqueue's
	// Register binds only the one in its Config, together with its own loop of reads.
	queue, err := gonfqueue.Open(&gonfqueue.Config{NetNS: netns})
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	con := queue.Con
	s.con, s.close = con, queue.Close
	if err := cmp.Or(con.SetReadBuffer(buffer), con.SetWriteBuffer(queueSendBuffer)); err != nil {
		s.Close()
		return fmt.Errorf("set netlink buffers: %w", err)
	}
	if s.raw, err = con.SyscallConn(); err != nil {
		s.Close()
		return fmt.Errorf("open netlink socket: %w", err)
	}
	s.in, s.out = s.receive, s.write
	s.reader = recvmmsg.NewReader(queueReads, queueMessage)
	return nil
}

func (s *queueSocket) Close() error { return s.close() }

// read waits for a datagram, reads the queued ones, at most most, and returns their number.
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

// wake makes a waiting read return: it sends an empty message, which the kernel acknowledges.
// Any goroutine may call it.
func (s *queueSocket) wake() error {
	_, err := s.con.Send(netlink.Message{Header: netlink.Header{
		Type: netlink.Noop, Flags: netlink.Request | netlink.Acknowledge,
	}})
	return err
}
