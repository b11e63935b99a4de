package conntrackd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"

	"ctbox/applets/conntrackd/daemonize"
	"ctbox/applets/conntrackd/logging"
	"ctbox/conf"
	"ctbox/sync/node"
)

// The exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
)

// Run is the applet (applets.RunFunc).
func Run(ctx context.Context, argv []string, _ io.Reader, stdout, stderr io.Writer) int {
	return run(ctx, argv, stdout, stderr, func(cfg *conf.Config, log *slog.Logger, ended node.Ended) (runner, error) {
		return node.New(cfg, log, ended)
	})
}

// run is Run with the function that creates the node as an argument.
func run(ctx context.Context, argv []string, stdout, stderr io.Writer, open opener) int {
	console := logging.New(stdout, stderr)
	defer console.Close()
	log := slog.New(console)
	argv0 := "conntrackd"
	if len(argv) > 0 {
		argv0 = argv[0]
		argv = argv[1:]
	}
	cmd, err := parse(argv)
	for _, note := range cmd.notes {
		log.Warn(note)
	}
	var wrong *usageError
	if errors.As(err, &wrong) {
		if wrong.usage {
			io.WriteString(stdout, usage(argv0))
		}
		log.Error(wrong.text)
		return exitFailed
	}
	switch cmd.op {
	case opHelp:
		io.WriteString(stdout, usage(argv0))
		return exitOK
	case opVersion:
		io.WriteString(stdout, versionText)
		return exitOK
	case opClient:
		return runClient(ctx, &cmd, log, stdout)
	case opGenKey:
		return runGenKey(log, stdout)
	case opTop:
		return runTop(ctx, &cmd, log, stdout)
	case opCheck:
		return runCheck(cmd.config, cmd.syntax, stdout, stderr)
	case opDaemon:
		if parent := daemonize.InBackground(); parent != nil {
			return runDaemon(ctx, &cmd, console, stderr, open, parent)
		}
		return runParent(append([]string{argv0}, argv...), log, stdout, stderr)
	}
	return runDaemon(ctx, &cmd, console, stderr, open, nil)
}

// runParent starts the daemon in the background and waits until it is ready.
func runParent(argv []string, log *slog.Logger, stdout, stderr io.Writer) int {
	err := daemonize.Background(argv, stdout, stderr, func(pid int) {
		if err := daemonize.Notify(daemonize.MainPID(pid)); err != nil {
			log.Warn(err.Error())
		}
	})
	var exit *exec.ExitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		if exit.ExitCode() < 0 { // killed by a signal, so it has printed no reason
			log.Error(fmt.Sprintf("the daemon ended before it was ready: %v", exit))
		}
	default:
		log.Error(err.Error())
	}
	return exitFailed
}
