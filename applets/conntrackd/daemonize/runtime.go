package daemonize

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"ctbox/internal/strerror"
)

// schedParam is struct sched_param.
type schedParam struct{ priority int32 }

// SetScheduler gives all threads of the process a real-time policy of sched(7),
// SCHED_FIFO or SCHED_RR. New threads inherit it.
func SetScheduler(policy, priority uint32) error {
	param := schedParam{int32(priority)}
	// A thread without the policy can create another one while they are listed, so
	// passes are repeated until one meets no new thread.
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

// setSchedulerAtOnce makes each thread set its own policy while the program is stopped,
// which takes longer than listing the threads.
func setSchedulerAtOnce(policy uint32, param *schedParam) error {
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, uintptr(policy), uintptr(unsafe.Pointer(param)))
	if errno != 0 {
		return errno
	}
	return nil
}

// SchedulerWarning returns conntrack-tools' message for a SetScheduler that fails.
func SchedulerWarning(err error) string {
	return fmt.Sprintf("scheduler configuration failed: %s. Likely a bug in conntrackd, please report it. "+
		"Continuing with system default scheduler.", strerror.Of(err))
}

// AllowTwoThreads lets Go code run on at least two threads, even on a machine with one
// CPU: the reader of kernel events occupies one of them while it waits for events to
// gather.
func AllowTwoThreads() {
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
}

// UseOneThread lets Go code run on one thread at a time. It suits a daemon that only runs
// helpers, which process one packet after another: with more threads, each packet would
// wake a second one that finds nothing to do.
func UseOneThread() { runtime.GOMAXPROCS(1) }

// The daemon's memory at most, for the runtime's soft limit: a base, and per object of
// each cache its record, its index entry and its place in a queue, with rare attributes
// for some.
const (
	memoryBase   = 64 << 20
	memoryObject = 512
)

// gcPercent is how much garbage accumulates, relative to live memory, before it is
// collected (GOGC). The caches are large, live long and have no pointers, so a collection
// is cheap, and firewalls are short of memory: it is less than Go's 100.
const gcPercent = 25

// LimitMemory tunes the garbage collector for caches of hashLimit objects each, or for the
// control group's limit if that is less. The limit is soft: it makes the collector work
// harder but no allocation fails. GOGC and GOMEMLIMIT in the environment take precedence.
func LimitMemory(hashLimit uint32, caches int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(hashLimit, caches, CgroupLimit("/")))
	}
}

// MemoryNeed returns how many bytes of memory the daemon takes at most, with caches of
// hashLimit objects each.
func MemoryNeed(hashLimit uint32, caches int) int64 {
	return int64(memoryBase) + int64(hashLimit)*int64(caches)*memoryObject
}

// CgroupLimit returns the memory limit of the caller's control group, in bytes,
// or math.MaxInt64 without a limit. root is prefixed to /proc and /sys.
func CgroupLimit(root string) int64 {
	return cgroupLimit(filepath.Join(root, "proc/self/cgroup"), filepath.Join(root, "sys/fs/cgroup"))
}

// memoryLimit returns the soft limit. It leaves a tenth of the control group's limit to
// memory that is not heap.
func memoryLimit(hashLimit uint32, caches int, cgroup int64) int64 {
	return min(MemoryNeed(hashLimit, caches), cgroup-cgroup/10)
}

// cgroupLimit returns the lowest memory limit, in bytes, of the control group that the file
// self names and of its ancestors; math.MaxInt64 without a limit. root is where the
// hierarchies are mounted: the unified one itself, or version 1's memory controller in the
// directory "memory". In a container, self can name a group that exists only on the host;
// the mount then has the container's own group at its root, which is checked last.
func cgroupLimit(self, root string) int64 {
	limit := int64(math.MaxInt64)
	text, err := os.ReadFile(self)
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(text)) {
		// NUMBER:CONTROLLERS:PATH (cgroups(7)); the unified hierarchy is 0::PATH.
		number, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		mounted, file := root, "memory.max"
		switch {
		case number == "0" && controllers == "":
		case slices.Contains(strings.Split(controllers, ","), "memory"):
			// Without a limit, the file has the greatest multiple of the page size.
			mounted, file = filepath.Join(root, "memory"), "memory.limit_in_bytes"
		default:
			continue
		}
		for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
			if text, err := os.ReadFile(filepath.Join(mounted, path, file)); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
					limit = min(limit, n)
				}
			}
			if path == "/" {
				break
			}
		}
	}
	return limit
}
