package applets

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"ctbox/applets/internal/command"
)

// show is an applet that prints its arguments and ends with status 7.
func show(name string) Applet {
	return Applet{Name: name, Summary: "show " + name, Help: "--help", Run: func(_ context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
		in, _ := io.ReadAll(stdin)
		fmt.Fprintf(stdout, "%s%q%s", name, argv, in)
		fmt.Fprint(stderr, "err")
		return 7
	}}
}

// inside is a command of ctbox's own that prints its options and ends with status 7.
func inside() *command.Command {
	var text string
	var on bool
	return &command.Command{
		Name: "inside", Usage: "look inside", Description: "Says more.", Misused: 5,
		Options: []command.Option{
			{Name: "text", Names: []string{"t"}, Usage: "take `WORD`", Text: &text},
			{Name: "on", Usage: "switch on", On: &on},
		},
		Run: func(_ context.Context, stdout, _ io.Writer) int {
			fmt.Fprintf(stdout, "text %q on %v\n", text, on)
			return 7
		},
	}
}

var testTable = []Applet{show("alpha"), show("beta"), {Name: "inside", Command: inside}}

func TestRunPicksTheApplet(t *testing.T) {
	for _, c := range []struct {
		argv []string
		want string // of the applet: its name and the argv it must see
	}{
		{[]string{"alpha"}, `alpha["alpha"]`},
		{[]string{"beta", "--list"}, `beta["beta" "--list"]`},
		{[]string{"/usr/sbin/beta", "-L"}, `beta["/usr/sbin/beta" "-L"]`},
		{[]string{"./alpha"}, `alpha["./alpha"]`},
		{[]string{"-alpha"}, `alpha["-alpha"]`},
		{[]string{"ctbox", "alpha", "-L"}, `alpha["alpha" "-L"]`},
		{[]string{"/opt/bin/ctbox", "beta"}, `beta["beta"]`},
		{[]string{"ctbox-arm64", "beta"}, `beta["beta"]`},
		{[]string{"ctbox", "alpha", "--install", "x"}, `alpha["alpha" "--install" "x"]`},
	} {
		t.Run(strings.Join(c.argv, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := Run(t.Context(), testTable, c.argv, strings.NewReader("<in>"), &stdout, &stderr)
			if code != 7 || stdout.String() != c.want+"<in>" || stderr.String() != "err" {
				t.Errorf("status %d, stdout %s, stderr %s; want 7, %s", code, &stdout, &stderr, c.want)
			}
		})
	}
}

