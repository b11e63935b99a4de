package conntrack

import (
	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// get prints the one flow that the tuple names, if it also passes as a filter.
func (s *session) get(c *Command) (uint64, error) {
	conn, err := s.ask()
	if err != nil {
		return 0, err
	}
	var got ctnetlink.Flow
	if err := ctnetlink.Get(s.brief(), conn, wanted(&c.Flow), &got); err != nil {
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
func wanted(f *ctnetlink.Flow) *ctnetlink.Flow {
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
	conn, err := s.ask()
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
		return 0, s.refused(c, err)
	}
	return p.entries, p.finish()
}
