package conntrackd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"ctbox/applets/conntrackd/logging"
	"ctbox/conf"
	"ctbox/internal/export"
	"ctbox/internal/feature"
)

// exports runs the exporters of the Export clauses. A reload can start and stop them.
type exports struct {
	running sync.WaitGroup

	mu  sync.Mutex
	ctx context.Context // of the daemon; nil before run
	all []exporter
}

// exporter is a clause and what works for it.
type exporter struct {
	clause *conf.Export
	*export.Exporter
	end context.CancelFunc // nil before run
}

// openExporter opens the exporter of a clause.
func (d *daemon) openExporter(cfg *conf.Config, clause *conf.Export) (exporter, error) {
	problem := clause.Problem()
	if !feature.Export || clause.Format == conf.ExportJSON && !feature.JSON {
		problem = cmp.Or(problem, "this ctbox was built without Export "+clause.Format.String())
	}
	if problem != "" {
		at := cfg.File + ": "
		if pos, ok := cfg.Where(clause); ok {
			at = fmt.Sprintf("%s:%d:%d: ", cfg.File, pos.Line, pos.Col)
		}
		return exporter{}, errors.New(at + problem)
	}
	if !feature.Export {
		return exporter{}, nil
	}
	e, err := export.New(exportOptions(d, clause), &cfg.General, &clause.Filter)
	return exporter{clause: clause, Exporter: e}, err
}

func exportOptions(d *daemon, clause *conf.Export) export.Options {
	return export.Options{
		Format:          clause.Format.String(),
		Destination:     *destinationOf(clause),
		Domain:          clause.Domain,
		Enterprise:      clause.Enterprise,
		TemplateRefresh: clause.TemplateRefresh,
		ActiveTimeout:   clause.ActiveTimeout,
		QueueLimit:      int(clause.QueueLimit),
		Injectors:       d.node.InjectorPorts(),
		OpenFile:        logging.OpenAppend,
		Log:             d.log,
		Choice: export.Choice{
			NAT: clause.Records&conf.ExportNAT != 0, Flow: clause.Records&conf.ExportFlows != 0, WithoutDestinations: !clause.Destinations,
		},
	}
}

// destinationOf returns the destination of a clause that has one.
func destinationOf(clause *conf.Export) *export.Destination {
	d := &export.Destination{File: clause.File, Socket: clause.Socket, TCP: clause.TCP}
	if at, ok := clause.Destination(); ok && clause.Format == conf.ExportIPFIX {
		d.Collector = at
	} else if ok {
		d.Syslog = at
	}
	return d
}

// openExports opens the exporters of a configuration, but takes those of kept whose clause is
// the same.
func (d *daemon) openExports(cfg *conf.Config, kept []exporter) (all, opened []exporter, err error) {
	kept = append([]exporter(nil), kept...)
	for _, clause := range cfg.Exports {
		i := 0
		for i < len(kept) && (kept[i].clause == nil || !kept[i].clause.Equal(clause)) {
			i++
		}
		if i < len(kept) {
			all = append(all, kept[i])
			kept[i].clause = nil
			continue
		}
		e, err := d.openExporter(cfg, clause)
		if err != nil {
			closeExporters(opened)
			return nil, nil, err
		}
		all, opened = append(all, e), append(opened, e)
	}
	return all, opened, nil
}

func closeExporters(all []exporter) {
	if !feature.Export {
		return
	}
	for _, e := range all {
		e.Close()
	}
}

// run starts the exporters. They end with ctx, or when use leaves them out.
func (x *exports) run(ctx context.Context) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ctx = ctx
	x.begin()
}

// use replaces the exporters. Those that are not among all any more end.
func (x *exports) use(all []exporter) {
	if !feature.Export {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, old := range x.all {
		stays := false
		for _, e := range all {
			stays = stays || e.Exporter == old.Exporter
		}
		switch {
		case stays:
		case old.end != nil:
			old.end()
		default:
			old.Close()
		}
	}
	x.all = all
	x.begin()
}

// begin starts the exporters that do not run yet.
func (x *exports) begin() {
	if !feature.Export {
		return
	}
	for i := range x.all {
		e := &x.all[i]
		if x.ctx == nil || e.end != nil {
			continue
		}
		var ctx context.Context
		ctx, e.end = context.WithCancel(x.ctx)
		x.running.Go(func() { e.Run(ctx) })
	}
}

// wait waits until all have ended, after the context of run has.
func (x *exports) wait() { x.running.Wait() }

// reopen opens files again after a rotation.
func (x *exports) reopen() {
	if !feature.Export {
		return
	}
	for _, e := range x.current() {
		e.Reopen()
	}
}

func (x *exports) current() []exporter {
	x.mu.Lock()
	defer x.mu.Unlock()
	return append([]exporter(nil), x.all...)
}

// status returns the counters of all exporters, nil without any.
func (x *exports) status() (all []export.Status) {
	if !feature.Export {
		return nil
	}
	for _, e := range x.current() {
		all = append(all, e.Status())
	}
	return all
}

// exports prepares the exporters.
func (r *reloader) exports(cfg *conf.Config) (change, error) {
	d := r.daemon
	all, opened, err := d.openExports(cfg, d.exports.current())
	if err != nil {
		return change{}, err
	}
	return change{use: func() { d.exports.use(all) }, drop: func() { closeExporters(opened) }}, nil
}
