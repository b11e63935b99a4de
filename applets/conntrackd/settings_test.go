package conntrackd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What the configuration says of sockets is what the daemon's sockets have, and
// those of Debian's daemon.
func TestSettingsOfSockets(t *testing.T) {
	const general = " NetlinkBufferSize 65536\n NetlinkBufferSizeMaxGrowth 131072\n NetlinkEventsReliable on\n"
	link := func(more string) string { return strings.Replace(setups["bypass"], "Port 3780", "Port 3780\n"+more, 1) }
	plain := sockets{
		Events:   eventSocket{Groups: 0b111, Buffer: 65536},
		Receiver: systemBuffer(t, unix.SO_RCVBUF), Sender: systemBuffer(t, unix.SO_SNDBUF),
	}
	reliable, buffers, unchecked, expects, system, tooLarge := plain, plain, plain, plain, plain, plain
	reliable.Events.Reliable = true
	buffers.Receiver, buffers.Sender = 2*400000, 2*300000
	unchecked.NoCheck = true
	expects.Events.Groups = 0b111111
	system.Events.Buffer, tooLarge.Events.Buffer = plain.Receiver, plain.Receiver
	unreliable := strings.Replace(general, "Reliable on", "Reliable off", 1)
	for _, c := range []struct {
		name, general, rest string
		want                sockets
	}{
		{"reliable", general, link(""), reliable},
		{"buffers", unreliable, link("SndSocketBuffer 300000\nRcvSocketBuffer 400000\n"), buffers},
		{"no checksum", unreliable, link("Checksum off\n"), unchecked},
		{"expectations", unreliable,
			strings.Replace(link(""), "UDP {", "Options {\nExpectationSync on\n}\nUDP {", 1), expects},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, bin := range []string{debian, ours(t)} {
				h := newHost(t)
				p := h.start(bin, h.configure(c.general, c.rest))
				want := c.want
				if want.Events.Buffer == plain.Receiver && bin != debian {
					want.Events.Buffer *= 2 // S20
				}
				if diff := cmp.Diff(want, socketsOf(t, p.Pid())); diff != "" {
					t.Errorf("%s (-want +got):\n%s", bin, diff)
				}
				stop(t, p)
			}
		})
	}
}

// sockets are the settings of a daemon's sockets for events and of a UDP link.
type sockets struct {
	Events           eventSocket
	Receiver, Sender int // buffers as the kernel counts them: twice what was asked for
	NoCheck          bool
}

type eventSocket struct {
	Groups   uint32 // a bit for each
	Buffer   int
	Reliable bool
}

// systemBuffer is what a new socket has.
func systemBuffer(t *testing.T, option int) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return getsockopt(t, fd, unix.SOL_SOCKET, option)
}

func getsockopt(t *testing.T, fd, level, name int) int {
	t.Helper()
	value, err := unix.GetsockoptInt(fd, level, name)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// socketsOf looks at the sockets of a process.
func socketsOf(t *testing.T, pid int) (found sockets) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if target, _ := os.Readlink(filepath.Join(dir, e.Name())); !strings.HasPrefix(target, "socket:") {
			continue
		}
		theirs, _ := strconv.Atoi(e.Name())
		fd, err := unix.PidfdGetfd(pidfd, theirs, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		switch getsockopt(t, fd, unix.SOL_SOCKET, unix.SO_DOMAIN) {
		case unix.AF_NETLINK:
			if getsockopt(t, fd, unix.SOL_SOCKET, unix.SO_PROTOCOL) != unix.NETLINK_NETFILTER {
				break
			}
			if groups, err := unix.GetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LIST_MEMBERSHIPS); err != nil {
				t.Fatal(err)
			} else if groups != 0 {
				found.Events = eventSocket{uint32(groups), getsockopt(t, fd, unix.SOL_SOCKET, unix.SO_RCVBUF),
					getsockopt(t, fd, unix.SOL_NETLINK, unix.NETLINK_BROADCAST_ERROR) == 1}
			}
		case unix.AF_INET:
			name, err := unix.Getsockname(fd)
			if err != nil {
				t.Fatal(err)
			}
			if name.(*unix.SockaddrInet4).Port == 3780 {
				found.Receiver = getsockopt(t, fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
			} else {
				found.Sender = getsockopt(t, fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
				found.NoCheck = getsockopt(t, fd, unix.SOL_SOCKET, unix.SO_NO_CHECK) == 1
			}
		}
	}
	return found
}
