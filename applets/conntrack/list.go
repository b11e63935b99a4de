package conntrack

import (
	"time"

	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// list prints the flows of a table that match.
func (s *session) list(c *Command) (uint64, error) {
	p := newPrinter(s.out, c)
	filter := newFilter(c)
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
		p.clock()
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

// dump hands over the flows of c's table, at least those that match: the
// kernel leaves out of the others what it can.
func (s *session) dump(c *Command, each func(*ctnetlink.Flow) error) error {
	interrupted, err := s.dumpOnce(c, each)
	if interrupted {
		s.warn("WARNING: the table changed while it was read; flows may be missing or doubled.")
	}
	return err
}

// dumpOnce is dump, and tells its caller whether the table changed meanwhile.
func (s *session) dumpOnce(c *Command, each func(*ctnetlink.Flow) error) (interrupted bool, err error) {
	conn, err := s.ask()
	if err != nil {
		return false, err
	}
	if c.Op != OpUpdate && c.Has(OptStatus) && c.Flow.StatusMask == 0 {
		// No bit to look at is no condition. The kernel would refuse it, and an
		// older one would take it for none at all.
		return false, &refusal{op: c.Op, table: c.Table, err: unix.EINVAL, hint: "the status list names no status"}
	}
	d := ctnetlink.Dump{Type: dumpTypes[c.Table], Family: c.Family}
	switch {
	case c.Table != TableConntrack: // whose counters -z leaves alone
	case c.Has(OptZero):
		d.Type = ctnetlink.TypeFlowGetZero
	default:
		d.Filter, d.FilterTuples = kernelFilter(c)
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
		// A tuple that this kernel can't compare, such as an ICMP type without
		// an answer. It is compared here anyway.
		d.FilterTuples = false
		d.Filter.Orig, d.Filter.Reply = ctnetlink.Tuple{}, ctnetlink.Tuple{}
		err = read()
	}
	return interrupted, s.refused(c, err)
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
	conn, err := s.ask()
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
	return s.refused(c, err)
}
