package conntrack

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/internal/feature"
	"ctbox/internal/netns"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// list prints the flows of a table that match.
func (s *session) list(c *Command) (uint64, error) {
	p := newPrinter(s.out, c)
	filter := s.newFilter(c)
	warned := false
	err := s.dump(c, func(f *ctnetlink.Flow) error {
		if !filter.match(f) {
			return nil
		}
		if p.style.Format == format.Save && !knownFamily(f) {
			if !warned {
				s.warn("WARNING: unsupported l3proto %d, skipping.", f.Family())
				warned = true
			}
			return nil
		}
		s.predicates.countFlow(f)
		p.updateTime()
		return p.flow(f, nil)
	})
	if err != nil {
		return p.entries, err
	}
	return p.entries, p.finish()
}

// knownFamily reports whether a command line can name the flow's addresses.
func knownFamily(f *ctnetlink.Flow) bool {
	family := f.Family()
	return family == nl.FamilyIPv4 || family == nl.FamilyIPv6
}

// dumpTypes are the requests that read the conntrack tables.
var dumpTypes = [...]nl.Type{
	TableConntrack:   ctnetlink.TypeFlowGet,
	TableDying:       ctnetlink.TypeFlowGetDying,
	TableUnconfirmed: ctnetlink.TypeFlowGetUnconfirmed,
}

// dump calls each for the flows of c's table that match, and for those of the others
// that the kernel cannot filter.
func (s *session) dump(c *Command, each func(*ctnetlink.Flow) error) error {
	interrupted, err := s.dumpOnce(c, each)
	if interrupted {
		s.warn("WARNING: the table changed while it was read; flows may be missing or doubled.")
	}
	return err
}

// dumpOnce is dump without the warning: it returns whether the table changed meanwhile.
func (s *session) dumpOnce(c *Command, each func(*ctnetlink.Flow) error) (interrupted bool, err error) {
	if done, err := s.candidates(c, each); done {
		return false, err
	}
	conn, err := s.requestConn()
	if err != nil {
		return false, err
	}
	if c.Op != OpUpdate && c.Has(OptStatus) && c.Flow.StatusMask == 0 {
		// A mask without bits is no condition. Some kernels refuse it, older ones
		// ignore it.
		return false, &refusal{op: c.Op, table: c.Table, err: unix.EINVAL, hint: "the status list names no status"}
	}
	d := ctnetlink.Dump{Type: dumpTypes[c.Table], Family: c.Family}
	switch {
	case c.Table != TableConntrack: // whose counters -z leaves alone
	case c.Has(OptZero):
		d.Type = ctnetlink.TypeFlowGetZero
	default:
		d.Filter, d.FilterTuples = kernelFilter(c)
		if feature.Match && s.predicates != nil && d.Filter == nil && d.Family == nl.FamilyUnspec {
			d = s.predicates.matcher.Dump()
		}
	}
	begun := false
	read := func() error {
		info, err := ctnetlink.DumpFlows(s.ctx, conn, d, func(f *ctnetlink.Flow) error {
			begun = true
			return each(f)
		})
		interrupted = interrupted || err == nil && info.Interrupted
		return err
	}
	err = read()
	if d.FilterTuples && !begun && isErrno(err, unix.EINVAL, unix.EOPNOTSUPP) {
		// This kernel can't compare the tuple, such as an ICMP type that has no reply
		// type. The filter compares it anyway.
		d.FilterTuples = false
		d.Filter.Orig, d.Filter.Reply = ctnetlink.Tuple{}, ctnetlink.Tuple{}
		err = read()
	}
	return interrupted, s.explain(c, err)
}

// listExpects prints the expectations of a family.
func (s *session) listExpects(c *Command) (uint64, error) {
	p := newPrinter(s.out, c)
	e := format.Event{}
	err := s.dumpExpects(c, func(x *ctnetlink.Expect) error {
		if p.style.Timestamp {
			e.Time = time.Now().UnixNano()
		}
		return p.expect(x, &e)
	})
	if err != nil {
		return p.entries, err
	}
	return p.entries, p.finish()
}

func (s *session) dumpExpects(c *Command, each func(*ctnetlink.Expect) error) error {
	conn, err := s.requestConn()
	if err != nil {
		return err
	}
	var x ctnetlink.Expect
	info, err := conn.Dump(s.ctx, ctnetlink.Dump{Type: ctnetlink.TypeExpectGet, Family: c.Family}.Request(), func(m *nl.Message) error {
		if err := x.Decode(m.Attrs); err != nil {
			return err
		}
		return each(&x)
	})
	if err == nil && info.Interrupted {
		s.warn("WARNING: the table changed while it was read; expectations may be missing or doubled.")
	}
	return s.explain(c, err)
}

