package conntrackd

import (
	"log/slog"
	"sync"

	"ctbox/applets/conntrackd/logging"
	"ctbox/conf"
)

// flowLog is the log of ended flows, if there is one at the moment.
type flowLog struct {
	mu  sync.Mutex
	log *logging.FlowLog // nil without
}

// with calls f with the log, if there is one.
func (l *flowLog) with(f func(*logging.FlowLog)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log != nil {
		f(l.log)
	}
}

// use puts another log, or nil, in the place of the one there is, which is closed
// when its lines are written.
func (l *flowLog) use(log *logging.FlowLog) {
	l.mu.Lock()
	before := l.log
	l.log = log
	l.mu.Unlock()
	if before != nil {
		before.Close()
	}
}

// openFlowLog opens the log of a Stats clause; nil if it asks for none.
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
