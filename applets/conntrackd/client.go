package conntrackd

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"ctbox/applets/conntrackd/control"
	"ctbox/conf"
	"ctbox/internal/slog"
)

// load reads the configuration and shows those of its warnings that are due. It
// has told what is wrong when ok is false.
func load(name string, upTo conf.When, log *slog.Logger) (cfg *conf.Config, ok bool) {
	cfg, warnings, err := conf.Load(name)
	for _, w := range warnings {
		if w.When <= upTo {
			log.Warn(w.Text)
		}
	}
	var wrong *conf.Error
	var path *fs.PathError
	switch {
	case err == nil:
		return cfg, true
	case errors.As(err, &wrong):
		log.Error(wrong.Error())
	case errors.Is(err, fs.ErrNotExist):
		log.Error("can't open config file `" + name + "'")
	case errors.As(err, &path):
		log.Error("can't open config file `" + name + "': " + path.Err.Error())
	default:
		log.Error("can't open config file `" + name + "': " + err.Error())
	}
	return nil, false
}

// runClient sends a request to the running daemon and prints the answer.
func runClient(ctx context.Context, cmd *command, log *slog.Logger, stdout io.Writer) int {
	cfg, ok := load(cmd.config, conf.Always, log)
	if !ok {
		return exitFailed
	}
	err := ask(ctx, cfg.General.UNIXPath, cmd.request, stdout)
	var connect *control.ConnectError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &connect):
		log.Error("can't connect: is conntrackd running? appropriate permissions?")
	default:
		log.Error(err.Error())
	}
	return exitFailed
}

// ask is control.Ask, but for commits, whose outcome is asked for where the
// daemon can tell it.
func ask(ctx context.Context, path string, r control.Request, stdout io.Writer) error {
	switch r {
	case control.CommitFlows, control.CommitExpects, control.CommitAll:
		err := control.Ask(ctx, path, r|control.WithOutcome, stdout)
		if errors.Is(err, control.ErrUnknown) {
			return control.Ask(ctx, path, r, stdout) // a daemon of conntrack-tools
		}
		return err
	}
	return control.Ask(ctx, path, r, stdout)
}
