// Package peertest runs Debian's conntrackd in a test's network namespace as a replication
// peer.
package peertest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

const program = "/usr/sbin/conntrackd"

// Daemon is a running conntrackd. Its methods belong to the test's goroutine.
type Daemon struct {
	Process *netnstest.Process

	t      testing.TB
	ns     *netnstest.NS
	config string
}

// Start starts conntrackd in the namespace. sync is the contents of the configuration's Sync
// clause. The daemon is stopped at the end of the test, if not earlier.
func Start(t testing.TB, ns *netnstest.NS, sync string) *Daemon {
	t.Helper()
	dir := t.TempDir()
	d := &Daemon{t: t, ns: ns, config: filepath.Join(dir, "conntrackd.conf")}
	config := fmt.Sprintf(`Sync {
%s
}
General {
	HashSize 16384
	HashLimit 65536
	LogFile %s/log
	LockFile %s/lock
	UNIX {
		Path %s/ctl
	}
}
`, sync, dir, dir, dir)
	if err := os.WriteFile(d.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Restart()
	return d
}

// Restart starts the daemon again with the same configuration, after Stop.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.Process = d.ns.Start(program, "-C", d.config)
}

// Stop stops the daemon and waits for its end.
func (d *Daemon) Stop() {
	d.t.Helper()
	d.Process.Stop(unix.SIGTERM)
}

// Command runs conntrackd as a client of the daemon ("-n", "-s", "network") and returns its
// output. The test fails if the client does.
func (d *Daemon) Command(args ...string) string {
	d.t.Helper()
	return d.ns.Must(program, append([]string{"-C", d.config}, args...)...)
}

// Answers reports whether the daemon answers requests yet.
func (d *Daemon) Answers() bool {
	return d.ns.Run("", program, "-C", d.config, "-s", "runtime").Code == 0
}

// Malformed returns the number of messages that the daemon has refused.
func (d *Daemon) Malformed() int {
	d.t.Helper()
	stats := d.Command("-s", "network")
	m := regexp.MustCompile(`Malformed messages:\s+(\d+)`).FindStringSubmatch(stats)
	if m == nil {
		d.t.Fatalf("peertest: no count of malformed messages in:\n%s", stats)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		d.t.Fatalf("peertest: %v", err)
	}
	return n
}
