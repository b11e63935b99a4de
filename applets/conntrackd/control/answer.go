package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ctbox/applets/conntrackd/report"
	"ctbox/internal/feature"
	"ctbox/nl/format"
	"ctbox/sync/cache"
	"ctbox/sync/node"
	"ctbox/sync/owner"
)

// errUnknown is the error for an unknown number. The connection is closed without an answer,
// as conntrack-tools does, so that a client can tell an old daemon from a refusal.
var errUnknown = errors.New("unknown request")

// commands are the requests that print nothing.
var commands = map[Request]func(context.Context, Node) error{
	FlushKernelFlows:   func(ctx context.Context, n Node) error { return n.FlushKernel(ctx, cache.FlowTable) },
	FlushKernelExpects: func(ctx context.Context, n Node) error { return n.FlushKernel(ctx, cache.ExpectTable) },
	FlushKernelAll:     func(ctx context.Context, n Node) error { return n.FlushKernel(ctx, cache.FlowTable|cache.ExpectTable) },
	RefillFlows:        func(ctx context.Context, n Node) error { return n.Refill(ctx, cache.FlowTable) },
	RefillExpects:      func(ctx context.Context, n Node) error { return n.Refill(ctx, cache.ExpectTable) },
	RefillAll:          func(ctx context.Context, n Node) error { return n.Refill(ctx, cache.FlowTable|cache.ExpectTable) },
	FlushInternal:      func(ctx context.Context, n Node) error { return n.Flush(ctx, node.Internal) },
	FlushExternal:      func(ctx context.Context, n Node) error { return n.Flush(ctx, node.External) },
	FlushCaches:        func(ctx context.Context, n Node) error { return n.Flush(ctx, node.Internal|node.External) },
	FlushFlowCaches:    func(ctx context.Context, n Node) error { return n.Flush(ctx, node.Internal|node.External) },
	Bulk:               func(ctx context.Context, n Node) error { return n.Bulk(ctx) },
	Resync:             func(ctx context.Context, n Node) error { return n.RequestResync(ctx) },
	SchedulePurge:      func(ctx context.Context, n Node) error { return n.SchedulePurge(ctx) },
	CommitFlows:        commitAnswer(cache.FlowTable),
	CommitExpects:      commitAnswer(cache.ExpectTable),
	CommitAll:          commitAnswer(cache.FlowTable | cache.ExpectTable),
}

// commitAnswer returns a command that commits tables. It fails if the commit could not start or
// did not finish. Single entries that could not be committed are only a Remark: cluster
// managers undo a takeover whose commit fails, which does more harm than one lost flow.
func commitAnswer(tables cache.Tables) func(context.Context, Node) error {
	return func(ctx context.Context, n Node) error {
		r, err := n.Commit(ctx, tables, owner.Selector{})
		switch {
		case errors.Is(err, node.ErrUnsupported):
			// There is nothing to commit, with DisableExternalCache for example. Failover
			// scripts commit in every configuration, and for them this is a success.
			return nil
		case err != nil:
			return err
		}
		text := ""
		if failed := r.Failed(); failed > 0 {
			text = fmt.Sprintf("%d of %d entries can't be committed\n", failed, failed+r.Flows.Committed+r.Expects.Committed)
			for _, refused := range r.Refused {
				text += refused.Reason + ": " + refused.Entry + "\n"
			}
			if more := failed - min(failed, uint64(len(r.Refused))); more > 0 {
				text += fmt.Sprintf("the log names %d more\n", more)
			}
		}
		if r.Missing > 0 {
			text += fmt.Sprintf("%d events of the peer were lost and not yet made up\n", r.Missing)
		}
		if text == "" {
			return nil
		}
		return Remark(text)
	}
}

// stats is a request that prints statistics.
type stats struct {
	in    func(*node.Status) bool // reports whether this mode has them
	text  func(dst []byte, status *node.Status, local *report.Local) []byte
	parts report.Section // of the JSON form
}

func inSync(s *node.Status) bool      { return s.Mode.Sync() }
func withTable(s *node.Status) bool   { return s.Mode != node.ModeNone }
func withExpects(s *node.Status) bool { return s.ExpectationSync }
func always(*node.Status) bool        { return true }

// ofNode adapts a text that depends only on the node's status.
func ofNode(text func([]byte, *node.Status) []byte) func([]byte, *node.Status, *report.Local) []byte {
	return func(dst []byte, status *node.Status, _ *report.Local) []byte { return text(dst, status) }
}

