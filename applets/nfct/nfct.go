// Package nfct is the nfct applet: nfct(8)'s command line and output over
// nl/cttimeout and nl/cthelper. It makes, shows and removes timeout policies,
// the defaults they are filled from, and the entries of user-space helpers.
//
// nfct.go picks command and subsystem, timeout.go and helper.go read their
// parameters and carry them out, refusal.go says why the kernel refused,
// output.go shows the objects as text and JSON.
package nfct

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"ctbox/internal/feature"
	"ctbox/internal/netns"
	"ctbox/internal/protofile"
	"ctbox/internal/strerror"
	"ctbox/internal/version"
	"ctbox/nl"
)

// command is the command of a command line. The order is that in which abbreviations are
// looked up.
type command uint8

const (
	cmdList command = iota
	cmdAdd
	cmdDelete
	cmdGet
	cmdFlush
	cmdDisable
	cmdDefaultSet
	cmdDefaultGet
)

var commands = []string{"list", "add", "delete", "get", "flush", "disable", "default-set", "default-get"}

type subsystem uint8

const (
	subTimeout subsystem = iota
	subHelper
	subVersion
	subHelp // never found: "helper" begins with it and comes first
)

var subsystems = []string{"timeout", "helper", "version", "help"}

// lookup finds the first entry that begins with word, so that no word is ambiguous. The
// empty word, of a script whose variable is not set, is not found.
func lookup(table []string, word string) (int, bool) {
	for i, entry := range table {
		if word != "" && strings.HasPrefix(entry, word) {
			return i, true
		}
	}
	return 0, false
}

// The exit statuses.
const (
	exitOK       = 0
	exitFailure  = 1
	exitNoSocket = 255
)

// prefix begins every error. The number is conntrack-tools', see version.ConntrackTools.
const prefix = "nfct v" + version.ConntrackTools + ": "

// usageError is a command line that names no command and subsystem; the message
// may be empty.
type usageError string

func (e usageError) Error() string { return string(e) }

// argError is a mistake in a command's parameters. The text is that of conntrack-tools
// where it has one, including a second line with the syntax.
type argError string

func (e argError) Error() string { return string(e) }

// invocation is a command line after its first two words were understood.
type invocation struct {
	command   command
	subsystem subsystem
	word      string   // the second word, which one message has for a command
	args      []string // the parameters
	json      bool
	own       ownOptions
}

// parse reads command and subsystem, or in the order of old versions subsystem and
// command. The words behind them are the parameters, of which it reads only ctbox's own
// options.
func parse(argv []string) (invocation, error) {
	var inv invocation
	words := inv.own.leading(argv[min(1, len(argv)):])
	if len(words) < 2 {
		return inv, usageError("")
	}
	if cmd, ok := lookup(commands, words[0]); ok {
		sub, ok := lookup(subsystems, words[1])
		if !ok {
			return inv, usageError("Unknown subsystem: " + words[0])
		}
		inv.command, inv.subsystem = command(cmd), subsystem(sub)
	} else {
		sub, ok := lookup(subsystems, words[0])
		if !ok {
			return inv, usageError("Unknown subsystem: " + words[0])
		}
		cmd, ok := lookup(commands, words[1])
		if !ok {
			return inv, usageError("Unknown command: " + words[0])
		}
		inv.command, inv.subsystem = command(cmd), subsystem(sub)
	}
	inv.word = words[1]
	shows := inv.command == cmdList || inv.command == cmdGet || inv.command == cmdDefaultGet
	inv.args = inv.own.trailing(words[2:], shows, inv.subsystem == subHelper && (inv.command == cmdGet || inv.command == cmdDelete))
	switch {
	case !inv.own.hasFormat:
	case !shows:
		return inv, argError("-o goes with list, get and default-get")
	case inv.own.format != "json":
		return inv, argError("unknown output format `" + inv.own.format + "', there is only json")
	case !feature.JSON:
		return inv, argError("this ctbox was built without JSON")
	default:
		inv.json = true
	}
	return inv, nil
}

// ownOptions are the options that conntrack-tools lacks: -o FORMAT and --netns NETNS.
type ownOptions struct {
	format, netns       string
	hasFormat, hasNetNS bool
}

// leading removes the options in front of words. conntrack-tools has no commands of
// these names.
func (o *ownOptions) leading(words []string) []string {
	for n := o.set(words); n > 0; n = o.set(words) {
		words = words[n:]
	}
	return words
}

