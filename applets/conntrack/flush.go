package conntrack

import (
	"fmt"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// flush empties a table, or with -f one family's part of the conntrack table.
func (s *session) flush(c *Command) error {
	what, r := "connection tracking table", nl.Request{Type: ctnetlink.TypeFlowDelete}
	if c.Table == TableExpect {
		what, r.Type = "expectation table", ctnetlink.TypeExpectDelete
	}
	if c.Table == TableConntrack && c.Has(OptFamily) {
		// Whether the kernel respects the family of a flush depends on its
		// version, and one that doesn't empties everything.
		if _, err := s.deleteMatching(c, nil); err != nil {
			return err
		}
	} else {
		conn, err := s.ask()
		if err != nil {
			return err
		}
		if err := conn.Do(s.ctx, r, nil); err != nil {
			return s.refused(c, err)
		}
	}
	_, err := fmt.Fprintf(s.stderr, "%s%s has been emptied.\n", messagePrefix, what)
	return err
}
