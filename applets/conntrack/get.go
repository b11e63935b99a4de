package conntrack

import (
	"golang.org/x/sys/unix"

	"ctbox/nl"
)

// get prints the one flow that the tuple names, if it also passes as a filter.
func (s *session) get(c *Command) (uint64, error) {
	conn, err := s.ask()
	if err != nil {
		return 0, err
	}
	var got nl.Flow
	if err := conn.Get(s.ctx, wanted(&c.Flow), &got); err != nil {
		return 0, s.refused(c, err)
	}
	p := newPrinter(s.out, c)
	if newFilter(c).match(&got) {
		if err := p.flow(&got, nil); err != nil {
			return 0, err
		}
	}
	return p.entries, p.finish()
}

// wanted is the request that looks up a flow: by its original tuple if that is
// there, else by the reply. The kernel takes no other condition.
func wanted(f *nl.Flow) *nl.Flow {
	w := &nl.Flow{}
	if f.Orig.Has&nl.TupleAddrs == nl.TupleAddrs {
		w.Orig = f.Orig
	} else {
		w.Reply = f.Reply
	}
	w.Zone = f.Zone
	w.Has = f.Has & nl.HasZone
	return w
}

// getExpect prints the expectation of the expected tuple.
func (s *session) getExpect(c *Command) (uint64, error) {
	conn, err := s.ask()
	if err != nil {
		return 0, err
	}
	p := newPrinter(s.out, c)
	var x nl.Expect
	r := nl.Request{Type: nl.TypeExpectGet, Family: c.Family, Expect: &nl.Expect{Tuple: c.Expect.Tuple}}
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
		return 0, s.refused(c, err)
	}
	return p.entries, p.finish()
}
