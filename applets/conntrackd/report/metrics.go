package report

import (
	"strconv"
	"time"

	"ctbox/internal/version"
	"ctbox/sync/node"
)

// MetricsFormat is a text format of metrics.
type MetricsFormat uint8

const (
	// PrometheusText is Prometheus' text format 0.0.4, which every consumer reads.
	PrometheusText MetricsFormat = iota
	// OpenMetrics is OpenMetrics 1.0.
	OpenMetrics
)

// AppendMetrics appends the metrics in a format. Names, labels and meanings are a
// promise and the same in both formats; docs/metrics.md lists them, and a test
// compares that list with the table of families.
func AppendMetrics(dst []byte, s *node.Status, l *Local, format MetricsFormat) []byte {
	m := metricsWriter{dst: dst, format: format}
	table := families()
	for i := range table {
		f := &table[i]
		m.family = f
		m.started = false
		f.samples(&m, s, l)
	}
	if format == OpenMetrics {
		m.dst = append(m.dst, "# EOF\n"...)
	}
	return m.dst
}

// family is a metric: its name without suffix, its type, and what it counts.
// A family without samples in this mode is left out altogether.
type family struct {
	name    string
	typ     string // "counter", "gauge" or "info"
	unit    string // "seconds" or "bytes", which the name then ends in
	help    string
	samples func(m *metricsWriter, s *node.Status, l *Local)
}

type metricsWriter struct {
	dst     []byte
	format  MetricsFormat
	family  *family
	started bool
}

// suffix returns what the name of a sample has behind that of its family.
func (f *family) suffix() string {
	switch f.typ {
	case "counter":
		return "_total"
	case "info":
		return "_info"
	}
	return ""
}

// head appends the metadata in front of a family's first sample, and the sample's
// name and labels (pairs of name and value). Metadata names the family in
// OpenMetrics and the sample in the Prometheus format, which has neither units nor
// the type info.
func (m *metricsWriter) head(labels []string) {
	f := m.family
	if !m.started {
		m.started = true
		switch m.format {
		case OpenMetrics:
			m.line("# TYPE ", f.name, "", f.typ)
			if f.unit != "" {
				m.line("# UNIT ", f.name, "", f.unit)
			}
			m.line("# HELP ", f.name, "", f.help)
		default:
			typ := f.typ
			if typ == "info" {
				typ = "gauge"
			}
			m.line("# HELP ", f.name, f.suffix(), f.help)
			m.line("# TYPE ", f.name, f.suffix(), typ)
		}
	}
	m.dst = append(append(m.dst, f.name...), f.suffix()...)
	for i := 0; i < len(labels); i += 2 {
		m.dst = append(m.dst, ",{"[b2i(i == 0)])
		m.dst = append(append(m.dst, labels[i]...), `="`...)
		m.dst = append(appendLabelValue(m.dst, labels[i+1]), '"')
	}
	if len(labels) > 0 {
		m.dst = append(m.dst, '}')
	}
	m.dst = append(m.dst, ' ')
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *metricsWriter) line(kind, name, suffix, rest string) {
	m.dst = append(append(append(m.dst, kind...), name...), suffix...)
	m.dst = append(append(append(m.dst, ' '), rest...), '\n')
}

func appendLabelValue(dst []byte, v string) []byte {
	for _, c := range []byte(v) {
		switch c {
		case '\\', '"':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

func (m *metricsWriter) uint(n uint64, labels ...string) {
	m.head(labels)
	m.dst = append(strconv.AppendUint(m.dst, n, 10), '\n')
}

func (m *metricsWriter) bool(b bool, labels ...string) { m.uint(uint64(b2i(b)), labels...) }

func (m *metricsWriter) seconds(d time.Duration, labels ...string) {
	m.head(labels)
	m.dst = append(appendSeconds(m.dst, d), '\n')
}

// labeledTable is a table with the labels that its samples have.
type labeledTable struct {
	kind   node.CacheKind
	t      *node.TableStatus
	labels []string
}

// tables are the tables that this mode has.
func tables(s *node.Status) []labeledTable {
	var all []labeledTable
	internal, external := cacheNames(s.Mode)
	for _, c := range [...]struct {
		name   string
		status *node.CacheStatus
	}{{internal, &s.Internal}, {external, &s.External}} {
		if c.status.Kind == node.CacheAbsent {
			continue
		}
		all = append(all, labeledTable{c.status.Kind, &c.status.Flows, []string{"cache", c.name, "table", "flows"}})
		if s.ExpectationSync {
			all = append(all, labeledTable{c.status.Kind, &c.status.Expects, []string{"cache", c.name, "table", "expectations"}})
		}
	}
	return all
}

// ofTables makes the samples of one number of the cached tables.
func ofTables(n func(*node.TableStatus) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		for _, t := range tables(s) {
			if t.kind == node.CacheStored {
				m.uint(n(t.t), t.labels...)
			}
		}
	}
}

// ofLinks makes samples for each link.
func ofLinks(sample func(m *metricsWriter, l *node.LinkStatus, labels []string)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		for i := range s.Links {
			k := &s.Links[i]
			// The link's number makes the labels differ where two links share an
			// interface. The capacity is cut for the appends of sample.
			labels := []string{"link", strconv.Itoa(i + 1), "interface", k.Interface, "transport", transportNames[k.Transport]}
			sample(m, k, labels[:len(labels):len(labels)])
		}
	}
}

// ofDirections makes samples for each link and direction.
func ofDirections(n func(*directionCounters) uint64) func(*metricsWriter, *node.Status, *Local) {
	return ofLinks(func(m *metricsWriter, l *node.LinkStatus, labels []string) {
		for _, c := range linkCounters(l) {
			m.uint(n(&c), append(labels, "direction", c.direction)...)
		}
	})
}

// ofPeers makes a sample for each peer.
func ofPeers(sample func(m *metricsWriter, p *node.PeerStatus, peer string)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		for i := range s.Peers {
			sample(m, &s.Peers[i], s.Peers[i].Addr.Addr().String())
		}
	}
}

// ofQueues makes a sample for each queue.
func ofQueues(sample func(m *metricsWriter, q *node.QueueStatus)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		for i := range s.Queues.Queues {
			sample(m, &s.Queues.Queues[i])
		}
	}
}

// always is a number that every daemon has, inSync one of replication only.
func always(n func(*node.Status, *Local) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, l *Local) { m.uint(n(s, l)) }
}

func inSync(n func(*node.Status) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Mode.Sync() {
			m.uint(n(s))
		}
	}
}

// ofKernel is a number of a daemon that follows the kernel's tables.
func ofKernel(n func(*node.KernelStatus) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Mode != node.ModeNone {
			m.uint(n(&s.Kernel))
		}
	}
}

// ofHelpers is a number of a daemon that runs helpers.
func ofHelpers(n func(*Helpers) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, _ *node.Status, l *Local) {
		if l.Helpers != nil {
			m.uint(n(l.Helpers))
		}
	}
}

// ofTraffic is a number of the traffic of such a daemon.
func ofTraffic(n func(*node.Traffic) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Mode != node.ModeNone {
			m.uint(n(&s.Traffic))
		}
	}
}

// lastCommit makes samples of the last commit, if there was one.
func lastCommit(sample func(m *metricsWriter, c *node.CommitsStatus)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Commits.Count > 0 {
			sample(m, &s.Commits)
		}
	}
}

// info is the one sample whose value says nothing.
func info(m *metricsWriter, s *node.Status, _ *Local) {
	m.uint(1, "version", version.Number, "mode", modeNames[s.Mode])
}
