package conntrackd

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"strings"

	"ctbox/applets/conntrackd/control"
	"ctbox/conf"
)

// load reads the configuration and logs its warnings up to the given level. If ok is false,
// it has logged the error.
func load(name string, upTo conf.When, log *slog.Logger) (cfg *conf.Config, ok bool) {
	cfg, warnings, err := conf.Load(name)
	for _, w := range warnings {
		if w.When <= upTo {
			log.Warn(w.LogText())
		}
	}
	if err != nil {
		log.Error(loadError(name, err).Error())
		return nil, false
	}
	return cfg, true
}

// loadError words an error of conf.Load as conntrack-tools does.
func loadError(name string, err error) error {
	var wrong *conf.Error
	var path *fs.PathError
	switch {
	case errors.As(err, &wrong):
		return wrong
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("can't open config file `" + name + "'")
	case errors.As(err, &path):
		err = path.Err
	}
	return errors.New("can't open config file `" + name + "': " + err.Error())
}

// runClient sends a request to the running daemon and prints the answer.
func runClient(ctx context.Context, cmd *command, log *slog.Logger, stdout io.Writer) int {
	cfg, ok := load(cmd.config, conf.Always, log)
	if !ok {
		return exitFailed
	}
	err := ask(ctx, cfg.General.UNIXPath, cmd, stdout)
	var connect *control.ConnectError
	var output *control.OutputError
	var remark control.Remark
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &connect):
		log.Error("can't connect: is conntrackd running? appropriate permissions?")
	case errors.As(err, &output) && cmd.request&control.WithOutcome == 0:
		// The daemon has answered, which is what monitors ask: a full disk must not cause a
		// failover. conntrack-tools exits with 0, too.
		log.Error(err.Error())
		return exitOK
	case errors.As(err, &remark):
		say, status := log.Warn, exitOK
		if cmd.strict {
			say, status = log.Error, exitFailed
		}
		for line := range strings.Lines(string(remark)) {
			say(strings.TrimSuffix(line, "\n"))
		}
		return status
	default:
		log.Error(err.Error())
	}
	return exitFailed
}

// errNoOutcome is the error of --strict for a daemon that reports no outcome.
var errNoOutcome = errors.New("the running daemon does not report the result of the commit")

// errNoSelection is the error for a daemon that does not know Selections. It has done nothing.
var errNoSelection = errors.New("the running daemon does not know " + strings.Join(control.Conditions(), ", ") + ": nothing was done")

// ask is control.Ask, except that a commit is requested with its outcome if the daemon
// supports that. If it does not, the commit is an error with --strict.
func ask(ctx context.Context, path string, cmd *command, stdout io.Writer) error {
	r := cmd.request
	if r.IsCommit() {
		r |= control.WithOutcome
	}
	err := control.Ask(ctx, path, r, &cmd.selection, stdout)
	switch {
	case !errors.Is(err, control.ErrUnknown):
		return err
	case !cmd.selection.Empty():
		return errNoSelection
	case r == cmd.request: // not a commit, or one as JSON
		return err
	}
	if err = control.Ask(ctx, path, cmd.request, nil, stdout); err == nil && cmd.strict { // a daemon of conntrack-tools
		err = errNoOutcome
	}
	return err
}
