//go:build !no_box

package applets

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// A program of conntrack-tools does the same as a command of urfave/cli and started directly by
// Run.
func TestCommandsOfUrfave(t *testing.T) {
	for _, args := range [][]string{
		{"alpha"}, {"alpha", "-L"}, {"alpha", "--help"}, {"alpha", "-h"}, {"alpha", "--version"}, {"alpha", "--list"}, {"beta", "help"},
		{"beta", "--", "--", "-x"}, {"beta", "-n", ""}, {"beta", "--install=x", "-p", "tcp"}, {"beta", "-"},
	} {
		argv := append([]string{"ctbox"}, args...)
		var direct, directErr, stdout, stderr bytes.Buffer
		want := Run(t.Context(), testTable, argv, strings.NewReader("in"), &direct, &directErr)
		got := box{testTable, strings.NewReader("in"), &stdout, &stderr}.run(t.Context(), argv)
		if got != want || stdout.String() != direct.String() || stderr.String() != directErr.String() {
			t.Errorf("%q: status %d, %q, %q; want %d, %q, %q", argv, got, &stdout, &stderr, want, &direct, &directErr)
		}
	}
}

func TestCompletionOfTheBox(t *testing.T) {
	for _, c := range []struct{ words, want string }{
		{"", "alpha\nbeta\ninside\nhelp\n--list\n--install\n--copy\n--version\n--help\n-h\n"},
		{"help", "alpha\nbeta\ninside\nhelp\n"},
		{"inside", "--text\n-t\n--on\n--netns\n--help\n-h\n"},
		{"inside --o", "--text\n-t\n--on\n--netns\n--help\n-h\n"},
	} {
		argv := append(append([]string{"ctbox"}, strings.Fields(c.words)...), "--generate-bash-completion")
		var stdout, stderr bytes.Buffer
		if code := Run(t.Context(), testTable, argv, strings.NewReader(""), &stdout, &stderr); code != 0 || stdout.String() != c.want {
			t.Errorf("%q: status %d, %q, %q", argv, code, &stdout, &stderr)
		}
	}
}

// bash completes the box's commands and options, and leaves a program's arguments to the
// program's own completion.
func TestBashCompletion(t *testing.T) {
	dir := filepath.Join("..", "scripts", "completion")
	binary := netnstest.Applet(t, "ctbox")
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"conntrackd"}, "conntrackd"},
		{[]string{"do"}, "doctor"},
		{[]string{"--in"}, "--install"},
		{[]string{"help", "nf"}, "nfct"},
		{[]string{"doctor", "--f"}, "--for"},
		{[]string{"doctor", "--for", "nf"}, "nfct"},
		{[]string{"nfct", "li"}, "list"},
		{[]string{"nfct", "list", "ti"}, "timeout"},
		{[]string{"conntrack", "--du"}, "--dump"},
		{[]string{"conntrackd", "--che"}, "--check"},
	} {
		script := "for f in " + dir + `/*.bash; do . "$f"; done
			COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ctbox; echo "${COMPREPLY[*]}"`
		out, err := exec.Command("bash", append([]string{"-c", script, "bash", binary}, c.words...)...).Output()
		if err != nil || strings.TrimSpace(string(out)) != c.want {
			t.Errorf("%q: %q (%v), want %s", c.words, out, err, c.want)
		}
	}
}
