package netnstest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Twins are two namespaces that were set up the same way. Debian's program
// runs in one and ours, with the same arguments and under the same name, in
// the other; then the two results and the two kernel tables can be compared.
type Twins struct {
	Theirs, Ours *NS

	t testing.TB
}

// NewTwins makes the two namespaces and applies setup to each. Setup's
// addresses may be the same in both: they cannot see each other.
func NewTwins(t testing.TB, setup func(*NS)) *Twins {
	t.Helper()
	tw := &Twins{Theirs: New(t, "theirs"), Ours: New(t, "ours"), t: t}
	tw.Each(setup)
	return tw
}

// Each calls f for either namespace.
func (tw *Twins) Each(f func(*NS)) {
	f(tw.Theirs)
	f(tw.Ours)
}

// Run runs the named program in both namespaces, one after the other. It is
// found in the search path, so that argv[0], and with it the text of getopt's
// messages, is the bare name in both.
func (tw *Twins) Run(stdin, name string, args ...string) (theirs, ours Result) {
	tw.t.Helper()
	peer := tw.Theirs.Command(debian(tw.t, name), args...)
	peer.Env = prependPath(peer.Env, debianDir)
	peer.Stdin = strings.NewReader(stdin)
	theirs = run(tw.t, peer)

	cmd := tw.Ours.Command(filepath.Base(Applet(tw.t, name)), args...)
	cmd.Env = prependPath(cmd.Env, BinDir(tw.t))
	cmd.Stdin = strings.NewReader(stdin)
	return theirs, run(tw.t, cmd)
}

// debianDir is where Debian installs the peers.
const debianDir = "/usr/sbin"

// debian checks that the peer is installed and returns its bare name.
func debian(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(debianDir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("netnstest: the tests need Debian's %s: %v", name, err)
	}
	return name
}

func prependPath(env []string, dir string) []string {
	out := make([]string, len(env))
	for i, kv := range env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			kv = "PATH=" + dir + ":" + path
		}
		out[i] = kv
	}
	return out
}