// The box's own options and help, with urfave/cli and in a build without it (no_box).
func TestBox(t *testing.T) {
	for _, c := range []struct {
		argv           []string
		code           int
		stdout, stderr string // a part that must be there; "" means nothing printed
	}{
		{[]string{"ctbox", "--list"}, 0, "alpha\nbeta\n", ""},
		{[]string{"ctbox", "--version"}, 0, "ctbox v", ""},
		{[]string{"ctbox", "--help"}, 0, "ctbox COMMAND [ARGUMENT]...\n", ""},
		{[]string{"ctbox", "-h"}, 0, "inside", ""},
		{[]string{"ctbox", "help"}, 0, "ctbox COMMAND [ARGUMENT]...\n", ""},
		{[]string{"ctbox", "help", "inside"}, 0, "--text", ""},
		{[]string{"ctbox", "help", "alpha"}, 0, `alpha["alpha" "--help"]`, ""},
		{[]string{"ctbox", "inside"}, 7, "text \"\" on false\n", ""},
		{[]string{"ctbox", "inside", "--text", "x", "--on"}, 7, "text \"x\" on true\n", ""},
		{[]string{"ctbox-arm64", "inside", "-t=x", "-on"}, 7, "text \"x\" on true\n", ""},
		{[]string{"ctbox", "inside", "--help"}, 0, "Says more.\n", ""},
		{[]string{"ctbox", "inside", "-h"}, 0, "take WORD", ""},
		{[]string{"ctbox"}, 2, "", "ctbox COMMAND [ARGUMENT]...\n"},
		{nil, 2, "", "ctbox COMMAND [ARGUMENT]...\n"},

		{[]string{"ctbox", "gamma"}, 2, "", "ctbox: no applet \"gamma\"; there is: alpha, beta, inside\n"},
		{[]string{"inside"}, 2, "", "ctbox: no applet \"inside\"; there is: alpha, beta\n"},
		{[]string{"gamma"}, 2, "", "ctbox: no applet \"gamma\"; there is: alpha, beta\n"},
		{[]string{"/sbin/gamma", "--list"}, 2, "", "ctbox: no applet \"gamma\"; there is: alpha, beta\n"},
		{[]string{"ctbox", ""}, 2, "", "ctbox: no applet \"\"; there is: alpha, beta, inside\n"},
		{[]string{"ctbox", "--gamma"}, 2, "", "ctbox: unknown option \"--gamma\" (try ctbox --help)\n"},
		{[]string{"ctbox", "--install"}, 2, "", "ctbox: --install needs an argument (try ctbox --help)\n"},
		{[]string{"ctbox", "--install="}, 2, "", "ctbox: --install needs a directory (try ctbox --help)\n"},
		{[]string{"ctbox", "--install", "a", "b"}, 2, "", "ctbox: --install takes one directory (try ctbox --help)\n"},
		{[]string{"ctbox", "--install", "a", "alpha"}, 2, "", "ctbox: --install takes one directory (try ctbox --help)\n"},
		{[]string{"ctbox", "--copy"}, 2, "", "ctbox: --copy needs an argument (try ctbox --help)\n"},
		{[]string{"ctbox", "--copy="}, 2, "", "ctbox: --copy needs a directory (try ctbox --help)\n"},
		{[]string{"ctbox", "--copy", "a", "b"}, 2, "", "ctbox: --copy takes one directory (try ctbox --help)\n"},
		{[]string{"ctbox", "--list", "a"}, 2, "", "ctbox: --list takes no argument (try ctbox --help)\n"},
		{[]string{"ctbox", "--version", "alpha"}, 2, "", "ctbox: --version takes no argument (try ctbox --help)\n"},
		{[]string{"ctbox", "--install", "/nonexistent"}, 1, "", "/nonexistent: no such file or directory\n"},
		{[]string{"ctbox", "--copy", "/nonexistent"}, 1, "", "/nonexistent: no such file or directory\n"},
		{[]string{"ctbox", "--copy=/nonexistent"}, 1, "", "ctbox: copy: "},
		{[]string{"ctbox", "help", "gamma"}, 2, "", "ctbox: no applet \"gamma\"; there is: alpha, beta, inside\n"},
		{[]string{"ctbox", "help", "alpha", "beta"}, 2, "", "ctbox: help takes one command (try ctbox --help)\n"},
		{[]string{"ctbox", "inside", "word"}, 5, "", "ctbox inside: unknown argument \"word\" (try ctbox inside --help)\n"},
		{[]string{"ctbox", "inside", "--text"}, 5, "", "ctbox inside: --text needs an argument (try ctbox inside --help)\n"},
		{[]string{"ctbox", "inside", "--text="}, 5, "", "ctbox inside: --text needs an argument (try ctbox inside --help)\n"},
		{[]string{"ctbox", "inside", "-t", ""}, 5, "", "ctbox inside: --text needs an argument (try ctbox inside --help)\n"},
		{[]string{"ctbox", "inside", "--netns", "/proc/thread-self/ns/net"}, 7, "text \"\" on false\n", ""},
		{[]string{"ctbox", "inside", "--netns", "/nonexistent"}, 5, "", "ctbox inside: --netns /nonexistent: no such file or directory\n"},
		{[]string{"ctbox", "inside", "--off"}, 5, "", "ctbox inside: unknown option \"--off\" (try ctbox inside --help)\n"},
	} {
		t.Run(strings.Join(c.argv, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := Run(t.Context(), testTable, c.argv, strings.NewReader(""), &stdout, &stderr)
			if code != c.code || !printed(stdout.String(), c.stdout) || !printed(stderr.String(), c.stderr) {
				t.Errorf("status %d, stdout %q, stderr %q", code, &stdout, &stderr)
			}
			if usage := len(c.argv) < 2; !usage && strings.Count(stderr.String(), "\n") > 1 {
				t.Errorf("more than one line: %q", &stderr)
			}
		})
	}
}

func printed(got, part string) bool {
	if part == "" {
		return got == ""
	}
	return strings.Contains(got, part)
}

func TestTableIsSortedAndWhole(t *testing.T) {
	table := All()
	if !slices.IsSortedFunc(table, func(a, b Applet) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the applets are not sorted by name")
	}
	for _, a := range table {
		if (a.Run == nil) == (a.Command == nil) || a.Name == "" || strings.HasPrefix(a.Name, "ctbox") {
			t.Errorf("%q can never be run", a.Name)
		}
		if a.Run != nil && (a.Summary == "" || a.Help == "") {
			t.Errorf("%q has no help", a.Name)
		}
		if a.Command != nil && a.Command().Name != a.Name {
			t.Errorf("%q calls itself %q", a.Name, a.Command().Name)
		}
	}
}

// FuzzBox checks that the box ends with one of its statuses for any arguments, and prints one
// line if the command line is wrong.
func FuzzBox(f *testing.F) {
	for _, line := range []string{"--list", "inside --text x --on", "help alpha", "-- alpha", "--install", "--=", "-", "---", "inside -t",
		"inside --on=x", "inside --generate-bash-completion", "--x --generate-bash-completion", "help help", "--help --list"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		argv := append([]string{"ctbox"}, strings.Split(line, " ")...)
		if strings.Contains(line, "install") || strings.Contains(line, "copy") {
			return // it would make links or files
		}
		var stdout, stderr bytes.Buffer
		code := Run(t.Context(), testTable, argv, strings.NewReader(""), &stdout, &stderr)
		if !slices.Contains([]int{0, 2, 5, 7}, code) {
			t.Errorf("%q: status %d", argv, code)
		}
		if wrong := code == 2 || code == 5; wrong != (stderr.Len() > 0 && code != 7) {
			t.Errorf("%q: status %d, stderr %q", argv, code, &stderr)
		}
		if code != 0 && code != 7 && strings.Count(stderr.String(), "\n") != 1 && line != "--" {
			t.Errorf("%q: not one line: %q", argv, &stderr)
		}
	})
}
