package recvmmsg

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestNumber(t *testing.T) {
	if n := Number(); n != unix.SYS_RECVMMSG {
		t.Errorf("number %d on a kernel that has the old one, %d", n, unix.SYS_RECVMMSG)
	}
	if err := receive(); err != nil {
		t.Error(err)
	}
}

// TestNumberWithout32BitTime takes the old call away, from one thread, which ends with
// the goroutine: as in a kernel without CONFIG_COMPAT_32BIT_TIME.
func TestNumberWithout32BitTime(t *testing.T) {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		failed <- func() error {
			if err := without(unix.SYS_RECVMMSG); err != nil {
				return err
			}
			if n := Number(); n != unix.SYS_RECVMMSG_TIME64 {
				return fmt.Errorf("number %d, not the one of the call that is left, %d", n, unix.SYS_RECVMMSG_TIME64)
			}
			return receive()
		}()
	}()
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// receive takes two datagrams by one call.
func receive() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	for _, word := range []string{"one", "two"} {
		if _, err := unix.Write(pair[0], []byte(word)); err != nil {
			return err
		}
	}
	var bufs [3][8]byte
	var iov [3]unix.Iovec
	var hdrs [3]struct {
		hdr unix.Msghdr
		len uint32
	}
	for i := range hdrs {
		iov[i].Base = &bufs[i][0]
		iov[i].SetLen(len(bufs[i]))
		hdrs[i].hdr.Iov = &iov[i]
		hdrs[i].hdr.SetIovlen(1)
	}
	n, _, errno := unix.RawSyscall6(Number(), uintptr(pair[1]), uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return fmt.Errorf("recvmmsg: %w", errno)
	}
	if n != 2 || string(bufs[0][:hdrs[0].len]) != "one" || string(bufs[1][:hdrs[1].len]) != "two" {
		return fmt.Errorf("%d datagrams of 2: %q", n, bufs[:n])
	}
	return nil
}

// without makes a system call of this thread fail as if the kernel did not have it.
func without(number uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: number},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}
