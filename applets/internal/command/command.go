// Package command describes a command of ctbox's own: its options and what it runs.
// The box turns the description into a command of urfave/cli. A build without
// urfave/cli (no_box) parses the arguments with Parse.
//
// conntrack, conntrackd and nfct are no such commands: their command lines are
// conntrack-tools', and GNU getopt's rules apply to them.
package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"ctbox/internal/netns"
)

// Command is one command.
type Command struct {
	Name        string
	Usage       string // what the command does, in one line
	Description string // the rest of the help, with its line breaks
	Options     []Option
	// Misused is the exit status for a command line that is wrong.
	Misused int
	// Run runs the command once its options are set, and returns the exit status.
	Run func(ctx context.Context, stdout, stderr io.Writer) int
}

type namespaceKey struct{}

// Exec returns the words that run another command where Run runs, "" without --netns. ctx
// is that of Run.
func Exec(ctx context.Context) string {
	words, _ := ctx.Value(namespaceKey{}).(string)
	return words
}

// InNetNS adds --netns to c, with which Run runs on a thread in that namespace. It
// returns c. Goroutines that Run starts are in the caller's own namespace.
func (c *Command) InNetNS() *Command {
	spec, run := new(string), c.Run
	c.Options = append(c.Options[:len(c.Options):len(c.Options)],
		Option{Name: "netns", Usage: "work in the network namespace `NETNS`: a name of ip-netns(8), a path, or a process id", Text: spec})
	c.Run = func(ctx context.Context, stdout, stderr io.Writer) int {
		if *spec == "" {
			return run(ctx, stdout, stderr)
		}
		status := c.Misused
		ns, err := netns.Open(*spec)
		if err == nil {
			defer ns.Close()
			ctx = context.WithValue(ctx, namespaceKey{}, ns.Exec())
			err = ns.Do(func() error { status = run(ctx, stdout, stderr); return nil })
		}
		if err != nil {
			fmt.Fprintf(stderr, "ctbox %s: --netns %v\n", c.Name, err)
		}
		return status
	}
	return c
}

// Option is one option of a command. Exactly one of On and Text is not nil.
type Option struct {
	Name  string   // without dashes, as all names here
	Names []string // other names
	Usage string   // what the option does, with the argument's name in back quotes
	On    *bool    // set by an option that takes no argument
	Text  *string  // set to the argument of an option that takes one, which is never ""
}

// Dashed returns an option's name as users type it: one letter behind one dash,
// anything longer behind two.
func Dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// Help returns the help of c for a build without urfave/cli.
func (c *Command) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: ctbox %s [OPTION]...\n\n%s\n\n", c.Name, c.Usage)
	for _, o := range c.Options {
		names := Dashed(o.Name)
		for _, name := range o.Names {
			names += ", " + Dashed(name)
		}
		if o.Text != nil {
			_, rest, _ := strings.Cut(o.Usage, "`")
			arg, _, _ := strings.Cut(rest, "`")
			names += " " + arg
		}
		fmt.Fprintf(&b, "  %-24s %s\n", names, strings.ReplaceAll(o.Usage, "`", ""))
	}
	fmt.Fprintf(&b, "  %-24s show help\n\n%s\n", "--help, -h", c.Description)
	return b.String()
}

// Parse sets the options of c from the arguments that follow its name, and reports
// whether help was asked for. The rules are those of package flag, which urfave/cli
// follows: one dash or two, and the argument behind an equals sign or as the next word.
func (c *Command) Parse(args []string) (help bool, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, attached := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		switch {
		case arg == "--" && len(args) == 0:
			return false, nil
		case arg == "--":
			return false, Surplus(args[0])
		case !strings.HasPrefix(arg, "-") || arg == "-":
			return false, Surplus(arg)
		case name == "help" || name == "h":
			return true, nil
		}
		o := c.option(name)
		switch {
		case o == nil:
			return false, Unknown(name)
		case o.On != nil && attached:
			if *o.On, err = strconv.ParseBool(value); err != nil {
				return false, fmt.Errorf("%s takes no argument but true or false", Dashed(name))
			}
		case o.On != nil:
			*o.On = true
		case attached && value != "":
			*o.Text = value
		case attached || len(args) == 0 || args[0] == "":
			return false, Missing(o.Name)
		default:
			*o.Text, args = args[0], args[1:]
		}
	}
	return false, nil
}

func (c *Command) option(name string) *Option {
	for i := range c.Options {
		if o := &c.Options[i]; o.Name == name || slices.Contains(o.Names, name) {
			return o
		}
	}
	return nil
}

// Surplus is the error for a word that no command takes.
func Surplus(word string) error { return fmt.Errorf("unknown argument %q", word) }

// Unknown is the error for an option that does not exist.
func Unknown(name string) error { return fmt.Errorf("unknown option %q", Dashed(name)) }

// Missing is the error for an option whose argument is missing or empty.
func Missing(name string) error { return fmt.Errorf("%s needs an argument", Dashed(name)) }

// Misuse prints the one line that a wrong command line gets and returns the status.
func (c *Command) Misuse(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "ctbox %s: %v (try ctbox %s --help)\n", c.Name, err, c.Name)
	return c.Misused
}
