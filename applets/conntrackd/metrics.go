package conntrackd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"ctbox/applets/conntrackd/control"
	"ctbox/applets/conntrackd/metrics"
	"ctbox/applets/conntrackd/report"
	"ctbox/internal/feature"
	"ctbox/internal/listen"
)

// metricsServer runs the HTTP server of the Metrics clause. A reload can start, move and
// stop it.
type metricsServer struct {
	server  metrics.Server
	serving sync.WaitGroup

	mu       sync.Mutex
	ctx      context.Context    // of the daemon; nil before serve
	listener *listen.Listener   // nil without the clause
	end      context.CancelFunc // stops serving listener; nil if it is not served
}

// listenMetrics opens the socket; it returns nil if the configuration has none.
func listenMetrics(at netip.AddrPort) (*listen.Listener, error) {
	if !at.IsValid() {
		return nil, nil
	}
	if !feature.Metrics {
		return nil, errors.New("can't serve metrics: this ctbox was built without them")
	}
	l, err := metrics.Listen(at)
	if err != nil {
		return nil, fmt.Errorf("can't serve metrics: %w", err)
	}
	return l, nil
}

// open opens the socket. serve starts to answer on it.
func (m *metricsServer) open(at netip.AddrPort) error {
	l, err := listenMetrics(at)
	if err == nil {
		m.use(l)
	}
	return err
}

// serve starts to answer scrapes with the counters of the node of s and of the daemon. It
// returns at once; answering ends with ctx.
func (m *metricsServer) serve(ctx context.Context, s *control.Server, log *slog.Logger) {
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

// use replaces the socket by l, which may be nil, and closes the old one.
func (m *metricsServer) use(l *listen.Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.end != nil {
		m.end() // first, so that closing the socket is not an error
	}
	if m.listener != nil {
		m.listener.Close()
	}
	m.listener, m.end = l, nil
	if m.ctx != nil {
		m.begin()
	}
}

// begin starts to serve the current socket.
func (m *metricsServer) begin() {
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

// wait waits until all clients are answered, after the context of serve has ended.
func (m *metricsServer) wait() { m.serving.Wait() }
