package conntrackd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// The sockets of ctbox's and Debian's daemon have the configured settings.
func TestSettingsOfSockets(t *testing.T) {
	const general = " NetlinkBufferSize 65536\n NetlinkBufferSizeMaxGrowth 131072\n NetlinkEventsReliable on\n"
	link := func(more string) string { return strings.Replace(setups["bypass"], "Port 3780", "Port 3780\n"+more, 1) }
	plain := sockets{
		Events:   eventSocket{Groups: 0b111, Buffer: 65536},
		Receiver: systemBuffer(t, unix.SO_RCVBUF), Sender: systemBuffer(t, unix.SO_SNDBUF),
	}
	reliable, buffers, unchecked, expects, system := plain, plain, plain, plain, plain
	reliable.Events.Reliable = true
	buffers.Receiver, buffers.Sender = 2*400000, 2*300000
	unchecked.NoCheck = true
	expects.Events.Groups = 0b111111
	system.Events.Buffer = plain.Receiver
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
		{"the default", "", link(""), system},
		{"above the maximum", " NetlinkBufferSize 131072\n NetlinkBufferSizeMaxGrowth 65536\n", link(""), system},
		{"no maximum", " NetlinkBufferSize 65536\n", link(""), system},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, bin := range []string{debian(t), ours(t)} {
				h := newHost(t)
				p := h.start(bin, h.configure(c.general, c.rest))
				want := c.want
				switch { // S20
				case bin == debian(t) || want != system:
				case c.name == "no maximum":
					want.Events.Buffer = 65536
				default:
					want.Events.Buffer = ctnetlink.BurstBuffer(ctnetlink.KernelMemory())
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
	Receiver, Sender int // buffers as the kernel counts them: twice the requested size
	NoCheck          bool
}

type eventSocket struct {
	Groups   uint32 // a bit for each
	Buffer   int
	Reliable bool
}

// systemBuffer returns the buffer size of a new socket.
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

// socketsOf returns the settings of a process's sockets.
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

// The log lines about the source of events, and their order, are Debian's.
func TestEventLogIsDebians(t *testing.T) {
	for name, general := range map[string]string{
		"kernel":  " NetlinkEventsReliable on\n Filter From Kernelspace {\n  Protocol Accept {\n   TCP\n  }\n }\n",
		"user":    " Filter From Userspace {\n  Protocol Accept {\n   TCP\n  }\n }\n",
		"no part": " Filter From Kernelspace {\n }\n",
		"polling": " PollSecs 1\n NetlinkEventsReliable on\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var logs [2]string
			for i, bin := range []string{debian(t), ours(t)} {
				h := newHost(t)
				stop(t, h.start(bin, h.configure(general+debiansBuffer(t, bin)+" LogFile "+h.path("log"), "Stats {\n}")))
				text, err := os.ReadFile(h.path("log"))
				if err != nil {
					t.Fatal(err)
				}
				logs[i] = masked(unstamped(t, string(text)))
			}
			if diff := cmp.Diff(logs[0], logs[1]); diff != "" {
				t.Errorf("(-theirs +ours):\n%s", diff)
			}
		})
	}
}

// A filter that is too long for the kernel is applied in user space.
func TestLongFilter(t *testing.T) {
	filter := func(addresses int) string {
		text := " Filter From Kernelspace {\n  Address Ignore {\n"
		for i := range addresses {
			text += fmt.Sprintf("   IPv4_address 198.18.%d.%d\n", i>>8, i&255)
		}
		return text + "  }\n }\n"
	}
	const warning = "[warning] cannot set event filtering: event filter is too long for the kernel. Filtering in user space.\n"
	h := newHost(t)
	p := h.start(ours(t), h.configure(filter(3000), "Stats {\n}"))
	filtered := func(from string, port int, want bool) {
		t.Helper()
		before := h.kernel().Filtered
		h.insert(from, port)
		if h.insert("192.0.2.99", port); want {
			netnstest.Eventually(t, patience, from+" is filtered in user space", func() bool { return h.kernel().Filtered > before })
		}
		h.caches("-i", map[int]bool{port: true})
		if text := h.client("-i"); strings.Contains(text, "src="+from+" ") || want != (h.kernel().Filtered > before) {
			t.Errorf("filtered %d, then %d, -i: %s", before, h.kernel().Filtered, text)
		}
	}
	filtered("198.18.3.1", 1001, true)
	h.reloads("General Filter", filter(100), "Stats {\n}")
	filtered("198.18.0.1", 1002, false)
	h.reloads("General Filter", filter(2500), "Stats {\n}")
	filtered("198.18.3.1", 1003, true)
	stop(t, p)
	if got := unstamped(t, p.Stderr.String()); got != warning+warning {
		t.Errorf("said %s", got)
	}
}

