package node

import (
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
)

// expectEvent handles one event of an expectation.
func (n *Node) expectEvent(m *nl.Message) {
	e := &n.expect
	from := foreign
	if m.PortID != 0 {
		from = n.own[m.PortID]
	}
	if from == ownInjector {
		return
	}
	if err := e.Decode(m.Attrs); err != nil {
		n.kernel.FailedEvents++
		return
	}
	if n.bypass {
		n.bypassExpect(m, from)
		return
	}
	table := n.internal.expects
	if ctnetlink.IsDelete(m) {
		n.recordExpectEnd(e)
		if h := table.Find(e); h != 0 {
			n.goneExpect(h, from == foreign)
		}
		return
	}
	if !n.wantsExpect(e) {
		return
	}
	put := table.Put
	if ctnetlink.IsNew(m) {
		n.recordExpectBegin(e)
		put = table.Replace
	}
	n.expectSeen(e, from, put)
}

func (n *Node) expectSeen(e *ctnetlink.Expect, from origin, put func(*ctnetlink.Expect, time.Duration) (cache.Handle, cache.Outcome)) {
	n.makeRoom(n.internal.expects)
	h, outcome := put(e, n.sched.Now())
	n.queueExpect(h, stored(outcome), from == foreign)
}

// wantsExpect reports whether an expectation is replicated: its helper must be among the
// configured ones (refusals are counted), and its master's flow must be cached.
func (n *Node) wantsExpect(e *ctnetlink.Expect) bool {
	if !n.filter.passesExpect(e) {
		n.kernel.Filtered++
		return false
	}
	if n.bypass {
		return true
	}
	return n.internal.flows.FindTuple(&e.Master, e.Zone) != 0
}
