package conntrackd

import (
	"fmt"
	"log/slog"
	"sync"

	"ctbox/applets/conntrackd/logging"
	"ctbox/conf"
	"ctbox/internal/strerror"
)

// openLogs opens the daemon's own log and the log of ended flows.
func (d *daemon) openLogs() error {
	g := &d.cfg.General
	if err := d.console.Open(destinations(g)); err != nil {
		return logfileError(g.LogFile, err)
	}
	flows, err := openFlowLog(d.cfg.Stats, d.log)
	d.flows.use(flows)
	return err
}

// destinations returns the destinations of the daemon's own log.
func destinations(g *conf.General) logging.Destinations {
	return logging.Destinations{File: g.LogFile, Syslog: uint8(g.Syslog), Format: g.LogFormat}
}

func logfileError(name string, err error) error {
	return fmt.Errorf("ERROR: can't open logfile `%s'.Reason: %s", name, strerror.Of(err))
}

func (d *daemon) closeLogs() {
	d.flows.use(nil)
	d.console.Close()
}

// flowLog is the log of ended flows. A reload can open, replace and close it.
type flowLog struct {
	mu  sync.Mutex
	log *logging.FlowLog // nil without
}

// with calls f with the log, if one is open.
func (l *flowLog) with(f func(*logging.FlowLog)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log != nil {
		f(l.log)
	}
}

// use replaces the log by another one or nil, and closes the old one after its lines are
// written.
func (l *flowLog) use(log *logging.FlowLog) {
	l.mu.Lock()
	before := l.log
	l.log = log
	l.mu.Unlock()
	if before != nil {
		before.Close()
	}
}

// openFlowLog opens the log of a Stats clause. It returns nil if the clause has no log.
func openFlowLog(s *conf.Stats, log *slog.Logger) (*logging.FlowLog, error) {
	if s == nil || s.LogFile == "" && s.Syslog == conf.FacilityOff {
		return nil, nil
	}
	flows, err := logging.OpenFlowLog(s.LogFile, uint8(s.Syslog), log)
	if err != nil {
		return nil, logfileError(s.LogFile, err)
	}
	return flows, nil
}
