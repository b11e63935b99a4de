// Package sandbox takes from a running daemon what it needs no more: capabilities
// (capabilities(7)), the way to gain privileges by another program
// (PR_SET_NO_NEW_PRIVS), and most system calls (seccomp(2)). Whoever finds a way to
// make the daemon do something else, by a packet say, has a process that can
// change connection tracking and not much more.
package sandbox

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Later is what a daemon will do after Enter that may take more than the least.
type Later struct {
	Reads  []string // files: the configuration; "" is none
	Writes []string // files it opens, makes or removes: logs, lock, control socket
	Ports  []uint16 // it binds: those of its links, whose interfaces may come back
}

// Begin does that part of Enter which takes dozens of calls of every thread, each
// with the whole program at a halt. It is called early, while there are few threads
// and before they get a real-time policy: under that each halt can take a second, on
// a machine with few processors, as nothing else comes to run. Enter tells of what
// failed.
func Begin(later Later) {
	if onAllThreads(unix.PR_SET_NO_NEW_PRIVS, 1) == nil {
		_ = dropBounding(later.capabilities())
	}
}

// Enter confines all threads of the process, and those to come, for good. It is
// called when everything is open. An error tells what this system, or this
// binary, does not have; the rest is in force.
//
// CAP_NET_ADMIN stays, where it is there: the kernel's tables and the sizes of
// buffers take it. The scheduling policy does not: threads inherit it.
func Enter(later Later) error {
	// PR_SET_NO_NEW_PRIVS is what everybody may do and every kernel since 3.5
	// has; where it fails nothing else will do.
	if err := onAllThreads(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			err = errors.New("this binary was built with cgo")
		}
		return fmt.Errorf("no_new_privs: %w", err)
	}
	var lacks []error
	if err := dropCapabilities(later.capabilities()); err != nil {
		lacks = append(lacks, fmt.Errorf("capabilities: %w", err))
	}
	if err := filterCalls(); err != nil {
		lacks = append(lacks, fmt.Errorf("seccomp: %w", err))
	}
	return errors.Join(lacks...)
}

// onAllThreads is prctl(2) for what belongs to threads, in each of them.
func onAllThreads(option int, argument uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, uintptr(option), argument, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
