//go:build !no_cluster

package replicate

import (
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
)

// announces reports whether a flow that was stored in the internal cache is to be announced.
func (c *cluster) announces(h cache.Handle, f *ctnetlink.Flow, why owner.Why) bool {
	if c == nil || c.book == nil {
		return why != owner.Silent
	}
	return c.book.Stored(c.sched.Now(), h, f, why)
}
