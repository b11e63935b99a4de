package report

import (
	"strconv"
	"time"

	"ctbox/internal/export"
	"ctbox/internal/feature"
	"ctbox/internal/version"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/follow"
	"ctbox/sync/node"
	"ctbox/sync/replicate"
)

// MetricsFormat is a text format of metrics.
type MetricsFormat uint8

const (
	// PrometheusText is Prometheus' text format 0.0.4, which every consumer reads.
	PrometheusText MetricsFormat = iota
	// OpenMetrics is OpenMetrics 1.0.
	OpenMetrics
)

// AppendMetrics appends the metrics in a format. Names, labels and meanings are stable and
// the same in both formats; docs/metrics.md lists them, and a test compares the list with
// the table of families.
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

// family is a metric: its name without suffix, its type, and what it counts. A family
// without samples in the current mode is omitted.
type family struct {
	name    string
	typ     string // "counter", "gauge" or "info"
	unit    string // "seconds" or "bytes", with which the name ends, or ""
	help    string
	samples func(m *metricsWriter, s *node.Status, l *Local)
}

type metricsWriter struct {
	dst     []byte
	format  MetricsFormat
	family  *family
	started bool
}

// suffix returns what the name of a sample appends to that of its family.
func (f *family) suffix() string {
	switch f.typ {
	case "counter":
		return "_total"
	case "info":
		return "_info"
	}
	return ""
}

// head appends the family's metadata before its first sample, then the sample's name and
// labels (pairs of name and value). Metadata names the family in OpenMetrics and the sample
// in the Prometheus format, which has neither units nor the type info.
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

func (m *metricsWriter) number(n uint64, labels ...string) {
	m.head(labels)
	m.dst = append(strconv.AppendUint(m.dst, n, 10), '\n')
}

func (m *metricsWriter) flag(b bool, labels ...string) { m.number(uint64(b2i(b)), labels...) }

func (m *metricsWriter) seconds(d time.Duration, labels ...string) {
	m.head(labels)
	m.dst = append(appendSeconds(m.dst, d), '\n')
}

// labeledTable is a table with the labels of its samples.
type labeledTable struct {
	kind   node.CacheKind
	t      *cache.TableStatus
	labels []string
}

// tables returns the tables of the daemon's mode.
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

// ofTables returns a function that writes a sample for each cached table.
func ofTables(n func(*cache.TableStatus) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		for _, t := range tables(s) {
			if t.kind == node.CacheStored {
				m.number(n(t.t), t.labels...)
			}
		}
	}
}

// ofLinks returns a function that writes samples for each link.
func ofLinks(sample func(m *metricsWriter, l *replicate.LinkStatus, labels []string)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		for i := range s.Links {
			k := &s.Links[i]
			// The link's number keeps the labels unique if two links share an interface.
			// The capacity is limited so that append in sample copies.
			labels := []string{"link", strconv.Itoa(i + 1), "interface", k.Interface, "transport", transportNames[k.Transport]}
			sample(m, k, labels[:len(labels):len(labels)])
		}
	}
}

// ofDirections returns a function that writes a sample for each link and direction.
func ofDirections(n func(*directionCounters) uint64) func(*metricsWriter, *node.Status, *Local) {
	return ofLinks(func(m *metricsWriter, l *replicate.LinkStatus, labels []string) {
		for _, c := range linkCounters(l) {
			m.number(n(&c), append(labels, "direction", c.direction)...)
		}
	})
}

// ofPeers returns a function that writes a sample for each peer.
func ofPeers(sample func(m *metricsWriter, p *replicate.PeerStatus, peer string)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		for i := range s.Peers {
			sample(m, &s.Peers[i], s.Peers[i].Addr.Addr().String())
		}
	}
}

// ofCluster returns a function that writes samples of version 2.
func ofCluster(sample func(m *metricsWriter, c *replicate.ClusterStatus)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Cluster.Version != 0 {
			sample(m, &s.Cluster)
		}
	}
}

// ofMembers returns a function that writes a sample for each peer of version 2.
func ofMembers(sample func(m *metricsWriter, p *replicate.MemberStatus)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		eachMember(s, func(p *replicate.MemberStatus) { sample(m, p) })
	}
}

// eachMember calls do once for each peer of version 2, which may have several addresses.
func eachMember(s *node.Status, do func(*replicate.MemberStatus)) {
	var seen uint32
	for i := range s.Peers {
		if m := s.Peers[i].Member; m != nil && seen&(1<<m.Node) == 0 {
			seen |= 1 << m.Node
			do(m)
		}
	}
}

// ofQueues returns a function that writes a sample for each queue.
func ofQueues(sample func(m *metricsWriter, q *replicate.QueueStatus)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		for i := range s.Queues.Queues {
			sample(m, &s.Queues.Queues[i])
		}
	}
}

// always returns a function that writes a sample in every mode; inSync only if the daemon
// replicates.
func always(n func(*node.Status, *Local) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, l *Local) { m.number(n(s, l)) }
}

func inSync(n func(*node.Status) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Mode.Sync() {
			m.number(n(s))
		}
	}
}

// ofKernel returns a function that writes a sample if the daemon follows the kernel's
// tables.
func ofKernel(n func(*node.KernelStatus) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Mode != node.ModeNone {
			m.number(n(&s.Kernel))
		}
	}
}

// ofHelpers returns a function that writes a sample if the daemon runs helpers.
func ofHelpers(n func(*Helpers) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, _ *node.Status, l *Local) {
		if l.Helpers != nil {
			m.number(n(l.Helpers))
		}
	}
}

// ofExports returns a function that writes a sample for each exporter.
func ofExports(n func(*export.Status) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, _ *node.Status, l *Local) {
		if !feature.Export {
			return
		}
		for i := range l.Exports {
			// The number keeps the labels unique if two exporters have one destination.
			m.number(n(&l.Exports[i]), "export", strconv.Itoa(i+1), "name", l.Exports[i].Name)
		}
	}
}

// ofTraffic returns a function that writes a sample of the traffic if the daemon follows the
// kernel's tables.
func ofTraffic(n func(*follow.Traffic) uint64) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Mode != node.ModeNone {
			m.number(n(&s.Traffic))
		}
	}
}

// lastCommit returns a function that writes samples of the last commit, if there was one.
func lastCommit(sample func(m *metricsWriter, c *commit.Status)) func(*metricsWriter, *node.Status, *Local) {
	return func(m *metricsWriter, s *node.Status, _ *Local) {
		if s.Commits.Count > 0 {
			sample(m, &s.Commits)
		}
	}
}

// info writes a sample whose value is always 1: its labels are the information.
func info(m *metricsWriter, s *node.Status, _ *Local) {
	m.number(1, "version", version.Number, "mode", modeNames[s.Mode])
}
