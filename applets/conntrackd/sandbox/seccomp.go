package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets of the fields of struct seccomp_data (linux/seccomp.h) that the filter reads.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// Results of a filter.
const (
	allow  = unix.SECCOMP_RET_ALLOW
	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
)

// filterFlags are sets of flags of seccomp(2), smaller ones for older kernels. They apply the
// filter to all threads, log refused calls to the audit log (Linux 4.14), and leave out the
// mitigation of speculative stores (4.17), which costs time and is for programs that run
// others' code.
var filterFlags = [...]uintptr{
	unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
	unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG,
	unix.SECCOMP_FILTER_FLAG_TSYNC,
}

// condition is a condition on the low half of an argument; the zero condition always holds.
type condition struct {
	argument int
	masked   uint32   // if not 0: the bits that are compared
	anyOf    []uint32 // one of these
}

// call is a permitted system call.
type call struct {
	number uintptr
	when   condition
}

// program returns the filter: it permits each call if its condition holds; every other call
// fails with EPERM.
func program() ([]bpf.RawInstruction, error) {
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: refuse},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	for _, list := range [][]call{calls(uint32(os.Getpid())), archCalls} {
		for _, c := range list {
			then := c.when.program()
			p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(c.number), SkipFalse: uint8(len(then))})
			p = append(p, then...)
		}
	}
	return bpf.Assemble(append(p, bpf.RetConstant{Val: refuse}))
}

// program returns the instructions for a call that has this condition.
func (c *condition) program() []bpf.Instruction {
	if len(c.anyOf) == 0 {
		return []bpf.Instruction{bpf.RetConstant{Val: allow}}
	}
	low := offsetArgs + 8*c.argument
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big-endian
		low += 4
	}
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: uint32(low), Size: 4}}
	if c.masked != 0 {
		p = append(p, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: c.masked})
	}
	for i, value := range c.anyOf {
		// skips the remaining values and the refusal
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(len(c.anyOf) - i)})
	}
	return append(p, bpf.RetConstant{Val: refuse}, bpf.RetConstant{Val: allow})
}

// filterCalls makes every system call that is not listed fail, in all threads.
func filterCalls() error {
	if auditArch == 0 {
		return errors.New("the system calls of this architecture are not listed")
	}
	raw, err := program()
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	for _, flags := range filterFlags {
		thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		switch {
		case errno == unix.EINVAL: // a flag that the kernel does not know, or seccomp without filters
			err = errno
		case errno != 0:
			return errno
		case thread != 0:
			return fmt.Errorf("thread %d has a filter of its own", thread)
		default:
			return nil
		}
	}
	return err
}