// The messages to syslog, with facility and severity, are those of Debian's daemon.
func TestSyslogIsDebians(t *testing.T) {
	for _, c := range []struct{ name, general, stats string }{
		{"general and stats", " Syslog local3\n", "Syslog local3"},
		{"general", " Syslog on\n", ""},
		{"stats", "", "Syslog local5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var sent [2][]string
			for i, bin := range []string{debian(t), ours(t)} {
				h := newHost(t)
				l := h.listenSyslog()
				config := h.configure(c.general+" LogFile "+h.path("log")+"\n NetlinkBufferSize 65536\n NetlinkBufferSizeMaxGrowth 65536\n",
					"Stats {\n LogFile "+h.path("stats")+"\n"+c.stats+"\n}")
				p := h.Start("unshare", "--mount", "sh", "-c", `mount --bind "$1" /dev && exec "$2" -C "$3"`, "sh", h.path("dev"), bin, config)
				netnstest.Eventually(t, patience, "the daemon answers", func() bool {
					return h.Run("", debian(t), "-C", config, "-s").Code == 0
				})
				h.Must("/usr/sbin/conntrack", "-I", "-p", "udp", "-s", "198.51.100.1", "-d", "203.0.113.1", "--sport", "1", "--dport", "2", "-t", "300")
				netnstest.Eventually(t, patience, "the flow is cached", func() bool { return h.client("-i") != "" })
				h.Must("/usr/sbin/conntrack", "-D")
				netnstest.Eventually(t, patience, "its end is known", func() bool { return h.client("-i") == "" })
				stop(t, p)
				sent[i] = l.end()
			}
			for i, line := range sent[0] {
				line = strings.Replace(line, "<14>", "<174>", 1) // user, local5: P11
				sent[0][i] = strings.TrimSuffix(line, "\n")      // P12
			}
			if len(sent[0]) == 0 {
				t.Error("nothing was sent")
			}
			// Ours, where a flow of the test was there when the table was first read.
			sent[1] = slices.DeleteFunc(sent[1], func(line string) bool { return strings.Contains(line, "nf_conntrack_events is 2") })
			if diff := cmp.Diff(sent[0], sent[1]); diff != "" {
				t.Errorf("(-theirs +ours):\n%s", diff)
			}
		})
	}
}

// syslogListener collects the messages that are sent to a socket.
type syslogListener struct {
	conn *net.UnixConn
	done chan struct{}
	got  []string
}

// listenSyslog listens on the socket log in the directory dev, which replaces /dev for the daemon.
func (h *host) listenSyslog() *syslogListener {
	h.t.Helper()
	if err := os.Mkdir(h.path("dev"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := unix.Mknod(h.path("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		h.t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("dev/log"), Net: "unixgram"})
	if err != nil {
		h.t.Fatal(err)
	}
	l := &syslogListener{conn: conn, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil || string(buf[:n]) == endOfSyslog {
				return
			}
			l.got = append(l.got, sentAt.ReplaceAllString(string(buf[:n]), "$1 conntrack-tools[#]:"))
		}
	}()
	h.t.Cleanup(func() { conn.Close() })
	return l
}

// sentAt matches the parts of a message that change from run to run.
var sentAt = regexp.MustCompile(`^(<\d+>)[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d conntrack-tools\[\d+\]:`)

// endOfSyslog is the listener's own last message.
const endOfSyslog = "end"

// end returns the messages after the sender has ended.
func (l *syslogListener) end() []string {
	conn, err := net.DialUnix("unixgram", nil, l.conn.LocalAddr().(*net.UnixAddr))
	if err != nil {
		return []string{err.Error()}
	}
	defer conn.Close()
	conn.Write([]byte(endOfSyslog))
	<-l.done
	return l.got
}
