package netnstest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refuseMeminfo in the environment makes a test binary run its arguments as a command
// for which the kernel has no SO_MEMINFO.
const refuseMeminfo = "NETNSTEST_REFUSE_MEMINFO"

// WithoutMeminfo is Command for a program that is to see a kernel older than Linux 4.12,
// which counts no dropped messages: a filter of its system calls refuses SO_MEMINFO. The
// test's package must call Main or RunTests.
func (ns *NS) WithoutMeminfo(name string, args ...string) *exec.Cmd {
	ns.t.Helper()
	self, err := os.Executable()
	if err != nil {
		ns.t.Fatalf("netnstest: %v", err)
	}
	cmd := ns.Command(self, append([]string{name}, args...)...)
	cmd.Env = append(cmd.Env, refuseMeminfo+"=1")
	return cmd
}

// runFiltered becomes the command that WithoutMeminfo has asked for, if it has.
func runFiltered() error {
	if os.Getenv(refuseMeminfo) == "" {
		return nil
	}
	os.Unsetenv(refuseMeminfo)
	path, err := exec.LookPath(os.Args[1])
	if err != nil {
		return err
	}
	if err := filterMeminfo(); err != nil {
		return fmt.Errorf("install a system call filter: %w", err)
	}
	return unix.Exec(path, os.Args[1:], os.Environ())
}

// filterMeminfo has getsockopt(SO_MEMINFO) fail as for an unknown option, for this
// thread and what it executes. The machine's own calling convention is enough: the
// program is started from here.
func filterMeminfo() error {
	const number, arguments = 0, 16 // offsets in struct seccomp_data
	name := uint32(arguments + 2*8)
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) == 0 {
		name += 4 // the low word of a big-endian argument
	}
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: number, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_GETSOCKOPT, SkipTrue: 3},
		bpf.LoadAbsolute{Off: name, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SO_MEMINFO, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOPROTOOPT)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		return err
	}
	ins := make([]unix.SockFilter, len(program))
	for i, p := range program {
		ins[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	prog := unix.SockFprog{Len: uint16(len(ins)), Filter: &ins[0]}
	runtime.LockOSThread()
	// As root, so that the program keeps what it may do (no_new_privs would also
	// stop it from gaining file capabilities).
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	runtime.KeepAlive(ins)
	return nil
}
