package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"ctbox/internal/iface"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Host returns the running host as the calling thread sees it: its network
// namespace, root directory and privileges. It creates no file; asking for a
// feature may make the kernel load the module that has it.
func Host() Env {
	return Env{
		Interfaces: interfaces,
		Creatable:  creatable,
		Type:       fileType,
		Head:       head,
		Kernel:     kernel,
		Sysctl:     sysctl,
	}
}

func interfaces() ([]Interface, error) {
	devs, err := iface.All()
	if err != nil {
		return nil, err
	}
	all := make([]Interface, 0, len(devs))
	for i := range devs {
		dev := &devs[i]
		all = append(all, Interface{
			Name:      dev.Name,
			AltNames:  dev.AltNames,
			MTU:       dev.MTU,
			Up:        dev.Has(unix.IFF_UP),
			Loopback:  dev.Has(unix.IFF_LOOPBACK),
			Multicast: dev.Has(unix.IFF_MULTICAST),
			Addresses: dev.Addresses,
		})
	}
	return all, nil
}

// creatable asks for write permission on the file, or on its directory if there
// is no file yet.
func creatable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		path = filepath.Dir(path)
		if info, err = os.Stat(path); err == nil && !info.IsDir() {
			err = &fs.PathError{Op: "stat", Path: path, Err: unix.ENOTDIR}
		}
	case err == nil && info.IsDir():
		err = &fs.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	}
	if err != nil {
		return err
	}
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "access", Path: path, Err: err}
	}
	return nil
}

func fileType(path string) (fs.FileMode, bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, false
	}
	return info.Mode().Type(), true
}

// head returns the first 32 bytes, as many as daemonize.AcquireLock reads. O_NONBLOCK keeps it
// from waiting for the other end of a pipe.
func head(path string) string {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	text, _ := io.ReadAll(io.LimitReader(file, 32))
	return string(text)
}

func sysctl(path string) (string, error) {
	value, err := os.ReadFile(filepath.Join("/proc/sys", path))
	return strings.TrimSpace(string(value)), err
}

// probes are requests that only a kernel with the feature understands. Others answer EINVAL
// because they lack the subsystem.
var probes = map[Feature]struct {
	msg    uint16 // of a dump: subsystem<<8 | type, as in linux/netfilter/nfnetlink.h
	module string
}{
	// IPCTNL_MSG_CT_GET_STATS_CPU: the size of its answer does not depend on the table.
	FeatureConntrack: {unix.NFNL_SUBSYS_CTNETLINK<<8 | 4, "nf_conntrack_netlink"},
	// NFNL_MSG_CTHELPER_GET
	FeatureHelper: {unix.NFNL_SUBSYS_CTHELPER<<8 | 1, "nfnetlink_cthelper"},
}

func kernel(f Feature) error {
	if f == FeatureQueue {
		// Every request of this subsystem changes something, but it has a file in /proc.
		if _, err := os.Stat("/proc/thread-self/net/netfilter/nfnetlink_queue"); err != nil {
			return errors.New("no module nfnetlink_queue")
		}
		return nil
	}
	probe, ok := probes[f]
	if !ok {
		return fmt.Errorf("unknown feature %s", f)
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open nfnetlink: %w", err)
	}
	defer conn.Close()
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(probe.msg), Flags: netlink.Request | netlink.Dump},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	switch {
	case errors.Is(err, unix.EPERM):
		return errors.New("no privilege: CAP_NET_ADMIN is needed")
	case err != nil:
		return fmt.Errorf("no module %s (%w)", probe.module, err)
	}
	return nil
}

// exposed describes how users other than root can change the file, which is dangerous: it
// names the files that root's daemon writes. It is "" if they cannot. A group's write
// permission is taken as intended.
func exposed(file *os.File) string {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return "" // for example a pipe
	}
	if info.Mode()&0o002 != 0 {
		return "can be written by every user"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return "belongs to user " + strconv.Itoa(int(st.Uid))
	}
	// In a sticky directory users cannot replace the files of others.
	dir, err := os.Stat(filepath.Dir(file.Name()))
	if err == nil && dir.Mode()&0o002 != 0 && dir.Mode()&os.ModeSticky == 0 {
		return "is in a directory where every user can exchange it"
	}
	return ""
}
