//go:build !no_box

package applets

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"ctbox/applets/internal/command"
)

// status is an exit status on its way through urfave/cli, which passes on errors.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// result is the error that makes urfave/cli's run end with a status.
func result(code int) error {
	if code == 0 {
		return nil
	}
	return status(code)
}

// run runs the box with urfave/cli.
func (b box) run(ctx context.Context, argv []string) int {
	err := b.app().RunContext(ctx, argv)
	var s status
	switch {
	case err == nil:
		return 0
	case errors.As(err, &s):
		return int(s)
	}
	return b.misuse(oneLine(err.Error()))
}

// app returns the box as an application of urfave/cli. The programs of
// conntrack-tools are commands that parse their own arguments.
func (b box) app() *cli.App {
	app := &cli.App{
		Name:      "ctbox",
		Usage:     "connection tracking tools in one binary",
		UsageText: "ctbox COMMAND [ARGUMENT]...\nCOMMAND [ARGUMENT]...   by a link of that name to this binary\nctbox OPTION",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "list", Usage: "print the commands that have links, each on its line", DisableDefaultText: true},
			&cli.StringFlag{Name: "install", Usage: "make the links in `DIR`"},
			&cli.StringFlag{Name: "copy", Usage: "copy this binary to `DIR` and make the links to it there"},
			&cli.BoolFlag{Name: "version", Usage: "print the version", DisableDefaultText: true},
			&cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show this help", DisableDefaultText: true},
		},
		Writer: b.stdout, ErrWriter: b.stderr, Reader: b.stdin,
		HideVersion: true, HideHelpCommand: true, EnableBashCompletion: true,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return plain(err) },
		Before:         alone,
		Action:         b.bare,
		BashComplete: func(c *cli.Context) {
			b.completeNames(c)
			b.completeOptions(c.App.Flags)
		},
	}
	for _, a := range b.table {
		app.Commands = append(app.Commands, b.command(a))
	}
	app.Commands = append(app.Commands, &cli.Command{
		Name: "help", Usage: "show the help of ctbox or of a command", ArgsUsage: "[COMMAND]",
		HideHelp: true, SkipFlagParsing: true, Action: b.help, BashComplete: b.completeNames,
	})
	return app
}

// alone refuses an option together with another option or a command: urfave/cli would run the
// command and ignore the option.
func alone(c *cli.Context) error {
	switch {
	case c.NumFlags() > 1:
		return errors.New("one option at a time")
	case c.NumFlags() == 1 && placings[c.FlagNames()[0]] != nil && c.Args().Present():
		return fmt.Errorf("--%s takes one directory", c.FlagNames()[0])
	case c.NumFlags() > 0 && c.Args().Present():
		return fmt.Errorf("%s takes no argument", command.Dashed(c.FlagNames()[0]))
	}
	return nil
}

// bare is `ctbox` without a command.
func (b box) bare(c *cli.Context) error {
	switch {
	case c.Args().Present():
		return result(unknown(b.stderr, b.table, c.Args().First()))
	case c.IsSet("install"):
		return result(b.place("install", c.String("install")))
	case c.IsSet("copy"):
		return result(b.place("copy", c.String("copy")))
	case c.Bool("list"):
		return result(b.list())
	case c.Bool("version"):
		return result(b.version())
	}
	c.App.Writer = b.stderr
	_ = cli.ShowAppHelp(c)
	return status(exitUsage)
}

// help shows the help of the box, or of the command that is named.
func (b box) help(c *cli.Context) error {
	if c.NArg() > 1 {
		return errors.New("help takes one command")
	}
	name := c.Args().First()
	a := b.find(name)
	switch {
	case name == "":
		return cli.ShowAppHelp(c.Lineage()[1])
	case a == nil:
		return result(unknown(b.stderr, b.table, name))
	case a.Command != nil:
		return cli.ShowCommandHelp(c.Lineage()[1], name)
	}
	// The status is that of a wrong command line where the program, like nfct, has no
	// help to ask for.
	a.Run(c.Context, []string{a.Name, a.Help}, b.stdin, b.stdout, b.stdout)
	return nil
}

// completeNames prints the names of all commands, from which the shell's completion
// takes those that begin with what was typed. (urfave/cli's own completion looks at
// os.Args for that.)
func (b box) completeNames(*cli.Context) {
	for _, a := range b.table {
		fmt.Fprintln(b.stdout, a.Name)
	}
	fmt.Fprintln(b.stdout, "help")
}

// completeOptions prints the names of options.
func (b box) completeOptions(flags []cli.Flag) {
	for _, flag := range flags {
		for _, name := range flag.Names() {
			fmt.Fprintln(b.stdout, command.Dashed(name))
		}
	}
}

// command returns an applet as a command of urfave/cli.
func (b box) command(a Applet) *cli.Command {
	if a.Command == nil {
		return &cli.Command{
			Name: a.Name, Usage: a.Summary, ArgsUsage: "[ARGUMENT]...", HideHelp: true, SkipFlagParsing: true,
			Action: func(c *cli.Context) error {
				argv := append([]string{a.Name}, c.Args().Slice()...)
				return result(a.Run(c.Context, argv, b.stdin, b.stdout, b.stderr))
			},
		}
	}
	own := a.own()
	cmd := &cli.Command{
		Name: own.Name, Usage: own.Usage, Description: own.Description,
		UsageText:       "ctbox " + own.Name + " [OPTION]...",
		HideHelpCommand: true,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return result(own.Misuse(b.stderr, plain(err)))
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return result(own.Misuse(b.stderr, command.Surplus(c.Args().First())))
			}
			for _, o := range own.Options {
				if o.Text != nil && *o.Text == "" && c.IsSet(o.Name) {
					return result(own.Misuse(b.stderr, command.Missing(o.Name)))
				}
			}
			return result(own.Run(c.Context, b.stdout, b.stderr))
		},
	}
	cmd.BashComplete = func(*cli.Context) { b.completeOptions(cmd.Flags) }
	for _, o := range own.Options {
		var flag cli.Flag = &cli.StringFlag{Name: o.Name, Aliases: o.Names, Usage: o.Usage, Destination: o.Text}
		if o.On != nil {
			flag = &cli.BoolFlag{Name: o.Name, Aliases: o.Names, Usage: o.Usage, Destination: o.On, DisableDefaultText: true}
		}
		cmd.Flags = append(cmd.Flags, flag)
	}
	return cmd
}

// plain rewords an error of package flag, in one line.
func plain(err error) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return command.Unknown(name)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return command.Missing(name)
	}
	return errors.New(oneLine(text))
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
