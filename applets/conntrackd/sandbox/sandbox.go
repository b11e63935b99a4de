// Package sandbox removes privileges that a running daemon no longer needs: capabilities
// (capabilities(7)), the possibility to gain privileges by executing a program
// (PR_SET_NO_NEW_PRIVS), and most system calls (seccomp(2)). An attacker who takes over the
// daemon, for example with a packet, controls a process that can change connection tracking
// and not much more.
package sandbox

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// Later is the work that a daemon will do after Enter and that may need more privileges.
type Later struct {
	Reads  []string // files: the configuration and keys; "" is ignored
	Writes []string // files that it opens, creates or removes: logs, lock, control socket
	Ports  []uint16 // ports that it binds: those of its links, whose interfaces may be recreated
}

// Begin does the part of Enter that makes dozens of calls in every thread, each while the
// whole program is stopped. It is called early, while the program has few threads and before
// they get a real-time policy: with that policy each stop can take a second on a machine with
// few CPUs. Enter reports what failed.
func Begin(later Later) {
	if onAllThreads(unix.PR_SET_NO_NEW_PRIVS, 1) == nil {
		_ = dropBounding(later.capabilities())
	}
}

// Enter confines all threads of the process, present and future, permanently. It is called
// when everything is open. An error names the parts that this system or binary does not
// support; the others are in force.
//
// CAP_NET_ADMIN, if present, is kept: the kernel's tables and buffer sizes need it. The
// scheduling policy needs no capability: threads inherit it.
func Enter(later Later) error {
	// Every user may set PR_SET_NO_NEW_PRIVS, and every kernel since 3.5 has it; if it
	// fails, the rest fails too.
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

// onAllThreads calls prctl(2) in every thread.
func onAllThreads(option int, argument uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, uintptr(option), argument, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
