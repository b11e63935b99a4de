// Package conntrackd is the conntrackd applet: conntrackd(8)'s command line, the
// life of the daemon's process, and the commands that speak to a running daemon.
// What the daemon replicates, and how, is sync/node's business.
package conntrackd

import (
	"slices"
	"strings"

	"ctbox/applets/conntrackd/control"
)

// command is a parsed command line.
type command struct {
	op        op
	config    string          // path of the configuration
	request   control.Request // of opClient
	notes     []string        // warnings about the command line
	noSandbox bool            // of a daemon
	strict    bool            // of a commit: single entries that fail count
	json      bool            // of opTop
	syntax    bool            // of opCheck: the file alone
}

type op uint8

const (
	opConsole op = iota // run in the foreground
	opDaemon
	opClient
	opCheck
	opTop
	opHelp
	opVersion
)

// usageError is a command line that cannot be. text is for standard error; some
// errors come with the usage on standard output.
type usageError struct {
	text  string
	usage bool
}

func (e *usageError) Error() string { return e.text }

var errInvalid = &usageError{"Invalid parameters", true}

const defaultConfig = "/etc/conntrackd/conntrackd.conf"

// maxConfigPath is conntrack-tools' PATH_MAX, which it cuts the path to.
const maxConfigPath = 4096

// option is what a letter asks of the daemon. A keyword of words may follow, which can
// be shortened to any beginning but the empty one; the first that fits counts.
type option struct {
	request control.Request // without a keyword
	words   []word
	// strict options name themselves when they refuse a word that is not theirs.
	strict bool
}

type word struct {
	text    string
	request control.Request
	note    string // a warning that the word is an old one; "" for none
	ours    bool   // conntrack-tools does not have it
}

func tables(ct, expect control.Request) []word {
	return []word{{text: "ct", request: ct}, {text: "expect", request: expect}}
}

// options are the letters that send a request, with conntrack-tools' numbers.
var options = map[byte]option{
	'c': {request: control.CommitAll, words: tables(control.CommitFlows, control.CommitExpects)},
	'i': {request: control.DumpInternal, words: tables(control.DumpInternal, control.DumpInternalExp)},
	'e': {request: control.DumpExternal, words: tables(control.DumpExternal, control.DumpExternalExp)},
	'F': {request: control.FlushKernelAll, words: tables(control.FlushKernelFlows, control.FlushKernelExpects)},
	'R': {request: control.RefillAll, words: tables(control.RefillFlows, control.RefillExpects)},
	'f': {request: control.FlushCaches, strict: true, words: []word{
		{text: "internal", request: control.FlushInternal}, {text: "external", request: control.FlushExternal},
	}},
	'n': {request: control.Resync},
	'B': {request: control.Bulk},
	't': {request: control.SchedulePurge},
	'k': {request: control.Kill},
	's': {request: control.StatsFlows, strict: true, words: []word{
		{text: "network", request: control.StatsNetwork},
		{text: "cache", request: control.StatsCache},
		{text: "runtime", request: control.StatsRuntime},
		{text: "multicast", request: control.StatsLink, note: "use `link' instead of `multicast' as parameter."},
		{text: "link", request: control.StatsLink},
		{text: "rsqueue", request: control.StatsResendQueue},
		{text: "process", request: control.StatsProcess},
		{text: "queue", request: control.StatsQueue},
		{text: "ct", request: control.StatsFlows},
		{text: "expect", request: control.StatsExpects},
		{text: "metrics", request: control.Metrics, ours: true},
		{text: "helpers", request: control.StatsHelpers, ours: true},
	}},
}

// parser goes through the arguments. An option is a dash and its letter, or one of our
// own long ones, and nothing else: conntrack-tools looks at an argument's second
// character only, so that "-Fct" flushes expectations as well and "-c ctx" is option t.
type parser struct {
	args []string
	cmd  command
	kind kind
	json bool
}

// kind keeps apart what cannot stand together.
type kind uint8

const (
	kindNone kind = iota
	kindDaemon
	kindRequest
	kindCheck
	kindTop
)

// parse parses the arguments behind argv[0]. The error is a *usageError.
func parse(args []string) (command, error) {
	p := parser{args: args, cmd: command{config: defaultConfig}}
	for len(p.args) > 0 && p.cmd.op != opHelp && p.cmd.op != opVersion {
		if err := p.option(); err != nil {
			return p.cmd, err
		}
	}
	if p.cmd.op == opHelp || p.cmd.op == opVersion {
		return p.cmd, nil
	}
	if p.cmd.noSandbox && p.kind != kindNone && p.kind != kindDaemon {
		return p.cmd, errInvalid
	}
	if p.cmd.syntax && p.kind != kindCheck {
		return p.cmd, errInvalid
	}
	if p.cmd.strict && (p.kind != kindRequest || !p.cmd.request.IsCommit()) {
		return p.cmd, errInvalid
	}
	if p.json && p.kind == kindTop {
		p.cmd.json = true
	} else if p.json {
		if err := p.asJSON(); err != nil {
			return p.cmd, err
		}
	}
	return p.cmd, nil
}

