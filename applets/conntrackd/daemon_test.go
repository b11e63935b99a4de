package conntrackd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
	"ctbox/nl/nfqueue"
)

// client runs ctbox's client and fails the test if it fails.
func (h *host) client(args ...string) string {
	h.t.Helper()
	return h.Must(ours(h.t), append([]string{"-C", h.path("conntrackd.conf")}, args...)...)
}

// debiansBuffer is the clause with which ctbox's daemon has the event buffer of Debian's (S20).
func debiansBuffer(t testing.TB, bin string) string {
	if bin == debian(t) {
		return ""
	}
	return " NetlinkBufferSizeFixed on\n"
}

// From start to end, a daemon writes the same lines to the console and the file as Debian's.
func TestLogIsDebians(t *testing.T) {
	for name, clauses := range setups {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var logs [2]string
			for i, bin := range []string{debian(t), ours(t)} {
				h := newHost(t)
				p := h.start(bin, h.configure(debiansBuffer(t, bin)+" LogFile "+h.path("log"), clauses))
				h.Must(bin, "-C", h.path("conntrackd.conf"), "-k")
				r := p.Wait(patience)
				if r.Code != 0 {
					t.Errorf("%s ended with status %d: %s", bin, r.Code, r.Stderr)
				}
				file, err := os.ReadFile(h.path("log"))
				if err != nil {
					t.Fatal(err)
				}
				if string(file) != r.Stdout+r.Stderr && string(file) != r.Stderr+r.Stdout {
					t.Errorf("%s has in its log\n%son the console\n%s%s", bin, file, r.Stdout, r.Stderr)
				}
				logs[i] = masked(withoutSilence(unstamped(t, string(file))))
				for _, left := range []string{"lock", "ctl"} {
					if exists(h.path(left)) {
						t.Errorf("%s leaves its %s", bin, left)
					}
				}
			}
			if logs[0] != logs[1] {
				t.Errorf("Debian's log is\n%s\nours is\n%s", logs[0], logs[1])
			}
		})
	}
}

