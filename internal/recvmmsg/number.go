//go:build !(386 || arm || mips || mipsle)

// Package recvmmsg receives several datagrams with one system call, recvmmsg(2). 32-bit
// kernels have two numbers for it.
package recvmmsg

import "golang.org/x/sys/unix"

// Number returns the system call's number.
func Number() uintptr { return unix.SYS_RECVMMSG }
