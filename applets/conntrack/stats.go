package conntrack

import (
	"strconv"

	"ctbox/internal/feature"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// count prints the number of entries of a table.
func (s *session) count(c *Command) error {
	var n uint64
	table := "conntrack"
	if c.Table == TableExpect {
		table = "expect"
		if err := s.dumpExpects(c, func(*ctnetlink.Expect) error { n++; return nil }); err != nil {
			return err
		}
	} else {
		conn, err := s.ask()
		if err != nil {
			return err
		}
		entries, _, err := ctnetlink.Count(s.brief(), conn)
		if err != nil {
			return s.refused(c, err)
		}
		n = uint64(entries)
	}
	if feature.JSON && c.Output&OutJSON != 0 {
		s.out.buf = format.AppendCountJSON(s.out.buf, table, n)
	} else {
		s.out.buf = strconv.AppendUint(s.out.buf, n, 10)
	}
	s.out.buf = append(s.out.buf, '\n')
	return s.out.sync()
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
	conn, err := s.ask()
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
		return s.refused(c, err)
	}
	return s.out.sync()
}

// appendStats writes the CPU's number in a column of four and a tab, and each
// counter followed by a space.
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
