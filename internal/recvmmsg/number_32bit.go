//go:build 386 || arm || mips || mipsle

// Package recvmmsg knows the number of recvmmsg(2), of which a 32-bit kernel has two.
package recvmmsg

import "golang.org/x/sys/unix"

// Number is the system call's number. With a timeout of NULL it is the same call under
// each that a kernel has: kernels before 5.1 have only the one whose timeout has 32-bit
// seconds, and those without CONFIG_COMPAT_32BIT_TIME only the other one. The first
// is asked for first, as what stands between (a container's filter) may not know the
// other one yet.
func Number() uintptr {
	none := ^uintptr(0) // no descriptor: whoever has the call says EBADF
	if _, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, none, 0, 0, 0, 0, 0); errno == unix.ENOSYS {
		return unix.SYS_RECVMMSG_TIME64
	}
	return unix.SYS_RECVMMSG
}
