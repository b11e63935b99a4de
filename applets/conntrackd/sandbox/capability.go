package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilities is a set, a bit for each number.
type capabilities uint64

func (c capabilities) has(number int) bool { return c&(1<<number) != 0 }

// capabilities are the capabilities that a daemon with this work must keep.
func (l *Later) capabilities() capabilities {
	keep := capabilities(1 << unix.CAP_NET_ADMIN)
	if slices.ContainsFunc(l.Ports, func(p uint16) bool { return p > 0 && p < 1024 }) {
		keep |= 1 << unix.CAP_NET_BIND_SERVICE
	}
	if slices.ContainsFunc(l.Reads, func(path string) bool { return isOthers(path, 0o4, 0o1) }) {
		keep |= 1 << unix.CAP_DAC_READ_SEARCH
	}
	// Permissions to write a file, and to create and remove it in its directory.
	if slices.ContainsFunc(l.Writes, func(path string) bool { return isOthers(path, 0o2, 0o3) }) {
		keep |= 1 << unix.CAP_DAC_OVERRIDE
	}
	return keep
}

// isOthers reports whether root can access the file only with a capability: a log that
// belongs to another user or is in another user's directory. The bits are the wanted
// permissions of the file and of its directory.
func isOthers(path string, bits, want os.FileMode) bool {
	if path == "" {
		return false
	}
	if info, err := os.Stat(path); err == nil && !permits(info, bits) {
		return true
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && !permits(info, want) {
			return true
		}
		if dir == "/" || dir == "." {
			return false
		}
		want = 0o1
	}
}

// permits reports whether the mode of a file gives this process the permissions in bits,
// which are in the position of those for others.
func permits(info os.FileInfo, bits os.FileMode) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	switch {
	case int(st.Uid) == os.Geteuid():
		bits <<= 6
	case int(st.Gid) == os.Getegid():
		bits <<= 3
	}
	return info.Mode()&bits == bits
}

// dropCapabilities removes all capabilities except keep from every set of every thread.
func dropCapabilities(keep capabilities) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // the low and the high half
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return err
	}
	permitted := capabilities(sets[0].Permitted) | capabilities(sets[1].Permitted)<<32
	// The bounding set comes first, because changing it needs a capability. It limits
	// what executed programs can gain; since none will be executed, it may stay as it is
	// without that capability.
	if permitted.has(unix.CAP_SETPCAP) {
		if err := dropBounding(keep); err != nil {
			return err
		}
	}
	// A kernel without ambient capabilities (before 4.3) does not know the option.
	if err := onAllThreads(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	permitted &= keep
	for i := range sets {
		half := uint32(permitted >> (32 * i))
		sets[i] = unix.CapUserData{Permitted: half, Effective: half}
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&sets[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func dropBounding(keep capabilities) error {
	for number := range 64 {
		is, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0)
		if err != nil {
			return nil // the kernel's last capability was reached
		}
		if is == 1 && !keep.has(number) {
			if err := onAllThreads(unix.PR_CAPBSET_DROP, uintptr(number)); err != nil {
				return err
			}
		}
	}
	return nil
}
