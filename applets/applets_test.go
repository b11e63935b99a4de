package applets

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// show is an applet that prints how it was called and ends with status 7.
func show(name string) Applet {
	return Applet{Name: name, Run: func(_ context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
		in, _ := io.ReadAll(stdin)
		fmt.Fprintf(stdout, "%s%q%s", name, argv, in)
		fmt.Fprint(stderr, "err")
		return 7
	}}
}

var testTable = []Applet{show("alpha"), show("beta"), {Name: "inside", Run: show("inside").Run, NoLink: true}}

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
		{[]string{"ctbox", "inside", "x"}, `inside["inside" "x"]`},
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

func TestRunWithoutAnApplet(t *testing.T) {
	for _, c := range []struct {
		argv           []string
		code           int
		stdout, stderr string // a part that must be there; "" means nothing printed
	}{
		{[]string{"ctbox", "--list"}, 0, "alpha\nbeta\n", ""},
		{[]string{"ctbox", "--version"}, 0, "ctbox v", ""},
		{[]string{"ctbox", "--help"}, 0, "Applets: alpha, beta, inside\n", ""},
		{[]string{"ctbox"}, 2, "", "Usage: ctbox"},
		{nil, 2, "", "Usage: ctbox"},
		{[]string{"ctbox", "gamma"}, 2, "", "ctbox: no applet \"gamma\"; there is: alpha, beta, inside\n"},
		{[]string{"inside"}, 2, "", "ctbox: no applet \"inside\"; there is: alpha, beta\n"},
		{[]string{"gamma"}, 2, "", "ctbox: no applet \"gamma\"; there is: alpha, beta\n"},
		{[]string{"/sbin/gamma", "--list"}, 2, "", "no applet \"gamma\""},
		{[]string{"ctbox", "--gamma"}, 2, "", "unknown option \"--gamma\""},
		{[]string{"ctbox", "--install"}, 2, "", "--install takes one argument"},
		{[]string{"ctbox", "--install", "a", "b"}, 2, "", "--install takes one argument"},
		{[]string{"ctbox", "--list", "a"}, 2, "", "--list takes no argument"},
		{[]string{"ctbox", "--install", "/nonexistent"}, 1, "", "/nonexistent: no such file or directory\n"},
	} {
		t.Run(strings.Join(c.argv, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := Run(t.Context(), testTable, c.argv, strings.NewReader(""), &stdout, &stderr)
			if code != c.code || !printed(stdout.String(), c.stdout) || !printed(stderr.String(), c.stderr) {
				t.Errorf("status %d, stdout %q, stderr %q", code, &stdout, &stderr)
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
		if a.Run == nil || a.Name == "" || strings.HasPrefix(a.Name, "ctbox") {
			t.Errorf("%q can never be run", a.Name)
		}
	}
}
