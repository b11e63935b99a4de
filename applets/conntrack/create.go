package conntrack

import (
	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// create makes one flow or expectation, or with -A updates a flow that exists.
func (s *session) create(c *Command) (uint64, error) {
	conn, err := s.ask()
	if err != nil {
		return 0, err
	}
	r, err := createRequest(c)
	if err != nil {
		return 0, err
	}
	r.Attrs = c.Flow.Append
	if c.Table == TableExpect {
		r.Attrs = c.Expect.Append
	}
	err = conn.Do(s.brief(), r, nil)
	if err != nil && c.Table == TableConntrack {
		err = s.updateExisting(c, &c.Flow, err)
	}
	if err != nil {
		return 0, s.refused(c, err)
	}
	if c.Table == TableConntrack {
		s.checkStored(c, "")
	}
	return 1, nil
}

// createRequest is what -I and -A ask of the kernel, but for the attributes: the caller
// adds c.Flow.Append or c.Expect.Append, which costs an allocation when it is returned
// from a function.
func createRequest(c *Command) (nl.Request, error) {
	if c.Table == TableExpect {
		return nl.Request{Type: ctnetlink.TypeExpectNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: c.Family}, nil
	}
	if c.LabelsAdd.Beyond {
		return nl.Request{}, errLabelBeyond(c)
	}
	if c.Has(OptLabelAdd) {
		c.Flow.Labels, c.Flow.LabelsLen = c.LabelsAdd.Bits, ctnetlink.LabelWords
		c.Flow.Has |= ctnetlink.HasLabels
	}
	r := nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE, Family: c.Family}
	if c.Op == OpCreate {
		r.Flags |= unix.NLM_F_EXCL
	}
	return r, nil
}

// errLabelBeyond is the kernel's answer to a label that it has no bit for.
func errLabelBeyond(c *Command) error {
	return &refusal{op: c.Op, table: c.Table, err: unix.ERANGE}
}
