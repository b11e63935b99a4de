package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// schedParam is struct sched_param.
type schedParam struct{ priority int32 }

// SetScheduler gives all threads of the process a real-time policy of sched(7),
// SCHED_FIFO or SCHED_RR, and threads to come inherit it from their makers.
func SetScheduler(policy, priority uint32) error {
	param := schedParam{int32(priority)}
	// A thread without the policy can make another one while they are listed. It
	// is done when a whole pass has met no new one.
	done := make(map[int]bool)
	for fresh := true; fresh; {
		fresh = false
		threads, err := os.ReadDir("/proc/self/task")
		if errors.Is(err, fs.ErrNotExist) { // /proc is not mounted
			return setSchedulerAtOnce(policy, &param)
		}
		if err != nil {
			return err
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[tid] {
				continue
			}
			done[tid], fresh = true, true
			_, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(tid), uintptr(policy),
				uintptr(unsafe.Pointer(&param)))
			if errno != 0 && errno != unix.ESRCH {
				return errno
			}
		}
	}
	return nil
}

// setSchedulerAtOnce has each thread set its own policy while the program stands still,
// which takes longer than SetScheduler's way.
func setSchedulerAtOnce(policy uint32, param *schedParam) error {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, uintptr(policy), uintptr(unsafe.Pointer(param)))
	if errno != 0 {
		return errno
	}
	return nil
}

// SchedulerWarning is what conntrack-tools says when SetScheduler fails.
func SchedulerWarning(err error) string {
	return fmt.Sprintf("scheduler configuration failed: %s. Likely a bug in conntrackd, please report it. "+
		"Continuing with system default scheduler.", Strerror(err))
}