func TestFilesAreTheOwners(t *testing.T) {
	h := newHost(t)
	h.start(ours(t), h.configure(" LogFile "+h.path("log"), "Stats {\n LogFile "+h.path("stats")+"\n}"))
	for _, name := range []string{"log", "stats", "lock", "ctl"} {
		info, err := os.Stat(h.path(name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
}

const lockedText = "[ERROR] lockfile `%s' exists, perhaps conntrackd already running?\n"

// A second daemon does not start, in any combination with Debian's, and does not disturb the
// first one.
func TestSecondStart(t *testing.T) {
	for _, pair := range [][2]string{{"ours", "ours"}, {"debian", "ours"}, {"ours", "debian"}} {
		t.Run(strings.Join(pair[:], " then "), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			bin := map[string]string{"ours": ours(t), "debian": debian(t)}
			config := h.configure("", "Stats {\n}")
			first := h.start(bin[pair[0]], config)
			for _, args := range [][]string{{"-C", config}, {"-C", config, "-d"}} {
				r := h.Run("", bin[pair[1]], args...)
				want := fmt.Sprintf(lockedText, h.path("lock"))
				if pair[1] == "debian" && len(args) == 3 {
					want = "" // 1.4.7 prints nothing in the background
				}
				if r.Code != 1 || unstamped(t, r.Stderr) != want {
					t.Errorf("%q: %+v", args, r)
				}
			}
			if !strings.HasPrefix(h.client("-s", "runtime"), "daemon uptime: ") {
				t.Error("the first daemon does not answer any more")
			}
			stop(t, first)
			stop(t, h.start(bin[pair[1]], config))
		})
	}
}

// After kill -9 the next daemon starts and replaces the lock and the socket of the killed one.
func TestStartAfterKill(t *testing.T) {
	for name, bin := range map[string]string{"ours": ours(t), "debian": debian(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			config := h.configure("", "Stats {\n}")
			h.start(bin, config).Stop(syscall.SIGKILL)
			if !exists(h.path("lock")) || !exists(h.path("ctl")) {
				t.Fatal("kill -9 left nothing behind")
			}
			p := h.start(ours(t), config)
			want := "[warning] taking over lockfile `" + h.path("lock") + "' of a conntrackd that is gone\n"
			netnstest.Eventually(t, patience, "a whole line", func() bool { return strings.HasSuffix(p.Stderr.String(), "\n") })
			if got := unstamped(t, p.Stderr.String()); got != want {
				t.Errorf("said %q, want %q", got, want)
			}
			h.client("-s")
			stop(t, p)
		})
	}
}

// A failing start prints one line, in the foreground and in the background, and leaves nothing
// behind. --check reports failures that do not depend on other programs.
func TestFailingStarts(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"file", "precious"} {
		if err := os.WriteFile(h.path(name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var busy net.PacketConn
	h.Do(func() {
		var err error
		if busy, err = net.ListenPacket("udp4", "192.0.2.1:0"); err != nil {
			t.Fatal(err)
		}
	})
	defer busy.Close()
	queues, err := nfqueue.Open(h.FD(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	// A kernel without conntrack in NFQUEUE's messages refuses that option, but the queue is bound.
	if err := queues.Bind(t.Context(), 7, 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	defer queues.Close()
	port := busy.LocalAddr().(*net.UDPAddr).Port
	const review = "[ERROR] conntrackd cannot start, please review your configuration\n"
	for _, c := range []struct {
		name, general, rest, want string
		plain                     bool // no log line
		host                      bool // the cause is this host
	}{
		{"logfile", " LogFile " + h.path("none/log"), "",
			"ERROR: can't open logfile `" + h.path("none/log") + "'.Reason: No such file or directory\n", true, true},
		{"stats logfile", "", "Stats {\n LogFile " + h.path("file/log") + "\n}",
			"ERROR: can't open logfile `" + h.path("file/log") + "'.Reason: Not a directory\n", true, true},
		{"lock", " LockFile " + h.path("none/lock"), "",
			"[ERROR] can't make lockfile `" + h.path("none/lock") + "': No such file or directory\n", false, true},
		{"lock is a file", " LockFile " + h.path("precious"), "",
			"[ERROR] can't make lockfile `" + h.path("precious") + "': it exists and is not a lock file\n", false, true},
		{"socket is a file", " UNIX {\n Path " + h.path("file") + "\n}", "",
			"[ERROR] can't open unix socket! " + h.path("file") + " exists and is not a socket\n" + review, false, true},
		{"no link", "", "Sync {\n Mode FTFW {\n }\n}", review, false, false},
		{"no interface", "", strings.ReplaceAll(setups["bypass"], "Interface sync0", ""),
			"[ERROR] can't open channel socket: the UDP link has no Interface\n" + review, false, false},
		{"no group", "", strings.ReplaceAll(setups["alarm"], "IPv4_address 225.0.0.50", ""),
			"[ERROR] can't open channel socket: the Multicast link has no IPv4_address or IPv6_address, which is the group's\n" + review, false, false},
		{"no peer", "", strings.ReplaceAll(setups["notrack"], "IPv4_Destination_Address 192.0.2.2", ""),
			"[ERROR] can't open channel socket: the TCP link has no IPv4_Destination_Address or IPv6_Destination_Address, which is the peer's\n" + review, false, false},
		{"no port", "", strings.ReplaceAll(setups["notrack"], "Port 3780", ""),
			"[ERROR] can't open channel socket: the TCP link has no Port\n" + review, false, false},
		{"no port of the group", "", strings.ReplaceAll(setups["alarm"], "Group 3780", ""),
			"[ERROR] can't open channel socket: the Multicast link has no Group\n" + review, false, false},
		{"local address of another host", "", strings.ReplaceAll(setups["alarm"], "192.0.2.1", "192.0.2.7"),
			"[ERROR] can't open channel socket: Multicast over sync0: bind to 192.0.2.7: cannot assign requested address\n" + review, false, true},
		{"queue in use", "", "Helper {\n Setup yes\n Type ftp inet tcp {\n  QueueNum 7\n }\n}",
			"[ERROR] trying to bind queue 7 of cthelper `ftp': Operation not permitted; another program has it, " +
				"or this one lacks CAP_NET_ADMIN\n" + review, false, false},
		{"port in use", "", strings.ReplaceAll(setups["bypass"], "3780", strconv.Itoa(port)), review, false, false},
		{"syntax", "", "Sync {\n Mod FTFW {\n}\n}",
			"[ERROR] " + h.path("conntrackd.conf") + `:9:2: found "Mod"`, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := h.configure(c.general, c.rest)
			for _, args := range [][]string{{"-C", config}, {"-C", config, "-d"}} {
				r := h.Start(ours(t), args...).Wait(patience)
				said := r.Stderr
				if !c.plain {
					said = unstamped(t, said)
				}
				if r.Code != 1 || !strings.Contains(said, c.want) || strings.Count(said, "\n") > 3 {
					t.Errorf("%q: status %d, %s", args, r.Code, said)
				}
				for _, left := range []string{"lock", "ctl"} {
					if exists(h.path(left)) {
						t.Errorf("%q leaves %s", args, left)
					}
				}
			}
			if strings.HasSuffix(c.name, "in use") {
				return
			}
			status, verdict := 1, "conntrackd would not work with "
			if c.host {
				status, verdict = 2, "conntrackd would not work on this host with "
			}
			r := h.Run("", ours(t), "-C", config, "--check")
			if r.Code != status || r.Stdout != "" && !strings.HasPrefix(r.Stdout, verdict+config+". ") {
				t.Errorf("--check: %+v", r)
			}
		})
	}
}

// A helper for a family that it does not support starts, as in conntrack-tools, with a warning
// that names the place, in the daemon's log and from --check.
func TestHelperOfAnotherFamily(t *testing.T) {
	h := newHost(t)
	config := h.configure("", "Helper {\n Setup yes\n Type dhcpv6 inet udp {\n  QueueNum 7\n }\n Type dhcpv6 inet6 udp {\n  QueueNum 8\n }\n}")
	warning := config + ":10:14: Type dhcpv6 inet udp never expects anything: the helper reads inet6 only\n"
	if r := h.Run("", ours(t), "-C", config, "--check"); strings.Count(r.Stderr, "never expects") != 1 || !strings.HasPrefix(r.Stderr, warning) {
		t.Errorf("--check: %+v", r)
	}
	if r := h.Run("", ours(t), "-C", config, "-s"); strings.Contains(r.Stderr, "never") {
		t.Errorf("-s: %+v", r)
	}
	// On a kernel without user-space helpers the daemon ends by itself.
	p := h.Start(ours(t), "-C", config)
	netnstest.Eventually(t, patience, "the daemon says so", func() bool { return strings.Contains(p.Stderr.String(), "[warning] "+warning) })
}

func TestWithoutPrivilege(t *testing.T) {
	h := newHost(t)
	dir, err := os.MkdirTemp("/tmp", "conntrackd-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "conntrackd") // accessible for other users
	if out, err := os.ReadFile(ours(t)); err != nil || os.WriteFile(bin, out, 0o755) != nil {
		t.Fatal(err)
	}
	h.dir = dir
	config := h.configure("", "Stats {\n}")
	for _, name := range []string{dir, config} {
		if os.Chown(name, 65534, 65534) != nil || os.Chmod(dir, 0o755) != nil {
			t.Fatal("chown")
		}
	}
	r := h.Start("setpriv", "--reuid", "65534", "--clear-groups", bin, "-C", config).Wait(patience)
	if said := unstamped(t, r.Stderr); r.Code != 1 || !strings.Contains(said, "[ERROR] conntrackd cannot start") ||
		!strings.Contains(strings.ToLower(said), "not permitted") {
		t.Errorf("status %d, %s", r.Code, said)
	}
}

// background starts a daemon with -d and ends it with the test.
func (h *host) background(config string) (pid int, r netnstest.Result) {
	h.t.Helper()
	r = h.Run("", ours(h.t), "-C", config, "-d")
	text, err := os.ReadFile(h.path("lock"))
	if err != nil {
		return 0, r
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if exists(h.path("lock")) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return pid, r
}

func TestBackground(t *testing.T) {
	h := newHost(t)
	config := h.configure(" LogFile "+h.path("log"), "Stats {\n}")
	pid, r := h.background(config)
	if r != (netnstest.Result{}) {
		t.Errorf("-d: %+v", r)
	}
	// It runs as soon as -d returns.
	if got := h.client("-s", "runtime"); !strings.HasPrefix(got, "daemon uptime: 0 min\n") {
		t.Errorf("-s runtime: %q", got)
	}
	for fd := range 3 {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd)); target != "/dev/null" {
			t.Errorf("descriptor %d is %s, %v", fd, target, err)
		}
	}
	if dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); dir != "/" {
		t.Errorf("it is in %s", dir)
	}
	if sid, _ := unix.Getsid(pid); sid != pid {
		t.Errorf("it is in session %d", sid)
	}
	// When -k returns everything is released: a new daemon starts at once.
	h.client("-k")
	if exists(h.path("lock")) || exists(h.path("ctl")) {
		t.Error("after -k the lock or the socket is there")
	}
	if _, r := h.background(config); r != (netnstest.Result{}) {
		t.Errorf("-d again: %+v", r)
	}
	h.client("-k")
	log, _ := os.ReadFile(h.path("log"))
	if got := strings.Count(unstamped(t, string(log)), "[notice] -- starting in daemon mode --\n"); got != 2 {
		t.Errorf("the log is\n%s", log)
	}
}

func TestHangupReopensLogs(t *testing.T) {
	h := newHost(t)
	p := h.start(ours(t), h.configure(" LogFile "+h.path("log"), "Stats {\n LogFile "+h.path("stats")+"\n}"))
	for _, name := range []string{"log", "stats"} {
		if err := os.Rename(h.path(name), h.path(name+".1")); err != nil {
			t.Fatal(err)
		}
	}
	syscall.Kill(p.Pid(), syscall.SIGHUP)
	netnstest.Eventually(t, patience, "the logs are opened anew", func() bool { return exists(h.path("log")) && exists(h.path("stats")) })
	h.client("-R")
	log, _ := os.ReadFile(h.path("log"))
	if !strings.Contains(string(log), "resync with master conntrack table") {
		t.Errorf("the new log has %q", log)
	}
}

// The daemon continues after its terminal has closed.
func TestConsoleThatCloses(t *testing.T) {
	h := newHost(t)
	config := h.configure("", "Stats {\n}")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(ours(t), "-C", config)
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.Close()
	defer cmd.Process.Kill()
	netnstest.Eventually(t, patience, "the daemon answers", func() bool {
		return h.Run("", ours(t), "-C", config, "-R").Code == 0
	})
	h.client("-k")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// In statistics mode both daemons log the same about ended flows: with events the attributes of
// the destroy event, counters included; with polling those in the cache.
func TestStatisticsLogIsDebians(t *testing.T) {
	for name, general := range map[string]string{"events": "", "polling": " PollSecs 1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.Sysctl("net.netfilter.nf_conntrack_acct", "1")
			// With polling a daemon counts from its first poll; and 1.4.9 crashes at the first
			// change of a flow whose event has a time (P24).
			if name == "events" && netnstest.PeerInstalled() {
				h.Sysctl("net.netfilter.nf_conntrack_timestamp", "1")
			}
			h.NFT(`table ip t {
 ct helper tftp { type "tftp" protocol udp; }
 chain out { type filter hook output priority 0; udp dport 69 ct helper set "tftp"; ct state new accept; }
}`)
			h.IP("link", "set", "lo", "up")
			daemons := map[string]*host{debian(t): {h.NS, t, t.TempDir()}, ours(t): {h.NS, t, t.TempDir()}}
			for bin, d := range daemons {
				d.start(bin, d.configure(general, "Stats {\n LogFile "+d.path("stats")+"\n}"))
			}
			h.Do(func() {
				conn, err := net.Dial("udp4", "192.0.2.2:69")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := conn.Write([]byte("\x00\x01file\x00octet\x00")); err != nil {
					t.Fatal(err)
				}
			})
			insert := func(args string) {
				h.Must("/usr/sbin/conntrack", strings.Fields("-I -s 198.51.100.1 -d 203.0.113.1 -t 300 "+args)...)
			}
			insert("-p udp --sport 53001 --dport 53")
			insert("-p udp --sport 53002 --dport 53 -m 7")
			insert("-p tcp --sport 1001 --dport 80 --state ESTABLISHED -u ASSURED")
			insert("-p tcp --sport 1002 --dport 80 --state SYN_SENT -m 5 -n 203.0.113.9")
			insert("-p sctp --sport 5 --dport 6 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2")
			insert("-p gre --srckey 5 --dstkey 6")
			insert("-p icmp --icmp-type 8 --icmp-code 0 --icmp-id 7")
			insert("-p 89 -m 9")
			h.Must("/usr/sbin/conntrack", "-U", "-f", "ipv4", "-p", "udp", "--sport", "53002", "-m", "0")
			const flows = 9
			// Debian's daemon may have polled half of them: only the last state matters.
			for bin, d := range daemons {
				netnstest.Eventually(t, patience, bin+" knows the flows", func() bool {
					known := d.Must(debian(t), "-C", d.path("conntrackd.conf"), "-i")
					return strings.Count(known, "\n") == flows && strings.Contains(known, "sport=53002 dport=53 [UNREPLIED] "+
						"src=203.0.113.1 dst=198.51.100.1 sport=53 dport=53002 mark=0 ") && strings.Contains(known, "helper=tftp")
				})
			}
			h.Must("/usr/sbin/conntrack", "-D")
			logged := map[string][]string{}
			for bin, d := range daemons {
				netnstest.Eventually(t, patience, bin+" has logged the ends", func() bool {
					text, _ := os.ReadFile(d.path("stats"))
					logged[bin] = strings.SplitAfter(string(text), "\n")
					return len(logged[bin]) == flows+1
				})
				for i, line := range logged[bin] {
					when, entry, _ := strings.Cut(line, "\t")
					if _, err := time.Parse(time.ANSIC, when); err != nil && line != "" {
						t.Errorf("%s logs %q", bin, line)
					}
					logged[bin][i] = entry
				}
				slices.Sort(logged[bin])
			}
			if diff := cmp.Diff(logged[debian(t)], logged[ours(t)]); diff != "" {
				t.Errorf("(-theirs +ours):\n%s", diff)
			}
		})
	}
}

// The messages to systemd arrive in an order that it accepts.
func TestSystemd(t *testing.T) {
	for _, background := range []bool{false, true} {
		t.Run(fmt.Sprintf("background %v", background), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			next := func() string {
				t.Helper()
				buf := make([]byte, 256)
				conn.SetReadDeadline(time.Now().Add(patience))
				n, err := conn.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				return string(buf[:n])
			}
			args := []string{"-C", h.configure("", "Stats {\n}")}
			if background {
				args = append(args, "-d")
			}
			cmd := h.Command(ours(t), args...)
			cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+h.path("notify"), "WATCHDOG_USEC=100000")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			if background {
				main := next()
				if err := cmd.Wait(); err != nil {
					t.Error(err)
				}
				lock, err := os.ReadFile(h.path("lock"))
				if err != nil || main+"\n" != "MAINPID="+string(lock) {
					t.Errorf("%q, the lock has %q", main, lock)
				}
			}
			for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
				if got := next(); got != want {
					t.Fatalf("%q, want %q", got, want)
				}
			}
			h.client("-k")
			for got := next(); got != "STOPPING=1"; got = next() {
				if got != "WATCHDOG=1" {
					t.Fatalf("at the end %q", got)
				}
			}
			if !background {
				cmd.Wait()
			}
		})
	}
}

