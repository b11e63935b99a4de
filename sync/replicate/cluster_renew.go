//go:build !no_cluster

package replicate

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"
)

// renewal notices that this machine may be a copy of another one, or a former state of itself: a
// virtual machine that was cloned or set back to a snapshot. The counters of sealed datagrams, and
// so their nonces, would be used twice then (seal.Session.Renew).
//
// A hypervisor with a generation id reports it as a uevent since Linux 6.10. Without one the
// clocks show it in most cases: a guest's CLOCK_BOOTTIME goes on from the snapshot, and something
// sets its CLOCK_REALTIME to the true time. An operator who sets the clock causes a new boot id
// too, which costs nothing.
type renewal struct {
	clocks func() (realtime, boottime time.Duration)
	offset time.Duration // between the two, at the last look
	uevent func() bool   // reports whether the generation id has changed since the last call
}

// clockJump is how far the two clocks may drift apart between two looks.
const clockJump = 2 * time.Second

func (r *renewal) begin() {
	realtime, boottime := r.clocks()
	r.offset = realtime - boottime
}

// due reports whether this may be another machine than at the last look. It is called before
// each transmission, so that no datagram leaves with a nonce of the other.
func (r *renewal) due() bool {
	realtime, boottime := r.clocks()
	before := r.offset
	r.offset = realtime - boottime
	jump := r.offset - before
	return r.uevent() || jump > clockJump || jump < -clockJump
}

func clocks() (realtime, boottime time.Duration) {
	var real, boot unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &real)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return time.Duration(real.Nano()), time.Duration(boot.Nano())
}

// uevents is a netlink socket for the kernel's uevents. Its owner reads it without waiting: they
// are rare.
type uevents struct {
	fd  int
	buf [4096]byte
}

// openUevents returns a socket, or nil where there are no uevents.
func openUevents() *uevents {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil
	}
	return &uevents{fd: fd}
}

// changed reads the uevents that have arrived, and reports whether one of them is a new
// generation id. If some were lost, it might have been among them.
func (u *uevents) changed() (changed bool) {
	if u == nil {
		return false
	}
	for {
		n, err := unix.Read(u.fd, u.buf[:])
		switch {
		case err == unix.EINTR:
		case err == unix.ENOBUFS:
			changed = true
		case err != nil:
			return changed
		default:
			changed = changed || isNewGeneration(u.buf[:n])
		}
	}
}

func (u *uevents) close() {
	if u != nil {
		unix.Close(u.fd)
	}
}

// isNewGeneration reports whether a uevent, which is strings that end with a zero byte, is
// that of a virtual machine's new generation id.
func isNewGeneration(event []byte) bool {
	for field := range bytes.SplitSeq(event, []byte{0}) {
		if string(field) == "NEW_VMGENID=1" {
			return true
		}
	}
	return false
}
