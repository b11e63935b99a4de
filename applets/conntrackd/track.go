package conntrackd

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"ctbox/applets/conntrackd/daemonize"
	"ctbox/applets/conntrackd/trackfile"
	"ctbox/conf"
	"ctbox/sync/node"
)

// tracker tells keepalived by a file, and systemd by the service's status, whether this node
// may take over.
type tracker struct {
	mu     sync.Mutex
	file   *trackfile.File // nil without one
	weight int
	may    bool // the node may take over
	ended  bool

	status     string // what systemd has, and what it was made of
	notified   node.Readiness
	notifiedAt time.Time
}

// trackPeriod is how often the tracker asks the node and looks at the file.
const trackPeriod = 500 * time.Millisecond

// begin writes that the node may not take over: it has no flows yet. The file's directory is
// made if it is missing.
func (t *tracker) begin(cfg *conf.Config, log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file, t.weight = trackFile(cfg, log); t.file == nil {
		return
	}
	if err := t.file.MakeDir(); err != nil {
		log.Error("cannot make the directory of File " + t.file.Path() + ": " + err.Error())
	}
	t.write()
}

// trackFile returns the file of the configuration, nil for none, and what it counts.
func trackFile(cfg *conf.Config, log *slog.Logger) (*trackfile.File, int) {
	if cfg.Sync == nil || cfg.Sync.Ready.File == "" {
		return nil, 0
	}
	r := &cfg.Sync.Ready
	return trackfile.New(r.File, log), int(r.Weight)
}

// write writes the present value; an error is logged, and the next call tries again. The
// caller holds mu.
func (t *tracker) write() {
	if t.file == nil {
		return
	}
	_ = t.file.Set(value(t.may, t.weight))
}

// value is the content of a file for keepalived.
func value(may bool, weight int) int {
	if may {
		return 0
	}
	return -weight
}

// end writes that the node may not take over any more. Nothing is written after it.
func (t *tracker) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.may = false
		t.write()
		t.ended = true
	}
}

// set records what the node says.
func (t *tracker) set(r *node.Readiness, systemd bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.may = r.Promotable
	t.write()
	if systemd {
		t.notify(r)
	}
}

// statusPeriod is the least time between two states of the service that differ in a reason
// only, which may have the time that something has lasted.
const statusPeriod = 10 * time.Second

// notify sets the status of the systemd service.
func (t *tracker) notify(r *node.Readiness) {
	status := "may take over: " + r.Reason
	if !r.Promotable {
		status = "may not take over: " + r.Reason
	}
	if status == t.status || r.Promotable == t.notified.Promotable && r.InSync == t.notified.InSync && time.Since(t.notifiedAt) < statusPeriod {
		return
	}
	if daemonize.Notify("STATUS="+status) == nil {
		t.status, t.notified, t.notifiedAt = status, *r, time.Now()
	}
}

// follow keeps the file and the status until ctx ends.
func (t *tracker) follow(ctx context.Context, n runner, systemd bool) {
	ticker := time.NewTicker(trackPeriod)
	defer ticker.Stop()
	defer t.end()
	for {
		if r, err := n.Ready(ctx, 0); err == nil {
			t.set(&r, systemd)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// track prepares the file of a new configuration. A former file keeps its last value:
// keepalived may still track it.
func (r *reloader) track(cfg *conf.Config) (change, error) {
	if cfg.Sync == nil || cfg.Sync.Ready == r.cfg.Sync.Ready {
		return change{}, nil
	}
	t := &r.daemon.track
	file, weight := trackFile(cfg, r.daemon.log)
	t.mu.Lock()
	defer t.mu.Unlock()
	if file != nil && t.file != nil && file.Path() == t.file.Path() {
		file = t.file
	} else if file != nil {
		if err := file.Set(value(t.may, weight)); err != nil {
			return change{}, err
		}
	}
	return change{use: func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.file, t.weight = file, weight
		t.write()
	}}, nil
}
