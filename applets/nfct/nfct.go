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
}

// parse reads command and subsystem, or in the order of old versions subsystem and
// command. The words behind them are the parameters, of which it reads only -o json.
func parse(argv []string) (invocation, error) {
	var inv invocation
	words := argv[min(1, len(argv)):]
	format, rest, leading := leadingFormat(words)
	if leading {
		words = rest
	}
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
	inv.word, inv.args = words[1], words[2:]
	shows := inv.command == cmdList || inv.command == cmdGet || inv.command == cmdDefaultGet
	trailing := false
	if shows && !leading {
		format, inv.args, trailing = trailingFormat(inv.args)
	}
	switch {
	case !leading && !trailing:
	case !shows:
		return inv, argError("-o goes with list, get and default-get")
	case format != "json":
		return inv, argError("unknown output format `" + format + "', there is only json")
	case !feature.JSON:
		return inv, argError("this ctbox was built without JSON")
	default:
		inv.json = true
	}
	return inv, nil
}

func isFormatOption(word string) bool { return word == "-o" || word == "--output" }

// leadingFormat removes -o FORMAT from the front. conntrack-tools has no command of that
// name.
func leadingFormat(words []string) (format string, rest []string, ok bool) {
	if len(words) < 2 || !isFormatOption(words[0]) {
		return "", words, false
	}
	return words[1], words[2:], true
}

// trailingFormat removes -o FORMAT from the end. To conntrack-tools, commands that show
// something have too many words then.
func trailingFormat(words []string) (format string, rest []string, ok bool) {
	n := len(words) - 2
	if n < 0 || !isFormatOption(words[n]) {
		return "", words, false
	}
	return words[n+1], words[:n], true
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
		// As in conntrack-tools, before the parameters are read.
		if s.conn, err = nl.Dial(nl.Config{}); err != nil {
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
