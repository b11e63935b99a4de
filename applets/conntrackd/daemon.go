package conntrackd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"ctbox/applets/conntrackd/control"
	"ctbox/applets/conntrackd/daemonize"
	"ctbox/applets/conntrackd/logging"
	"ctbox/applets/conntrackd/report"
	"ctbox/applets/conntrackd/sandbox"
	"ctbox/conf"
	"ctbox/helpers"
	"ctbox/internal/daemonlog"
	"ctbox/internal/strerror"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/node"

	"golang.org/x/sys/unix"
)

// runner is the part of *node.Node that the daemon uses. Run replicates until ctx ends, and
// closes the node.
type runner interface {
	control.Node
	Reconfigure(context.Context, *conf.Config) error
	Run(context.Context) error
	InjectorPorts() []uint32
}

// opener creates a node and opens everything that its configuration requires.
type opener func(*conf.Config, *slog.Logger, node.Ended) (runner, error)

// umask makes the files that the daemon creates private to its owner.
const umask = 0o177

// daemon is a running daemon.
type daemon struct {
	cfg     *conf.Config // at the start; reload has the current one
	console *logging.Log
	log     *slog.Logger
	flows   flowLog
	reload  reloader
	lock    *daemonize.Lock
	control *control.Listener // nil without UNIX clause
	node    runner
	helpers *helpers.Host // nil without helpers
	exports exports
	metrics metricsServer
	track   tracker
	hangup  chan os.Signal

	noSandbox bool
}

// runDaemon runs a daemon from start to exit, in the foreground or, with a parent, in the
// background. The order of the first steps is that of conntrack-tools, so that the same error
// is reported if there are several.
func runDaemon(ctx context.Context, cmd *command, console *logging.Log, stderr io.Writer, open opener, parent *daemonize.Parent) int {
	unix.Umask(umask)
	signal.Ignore(syscall.SIGPIPE) // the console may be closed
	if parent != nil {
		console.Quiet()
	}
	d := &daemon{console: console, log: slog.New(console), hangup: make(chan os.Signal, 1), noSandbox: cmd.noSandbox}
	signal.Notify(d.hangup, syscall.SIGHUP)
	defer signal.Stop(d.hangup)
	cfg, ok := load(cmd.config, conf.AtStart, d.log)
	if !ok {
		return exitFailed
	}
	d.cfg = cfg
	if err := d.reload.begin(d, cmd.config); err != nil {
		d.log.Error(err.Error())
		return exitFailed
	}
	if err := d.openLogs(); err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	defer d.closeLogs()
	if !d.takeLock() {
		return exitFailed
	}
	d.track.begin(cfg, d.log)
	if err := d.init(ctx, open); err != nil {
		d.log.Error(err.Error())
		d.log.Error("conntrackd cannot start, please review your configuration")
		d.release()
		return exitFailed
	}
	d.log.Log(ctx, daemonlog.LevelNotice, "initialization completed")
	return d.run(ctx, parent)
}

// takeLock acquires the lock file. It logs the reason and returns false if it cannot.
func (d *daemon) takeLock() bool {
	g := &d.cfg.General
	lock, takenOver, err := daemonize.AcquireLock(g.LockFile, func() bool {
		return g.UNIXPath != "" && control.Answers(g.UNIXPath)
	})
	switch {
	case errors.Is(err, daemonize.ErrLocked):
		d.log.Error("lockfile `" + g.LockFile + "' exists, perhaps conntrackd already running?")
		return false
	case err != nil:
		d.log.Error("can't make lockfile `" + g.LockFile + "': " + strerror.Of(err))
		return false
	case takenOver:
		d.log.Warn("taking over lockfile `" + g.LockFile + "' of a conntrackd that is gone")
	}
	d.lock = lock
	return true
}

// init opens everything except the logs and the lock file.
func (d *daemon) init(ctx context.Context, open opener) error {
	g := &d.cfg.General
	d.limitMemory(d.cfg)
	if d.cfg.Sync == nil && d.cfg.Stats == nil && len(d.cfg.Exports) == 0 {
		daemonize.UseOneThread()
	} else {
		daemonize.AllowTwoThreads()
	}
	if !d.noSandbox {
		sandbox.Begin(d.later())
	}
	if err := daemonize.SetScheduler(uint32(g.Scheduler.Type), g.Scheduler.Priority); err != nil {
		d.log.Warn(daemonize.SchedulerWarning(err))
	}
	if g.UNIXPath != "" {
		listener, err := control.Listen(g.UNIXPath)
		if err != nil {
			return fmt.Errorf("can't open unix socket! %w", err)
		}
		d.control = listener
	}
	var ended node.Ended
	if d.cfg.Stats != nil {
		var line []byte // reused: calls do not overlap
		ended = func(f *ctnetlink.Flow) {
			d.flows.with(func(flows *logging.FlowLog) {
				now := time.Now()
				line = report.AppendEnded(line[:0], f, now)
				flows.Add(now, line)
			})
		}
	}
	n, err := open(d.cfg, d.log, ended)
	if err != nil {
		return err
	}
	d.node = n
	exporters, _, err := d.openExports(d.cfg, nil)
	if err != nil {
		return err
	}
	d.exports.use(exporters)
	if err := d.openHelpers(ctx); err != nil {
		return err
	}
	return d.metrics.open(g.MetricsListen)
}

