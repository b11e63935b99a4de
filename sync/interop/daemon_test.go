package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// patience is the longest time that a test waits for a condition.
const patience = 40 * time.Second

// program is the implementation of a conntrackd.
type program string

const (
	ours   program = "ours"
	debian program = "Debian"
)

func (p program) path(t testing.TB) string {
	if p == ours {
		return netnstest.Applet(t, "conntrackd")
	}
	return netnstest.Peer(t, "conntrackd")
}

// daemon is a conntrackd in a namespace, with its files. Only the test's goroutine may call its
// methods.
type daemon struct {
	t       testing.TB
	ns      *netnstest.NS
	program program
	dir     string
	expects bool // ExpectationSync
	process *netnstest.Process
}

// newDaemon writes the configuration: sync is the contents of its Sync clause, general is added
// to its General clause.
func newDaemon(t testing.TB, ns *netnstest.NS, p program, sync, general string) *daemon {
	t.Helper()
	d := &daemon{t: t, ns: ns, program: p, dir: shortDir(t)}
	d.configure(sync, general)
	return d
}

// shortDir returns a directory for the test's files whose name is short enough for a socket's
// path (107 bytes, unix(7)).
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }

// configure writes another configuration for the next start. general comes last and overrides
// the clauses before it.
func (d *daemon) configure(sync, general string) {
	d.t.Helper()
	d.expects = strings.Contains(sync, "ExpectationSync")
	if sync != "" {
		sync = "Sync {\n" + sync + "\n}\n"
	}
	// Debian's daemon ends a commit properly only with more than 8192 buckets.
	config := fmt.Sprintf(`%sGeneral {
	HashSize 16384
	HashLimit 65536
	LogFile %s
	LockFile %s
	UNIX {
		Path %s
	}
	NetlinkBufferSize 2097152
	NetlinkBufferSizeMaxGrowth 8388608
	%s
}
`, sync, d.path("log"), d.path("lock"), d.path("ctl"), general)
	if err := os.WriteFile(d.path("conf"), []byte(config), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// launch starts the daemon without waiting for it.
func (d *daemon) launch() {
	d.t.Helper()
	d.process = d.ns.Start(d.program.path(d.t), "-C", d.path("conf"))
}

// start starts the daemon and waits until it answers. From then on it receives all events and
// messages.
func (d *daemon) start() {
	d.t.Helper()
	d.launch()
	d.awaitAnswer()
}

func (d *daemon) awaitAnswer() {
	d.t.Helper()
	netnstest.Eventually(d.t, patience, d.name()+" answers", func() bool {
		if d.process.Ended() {
			d.t.Fatalf("%s ended: %+v\n%s", d.name(), d.process.Wait(time.Second), d.log())
		}
		text, err := d.request(statsRuntime)
		return err == nil && strings.Contains(text, "daemon uptime")
	})
}

func (d *daemon) name() string { return string(d.program) + " in " + d.ns.Name }

// stop ends the daemon in an orderly way.
func (d *daemon) stop() {
	d.t.Helper()
	if r := d.process.Stop(syscall.SIGTERM); r.Code != 0 {
		d.t.Errorf("%s: SIGTERM ends it with status %d\n%s%s", d.name(), r.Code, r.Stdout, r.Stderr)
	}
}

// kill ends the daemon like a power failure. Debian's daemon does not start again until its
// lock is removed; ctbox's does.
func (d *daemon) kill() {
	d.t.Helper()
	d.process.Stop(syscall.SIGKILL)
	if d.program == debian {
		if err := os.Remove(d.path("lock")); err != nil {
			d.t.Fatal(err)
		}
	}
}

// client runs the daemon's program as its client and returns the output.
func (d *daemon) client(args ...string) string {
	d.t.Helper()
	return d.ns.Must(d.program.path(d.t), append([]string{"-C", d.path("conf")}, args...)...)
}

// commit makes the daemon commit all its external caches.
func (d *daemon) commit() {
	d.t.Helper()
	if r := d.ns.Run("", d.program.path(d.t), "-C", d.path("conf"), "-c"); r.Code != 0 {
		d.t.Errorf("%s: -c: %+v\n%s", d.name(), r, d.log())
	}
}

// log returns the contents of the log file, "" if it does not exist yet.
func (d *daemon) log() string {
	b, err := os.ReadFile(d.path("log"))
	if err != nil && !os.IsNotExist(err) {
		d.t.Errorf("%s: %v", d.name(), err)
	}
	return string(b)
}

// count returns the number behind a label of a statistics text:
// "Malformed payload:", "connections created:".
func count(t testing.TB, text, label string) int {
	t.Helper()
	_, rest, ok := strings.Cut(text, label)
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		t.Fatalf("no %q in:\n%s", label, text)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatalf("%q in:\n%s", label, text)
	}
	return n
}
