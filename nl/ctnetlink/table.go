package ctnetlink

import (
	"context"

	"ctbox/nl"

	"golang.org/x/sys/unix"
)

// Dump describes which of the kernel's tables to read, and which entries.
type Dump struct {
	Type   nl.Type // TypeFlowGet, TypeFlowGetZero, TypeFlowGetDying, TypeExpectGet …
	Family uint8   // nl.FamilyUnspec for all

	// Filter lets the kernel leave flows out: mark with mask, status with mask,
	// zone, and with FilterTuples the present fields of the tuples. Kernels
	// ignore what they don't know (the zone before 6.8, tuples before 5.8) and
	// IPv6 addresses are not compared, so the receiver must check again.
	// FilterTuples needs a Family.
	Filter       *Flow
	FilterTuples bool
}

// Request is the dump for nl.Conn.Dump, which hands over undecoded messages.
func (d Dump) Request() nl.Dump {
	r := nl.Dump{Type: d.Type, Family: d.Family}
	if d.Filter != nil {
		r.Attrs = func(dst []byte) []byte {
			dst = d.Filter.Append(dst)
			if d.FilterTuples {
				dst = d.Filter.appendFilter(dst)
			}
			return dst
		}
	}
	return r
}

// DumpFlows reads a table of flows. The Flow is reused: it is valid until each
// returns. An error of each ends the dump and is returned; the Conn must then be
// closed.
func DumpFlows(ctx context.Context, c *nl.Conn, d Dump, each func(*Flow) error) (nl.DumpInfo, error) {
	var f Flow
	return c.Dump(ctx, d.Request(), func(m *nl.Message) error {
		if err := f.Decode(m.Attrs); err != nil {
			return err
		}
		return each(&f)
	})
}

// Get asks for the flow that the tuples and zone of want name and decodes the
// answer into got. An absent flow is an *nl.Error with ENOENT.
func Get(ctx context.Context, c *nl.Conn, want, got *Flow) error {
	found := false
	err := c.Do(ctx, nl.Request{Type: TypeFlowGet, Family: want.Family(), Attrs: want.Append}, func(m *nl.Message) error {
		found = true
		return got.Decode(m.Attrs)
	})
	if err == nil && !found {
		return &nl.Error{Errno: unix.ENOENT}
	}
	return err
}

// IsExpect reports whether m is about an expectation.
func IsExpect(m *nl.Message) bool { return m.Type>>8 == subsysExpect }

// IsDelete reports whether m is the end of a flow or expectation.
func IsDelete(m *nl.Message) bool { return m.Type == TypeFlowDelete || m.Type == TypeExpectDelete }

// IsNew reports whether an event announces a new flow or expectation rather than a
// change of a known one.
func IsNew(m *nl.Message) bool {
	return !IsDelete(m) && m.Flags&(unix.NLM_F_CREATE|unix.NLM_F_EXCL) != 0
}