func TestSystemdOff(t *testing.T) {
	h := newHost(t)
	cmd := h.Command(ours(t), "-C", h.configure(" Systemd off", "Stats {\n}"))
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET=no path, which would be a warning")
	var out netnstest.Output
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	netnstest.Eventually(t, patience, "the daemon is started", func() bool { return strings.Contains(out.String(), "starting") })
	h.client("-k")
	cmd.Wait()
	if strings.Contains(out.String(), "NOTIFY_SOCKET") {
		t.Errorf("%s", &out)
	}
}

func TestSchedulerOfTheConfiguration(t *testing.T) {
	h := newHost(t)
	p := h.start(ours(t), h.configure(" Scheduler {\n Type FIFO\n Priority 7\n}", "Stats {\n}"))
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.Pid()))
	if err != nil || len(threads) == 0 {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, _ := strconv.Atoi(thread.Name())
		policy, _, errno := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, uintptr(tid), 0, 0)
		if errno == 0 && policy != unix.SCHED_FIFO {
			t.Errorf("thread %d has policy %d", tid, policy)
		}
	}
	q := h.start(ours(t), newHostConfig(h, " Scheduler {\n Type FIFO\n Priority 0\n}"))
	want := "[warning] scheduler configuration failed: Invalid argument. Likely a bug in conntrackd, please report it. " +
		"Continuing with system default scheduler.\n"
	stop(t, q) // after its end both pipes have all of its output
	if got := unstamped(t, q.Stderr.String()); got != want {
		t.Errorf("said %q", got)
	}
}

