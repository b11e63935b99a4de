//go:build !(386 || arm || mips || mipsle)

// Package recvmmsg knows the number of recvmmsg(2), of which a 32-bit kernel has two.
package recvmmsg

import "golang.org/x/sys/unix"

// Number is the system call's number. With a timeout of NULL it is the same call under
// each that a kernel has.
func Number() uintptr { return unix.SYS_RECVMMSG }
