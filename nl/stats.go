package nl

import "context"

// CPUStats are the counters of one CPU: attribute n is Value[n], present when
// bit n of Has is set (enum ctattr_stats_cpu, ctattr_expect_stats).
type CPUStats struct {
	CPU   uint16
	Has   uint32
	Value [maxStats]uint32
}

const maxStats = 20

// DumpStats reads the counters of every CPU: of flows with TypeFlowStatsCPU, of
// expectations with TypeExpectStatsCPU.
func (c *Conn) DumpStats(ctx context.Context, typ Type, each func(*CPUStats) error) error {
	_, err := c.Dump(ctx, Dump{Type: typ}, func(m *Message) error {
		s := CPUStats{CPU: m.ResID}
		a := attrs{rest: m.Attrs}
		for a.next() {
			if int(a.typ) >= maxStats {
				continue
			}
			if len(a.val) < 4 {
				return a.short("statistics")
			}
			s.Value[a.typ] = be.Uint32(a.val)
			s.Has |= 1 << a.typ
		}
		if err := a.end("statistics"); err != nil {
			return err
		}
		return each(&s)
	})
	return err
}

// Count returns the number of flows in the table of this network namespace, and
// its limit, 0 on kernels that don't tell.
func (c *Conn) Count(ctx context.Context) (entries, limit uint32, err error) {
	err = c.Do(ctx, Request{Type: TypeFlowStats}, func(m *Message) error {
		return decodeU32s(m.Attrs, "statistics", &entries, &limit)
	})
	return entries, limit, err
}
