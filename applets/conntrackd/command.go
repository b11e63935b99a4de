// Package conntrackd is the conntrackd applet: conntrackd(8)'s command line, the daemon's
// process from start to exit, and the commands that a running daemon carries out. Replication
// itself is in sync/node.
package conntrackd

import (
	"slices"
	"strconv"
	"strings"

	"ctbox/applets/conntrackd/control"
	"ctbox/internal/version"
)

// command is a parsed command line.
type command struct {
	op        op
	config    string          // path of the configuration
	request   control.Request // of opClient
	notes     []string        // warnings about the command line
	noSandbox bool            // for a daemon
	selection control.Selection
	strict    bool   // for a commit: fail if single entries can't be committed
	json      bool   // for opTop
	maxLag    uint32 // for --ready: seconds; 0 for the configuration's
	syntax    bool   // for opCheck: check the file, not the host
}

type op uint8

const (
	opConsole op = iota // run in the foreground
	opDaemon
	opClient
	opCheck
	opTop
	opGenKey
	opHelp
	opVersion
)

// usageError is an error in the command line. text goes to standard error; with usage set,
// the usage goes to standard output.
type usageError struct {
	text  string
	usage bool
}

func (e *usageError) Error() string { return e.text }

var errInvalid = &usageError{"Invalid parameters", true}

const defaultConfig = "/etc/conntrackd/conntrackd.conf"

// maxConfigPath is the length to which conntrack-tools cuts the path (its PATH_MAX).
const maxConfigPath = 4096

// option is the request that a letter sends. A keyword from words may follow; any non-empty
// prefix of one selects the first that matches.
type option struct {
	request control.Request // without a keyword
	words   []word
	// A strict option names itself in the error for an unknown keyword.
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

// options are the letters that send a request.
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
		{text: "export", request: control.StatsExport, ours: true},
		{text: "peers", request: control.StatsPeers, ours: true},
	}},
}

// parser parses the arguments. An option is a dash and a letter, or one of our own long
// options. conntrack-tools looks only at an argument's second character: there, "-Fct" also
// flushes expectations and "-c ctx" is option t.
type parser struct {
	args []string
	cmd  command
	kind kind
	json bool
}

// kind is a group of options. Options of different kinds cannot be combined.
type kind uint8

const (
	kindNone kind = iota
	kindDaemon
	kindRequest
	kindCheck
	kindTop
	kindReady
	kindGenKey
)

// parse parses the arguments after argv[0]. The error is a *usageError.
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
	if p.cmd.maxLag != 0 && p.kind != kindReady {
		return p.cmd, errInvalid
	}
	if p.kind == kindReady {
		p.cmd.op, p.cmd.request = opClient, control.Ready(p.cmd.maxLag)
	}
	if !p.cmd.selection.Empty() && (p.kind != kindRequest || !p.cmd.request.IsCommit() && !(p.cmd.selection.OnlyOwner() && p.cmd.request.TakesOwner())) {
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

// next consumes the next argument if it can be the argument of an option.
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
	if slices.Contains(control.Conditions(), arg) {
		value, _ := p.next()
		if err := p.cmd.selection.Set(arg, value); err != nil {
			return &usageError{err.Error(), false}
		}
		return nil
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
		if p.cmd.config == "" { // a script's variable may be unset
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
	"--genkey": func(p *parser) error {
		p.cmd.op = opGenKey
		return p.is(kindGenKey)
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
	"--ready": func(p *parser) error { return p.is(kindReady) },
	"--max-lag": func(p *parser) error {
		text, _ := p.next()
		seconds, err := strconv.ParseUint(text, 10, 32)
		if err != nil || seconds < 1 || seconds > control.MaxLag {
			return &usageError{"--max-lag takes a number of seconds from 1 to " + strconv.Itoa(control.MaxLag), true}
		}
		p.cmd.maxLag = uint32(seconds)
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

// asJSON changes the request to its JSON form.
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

// usage is the text of -h and of most errors in the command line. The lines that
// conntrack-tools has, too, are the same byte for byte.
func usage(argv0 string) string {
	return `Connection tracking userspace daemon v` + version.ConntrackTools + `
Usage: ` + argv0 + ` [commands] [options]

General commands:
  -d, run in daemon mode
  -C [configfile], configuration file path
  --no-sandbox, keep all privileges and system calls of the daemon
  --check [--syntax], check the configuration file, on this host or alone
  --genkey, print a new key (see Cluster clause)
  -v, display conntrackd version
  -h, display this help information

Client mode commands:
  -c [ct|expect], commit external cache to conntrack table
  --strict, with -c: exit status 1 also if single entries can't be committed
  --owner name, with -c: take this node's flows without asking; with -e: only its flows
  --nat-src addr, with -c: only flows whose source is translated to the address
  --src addr[/len], --zone n, --mark value[/mask], with -c: only flows that match
  -f [internal|external], flush internal and external cache
  -F [ct|expect], flush kernel conntrack table
  -i [ct|expect], display content of the internal cache
  -e [ct|expect], display the content of the external cache
  -k, kill conntrack daemon
  -s  [network|cache|runtime|link|rsqueue|queue|ct|expect], dump statistics
  -s  metrics, dump statistics in Prometheus' text format
  -s  helpers, dump statistics of user-space helpers
  -s  export, dump statistics of exporters (see Export clause)
  -s  peers, show the peers, and whether this node may take over
  --ready [--max-lag seconds], exit status 0 if this node is in sync, otherwise 1
  -R [ct|expect], resync with kernel conntrack table
  -n, request resync with other node (only FT-FW and NOTRACK modes)
  -B, force a bulk send to other replica firewalls
  -x, dump cache in XML format (requires -i or -e)
  -o json, dump cache or statistics in JSON format (requires -i, -e, -s or -c)
  --top, show statistics and their rates again and again (with --json as JSON)
  -t, reset the kernel timeout (see PurgeTimeout clause)
  --reload, have the daemon read its configuration file again

`
}

// versionText is the text of -v. conntrack-tools' version comes first, where scripts look for
// it.
const versionText = `Connection tracking userspace daemon v` + version.ConntrackTools + `, ctbox v` + version.Number + `. Licensed under MIT.
Replication protocol version 1.
`