// newHostConfig configures another daemon in h's namespace.
func newHostConfig(h *host, general string) string {
	other := &host{h.NS, h.t, h.t.TempDir()}
	return other.configure(general, "")
}

func TestJSONAndMetrics(t *testing.T) {
	h := newHost(t)
	h.start(ours(t), h.configure("", setups["notrack"]))
	h.Must("/usr/sbin/conntrack", "-I", "-p", "tcp", "-s", "198.51.100.1", "-d", "203.0.113.1",
		"--sport", "1001", "--dport", "2002", "--state", "ESTABLISHED", "-t", "300")
	netnstest.Eventually(t, patience, "the flow is cached", func() bool { return h.client("-i") != "" })
	var status struct {
		Mode   string
		Caches struct {
			Internal struct{ Flows struct{ Active int } }
		}
		Links []struct{ Interface, Transport string }
	}
	if err := json.Unmarshal([]byte(h.client("-s", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if status.Mode != "notrack" || status.Caches.Internal.Flows.Active != 1 || len(status.Links) != 1 ||
		status.Links[0].Interface != "sync0" || status.Links[0].Transport != "tcp" {
		t.Errorf("%+v", status)
	}
	if got := h.client("-s", "metrics"); !strings.Contains(got, `conntrackd_cache_entries{cache="internal",table="flows"} 1`+"\n") {
		t.Errorf("metrics: %s", got)
	}
	flows := h.client("-i", "-o", "json")
	if !json.Valid([]byte(flows)) || !strings.Contains(flows, `"active_since":`) {
		t.Errorf("-i -o json: %s", flows)
	}
	// Debian's daemon does not have these.
	d := newHost(t)
	config := d.configure("", "")
	d.start(debian(t), config)
	for _, args := range [][]string{{"-s", "--json"}, {"-i", "-o", "json"}, {"-s", "metrics"}} {
		r := d.Run("", ours(t), append([]string{"-C", config}, args...)...)
		if r.Code != 1 || r.Stdout != "" || unstamped(t, r.Stderr) != "[ERROR] the running daemon does not know this request\n" {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

func TestCheck(t *testing.T) {
	h := newHost(t)
	config := h.configure(" Nice -5", setups["ftfw"])
	r := h.Run("", ours(t), "-C", config, "--check")
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "conntrackd would start with "+config+" and replicate flows in FTFW mode over 2 link(s).") ||
		!strings.Contains(r.Stdout, "\tResendQueueSize 131072\n") && !strings.Contains(r.Stdout, "ResendQueueSize 131072") ||
		!strings.Contains(r.Stderr, config+":6:2: deprecated nice configuration") {
		t.Errorf("%+v", r)
	}
	h.NFT("table inet raw { chain pre { type filter hook prerouting priority raw; ct original zone set 3; ct reply zone set 4; }; }")
	const zones = "note: 2 rules of this host set a zone of one direction"
	if r = h.Run("", ours(t), "-C", config, "--check"); r.Code != 0 || !strings.Contains(r.Stderr, zones) {
		t.Errorf("%+v", r)
	}
	if r = h.Run("", ours(t), "-C", config, "--check", "--syntax"); r.Code != 0 || strings.Contains(r.Stderr, zones) {
		t.Errorf("%+v", r)
	}
	// Version 2 of the protocol has such zones.
	h.configure("", strings.Replace(setups["ftfw"], "\tUDP {", `Cluster {
	Name edge
	Node 1 a
	Peer 2 b {
		IPv4_Destination_Address 192.0.2.2
		IPv6_Destination_Address 2001:db8::2
	}
}
UDP {`, 1))
	if r = h.Run("", ours(t), "-C", config, "--check"); r.Code != 0 || strings.Contains(r.Stderr, "zone") {
		t.Errorf("%+v", r)
	}
	h.NFT("flush ruleset")
	// 1 is for a file that is wrong on every host, 2 for problems of this host only.
	for _, c := range []struct {
		name, text                string
		status, alone             int // with --syntax
		stdout, stdoutAlone, says string
	}{
		{"syntax", "Sync {\n Mod FTFW {\n}\n}", 1, 1, "", "", `:9:2: found "Mod"`},
		{"no link", "Sync {\n Mode FTFW {\n }\n}", 1, 1, "conntrackd would not work with " + config, "conntrackd would not work with " + config,
			"error: no dedicated link"},
		{"interface", strings.ReplaceAll(setups["notrack"], "sync0", "none0"), 2, 0,
			"conntrackd would not work on this host with " + config, config + " is valid; conntrackd would start with it and replicate flows and expectations in NOTRACK mode",
			"error: none0 is an invalid interface"},
		{"both", strings.ReplaceAll(strings.ReplaceAll(setups["notrack"], "sync0", "none0"), "Port 3780", ""), 1, 1,
			"conntrackd would not work with " + config, "conntrackd would not work with " + config, "needs a Port"},
	} {
		h.configure("", c.text)
		r := h.Run("", ours(t), "--check", "-C", config)
		if r.Code != c.status || !strings.HasPrefix(r.Stderr, config+":") || !strings.Contains(r.Stderr, c.says) || !strings.HasPrefix(r.Stdout, c.stdout) {
			t.Errorf("%s: %+v", c.name, r)
		}
		r = h.Run("", ours(t), "--check", "--syntax", "-C", config)
		if r.Code != c.alone || strings.Contains(r.Stderr, c.says) != (c.alone == 1) || !strings.HasPrefix(r.Stdout, c.stdoutAlone) {
			t.Errorf("%s: --syntax: %+v", c.name, r)
		}
	}
	for _, left := range []string{"lock", "ctl"} {
		if exists(h.path(left)) {
			t.Errorf("--check leaves %s", left)
		}
	}
}

// On a kernel that does not count dropped events (before Linux 4.12) an overrun is detected
// anyway, and the internal cache is resynchronised with the kernel.
func TestOverrunOnAnOldKernel(t *testing.T) {
	const flows = 5000
	h := newHost(t)
	config := h.configure(" NetlinkBufferSize 4608\n NetlinkBufferSizeMaxGrowth 4608\n NetlinkOverrunResync 1", "Stats {\n}")
	p := h.Launch(h.WithoutMeminfo(ours(t), "-C", config))
	netnstest.Eventually(t, patience, "the daemon is started", func() bool {
		return strings.Contains(p.Stdout.String(), "-- starting in console mode --")
	})
	if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for i := range flows {
		fmt.Fprintf(&lines, "-I -p udp -s 198.51.100.%d -d 203.0.113.1 --sport %d --dport 53 -t 300\n", i%250, 1024+i/250)
	}
	if r := h.Run(lines.String(), netnstest.Applet(t, "conntrack"), "-R", "-"); r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	if err := syscall.Kill(p.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, patience, "the cache has all flows", func() bool {
		return strings.Count(h.client("-i"), "\n") == flows
	})
	k := h.kernel()
	stop(t, p)
	if log := p.Stdout.String() + p.Stderr.String(); !strings.Contains(log, "does not count the events that it drops") ||
		!strings.Contains(log, "the kernel dropped at least ") || k.Overruns == 0 || k.Lost < k.Overruns || k.Lost >= flows {
		t.Errorf("%+v: %s", k, log)
	}
}

// While the disk of its log blocks, a daemon follows the table, answers, and ends on request.
func TestLogOnAHangingDisk(t *testing.T) {
	h := newHost(t)
	dir, freeze, thaw := netnstest.HangingDisk(t)
	name := filepath.Join(dir, "log")
	p := h.start(ours(t), h.configure(" LogFile "+name, "Stats {\n}"))
	freeze()
	for i := range 20 { // each logs a line that the disk does not accept
		if r := h.Run("", ours(t), "-C", h.path("conntrackd.conf"), "-R"); r.Code != 0 {
			t.Fatalf("request %d: %+v", i, r)
		}
	}
	h.Must(netnstest.Applet(t, "conntrack"), "-I", "-p", "udp", "-s", "198.51.100.1", "-d", "203.0.113.1", "--sport", "1", "--dport", "53", "-t", "300")
	netnstest.Eventually(t, patience, "the cache has the flow", func() bool {
		return strings.Count(h.client("-i"), "\n") == 1
	})
	h.client("-k")
	netnstest.Eventually(t, patience, "the daemon has ended all but its writing", func() bool { return !exists(h.path("lock")) })
	thaw()
	if r := p.Wait(patience); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	text, err := os.ReadFile(name)
	if err != nil || !strings.Contains(unstamped(t, string(text)), "[notice] resync with master conntrack table\n") {
		t.Errorf("the log has %q (%v)", text, err)
	}
}
