package conntrackd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"ctbox/applets/conntrackd/daemonize"
	"ctbox/applets/conntrackd/logging"
	"ctbox/conf"
	"ctbox/internal/daemonlog"
)

// reloader changes the configuration of a running daemon, on SIGHUP and on
// `conntrackd --reload`. It applies all changes of the new file or none: steps that can fail
// are prepared before anything changes.
type reloader struct {
	daemon *daemon
	file   string // absolute: the daemon works in /

	mu  sync.Mutex
	cfg *conf.Config // in force; guarded by mu
}

// begin records the configuration at the start.
func (r *reloader) begin(d *daemon, file string) (err error) {
	r.daemon, r.cfg = d, d.cfg
	r.file, err = filepath.Abs(file)
	return err
}

// onHangup reopens the log files and reloads on each SIGHUP, until ctx ends.
func (r *reloader) onHangup(ctx context.Context) {
	d := r.daemon
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.hangup:
			d.console.Reopen()
			d.flows.with((*logging.FlowLog).Reopen)
			d.exports.reopen()
			r.run(ctx)
		}
	}
}

// errNotReloaded is the last line about a file that was rejected.
var errNotReloaded = errors.New("the configuration stays as it was")

// run reloads and logs the result. It returns the same lines for the client, and an error if
// the new configuration was rejected.
func (r *reloader) run(ctx context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.daemon
	if d.cfg.General.Systemd {
		daemonize.Notify(daemonize.Reloading())
		defer daemonize.Notify(daemonize.Ready)
	}
	changed, refused := r.reload(ctx)
	var lines strings.Builder
	for _, err := range refused {
		d.log.Error("reload: " + err.Error())
		lines.WriteString(err.Error() + "\n")
	}
	if len(refused) > 0 {
		d.log.Error("reload: " + errNotReloaded.Error())
		return lines.String(), errNotReloaded
	}
	text := "nothing has changed in " + r.file
	if hasKeys(r.cfg) {
		text += ", and its key files were read again"
	}
	if len(changed) > 0 {
		text = "reloaded " + r.file + ", changed: " + strings.Join(changed, ", ")
	}
	d.log.Log(ctx, daemonlog.LevelNotice, text)
	return text + "\n", nil
}

// reload returns the clauses that have changed, or the reasons why the file was rejected.
func (r *reloader) reload(ctx context.Context) (changed []string, refused []error) {
	cfg, warnings, err := conf.Load(r.file)
	for _, w := range warnings {
		if w.When <= conf.AtStart {
			r.daemon.log.Warn(w.LogText())
		}
	}
	if err != nil {
		return nil, []error{loadError(r.file, err)}
	}
	for _, c := range r.cfg.Changes(cfg) {
		if !c.Live {
			refused = append(refused, errors.New(c.String()))
		} else if !slices.Contains(changed, c.Path) {
			changed = append(changed, c.Path)
		}
	}
	if len(refused) > 0 || len(changed) == 0 && !hasKeys(cfg) {
		return nil, refused
	}
	if err := r.apply(ctx, cfg); err != nil {
		return nil, []error{err}
	}
	return changed, nil
}

// hasKeys reports whether a configuration names key files, which may have changed when it has
// not.
func hasKeys(cfg *conf.Config) bool {
	return cfg.Sync != nil && cfg.Sync.Cluster != nil && len(cfg.Sync.Cluster.Keys) > 0
}

// peers returns the names of the Cluster's peers, nil without that clause.
func (r *reloader) peers() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cfg.Sync == nil || r.cfg.Sync.Cluster == nil {
		return nil
	}
	for i := range r.cfg.Sync.Cluster.Peers {
		names = append(names, r.cfg.Sync.Cluster.Peers[i].Name)
	}
	return names
}

// change is a prepared part of a new configuration.
type change struct {
	use  func() // applies it
	drop func() // undoes the preparation
}

// apply applies cfg.
func (r *reloader) apply(ctx context.Context, cfg *conf.Config) error {
	var prepared []change
	for _, prepare := range []func(*conf.Config) (change, error){r.console, r.flows, r.metrics, r.exports, r.track} {
		c, err := prepare(cfg)
		if err == nil {
			prepared = append(prepared, c)
			continue
		}
		drop(prepared)
		return err
	}
	if err := r.daemon.node.Reconfigure(ctx, cfg); err != nil {
		drop(prepared)
		return fmt.Errorf("%s: %w", r.file, err)
	}
	for _, c := range prepared {
		if c.use != nil {
			c.use()
		}
	}
	r.daemon.limitMemory(cfg)
	r.cfg = cfg
	return nil
}

func drop(prepared []change) {
	for _, c := range prepared {
		if c.drop != nil {
			c.drop()
		}
	}
}

// console prepares the daemon's own log.
func (r *reloader) console(cfg *conf.Config) (change, error) {
	to := destinations(&cfg.General)
	if to == destinations(&r.cfg.General) {
		return change{}, nil
	}
	p, err := logging.Prepare(to)
	if err != nil {
		return change{}, logfileError(to.File, err)
	}
	return change{use: func() { r.daemon.console.Use(p) }, drop: p.Close}, nil
}

// flows prepares the log of ended flows.
func (r *reloader) flows(cfg *conf.Config) (change, error) {
	if cfg.Stats == nil || *cfg.Stats == *r.cfg.Stats {
		return change{}, nil
	}
	log, err := openFlowLog(cfg.Stats, r.daemon.log)
	if err != nil {
		return change{}, err
	}
	c := change{use: func() { r.daemon.flows.use(log) }}
	if log != nil {
		c.drop = log.Close
	}
	return c, nil
}

// metrics prepares the socket of the metrics.
func (r *reloader) metrics(cfg *conf.Config) (change, error) {
	at := cfg.General.MetricsListen
	if at == r.cfg.General.MetricsListen {
		return change{}, nil
	}
	l, err := listenMetrics(at)
	if err != nil {
		return change{}, err
	}
	c := change{use: func() { r.daemon.metrics.use(l) }}
	if l != nil {
		c.drop = func() { l.Close() }
	}
	return c, nil
}
