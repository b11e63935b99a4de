package process

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// What the daemon takes at most, for the runtime's soft limit: a base, and for
// each object of each cache its record, its index and its place in a queue, with
// rare attributes for some.
const (
	memoryBase   = 64 << 20
	memoryObject = 512
)

// gcPercent is how much garbage, relative to what lives, is let lie. The caches
// are large, live long and have no pointers: collecting is cheap and memory is
// dear, so it is less than Go's 100.
const gcPercent = 25

// LimitMemory tunes the garbage collector for caches of hashLimit objects each,
// and for the control group's limit if that is less. The limit is a soft one: it
// makes the collector work harder, and refuses nothing. GOGC and GOMEMLIMIT, where they
// are set in the environment, stay in force.
func LimitMemory(hashLimit uint32, caches int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(hashLimit, caches, CgroupLimit("/")))
	}
}

// MemoryNeed is what the daemon takes at most, in bytes, with caches of
// hashLimit objects each.
func MemoryNeed(hashLimit uint32, caches int) int64 {
	return int64(memoryBase) + int64(hashLimit)*int64(caches)*memoryObject
}

// CgroupLimit returns the memory limit of the caller's control group, in bytes,
// or math.MaxInt64. root stands in front of /proc and /sys.
func CgroupLimit(root string) int64 {
	return cgroupLimit(filepath.Join(root, "proc/self/cgroup"), filepath.Join(root, "sys/fs/cgroup"))
}

// memoryLimit leaves a tenth of the control group's limit to what is no heap.
func memoryLimit(hashLimit uint32, caches int, cgroup int64) int64 {
	return min(MemoryNeed(hashLimit, caches), cgroup-cgroup/10)
}

// cgroupLimit returns the memory limit in bytes of the control group that the file self
// names, and of those above it; math.MaxInt64 if there is none. root is where the
// hierarchies are mounted: the unified one itself, or version 1's below it in memory. In a
// container self can name a group that only the host has. What is mounted there then begins
// with the container's own group, which is the last that is looked at.
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
			// Without a limit it is the greatest multiple of the page size.
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