// trailing removes the options from the end of a command's parameters: -o from those of
// commands that show something. To conntrack-tools each of these command lines is wrong.
// An exception is a helper called --netns, whose name is the first of the parameters.
func (o *ownOptions) trailing(args []string, shows, named bool) []string {
	for {
		n := len(args) - 1
		if n < 0 || !strings.HasPrefix(args[n], netnsOption+"=") {
			n--
		}
		if n < 0 || named && n == 0 && isNetNS(args[0]) || !shows && !isNetNS(args[n]) || o.hasFormat && isFormat(args[n]) || o.set(args[n:]) == 0 {
			return args
		}
		args = args[:n]
	}
}

const netnsOption = "--netns"

func isFormat(word string) bool { return word == "-o" || word == "--output" }

func isNetNS(word string) bool {
	return word == netnsOption || strings.HasPrefix(word, netnsOption+"=")
}

// set reads the option that words begin with and returns how many words it takes, 0 if
// they begin with something else.
func (o *ownOptions) set(words []string) int {
	if len(words) == 0 {
		return 0
	}
	_, value, attached := strings.Cut(words[0], "=")
	switch {
	case isNetNS(words[0]) && attached:
		o.netns, o.hasNetNS = value, true
		return 1
	case len(words) == 1:
		return 0
	case isNetNS(words[0]):
		o.netns, o.hasNetNS = words[1], true
		return 2
	case isFormat(words[0]):
		o.format, o.hasFormat = words[1], true
		return 2
	}
	return 0
}

// session is the state of one run of the program.
type session struct {
	ctx       context.Context
	conn      *nl.Conn
	out       *bufio.Writer
	buf       []byte
	stderr    io.Writer
	json      bool
	protocols string // the file of protocol names
	longest   uint32 // seconds that the kernel's timeouts can hold
}

// Run is the applet; see applets.RunFunc.
func Run(ctx context.Context, argv []string, _ io.Reader, stdout, stderr io.Writer) int {
	inv, err := parse(argv)
	if err != nil {
		return report(stderr, argv, err)
	}
	s := session{ctx: ctx, out: bufio.NewWriter(stdout), stderr: stderr, json: inv.json,
		protocols: protofile.File, longest: longestTimeout()}
	if inv.subsystem == subVersion {
		if len(inv.args) > 0 {
			return report(stderr, argv, errTooMany)
		}
		s.out.WriteString(versionText)
	} else {
		var ns *netns.Namespace
		if inv.own.hasNetNS {
			if ns, err = netns.Open(inv.own.netns); err != nil {
				return report(stderr, argv, fmt.Errorf("%s %w", netnsOption, err))
			}
			defer ns.Close()
		}
		// As in conntrack-tools, before the parameters are read.
		if s.conn, err = nl.Dial(nl.Config{NetNS: ns.FD()}); err != nil {
			fmt.Fprintf(stderr, "%scannot open netlink: %s\n", prefix, socketError(err))
			return exitNoSocket
		}
		defer s.conn.Close()
		if inv.subsystem == subTimeout {
			err = s.timeout(argv[0], inv)
		} else {
			err = s.helper(argv[0], inv)
		}
	}
	// What was shown before the error is valid.
	if flushed := s.out.Flush(); err == nil && flushed != nil {
		err = errors.New("write output: " + systemText(flushed))
	}
	if err != nil {
		return report(stderr, argv, err)
	}
	return exitOK
}

// report prints the error as its kind wants it, and returns the exit status.
func report(stderr io.Writer, argv []string, err error) int {
	var usage usageError
	if errors.As(err, &usage) {
		if usage != "" {
			fmt.Fprintf(stderr, "%s%s\n", prefix, usage)
		}
		name := "nfct"
		if len(argv) > 0 {
			name = argv[0]
		}
		fmt.Fprintf(stderr, "Usage: %s command subsystem [parameters]...\n", name)
		return exitFailure
	}
	fmt.Fprintf(stderr, "%s%v\n", prefix, err)
	return exitFailure
}

// systemText is the C library's text for an error of the system, without the
// operation and the file.
func systemText(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return strerror.Text(errno)
	}
	return err.Error()
}

// socketError returns why the socket could not be opened: the C library's text, and what
// is missing if the kernel lacks nfnetlink.
func socketError(err error) string {
	text := systemText(err)
	if errors.Is(err, syscall.EPROTONOSUPPORT) {
		text += " (kernel without nfnetlink: load that module or set CONFIG_NETFILTER_NETLINK)"
	}
	return text
}

const versionText = prefix + `utility for the Netfilter's Connection Tracking System
ctbox v` + version.Number + `. Copyright (c) 2026 the ctbox authors
This program comes with ABSOLUTELY NO WARRANTY.
This is free software, and you are welcome to redistribute it under certain
conditions; see LICENSE file distributed in this package for details.
`
