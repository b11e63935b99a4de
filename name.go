package main

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setName makes name the process's name (comm in proc_pid_comm(5)), which pgrep,
// killall and start-stop-daemon --name look for. The kernel takes it from the path
// that was executed, which is ctbox for `ctbox conntrackd`, and exe for the daemon that
// `conntrackd -d` starts through /proc/self/exe. Each thread has a name, and a new
// thread inherits that of its maker, so all threads get it.
//
// The name is for people and scripts: a failure changes nothing else.
func setName(name string) {
	var now, want [16]byte // TASK_COMM_LEN, with a zero at the end
	copy(want[:len(want)-1], name)
	if unix.Prctl(unix.PR_GET_NAME, uintptr(unsafe.Pointer(&now)), 0, 0, 0) == nil && now == want {
		return
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&want)), 0)
	if errors.Is(errno, unix.ENOTSUP) { // built with cgo
		_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
	}
}
