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

// Reader receives datagrams, several with one system call. It is used by one goroutine.
type Reader struct {
	// Headers has an entry for each datagram of a call. The caller may add buffers for
	// names and control data.
	Headers []Header

	size   int
	buf    []byte
	iov    []unix.Iovec
	number uintptr
}

// NewReader returns a Reader for up to that many datagrams per call, each with a buffer of size
// bytes. The kernel provides only the pages of the buffers that datagrams fill.
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

// Read receives up to most datagrams that are queued on fd, without waiting. The error is
// EAGAIN if none is queued. It is a raw system call, since it never blocks: otherwise the
// runtime would wake its monitor for every datagram.
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

// Datagram returns datagram i of the last Read. whole is false if it was cut to the size of its
// buffer.
func (r *Reader) Datagram(i int) (b []byte, whole bool) {
	n := int(r.Headers[i].Len)
	return r.buf[i*r.size:][:min(n, r.size)], n <= r.size
}
