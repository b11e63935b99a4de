package ctnetlink

import (
	"context"
	"ctbox/nl"
)

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
func DumpStats(ctx context.Context, c *nl.Conn, typ nl.Type, each func(*CPUStats) error) error {
	_, err := c.Dump(ctx, nl.Dump{Type: typ}, func(m *nl.Message) error {
		s := CPUStats{CPU: m.ResID}
		a := nl.Attrs{Rest: m.Attrs}
		for a.Next() {
			if int(a.Type) >= maxStats {
				continue
			}
			if len(a.Value) < 4 {
				return a.Short("statistics")
			}
			s.Value[a.Type] = be.Uint32(a.Value)
			s.Has |= 1 << a.Type
		}
		if err := a.End("statistics"); err != nil {
			return err
		}
		return each(&s)
	})
	return err
}

// Count returns the number of flows in the table of this network namespace, and
// its limit, 0 on kernels that don't report it.
func Count(ctx context.Context, c *nl.Conn) (entries, limit uint32, err error) {
	err = c.Do(ctx, nl.Request{Type: TypeFlowStats}, func(m *nl.Message) error {
		return decodeU32s(m.Attrs, "statistics", &entries, &limit)
	})
	return entries, limit, err
}
