package commit

import (
	"slices"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
)

// Source is one copy that a commit reads: what the peer with a number has announced.
type Source struct {
	Node uint8 // the peer's number in the Cluster; 0 without one
	Side cache.Side
}

// Selection is what a commit takes. The Committer reads the copies in slices with the lock held.
type Selection struct {
	// Sources are the copies, in the order in which they are read. nil says that the node has no
	// external cache, so that there is nothing to commit (ErrUnsupported). Without
	// Sources that is not nil, which every peer's keeping its flows leads to, a commit takes
	// nothing and succeeds.
	Sources []Source
	// By is the condition that Wants checks, for comparison: two Selections with equal Sources
	// and By select the same.
	By owner.Selector
	// Wants reports whether flow h of a node's copy is committed; nil for all. A flow that
	// is wanted in several copies is committed once for each: the last one stays. Wants is called
	// with the lock held, once for each flow, and again for masters of expectations in zones.
	Wants func(node uint8, h cache.Handle, f *ctnetlink.Flow) bool
	// WantsExpect is Wants for expectations.
	WantsExpect func(node uint8, x *ctnetlink.Expect) bool
	// Taken and Kept say whose flows the commit takes, and which nodes keep theirs. They are for
	// the Result.
	Taken []Taken
	Kept  []string
}

// Taken is a node whose flows a commit takes, and the state of its copy when the commit began.
type Taken struct {
	Node     uint8
	Name     string
	Heard    time.Duration // since the last message of the node; less than 0: there was none
	Holes    int           // ranges of its stream that are missing
	Proven   bool          // the copy was found equal to the node's own cache once
	Equal    time.Duration // since that was so, if Proven
	Unproven uint64        // changes since then, which no comparison has confirmed
	// Flows is how many flows of the copy were chosen. It includes those that the kernel
	// refused. The Committer counts them.
	Flows uint64
	// InKernel says that the flows are in the kernel already (HotStandby). Flows does not count them.
	InKernel bool
}

// same reports whether both select the same.
func (s *Selection) same(o *Selection) bool {
	return s.By == o.By && slices.Equal(s.Sources, o.Sources)
}