// get prints the flow with the command's tuple, if the other conditions match, too.
func (s *session) get(c *Command) (uint64, error) {
	conn, err := s.requestConn()
	if err != nil {
		return 0, err
	}
	var got ctnetlink.Flow
	if err := ctnetlink.Get(s.uncancelled(), conn, lookup(&c.Flow), &got); err != nil {
		return 0, s.explain(c, err)
	}
	p := newPrinter(s.out, c)
	if newFilter(c).match(&got) {
		if err := p.flow(&got, nil); err != nil {
			return 0, err
		}
	}
	return p.entries, p.finish()
}

// lookup returns the request that looks f up: by its original tuple if that is complete,
// else by the reply. The kernel accepts no other condition.
func lookup(f *ctnetlink.Flow) *ctnetlink.Flow {
	w := &ctnetlink.Flow{}
	if f.Orig.Has&ctnetlink.TupleAddrs == ctnetlink.TupleAddrs {
		w.Orig = f.Orig
	} else {
		w.Reply = f.Reply
	}
	w.Zone = f.Zone
	w.Has = f.Has & ctnetlink.HasZone
	return w
}

// getExpect prints the expectation of the expected tuple.
func (s *session) getExpect(c *Command) (uint64, error) {
	conn, err := s.requestConn()
	if err != nil {
		return 0, err
	}
	p := newPrinter(s.out, c)
	var x ctnetlink.Expect
	r := nl.Request{Type: ctnetlink.TypeExpectGet, Family: c.Family, Attrs: (&ctnetlink.Expect{Tuple: c.Expect.Tuple}).Append}
	err = conn.Do(s.ctx, r, func(m *nl.Message) error {
		if err := x.Decode(m.Attrs); err != nil {
			return err
		}
		return p.expect(&x, nil)
	})
	if err == nil && p.entries == 0 {
		err = &nl.Error{Errno: unix.ENOENT}
	}
	if err != nil {
		return 0, s.explain(c, err)
	}
	return p.entries, p.finish()
}

// countKey is what --by counts by.
type countKey uint8

const (
	byZone countKey = iota
	byNetNS
)

// countKeys are the words of --by.
var countKeys = [...]string{byZone: "zone", byNetNS: "netns"}

// count prints the number of entries of a table.
func (s *session) count(c *Command) (uint64, error) {
	table := "conntrack"
	if c.Table == TableExpect {
		table = "expect"
	}
	json := feature.JSON && c.Output&OutJSON != 0
	switch {
	case feature.AllNetNS && c.Has(OptBy) && c.By == byNetNS:
		return s.countNamespaces(c, table, json)
	case feature.AllNetNS && c.Has(OptBy):
		return s.countZones(c, table, json)
	}
	n, err := s.entries(c)
	if err != nil || c.Has(OptCountEach) {
		return n, err
	}
	if feature.JSON && json {
		s.out.buf = format.AppendCountJSON(s.out.buf, table, n)
	} else {
		s.out.buf = strconv.AppendUint(s.out.buf, n, 10)
	}
	s.out.buf = append(s.out.buf, '\n')
	return n, s.out.sync()
}

// entries returns the number of entries of c's table, with --match of those that match.
func (s *session) entries(c *Command) (n uint64, err error) {
	switch {
	case c.Table == TableExpect:
		err = s.dumpExpects(c, func(*ctnetlink.Expect) error { n++; return nil })
		return n, err
	case feature.Match && s.predicates != nil:
		err = s.eachMatch(c, func(*ctnetlink.Flow) { n++ })
		return n, err
	}
	conn, err := s.requestConn()
	if err != nil {
		return 0, err
	}
	entries, _, err := ctnetlink.Count(s.uncancelled(), conn)
	return uint64(entries), s.explain(c, err)
}

// eachMatch calls each for the flows that -C counts: all, or with --match those that match.
func (s *session) eachMatch(c *Command, each func(*ctnetlink.Flow)) error {
	filter := s.newFilter(c)
	return s.dump(c, func(f *ctnetlink.Flow) error {
		if !feature.Match || s.predicates == nil {
			each(f)
		} else if filter.match(f) {
			s.predicates.countFlow(f)
			each(f)
		}
		return nil
	})
}

// countZones prints the number of entries of each zone that has any, in the order of the
// zones. A flow whose directions have different zones is in that of the original one.
func (s *session) countZones(c *Command, table string, json bool) (total uint64, err error) {
	zones := make([]uint64, 1<<16)
	if c.Table == TableExpect {
		err = s.dumpExpects(c, func(x *ctnetlink.Expect) error {
			zones[orZero(x.Has&ctnetlink.ExpectHasZone != 0, x.Zone)]++
			return nil
		})
	} else {
		all := *c
		all.Family = nl.FamilyUnspec
		err = s.eachMatch(&all, func(f *ctnetlink.Flow) { zones[flowZone(f)]++ })
	}
	if err != nil {
		return 0, err
	}
	for zone, n := range zones {
		if n == 0 {
			continue
		}
		total += n
		if feature.JSON && json {
			s.out.buf = format.AppendZoneCountJSON(s.out.buf, table, uint16(zone), n)
		} else {
			s.out.buf = strconv.AppendUint(s.out.buf, n, 10)
			s.out.buf = strconv.AppendUint(append(s.out.buf, " zone="...), uint64(zone), 10)
		}
		s.out.buf = append(s.out.buf, '\n')
	}
	return total, s.out.sync()
}

