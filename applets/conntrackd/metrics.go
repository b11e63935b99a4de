package conntrackd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"ctbox/applets/conntrackd/control"
	"ctbox/applets/conntrackd/exposition"
	"ctbox/applets/conntrackd/report"
	"ctbox/internal/feature"
)

// metrics is the HTTP server of the Metrics clause, if there is one at the moment.
type metrics struct {
	server  exposition.Server
	serving sync.WaitGroup

	mu       sync.Mutex
	ctx      context.Context    // of the daemon; nil before serve
	listener *net.TCPListener   // nil without
	end      context.CancelFunc // of its serving; nil before
}

// listenMetrics opens the socket; nil if the configuration has none.
func listenMetrics(at netip.AddrPort) (*net.TCPListener, error) {
	if !at.IsValid() {
		return nil, nil
	}
	if !feature.Metrics {
		return nil, errors.New("can't serve metrics: this ctbox was built without them")
	}
	l, err := exposition.Listen(at)
	if err != nil {
		return nil, fmt.Errorf("can't serve metrics: %w", err)
	}
	return l, nil
}

// open opens the socket that is served later.
func (m *metrics) open(at netip.AddrPort) error {
	l, err := listenMetrics(at)
	if err == nil {
		m.use(l)
	}
	return err
}

// serve answers scrapes until ctx ends, beside the caller, with what the node of s
// and the daemon have counted.
func (m *metrics) serve(ctx context.Context, s *control.Server, log *slog.Logger) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctx = ctx
	if !feature.Metrics {
		return
	}
	m.server.Log = log
	m.server.Metrics = func(ctx context.Context, openMetrics bool) ([]byte, error) {
		status, err := s.Node.Status(ctx)
		if err != nil {
			return nil, err
		}
		local := s.Local()
		format := report.PrometheusText
		if openMetrics {
			format = report.OpenMetrics
		}
		return report.AppendMetrics(nil, &status, &local, format), nil
	}
	m.begin()
}

// use puts another socket, or nil, in the place of the one there is, which is closed.
func (m *metrics) use(l *net.TCPListener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.end != nil {
		m.end() // before the socket is closed, which is then no error
	}
	if m.listener != nil {
		m.listener.Close()
	}
	m.listener, m.end = l, nil
	if m.ctx != nil {
		m.begin()
	}
}

// begin serves the socket that there is.
func (m *metrics) begin() {
	if !feature.Metrics || m.listener == nil {
		return
	}
	ctx, end := context.WithCancel(m.ctx)
	l := m.listener
	m.end = end
	m.serving.Go(func() {
		if err := m.server.Serve(ctx, l); err != nil && ctx.Err() == nil {
			m.server.Log.Error("metrics: " + err.Error())
		}
	})
}

// wait returns when nobody is served any more, after the end of serve's ctx.
func (m *metrics) wait() { m.serving.Wait() }
