// Package applets is the table of the programs that ctbox is, and the rule by
// which one of them is picked: by the name the binary was started under, or by
// the first argument. Each applet has a folder of its own below this one and
// knows nothing of this package.
package applets

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"ctbox/applets/conntrack"
	"ctbox/internal/version"
)

// RunFunc is an applet's whole run. argv includes argv[0] as the user's shell
// gave it, since getopt's messages print it. The result is the exit status.
//
// ctx ends when the user asks the program to stop (SIGINT, SIGTERM): the
// applet then finishes what it is writing and returns. If it is no daemon it
// has a few seconds for that, after which main lets the signal kill the
// process. The applet buffers its own output and flushes it before it returns.
// context.Cause(ctx) then is a context.Canceled with a method Signal() syscall.Signal.
type RunFunc func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int

// Applet is one row of the table.
type Applet struct {
	Name   string // the name of its link, and the NAME in `ctbox NAME …`
	Run    RunFunc
	Daemon bool // takes the time it needs to end, on a machine however busy
	// NoLink is for a name that is the box's own and means nothing outside of it:
	// `ctbox NAME …` runs it, and no link is made or looked at.
	NoLink bool
}

// Linked returns the applets of the table that links are made for.
func Linked(table []Applet) []Applet {
	var linked []Applet
	for _, a := range table {
		if !a.NoLink {
			linked = append(linked, a)
		}
	}
	return linked
}

// All returns the applets this binary has, sorted by name.
func All() []Applet {
	return slices.Concat([]Applet{{Name: "conntrack", Run: conntrack.Run}}, daemon, checkup, policies)
}

// exitUsage is the status for a command line that names nothing we can run.
const exitUsage = 2

// Pick returns the applet that argv asks for and the argv that it gets, or nil
// where argv asks for ctbox itself or for something that is not in the table.
//
// The base name of argv[0] picks the applet, without the dash a login shell
// puts in front. A name that begins with ctbox (so ctbox-arm64, too) is the
// box itself: its first argument is the applet's name or an option.
func Pick(table []Applet, argv []string) (*Applet, []string) {
	name := programName(argv)
	box := isBox(name)
	if box {
		if len(argv) < 2 {
			return nil, nil
		}
		name, argv = argv[1], argv[1:]
	}
	for i := range table {
		if table[i].Name == name && (box || !table[i].NoLink) {
			return &table[i], argv
		}
	}
	return nil, nil
}

func programName(argv []string) string {
	if len(argv) == 0 {
		return "ctbox"
	}
	return strings.TrimPrefix(filepath.Base(argv[0]), "-")
}

func isBox(name string) bool { return strings.HasPrefix(name, "ctbox") }

// Run starts the applet that argv asks for (see Pick), or carries out one of
// ctbox's own options, and returns the exit status.
func Run(ctx context.Context, table []Applet, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if a, args := Pick(table, argv); a != nil {
		return a.Run(ctx, args, stdin, stdout, stderr)
	}
	if name := programName(argv); !isBox(name) {
		return unknown(stderr, Linked(table), name)
	}
	if len(argv) < 2 {
		fmt.Fprint(stderr, usage(table))
		return exitUsage
	}
	switch arg := argv[1]; {
	case arg == "--list":
		if len(argv) > 2 {
			return usageError(stderr, "--list takes no argument")
		}
		for _, a := range Linked(table) {
			fmt.Fprintln(stdout, a.Name)
		}
		return 0
	case arg == "--install":
		if len(argv) != 3 {
			return usageError(stderr, "--install takes one argument: the directory that gets the links")
		}
		if err := Install(table, argv[2]); err != nil {
			fmt.Fprintf(stderr, "ctbox: %v\n", err)
			return 1
		}
		return 0
	case arg == "--version":
		fmt.Fprintf(stdout, "ctbox v%s\n", version.Number)
		return 0
	case arg == "--help" || arg == "-h":
		fmt.Fprint(stdout, usage(table))
		return 0
	case strings.HasPrefix(arg, "-"):
		return usageError(stderr, fmt.Sprintf("unknown option %q", arg))
	default:
		return unknown(stderr, table, arg)
	}
}

func unknown(stderr io.Writer, table []Applet, name string) int {
	fmt.Fprintf(stderr, "ctbox: no applet %q; there is: %s\n", name, names(table))
	return exitUsage
}

func usageError(stderr io.Writer, what string) int {
	fmt.Fprintf(stderr, "ctbox: %s (try ctbox --help)\n", what)
	return exitUsage
}

func names(table []Applet) string {
	list := make([]string, len(table))
	for i, a := range table {
		list[i] = a.Name
	}
	return strings.Join(list, ", ")
}

func usage(table []Applet) string {
	return `ctbox v` + version.Number + `: connection tracking tools in one binary

Usage: ctbox APPLET [ARGUMENT]...
   or: APPLET [ARGUMENT]...      by a link of that name to this binary
   or: ctbox --list              print the applets that have links, one a line
   or: ctbox --install DIR       make the links in DIR
   or: ctbox --version
   or: ctbox --help

Applets: ` + names(table) + `
`
}
