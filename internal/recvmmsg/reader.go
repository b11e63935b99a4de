package recvmmsg

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Header is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type Header struct {
	Msg unix.Msghdr
	Len uint32 // bytes of the datagram
}

// Reader receives datagrams, several with one system call. It is for one goroutine.
type Reader struct {
	// Headers has one entry for each datagram that a call may take. A caller may
	// give them room for names and control data.
	Headers []Header

	size   int
	buf    []byte
	iov    []unix.Iovec
	number uintptr
}

// NewReader returns a Reader that takes up to that many datagrams at a time, each of
// which has room for size bytes. Of the memory only what datagrams fill is ever touched.
func NewReader(datagrams, size int) *Reader {
	r := &Reader{
		Headers: make([]Header, datagrams),
		size:    size,
		buf:     make([]byte, datagrams*size),
		iov:     make([]unix.Iovec, datagrams),
		number:  Number(),
	}
	for i := range r.Headers {
		r.iov[i].Base = &r.buf[i*size]
		r.iov[i].SetLen(size)
		r.Headers[i].Msg.Iov = &r.iov[i]
		r.Headers[i].Msg.SetIovlen(1)
	}
	return r
}

// Read takes what is queued on fd, at most that many datagrams, without waiting.
// EAGAIN says that nothing is queued. The runtime is not informed of the system call,
// which never blocks: informed, it would wake its monitor for every datagram.
func (r *Reader) Read(fd uintptr, most int) (n int, errno syscall.Errno) {
	for {
		got, _, errno := unix.RawSyscall6(r.number, fd, uintptr(unsafe.Pointer(&r.Headers[0])), uintptr(most), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(got), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Datagram returns datagram i of the last read, as far as there was room for it; whole
// is false where there was not.
func (r *Reader) Datagram(i int) (b []byte, whole bool) {
	n := int(r.Headers[i].Len)
	return r.buf[i*r.size:][:min(n, r.size)], n <= r.size
}