func (d *daemon) limitMemory(cfg *conf.Config) {
	caches := 1
	if cfg.Sync != nil {
		caches = 2
	}
	caches += len(cfg.Exports)
	daemonize.LimitMemory(cfg.General.HashLimit, caches)
}

// release closes what takeLock and init opened, except the node, which closes itself.
func (d *daemon) release() {
	if d.helpers != nil {
		d.helpers.Close()
	}
	if d.control != nil {
		d.control.Close()
	}
	d.metrics.use(nil)
	d.exports.use(nil)
	if err := d.lock.Release(); err != nil {
		d.log.Error("can't remove lockfile: " + err.Error())
	}
}

// run serves until ctx ends or a client stops the daemon.
func (d *daemon) run(ctx context.Context, parent *daemonize.Parent) int {
	ctx, end := context.WithCancelCause(ctx)
	stop := func() { end(nil) }
	defer stop()
	server := &control.Server{Node: d.node, Log: d.log, Stop: stop, Reload: d.reload.run, Peers: d.reload.peers, Helpers: d.helperCounts, Exports: d.exports.status}
	defer server.Close() // last: the client that stopped the daemon waits for it

	failed := d.leave(parent)
	d.confine(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { d.reload.onHangup(ctx) })
	if d.control != nil {
		beside.Go(func() {
			if err := server.Serve(ctx, d.control); err != nil {
				d.log.Error("control socket: " + err.Error())
			}
		})
	}
	d.metrics.serve(ctx, server, d.log)
	d.log.Log(ctx, daemonlog.LevelNotice, startMessage(parent))
	if failed == nil {
		beside.Go(func() { d.runHelpers(ctx, end) })
		d.exports.run(ctx)
		d.notifySystemd(ctx, &beside, mainPID(parent))
		if d.cfg.Sync != nil {
			beside.Go(func() { d.track.follow(ctx, d.node, d.cfg.General.Systemd) })
		}
		failed = d.node.Run(ctx)
	}
	if cause := context.Cause(ctx); failed == nil && !errors.Is(cause, context.Canceled) {
		failed = cause
	}
	stop()
	d.track.end()
	if d.cfg.General.Systemd {
		daemonize.Notify(daemonize.Stopping)
	}
	beside.Wait()
	d.metrics.wait()
	d.exports.wait()
	d.release()
	if failed != nil {
		d.log.Error(failed.Error())
		return exitFailed
	}
	d.log.Log(ctx, daemonlog.LevelNotice, "---- shutdown received ----")
	return exitOK
}

// leave detaches the process from its working directory, standard input and terminal.
func (d *daemon) leave(parent *daemonize.Parent) error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := daemonize.CloseInput(); err != nil {
		return err
	}
	if parent == nil {
		return nil
	}
	d.console.CloseConsole()
	return parent.Detach()
}

// later returns what the sandbox must still permit after everything is open.
func (d *daemon) later() sandbox.Later {
	g := &d.cfg.General
	later := sandbox.Later{
		Reads:  []string{d.reload.file},
		Writes: []string{g.LogFile, g.LockFile, g.UNIXPath},
		Ports:  []uint16{g.MetricsListen.Port()}, // 0 without the clause
	}
	if s := d.cfg.Stats; s != nil {
		later.Writes = append(later.Writes, s.LogFile)
	}
	for _, e := range d.cfg.Exports {
		later.Writes = append(later.Writes, e.Socket)
		if e.File != "-" {
			later.Writes = append(later.Writes, e.File)
		}
	}
	if s := d.cfg.Sync; s != nil {
		later.Writes = append(later.Writes, s.Ready.File)
		if s.Cluster != nil {
			for _, k := range s.Cluster.Keys {
				later.Reads = append(later.Reads, k.File)
			}
		}
		for _, l := range s.Links {
			later.Ports = append(later.Ports, l.Port)
		}
	}
	return later
}

// confine enters the sandbox. Everything is open by now.
func (d *daemon) confine(ctx context.Context) {
	if d.noSandbox {
		return
	}
	if err := sandbox.Enter(d.later()); err != nil {
		text := strings.ReplaceAll(err.Error(), "\n", "; ")
		d.log.Log(ctx, daemonlog.LevelNotice, "the sandbox is not complete: "+text)
	}
}

func startMessage(parent *daemonize.Parent) string {
	if parent != nil {
		return "-- starting in daemon mode --"
	}
	return "-- starting in console mode --"
}

func mainPID(parent *daemonize.Parent) int {
	if parent != nil {
		return parent.PID
	}
	return os.Getpid()
}

// notifySystemd notifies systemd that the daemon is ready and, if it has a watchdog, that the
// node still answers.
func (d *daemon) notifySystemd(ctx context.Context, beside *sync.WaitGroup, mainPID int) {
	if !d.cfg.General.Systemd {
		return
	}
	period, err := daemonize.WatchdogPeriod(mainPID)
	if err != nil {
		d.log.Warn("failed to get watchdog details from systemd: " + err.Error())
	}
	if err := daemonize.Notify(daemonize.Ready); err != nil {
		d.log.Warn(err.Error())
	}
	if period > 0 {
		beside.Go(func() {
			daemonize.FeedWatchdog(ctx, period, func(ctx context.Context) error {
				_, err := d.node.Status(ctx)
				return err
			})
		})
	}
}
