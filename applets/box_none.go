//go:build no_box

package applets

import (
	"context"
	"fmt"
	"strings"

	"ctbox/applets/internal/command"
	"ctbox/internal/version"
)

// run is the box without urfave/cli: the options, the links and ctbox's own commands.
// There is no completion.
func (b box) run(ctx context.Context, argv []string) int {
	if len(argv) < 2 {
		fmt.Fprint(b.stderr, b.usage())
		return exitUsage
	}
	word, args := argv[1], argv[2:]
	if a := b.find(word); a != nil {
		return b.own(ctx, a.own(), args)
	}
	option, dir, hasValue := strings.Cut(strings.TrimPrefix(word, "--"), "=")
	placing := strings.HasPrefix(word, "--") && placings[option] != nil
	if placing && hasValue {
		args = append([]string{dir}, args...)
	}
	switch {
	case placing && len(args) == 0:
		return b.misuse(command.Missing(option).Error())
	case placing && len(args) == 1:
		return b.place(option, args[0])
	case placing:
		return b.misuse("--" + option + " takes one directory")
	case word == "help" && len(args) == 1:
		return b.help(ctx, args[0])
	case word == "help" && len(args) > 1:
		return b.misuse("help takes one command")
	case (word == "--list" || word == "--version") && len(args) > 0:
		return b.misuse(word + " takes no argument")
	case word == "--list":
		return b.list()
	case word == "--version":
		return b.version()
	case word == "--help" || word == "-h" || word == "help":
		fmt.Fprint(b.stdout, b.usage())
		return 0
	case strings.HasPrefix(word, "-"):
		return b.misuse(fmt.Sprintf("unknown option %q", word))
	}
	return unknown(b.stderr, b.table, word)
}

// own runs a command of ctbox's own.
func (b box) own(ctx context.Context, c *command.Command, args []string) int {
	help, err := c.Parse(args)
	if err != nil {
		return c.Misuse(b.stderr, err)
	}
	if help {
		fmt.Fprint(b.stdout, c.Help())
		return 0
	}
	return c.Run(ctx, b.stdout, b.stderr)
}

func (b box) help(ctx context.Context, name string) int {
	a := b.find(name)
	switch {
	case a == nil:
		return unknown(b.stderr, b.table, name)
	case a.Command != nil:
		fmt.Fprint(b.stdout, a.own().Help())
		return 0
	}
	a.Run(ctx, []string{a.Name, a.Help}, b.stdin, b.stdout, b.stdout)
	return 0
}

func (b box) usage() string {
	return `ctbox v` + version.Number + `: connection tracking tools in one binary

Usage: ctbox COMMAND [ARGUMENT]...
   or: COMMAND [ARGUMENT]...      by a link of that name to this binary
   or: ctbox --list               print the commands that have links, each on its line
   or: ctbox --install DIR        make the links in DIR
   or: ctbox --copy DIR           copy this binary to DIR and make the links to it there
   or: ctbox --version
   or: ctbox --help
   or: ctbox help COMMAND

Commands: ` + names(b.table) + `
`
}
