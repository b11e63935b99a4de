// Package doctor is the doctor applet: `ctbox doctor` looks at a system as
// somebody would who has run connection tracking for years, and says what is
// wrong, why it matters and which command mends it.
//
// checks.go is the table of what is looked at; each check is a function in the
// file of its subject. Nothing here changes anything: the requests to the
// kernel are dumps and queries, files are only read, and no packet is sent. One
// thing the kernel may do on its own: asked for a part that is a module, it
// loads the module, as it would for the program that the check is about.
package doctor

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"ctbox/conf"
	"ctbox/nl"
)

// The exit statuses are those of a monitoring plug-in: unknown says that there
// is no result, because of a wrong command line or a broken pipe.
const (
	exitOK      = 0 // nothing above a note
	exitWarning = 1
	exitError   = 2
	exitUnknown = 3
)

const defaultConfig = "/etc/conntrackd/conntrackd.conf"

const usageText = `Usage: ctbox doctor [--for APPLET] [-C FILE] [--json]

Looks at the system and says what is wrong, why it matters and what mends it.
Changes nothing and sends nothing.

  --for APPLET   only what conntrack, conntrackd or nfct needs
  -C FILE        conntrackd's configuration, ` + defaultConfig + ` if it is there
  --json         one JSON object a finding, one a line
  -h, --help     show this help

Exit status: 0 nothing above a note, 1 warnings, 2 errors, 3 no result.
`

// options are a parsed command line.
type options struct {
	about  target
	asked  bool   // --for was given
	config string // "": the default, if it exists
	json   bool
	help   bool
}

var targets = [...]struct {
	name  string
	about target
}{{"conntrack", forConntrack}, {"conntrackd", forConntrackd}, {"nfct", forNfct}}

// parse parses the arguments behind argv[0].
func parse(args []string) (o options, err error) {
	o.about = forAll
	for len(args) > 0 {
		arg, value, attached := strings.Cut(args[0], "=")
		args = args[1:]
		takes := arg == "--for" || arg == "-C" || arg == "--config"
		switch {
		case takes && !attached && len(args) == 0:
			return o, errors.New(arg + " needs an argument")
		case takes && !attached:
			value, args = args[0], args[1:]
		case attached && !takes:
			arg += "=" + value
		}
		switch arg {
		case "--for":
			o.about = 0
			for _, t := range targets {
				if t.name == value {
					o.about, o.asked = t.about, true
				}
			}
			if o.about == 0 {
				return o, errors.New("--for takes conntrack, conntrackd or nfct, not " + value)
			}
		case "-C", "--config":
			o.config = value
		case "--json":
			o.json = true
		case "-h", "--help":
			o.help = true
		default:
			return o, errors.New("unknown argument " + arg)
		}
	}
	if o.config != "" && o.about&forConntrackd == 0 {
		return o, errors.New("-C goes with --for conntrackd")
	}
	return o, nil
}

// Run is the applet. It prints the findings and returns the exit status.
func Run(ctx context.Context, argv []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(argv) > 0 {
		argv = argv[1:]
	}
	o, err := parse(argv)
	if err != nil {
		return broken(stderr, err.Error()+" (try ctbox doctor --help)")
	}
	if o.help {
		_, _ = io.WriteString(stdout, usageText)
		return exitOK
	}
	h := &host{ctx: ctx, root: "/", asked: o.asked}
	defer h.close()
	r := &report{}
	examine(h, r, o)
	if err := ctx.Err(); err != nil {
		return broken(stderr, err.Error())
	}
	out := appendText
	if o.json {
		out = appendJSON
	}
	if _, err := stdout.Write(out(nil, r)); err != nil {
		return broken(stderr, err.Error())
	}
	return r.status()
}

func broken(stderr io.Writer, why string) int {
	_, _ = io.WriteString(stderr, "ctbox doctor: "+why+"\n")
	return exitUnknown
}

// examine opens what the checks share and runs those that o asks for.
func examine(h *host, r *report, o options) {
	if conn, err := nl.Dial(nl.Config{}); err == nil {
		h.conn = conn
	} else {
		r.about("netlink").add(Error, "cannot open a netlink socket: "+err.Error(),
			"nothing can be asked of the kernel", "")
	}
	if o.about&forConntrackd != 0 {
		readConfig(h, r, o.config)
	}
	for _, c := range checks {
		if c.about&o.about != 0 && h.ctx.Err() == nil {
			c.run(h, r.about(c.id))
		}
	}
}

// readConfig reads conntrackd's configuration. The default one may be missing.
func readConfig(h *host, r *report, name string) {
	given := name != ""
	if !given {
		name = defaultConfig
		if _, err := os.Stat(name); err != nil {
			if !isNotExist(err) {
				r.about("config").add(Note, err.Error(), "what conntrackd would do was not looked at", "")
			}
			return
		}
	}
	cfg, warnings, err := conf.Load(name)
	for _, w := range warnings {
		r.about("config").add(Note, w.String(), "the file says something that counts for nothing, or is old", "")
	}
	if err != nil {
		r.about("config").add(Error, err.Error(), "conntrackd does not start with this file",
			"conntrackd -C "+name+" --check")
		return
	}
	h.cfg = cfg
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
