// Package netns opens network namespaces that a user names, and watches those that have a
// name, as ip-netns(8) gives them: by files in /run/netns, onto which namespaces are
// mounted.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ctbox/nl"
)

// dirs are the directories with the names: iproute2's, which is mostly the same as the
// other one.
var dirs = [...]string{"/run/netns", "/var/run/netns"}

const own = "/proc/thread-self/ns/net"

// Namespace is an open network namespace. A nil *Namespace is the caller's own. Its
// methods may be called by several goroutines at once, but for Close.
type Namespace struct {
	name string
	exec string
	file *os.File // nil: the caller's own
	id   ID
}

// ID identifies a network namespace while it exists.
type ID struct{ dev, ino uint64 }

// Open opens the namespace that spec names: the name of ip-netns(8), a path, or a process
// id. A name that is a number goes before the process of that number. The error names
// spec and the reason. The caller must close the namespace.
//
// Entering it, which nl.Config.NetNS and Do do, needs CAP_SYS_ADMIN, except for the
// caller's own namespace; Open checks that.
func Open(spec string) (*Namespace, error) {
	n, err := open(spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", spec, err)
	}
	return n, nil
}

func open(spec string) (*Namespace, error) {
	switch {
	case spec == "":
		return nil, errors.New("no name, path or process id")
	case strings.Contains(spec, "/"):
		return openFile(spec, spec, "nsenter --net="+spec)
	}
	for _, dir := range dirs {
		n, err := openFile(filepath.Join(dir, spec), spec, "ip netns exec "+spec)
		if !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
	}
	if strings.Trim(spec, "0123456789") != "" {
		return nil, errNone
	}
	n, err := openFile("/proc/"+spec+"/ns/net", spec, "nsenter --net --target "+spec)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w, and no such process", errNone)
	}
	return n, err
}

var errNone = errors.New("no network namespace of that name in " + dirs[0])

// openFile opens the namespace mounted at path, and checks that it can be entered.
func openFile(path, name, exec string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	n := &Namespace{name: name, exec: exec, file: f}
	if n.id, err = identify(int(f.Fd())); err != nil {
		f.Close()
		return nil, err
	}
	if mine, err := Own(); err == nil && mine == n.id {
		// Even this needs the privilege when it is entered.
		f.Close()
		n.file = nil
		return n, nil
	}
	// A file that is open keeps what it is mounted on busy, so another one is used, which
	// is that of no mount.
	var inside *os.File
	err = n.Do(func() (err error) {
		inside, err = os.Open(own)
		return err
	})
	f.Close()
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("entering it needs CAP_SYS_ADMIN: %w", unix.EPERM)
	}
	if err != nil {
		return nil, err
	}
	n.file = inside
	return n, nil
}

// reason returns err without the operation and the path.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

var errOther = errors.New("not a network namespace")

// identify returns the identity of the network namespace that fd refers to.
func identify(fd int) (ID, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil {
		return ID{}, fmt.Errorf("statfs: %w", err)
	}
	if int64(s.Type) != unix.NSFS_MAGIC {
		return ID{}, errOther
	}
	// Linux 4.11. An older kernel, which lacks it, finds out when the namespace is entered.
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err == nil && kind != unix.CLONE_NEWNET {
		return ID{}, errOther
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, fmt.Errorf("stat: %w", err)
	}
	return ID{uint64(st.Dev), st.Ino}, nil
}

// Own returns the identity of the calling thread's namespace.
func Own() (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(own, &st); err != nil {
		return ID{}, fmt.Errorf("stat %s: %w", own, err)
	}
	return ID{uint64(st.Dev), st.Ino}, nil
}

// Name returns how the user or ip-netns(8) names the namespace, "" for nil.
func (n *Namespace) Name() string {
	if n == nil {
		return ""
	}
	return n.name
}

// Exec returns the words that run a command in the namespace, in front of it.
func (n *Namespace) Exec() string { return n.exec }

// IsOwn reports whether the namespace is the caller's own.
func (n *Namespace) IsOwn() bool { return n == nil || n.file == nil }

// ID returns the namespace's identity. n must not be nil.
func (n *Namespace) ID() ID { return n.id }

// FD returns the descriptor for nl.Config.NetNS: 0 for the caller's own namespace.
func (n *Namespace) FD() int {
	if n == nil || n.file == nil {
		return 0
	}
	return int(n.file.Fd())
}

// Do calls f on a thread in the namespace, where /proc/net (by /proc/thread-self/net),
// /proc/sys/net and new sockets are the namespace's. Goroutines that f starts run
// elsewhere.
func (n *Namespace) Do(f func() error) error { return nl.InNetNS(n.FD(), f) }

// Close closes the descriptor.
func (n *Namespace) Close() {
	if n != nil && n.file != nil {
		n.file.Close()
	}
}

// Named returns the namespaces that have names, in the order of the names; of several
// names of one namespace the first counts. failed has the errors of those that cannot be
// opened or entered. Files that are no namespaces, such as one onto which a namespace is
// about to be mounted, are left out. The caller must close the namespaces.
func Named() (all []*Namespace, failed map[string]error) {
	var names []string
	for _, dir := range dirs {
		if f, err := os.Open(dir); err == nil {
			list, _ := f.Readdirnames(-1)
			f.Close()
			names = append(names, list...)
		}
	}
	SortNames(names)
	failed = make(map[string]error)
	seen := make(map[ID]bool)
	for i, name := range names {
		if i > 0 && name == names[i-1] {
			continue // in both directories
		}
		n, err := open(name)
		switch {
		case errors.Is(err, errOther), errors.Is(err, errNone): // such as a link to one that has gone
		case err != nil:
			failed[name] = err
		case seen[n.id]:
			n.Close()
		default:
			seen[n.id] = true
			all = append(all, n)
		}
	}
	return all, failed
}

// SortNames sorts names by insertion, which is short and fast enough for the names of a
// machine's namespaces. (slices.Sort would be the only one in a small build.)
func SortNames(names []string) {
	for i := range names {
		name := names[i]
		j := i
		for ; j > 0 && name < names[j-1]; j-- {
			names[j] = names[j-1]
		}
		names[j] = name
	}
}