// next takes the next argument if it may be the argument of an option.
func (p *parser) next() (string, bool) {
	if len(p.args) == 0 || strings.HasPrefix(p.args[0], "-") {
		return "", false
	}
	arg := p.args[0]
	p.args = p.args[1:]
	return arg, true
}

func (p *parser) option() error {
	arg := p.args[0]
	p.args = p.args[1:]
	if ours, ok := ourOptions[arg]; ok {
		return ours(p)
	}
	var letter byte
	if len(arg) == 2 && arg[0] == '-' {
		letter = arg[1]
	}
	if o, ok := options[letter]; ok {
		return p.request(letter, o)
	}
	switch letter {
	case 'd':
		p.cmd.op = opDaemon
		return p.is(kindDaemon)
	case 'C':
		if len(p.args) == 0 {
			return &usageError{"Missing config filename", true}
		}
		p.cmd.config, p.args = p.args[0], p.args[1:]
		if len(p.cmd.config) > maxConfigPath {
			p.cmd.config = p.cmd.config[:maxConfigPath]
			p.cmd.notes = append(p.cmd.notes, "Path to config file to long. Cutting it down to 4096 characters")
		}
		if p.cmd.config == "" { // of a script whose variable is not set
			p.cmd.config = defaultConfig
		}
		return nil
	case 'x':
		form, ok := control.Request(0), false
		if p.kind == kindRequest {
			form, ok = p.cmd.request.Dump(control.XML)
		}
		if !ok || form == p.cmd.request {
			return errInvalid
		}
		p.cmd.request = form
		return nil
	case 'v':
		p.cmd.op = opVersion
		return nil
	case 'h':
		p.cmd.op = opHelp
		return nil
	}
	return unknownOption(arg)
}

func unknownOption(arg string) error { return &usageError{"Unknown option: " + arg, true} }

// ourOptions are the options that conntrack-tools does not have.
var ourOptions = map[string]func(*parser) error{
	"--check": func(p *parser) error {
		p.cmd.op = opCheck
		return p.is(kindCheck)
	},
	"--syntax": func(p *parser) error {
		p.cmd.syntax = true
		return nil
	},
	"--top": func(p *parser) error {
		p.cmd.op = opTop
		return p.is(kindTop)
	},
	"--strict": func(p *parser) error {
		p.cmd.strict = true
		return nil
	},
	"--no-sandbox": func(p *parser) error {
		p.cmd.noSandbox = true
		return nil
	},
	"--reload": func(p *parser) error {
		if err := p.is(kindRequest); err != nil {
			return err
		}
		p.cmd.op, p.cmd.request = opClient, control.Reload
		return nil
	},
	"--json": func(p *parser) error {
		p.json = true
		return nil
	},
	"-o": func(p *parser) error {
		if format, ok := p.next(); !ok || format != "json" {
			return &usageError{"-o takes one word: json", true}
		}
		p.json = true
		return nil
	},
}

func (p *parser) is(k kind) error {
	if p.kind != kindNone && p.kind != k {
		return errInvalid
	}
	p.kind = k
	return nil
}

func (p *parser) request(letter byte, o option) error {
	if err := p.is(kindRequest); err != nil {
		return err
	}
	p.cmd.op, p.cmd.request = opClient, o.request
	if len(o.words) == 0 {
		return nil
	}
	arg, ok := p.next()
	if !ok {
		return nil
	}
	i := slices.IndexFunc(o.words, func(w word) bool { return arg != "" && strings.HasPrefix(w.text, arg) })
	switch {
	case i >= 0:
		p.cmd.request = o.words[i].request
		if note := o.words[i].note; note != "" {
			p.cmd.notes = append(p.cmd.notes, note)
		}
	case o.strict:
		return &usageError{"unknown parameter `" + arg + "' for option `-" + string(letter) + "'", false}
	default:
		return unknownOption(arg)
	}
	return nil
}

// asJSON turns the request into one for JSON.
func (p *parser) asJSON() error {
	if p.kind != kindRequest {
		return errInvalid
	}
	json, ok := p.cmd.request.JSON()
	if !ok {
		return errInvalid
	}
	p.cmd.request = json
	return nil
}