func summary(t cache.Tables) func([]byte, *node.Status, *report.Local) []byte {
	return func(dst []byte, status *node.Status, _ *report.Local) []byte {
		return report.AppendSummary(dst, status, t)
	}
}

// statistics are the requests that print statistics, and the modes that answer them.
var statistics = map[Request]stats{
	StatsFlows:   {withTable, summary(cache.FlowTable), report.All},
	StatsExpects: {withExpects, summary(cache.ExpectTable), report.All},
	StatsCache:   {withTable, ofNode(report.AppendCaches), report.SectionCache},
	StatsNetwork: {inSync, ofNode(report.AppendNetwork), report.SectionNetwork},
	StatsLink:    {inSync, ofNode(report.AppendLinks), report.SectionLink},
	StatsQueue:   {inSync, ofNode(report.AppendQueues), report.SectionQueue},
	StatsRuntime: {always, report.AppendRuntime, report.SectionRuntime},
	StatsHelpers &^ WithOutcome: {always, func(dst []byte, _ *node.Status, local *report.Local) []byte {
		return report.AppendHelpers(dst, local.Helpers)
	}, report.SectionHelpers},
	StatsExport &^ WithOutcome: {always, func(dst []byte, _ *node.Status, local *report.Local) []byte {
		return report.AppendExports(dst, local.Exports)
	}, report.SectionExports},
	StatsPeers &^ WithOutcome: {inSync, ofNode(report.AppendReady), report.SectionPeers},
	StatsProcess: {always, func(dst []byte, status *node.Status, _ *report.Local) []byte {
		return report.AppendTasks(dst, status, os.Getpid())
	}, report.SectionTasks},
}

// answer carries out a request and writes its text. The error, for example for a request that
// the mode does not support, reaches the client only if the request has WithOutcome.
func (s *Server) answer(ctx context.Context, r Request, w *writer) error {
	json := r&AsJSON != 0
	if json && !feature.JSON {
		s.counters.unknown.Add(1)
		return errUnknown
	}
	if d, ok := dumps[r]; ok {
		return s.dump(ctx, d, w)
	}
	if maxLag, ok := r.lag(); ok {
		return s.inSync(ctx, maxLag)
	}
	number := r &^ (WithOutcome | AsJSON)
	if number >= firstOfOurs && r&WithOutcome == 0 {
		s.counters.unknown.Add(1)
		return errUnknown
	}
	if do, ok := commands[number]; ok && !json {
		return do(ctx, s.Node)
	}
	if st, ok := statistics[number]; ok {
		status, err := s.Node.Status(ctx)
		switch {
		case err != nil:
			return err
		case json && feature.JSON:
			local := s.Local()
			w.buf = report.AppendStatusJSON(w.buf, &status, &local, st.parts)
		case !st.in(&status):
			return node.ErrUnsupported
		default:
			local := s.Local()
			w.buf = st.text(w.buf, &status, &local)
		}
		return nil
	}
	switch number {
	case StatsResendQueue:
		queue, err := s.Node.ResendQueue(ctx)
		if err != nil {
			return err
		}
		if json && feature.JSON {
			w.buf = report.AppendResendQueueJSON(w.buf, queue)
		} else {
			w.buf = report.AppendResendQueue(w.buf, queue)
		}
		return nil
	case Reload &^ WithOutcome:
		if r == Reload && s.Reload != nil {
			text, err := s.Reload(ctx)
			w.buf = append(w.buf, text...)
			return err
		}
	case Metrics &^ WithOutcome:
		if feature.Metrics && r == Metrics {
			status, err := s.Node.Status(ctx)
			if err != nil {
				return err
			}
			local := s.Local()
			w.buf = report.AppendMetrics(w.buf, &status, &local, report.PrometheusText)
			return nil
		}
	}
	s.counters.unknown.Add(1)
	return errUnknown
}

// inSync returns what the node lacks to be in sync as an error.
func (s *Server) inSync(ctx context.Context, maxLag time.Duration) error {
	r, err := s.Node.Ready(ctx, maxLag)
	switch {
	case err != nil:
		return err
	case !r.InSync:
		return errors.New("not in sync: " + r.Why)
	}
	return nil
}

var formats = [...]format.Format{Text: format.Text, XML: format.XML, JSON: format.JSON}

func (s *Server) dump(ctx context.Context, d DumpOf, w *writer) error {
	entries := report.EntryWriter{Format: formats[d.Form], Now: time.Now()}
	return s.Node.Dump(ctx, d.Cache, d.Table, 0, func(e *node.Entry) error {
		w.buf = entries.Append(w.buf, e)
		return w.full()
	})
}
