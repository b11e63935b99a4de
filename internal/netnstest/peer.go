package netnstest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// peer is where the programs of conntrack-tools are, found once a test process.
var peer struct {
	once sync.Once
	dir  string
	err  error
}

// installedPeer is the directory of the conntrack-tools that Debian 12 installs: 1.4.7.
const installedPeer = "/usr/sbin"

// PeerDir returns the directory of conntrack-tools' programs that ours are compared with:
// of 1.4.9, the version that ours claim to be, which scripts/peer.sh fetches. With
// CTBOX_PEER=installed in the environment they are the machine's own (PeerInstalled).
func PeerDir(t testing.TB) string {
	t.Helper()
	dir, err := findPeer()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func findPeer() (string, error) {
	peer.once.Do(func() {
		if PeerInstalled() {
			peer.dir = installedPeer
			return
		}
		root, err := ModuleRoot()
		if err != nil {
			peer.err = err
			return
		}
		var stderr bytes.Buffer
		cmd := exec.Command(filepath.Join(root, "scripts", "peer.sh"))
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			peer.err = fmt.Errorf("netnstest: the tests need conntrack-tools: %w: %s", err, &stderr)
		}
		peer.dir = strings.TrimSpace(string(out))
	})
	return peer.dir, peer.err
}

// Peer returns the path of a program of conntrack-tools: conntrack, conntrackd or nfct.
func Peer(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(PeerDir(t), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("netnstest: the tests need conntrack-tools' %s: %v", name, err)
	}
	return path
}

// PeerInstalled reports whether the peer is what the machine has installed, which is
// older than what ours claim to be: docs/differences.md has what it does otherwise.
func PeerInstalled() bool { return os.Getenv("CTBOX_PEER") == "installed" }

// Peer is Run for a program of conntrack-tools, which is found in the search path, so
// that argv[0], and with it the text of getopt's messages, is the bare name.
func (ns *NS) Peer(stdin, name string, args ...string) Result {
	ns.t.Helper()
	Peer(ns.t, name)
	cmd := ns.Command(name, args...)
	cmd.Env = prependPath(cmd.Env, PeerDir(ns.t))
	cmd.Stdin = strings.NewReader(stdin)
	return run(ns.t, cmd)
}
