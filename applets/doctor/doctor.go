// Package doctor is the doctor applet: `ctbox doctor` examines a system as an engineer with
// years of connection tracking would, and reports what is wrong, why it matters and which
// command fixes it.
//
// checks.go is the table of the checks; each check is a function in the file of its subject.
// The doctor changes nothing: its requests to the kernel are dumps and queries, it only reads
// files, and it sends no packets. It asks the running daemon for its statistics. The kernel
// may load a module that is asked for, as it would for the program that the check is about.
package doctor

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"

	"ctbox/applets/internal/command"
	"ctbox/conf"
	"ctbox/nl"
)

// The exit statuses are those of a monitoring plug-in. exitUnknown means that there is no
// result, because of an error in the command line or a broken pipe.
const (
	exitOK      = 0 // nothing above a note
	exitWarning = 1
	exitError   = 2
	exitUnknown = 3
)

const defaultConfig = "/etc/conntrackd/conntrackd.conf"

// options are the options of the command line.
type options struct {
	target string // --for; "" for everything
	about  target // what target names
	config string // "": the default, if it exists
	json   bool
}

var targets = [...]struct {
	name  string
	about target
}{{"conntrack", forConntrack}, {"conntrackd", forConntrackd}, {"nfct", forNfct}}

// check completes the options, or returns an error if they are invalid.
func (o *options) check() error {
	o.about = forAll
	if o.target != "" {
		o.about = 0
		for _, t := range targets {
			if t.name == o.target {
				o.about = t.about
			}
		}
		if o.about == 0 {
			return errors.New("--for takes conntrack, conntrackd or nfct, not " + strconv.Quote(o.target))
		}
	}
	if o.config != "" && o.about&forConntrackd == 0 {
		return errors.New("-C goes with --for conntrackd")
	}
	return nil
}

// Command returns the command `ctbox doctor`.
func Command() *command.Command {
	o := new(options)
	c := &command.Command{
		Name:  "doctor",
		Usage: "examine this system: what is wrong, why it matters and how to fix it",
		Description: "Changes nothing and sends no packet.\n" +
			"Exit status: 0 nothing above a note, 1 warnings, 2 errors, 3 no result.",
		Options: []command.Option{
			{Name: "for", Usage: "only what `APPLET` needs: conntrack, conntrackd or nfct", Text: &o.target},
			{Name: "config", Names: []string{"C"}, Usage: "conntrackd's configuration is `FILE`; without, " +
				defaultConfig + " if it exists", Text: &o.config},
			{Name: "json", Usage: "print each finding as a JSON object on its line", On: &o.json},
		},
		Misused: exitUnknown,
	}
	c.Run = func(ctx context.Context, stdout, stderr io.Writer) int {
		if err := o.check(); err != nil {
			return c.Misuse(stderr, err)
		}
		return run(ctx, o, stdout, stderr)
	}
	return c
}

// run examines the system, prints the findings and returns the exit status.
func run(ctx context.Context, o *options, stdout, stderr io.Writer) int {
	h := &host{ctx: ctx, root: "/", asked: o.target != ""}
	defer h.closeConn()
	r := &report{exec: command.Exec(ctx)}
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

// examine opens what the checks share and runs those that o selects.
func examine(h *host, r *report, o *options) {
	if conn, err := nl.Dial(nl.Config{}); err == nil {
		h.conn = conn
	} else {
		r.about("netlink").add(Error, "cannot open a netlink socket: "+err.Error(),
			"the kernel cannot be queried", "")
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

// readConfig reads conntrackd's configuration. The default file may be missing.
func readConfig(h *host, r *report, name string) {
	given := name != ""
	if !given {
		name = defaultConfig
		if _, err := os.Stat(name); err != nil {
			if !isNotExist(err) {
				r.about("config").add(Note, err.Error(), "conntrackd's configuration was not checked", "")
			}
			return
		}
	}
	cfg, warnings, err := conf.Load(name)
	for _, w := range warnings {
		r.about("config").add(Note, w.String(), "the file has a clause that has no effect or is obsolete", "")
	}
	if err != nil {
		r.about("config").add(Error, err.Error(), "conntrackd does not start with this file",
			"conntrackd -C "+name+" --check")
		return
	}
	h.cfg = cfg
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
