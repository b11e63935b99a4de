// Package applets is the table of the programs that ctbox is, and the rule by
// which one of them is picked: by the name the binary was started under, or by
// the first argument. It is also the box: what `ctbox` does under its own name.
// Each applet has a folder of its own below this one and does not import this package.
package applets

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"ctbox/applets/conntrack"
	"ctbox/applets/internal/command"
	"ctbox/internal/version"
)

// RunFunc runs an applet and returns its exit status. argv includes argv[0] as the user's
// shell gave it, because getopt's messages print it.
//
// ctx ends when the user asks the program to stop (SIGINT, SIGTERM): the
// applet then finishes what it is writing and returns. If it is no daemon it
// has a few seconds for that, after which main lets the signal kill the
// process. Signals are caught from the first call of ctx's Done or Err on; an applet
// that calls neither dies of them. It buffers its own output and flushes it before it
// returns.
// context.Cause(ctx) then is a context.Canceled with a method Signal() syscall.Signal.
type RunFunc func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int

// Applet is one row of the table: a program of conntrack-tools, which has Run, or a
// command of ctbox's own, which has Command.
type Applet struct {
	Name    string // the name of its link, and the NAME in `ctbox NAME …`
	Summary string // what the program does, for the list in ctbox's help
	Run     RunFunc
	Help    string // the argument that makes Run print its help
	Daemon  bool   // takes the time it needs to end, on a machine however busy
	// Command returns a new description of a command of ctbox's own. No link is made
	// for it: its name means something behind `ctbox` only.
	Command func() *command.Command
}

// own returns the description of a command of ctbox's own, with the options that all of
// them have.
func (a *Applet) own() *command.Command { return a.Command().InNetNS() }

// Linked returns the applets of the table that have links.
func Linked(table []Applet) []Applet {
	var linked []Applet
	for _, a := range table {
		if a.Run != nil {
			linked = append(linked, a)
		}
	}
	return linked
}

// All returns the applets this binary has, sorted by name.
func All() []Applet {
	return slices.Concat([]Applet{{Name: "conntrack", Run: conntrack.Run, Help: "--help",
		Summary: "list, change and watch the kernel's connection tracking table"}}, daemon, checkup, records, policies)
}

// exitUsage is the exit status for a command line of ctbox's own that is wrong.
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
		if table[i].Name == name && (box || table[i].Run != nil) {
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

// Run starts the applet that argv asks for (see Pick) and returns its exit status.
// A program of conntrack-tools is started at once and parses its own arguments; all
// else is the box's.
func Run(ctx context.Context, table []Applet, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if a, args := Pick(table, argv); a != nil && a.Run != nil {
		return a.Run(ctx, args, stdin, stdout, stderr)
	}
	if name := programName(argv); !isBox(name) {
		return unknown(stderr, Linked(table), name)
	}
	if len(argv) == 0 {
		argv = []string{"ctbox"}
	}
	return box{table, stdin, stdout, stderr}.run(ctx, argv)
}

// box is ctbox itself: its options, its help and its own commands.
type box struct {
	table          []Applet
	stdin          io.Reader
	stdout, stderr io.Writer
}

// list prints the names of the programs that have links.
func (b box) list() int {
	for _, a := range Linked(b.table) {
		fmt.Fprintln(b.stdout, a.Name)
	}
	return 0
}

// placings are the options that put ctbox into the directory behind them.
var placings = map[string]func(table []Applet, dir string) error{"install": Install, "copy": Copy}

// place carries out the option of that name for dir.
func (b box) place(option, dir string) int {
	if dir == "" {
		return b.misuse("--" + option + " needs a directory")
	}
	if err := placings[option](b.table, dir); err != nil {
		fmt.Fprintf(b.stderr, "ctbox: %v\n", err)
		return 1
	}
	return 0
}

// version prints the version of ctbox.
func (b box) version() int {
	fmt.Fprintf(b.stdout, "ctbox v%s\n", version.Number)
	return 0
}

// find returns the applet with that name, or nil.
func (b box) find(name string) *Applet {
	for i := range b.table {
		if b.table[i].Name == name {
			return &b.table[i]
		}
	}
	return nil
}

// misuse prints the one line that a wrong command line gets.
func (b box) misuse(what string) int {
	fmt.Fprintf(b.stderr, "ctbox: %s (try ctbox --help)\n", what)
	return exitUsage
}

func unknown(stderr io.Writer, table []Applet, name string) int {
	fmt.Fprintf(stderr, "ctbox: no applet %q; there is: %s\n", name, names(table))
	return exitUsage
}

func names(table []Applet) string {
	list := make([]string, len(table))
	for i, a := range table {
		list[i] = a.Name
	}
	return strings.Join(list, ", ")
}
