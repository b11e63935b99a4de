package netns

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Watch returns a channel that is sent to when namespaces may have been named or lost
// their names, until ctx ends. The receiver calls Named, then receives again.
//
// A name is made in two steps: a file, and a mount onto it. inotify(7) reports files and
// symbolic links, poll(2) on /proc/self/mountinfo reports mounts.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	w := &watcher{changed: make(chan struct{}, 1)}
	var err error
	if w.mounts, err = unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open /proc/self/mountinfo: %w", err)
	}
	if w.files, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		unix.Close(w.mounts)
		return nil, fmt.Errorf("inotify_init1: %w", err)
	}
	if w.end, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(w.mounts)
		unix.Close(w.files)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	w.addDirs()
	// The descriptor is closed by run, which the bell ends.
	context.AfterFunc(ctx, func() { _, _ = unix.Write(w.end, binary.NativeEndian.AppendUint64(nil, 1)) })
	go w.run()
	return w.changed, nil
}

type watcher struct {
	mounts, files, end int
	changed            chan struct{}
}

// addDirs watches the directories that exist. The first `ip netns add` of a machine makes
// its directory and mounts it, so that a change of the mounts comes with a new one.
func (w *watcher) addDirs() {
	for _, dir := range dirs {
		_, _ = unix.InotifyAddWatch(w.files, dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_ONLYDIR)
	}
}

func (w *watcher) run() {
	defer func() {
		for _, fd := range []int{w.mounts, w.files, w.end} {
			unix.Close(fd)
		}
	}()
	var buf [4096]byte
	for {
		polled := []unix.PollFd{{Fd: int32(w.mounts), Events: unix.POLLPRI}, {Fd: int32(w.files), Events: unix.POLLIN}, {Fd: int32(w.end), Events: unix.POLLIN}}
		if _, err := unix.Poll(polled, -1); err == unix.EINTR {
			continue
		} else if err != nil || polled[2].Revents != 0 {
			return
		}
		for polled[1].Revents != 0 {
			if n, err := unix.Read(w.files, buf[:]); n <= 0 || err != nil {
				break
			}
		}
		w.addDirs()
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}