// flowZone returns the zone that the original direction of a flow is in.
func flowZone(f *ctnetlink.Flow) uint16 {
	switch {
	case f.Has&ctnetlink.HasZone != 0:
		return f.Zone
	case f.Orig.Has&ctnetlink.TupleZone != 0:
		return f.Orig.Zone
	}
	return 0
}

// countNamespaces prints the number of entries of the own network namespace and of each
// that has a name. What cannot be counted is an error, after the others are printed.
func (s *session) countNamespaces(c *Command, table string, json bool) (total uint64, err error) {
	all, failed := netns.Named()
	defer func() {
		for _, ns := range all {
			ns.Close()
		}
	}()
	if !slices.ContainsFunc(all, (*netns.Namespace).IsOwn) {
		all = append([]*netns.Namespace{nil}, all...)
	}
	for _, ns := range all {
		in := &session{ctx: s.ctx, stderr: s.stderr, netns: ns, predicates: s.predicates}
		n, err := in.entries(c)
		in.closeConns()
		if err != nil {
			return total, err
		}
		total += n
		if feature.JSON && json {
			s.out.buf = format.AppendNetNSCountJSON(s.out.buf, table, ns.Name(), n)
		} else {
			s.out.buf = strconv.AppendUint(s.out.buf, n, 10)
			s.out.buf = format.AppendNetNS(s.out.buf, ns.Name())
		}
		s.out.buf = append(s.out.buf, '\n')
	}
	if err := s.out.sync(); err != nil {
		return total, err
	}
	return total, namespaceError(failed)
}

// namespaceError returns the error of the first of the network namespaces that could not
// be opened, and the number of the others, or nil.
func namespaceError(failed map[string]error) error {
	first := ""
	for name := range failed {
		if first == "" || name < first {
			first = name
		}
	}
	switch len(failed) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("network namespace %s: %w", first, failed[first])
	}
	return fmt.Errorf("network namespace %s: %w (and %d others)", first, failed[first], len(failed)-1)
}

// Names of the counters by attribute number (enum ctattr_stats_cpu and
// ctattr_expect_stats).
var (
	flowCounters = []string{1: "searched", "found", "new", "invalid", "ignore", "delete", "delete_list",
		"insert", "insert_failed", "drop", "early_drop", "error", "search_restart", "clash_resolve",
		"chaintoolong", "unknown1", "unknown2", "unknown3", "unknown4"}
	expectCounters = []string{1: "expect_new", "expect_create", "expect_delete"}
)

// stats prints the counters of each CPU.
func (s *session) stats(c *Command) error {
	conn, err := s.requestConn()
	if err != nil {
		return err
	}
	typ, names := ctnetlink.TypeFlowStatsCPU, flowCounters
	if c.Table == TableExpect {
		typ, names = ctnetlink.TypeExpectStatsCPU, expectCounters
	}
	var present []format.Counter
	err = ctnetlink.DumpStats(s.ctx, conn, typ, func(cpu *ctnetlink.CPUStats) error {
		present = present[:0]
		for n, name := range names {
			if n < len(cpu.Value) && cpu.Has&(1<<n) != 0 && name != "" {
				present = append(present, format.Counter{Name: name, Value: uint64(cpu.Value[n])})
			}
		}
		if feature.JSON && c.Output&OutJSON != 0 {
			s.out.buf = format.AppendStatsJSON(s.out.buf, uint(cpu.CPU), present)
		} else {
			s.out.buf = appendStats(s.out.buf, cpu.CPU, present)
		}
		s.out.buf = append(s.out.buf, '\n')
		return s.out.next()
	})
	if err != nil {
		return s.explain(c, err)
	}
	return s.out.sync()
}

// appendStats appends the CPU's number in four columns, a tab, and each counter followed
// by a space.
func appendStats(dst []byte, cpu uint16, counters []format.Counter) []byte {
	dst = append(dst, "cpu="...)
	start := len(dst)
	dst = strconv.AppendUint(dst, uint64(cpu), 10)
	for len(dst) < start+4 {
		dst = append(dst, ' ')
	}
	dst = append(dst, '\t')
	for _, c := range counters {
		dst = append(append(dst, c.Name...), '=')
		dst = append(strconv.AppendUint(dst, c.Value, 10), ' ')
	}
	return dst
}
