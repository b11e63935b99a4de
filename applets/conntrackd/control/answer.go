package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
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
}

// commit commits tables. It fails if the commit could not start or did not finish. Single
// entries that could not be committed are only a Remark: cluster managers undo a takeover whose
// commit fails, which does more harm than one lost flow.
//
// The text is for a client of ctbox (q.outcome): conntrack-tools' -c prints nothing.
func (s *Server) commit(ctx context.Context, q *question, selector owner.Selector, tables cache.Tables, w *writer) error {
	r, err := s.Node.Commit(ctx, tables, selector)
	switch {
	case errors.Is(err, node.ErrUnsupported):
		// There is nothing to commit, with DisableExternalCache for example. Failover
		// scripts commit in every configuration, and for them this is a success.
		return nil
	case err != nil:
		return err
	case q.Request&AsJSON != 0:
		if feature.JSON {
			w.buf = report.AppendCommitJSON(w.buf, &r)
		}
	case q.outcome():
		w.buf = report.AppendTaken(w.buf, &r)
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

// selector returns the selector of a question, or why the daemon refuses it.
func (s *Server) selector(q *question) (owner.Selector, error) {
	selection, err := parseSelection(q.selection)
	selector := selection.Selector
	switch {
	case err != nil:
		return selector, err
	case q.selected && !q.IsCommit() && !(selection.OnlyOwner() && q.TakesOwner()):
		return selector, errors.New("the daemon does not know this request with a selection")
	case selection.Owner != "":
		number, ok := s.Node.NodeNumber(selection.Owner)
		if !ok {
			return selector, errors.New("--owner: " + selection.Owner + " is no peer of this node. " + s.peers())
		}
		selector.Node = number
	}
	return selector, nil
}

// peers says which peers --owner can name.
func (s *Server) peers() string {
	var names []string
	if s.Peers != nil {
		names = s.Peers()
	}
	if len(names) == 0 {
		return "Its configuration has no Cluster clause, which names them"
	}
	return "Its peers are: " + strings.Join(names, ", ")
}

// answer carries out a request and writes its text. The error, for example for a request that
// the mode does not support, reaches the client only if the question has an outcome.
func (s *Server) answer(ctx context.Context, q *question, w *writer) error {
	r := q.Request
	json := r&AsJSON != 0
	if json && !feature.JSON {
		s.counters.unknown.Add(1)
		return errUnknown
	}
	selector, err := s.selector(q)
	if err != nil {
		return err
	}
	if d, ok := dumps[r]; ok {
		return s.dump(ctx, d, selector.Node, w)
	}
	if tables := commits[r&^(WithOutcome|AsJSON)]; tables != 0 && (!json || r&WithOutcome != 0) {
		return s.commit(ctx, q, selector, tables, w)
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

// dump writes the entries of a cache: those that the peer of number owner owns, or all if owner is
// 0.
func (s *Server) dump(ctx context.Context, d DumpOf, owner uint8, w *writer) error {
	entries := report.EntryWriter{Format: formats[d.Form], Now: time.Now()}
	return s.Node.Dump(ctx, d.Cache, d.Table, owner, func(e *node.Entry) error {
		w.buf = entries.Append(w.buf, e)
		return w.full()
	})
}
