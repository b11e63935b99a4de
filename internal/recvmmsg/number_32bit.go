//go:build 386 || arm || mips || mipsle

// Package recvmmsg receives several datagrams with one system call, recvmmsg(2). 32-bit
// kernels have two numbers for it.
package recvmmsg

import "golang.org/x/sys/unix"

// Number returns the system call's number. Kernels before 5.1 have only the call whose timeout
// has 32-bit seconds, and those without CONFIG_COMPAT_32BIT_TIME only the other one. Without a
// timeout they do the same. The older one is tried first, because a container's system call
// filter may not know the newer one.
func Number() uintptr {
	none := ^uintptr(0) // not a descriptor: a kernel that has the call returns EBADF
	if _, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, none, 0, 0, 0, 0, 0); errno == unix.ENOSYS {
		return unix.SYS_RECVMMSG_TIME64
	}
	return unix.SYS_RECVMMSG
}
