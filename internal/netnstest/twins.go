package netnstest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Twins are two namespaces that were set up the same way. The peer's program
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
	peer, cmd := tw.Commands(nil, name, args...)
	peer.Stdin, cmd.Stdin = strings.NewReader(stdin), strings.NewReader(stdin)
	return run(tw.t, peer), run(tw.t, cmd)
}

// Commands returns what Run runs, for the caller to change: the directory, the
// environment. wrapper is a program, and its arguments, that starts the named
// one: setpriv(1), say.
func (tw *Twins) Commands(wrapper []string, name string, args ...string) (theirs, ours *exec.Cmd) {
	tw.t.Helper()
	command := func(ns *NS, dir string) *exec.Cmd {
		argv := slices.Concat(wrapper, []string{name}, args)
		cmd := ns.Command(argv[0], argv[1:]...)
		cmd.Env = prependPath(cmd.Env, dir)
		return cmd
	}
	Applet(tw.t, name)
	Peer(tw.t, name)
	return command(tw.Theirs, PeerDir(tw.t)), command(tw.Ours, BinDir(tw.t))
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
