package main

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// raiseNetAdmin makes CAP_NET_ADMIN effective if the process has it but does not use it
// yet: it was started from a file with that capability and without the flag that makes it
// effective (setcap cap_net_admin=p), as the container image has it. With the flag the
// kernel would refuse to start the program wherever the capability cannot be had, which
// many commands do not need. All errors are left to the request that lacks the capability.
func raiseNetAdmin() {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if unix.Capget(&head, &sets[0]) != nil {
		return
	}
	const bit = 1 << unix.CAP_NET_ADMIN
	if sets[0].Permitted&bit == 0 || sets[0].Effective&bit != 0 {
		return
	}
	sets[0].Effective |= bit
	// Capabilities belong to threads.
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&sets[0])), 0)
}
