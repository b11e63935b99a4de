package conntrackd

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == leaving {
		os.Exit(leave(os.Args))
	}
	// Daemons mostly wait, so more tests than CPUs run in parallel. The command line can
	// override this.
	flag.Set("test.parallel", "6")
	netnstest.Main(m)
}

// debian returns Debian's conntrackd.
func debian(t testing.TB) string { return netnstest.Peer(t, "conntrackd") }

// patience is longer than any step of these tests takes, even while other tests keep the processors
// or the kernel's locks busy. Only a test that fails waits for so long.
const patience = time.Minute

// host is a namespace with a dedicated link and a directory for a daemon's files.
type host struct {
	*netnstest.NS
	t   testing.TB
	dir string
}

// newHost returns a host whose sync0 has the addresses 192.0.2.1 and 2001:db8::1. No host
// answers on sync0.
func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{netnstest.New(t, "cd"), t, t.TempDir()}
	h.IP("link", "add", "sync0", "type", "veth", "peer", "name", "far0")
	h.IP("addr", "add", "192.0.2.1/24", "dev", "sync0")
	h.IP("addr", "add", "2001:db8::1/64", "dev", "sync0", "nodad")
	h.IP("link", "set", "sync0", "up")
	h.IP("link", "set", "far0", "up")
	netnstest.Eventually(t, patience, "the link has a carrier", func() bool {
		return strings.Contains(h.Must("ip", "-o", "link", "show", "sync0"), " state UP ")
	})
	return h
}

// path returns the path of a file of the daemon.
func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// configure writes a configuration and returns its path. It consists of the clauses for socket
// and lock, further clauses in General, and other clauses.
func (h *host) configure(general, rest string) string {
	h.t.Helper()
	text := fmt.Sprintf("General {\n LockFile %s\n UNIX {\n  Path %s\n }\n%s\n}\n%s\n",
		h.path("lock"), h.path("ctl"), general, rest)
	name := h.path("conntrackd.conf")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return name
}

// start starts a daemon in the foreground and waits for its socket.
func (h *host) start(bin, config string) *netnstest.Process {
	h.t.Helper()
	p := h.Start(bin, "-C", config)
	netnstest.Eventually(h.t, patience, "the daemon is started", func() bool {
		if p.Ended() {
			h.t.Fatalf("%s ended: %s%s", bin, p.Stdout, p.Stderr)
		}
		return strings.Contains(p.Stdout.String(), "-- starting in console mode --")
	})
	return p
}

func ours(t testing.TB) string { return netnstest.Applet(t, "conntrackd") }

var (
	stamp  = regexp.MustCompile(`(?m)^\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\] \(pid=\d+\) `)
	number = regexp.MustCompile(` +\d+|\d+`)
	id     = regexp.MustCompile(`<id>\d+`)
)

// unstamped removes time and pid from log lines, and fails the test if a line lacks them.
func unstamped(t testing.TB, lines string) string {
	t.Helper()
	for line := range strings.Lines(lines) {
		if !stamp.MatchString(line) {
			t.Errorf("no log line: %q", line)
		}
	}
	return stamp.ReplaceAllString(lines, "")
}

// age matches the age of a cache's entry, whose number of digits may vary.
var age = regexp.MustCompile(`(\[active since )\d+s\]`)

// masked replaces numbers and their padding by number signs, and removes the ids of flows.
func masked(text string) string {
	text = id.ReplaceAllString(text, "<id>")
	text = age.ReplaceAllString(text, "$1#s]")
	return number.ReplaceAllStringFunc(text, func(n string) string { return strings.Repeat("#", len(n)) })
}

func TestPeerIsThere(t *testing.T) {
	if _, err := os.Stat(debian(t)); err != nil {
		t.Fatalf("the tests need Debian's conntrackd: %v", err)
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// stop stops a daemon and returns its output.
func stop(t testing.TB, p *netnstest.Process) string {
	t.Helper()
	if r := p.Stop(syscall.SIGTERM); r.Code != 0 {
		t.Errorf("after SIGTERM: status %d, %s", r.Code, r.Stderr)
	}
	return p.Stdout.String()
}
