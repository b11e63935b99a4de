package node

import (
	"errors"
	"fmt"
	"time"

	"ctbox/conf"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/sched"
)

// subscribe joins the kernel's events. The order of its log lines is conntrack-tools'.
func (n *Node) subscribe() error {
	g := &n.cfg.General
	opts := ctnetlink.EventOptions{
		Groups: ctnetlink.AllFlowEvents, Reliable: g.NetlinkEventsReliable, Filter: kernelFilter(g, n.filter),
		Coalesce: coalesce, Arrived: n.eventsArrived,
	}
	if n.expectSync {
		opts.Groups |= ctnetlink.AllExpectEvents
	}
	if opts.Reliable {
		n.notice("reliable ctnetlink event delivery is ENABLED.")
	}
	buffer, said := n.eventBuffer(g)
	opts.Buffer = buffer
	if !g.NetlinkBufferSizeFixed {
		opts.Backlog = min(ctnetlink.DefaultEventBacklog, n.burstBuffer)
	}
	sub, err := ctnetlink.Subscribe(opts)
	if errors.Is(err, ctnetlink.ErrFilterTooLong) {
		n.filterTooLong(err)
		opts.Filter = nil
		sub, err = ctnetlink.Subscribe(opts)
	}
	if err != nil {
		return err
	}
	n.events = sub
	if !sub.CountsDrops() {
		n.atLeast = "at least "
		n.notice("this kernel does not count the events that it drops (Linux 4.12 and later do): each overrun counts as one lost event")
	}
	switch {
	case opts.Filter != nil:
		n.notice("using kernel-space event filtering")
	case g.Filter.Active():
		n.notice("using user-space event filtering")
	}
	if said != "" {
		n.notice(said)
	}
	n.kernel.BufferSize = uint64(sub.Buffer())
	n.notice(fmt.Sprintf("netlink event socket buffer size has been set to %d bytes", sub.Buffer()))
	return nil
}

// kernelFilter returns the filter that the kernel applies to events, nil for none.
func kernelFilter(g *conf.General, filter *filter) *ctnetlink.EventFilter {
	if !g.Filter.Active() || !g.Filter.Kernelspace {
		return nil
	}
	return filter.kernel()
}

// filterEvents replaces the kernel's event filter with the configuration's.
func (n *Node) filterEvents(g *conf.General, filter *filter) error {
	err := n.events.SetFilter(kernelFilter(g, filter))
	if errors.Is(err, ctnetlink.ErrFilterTooLong) {
		n.filterTooLong(err)
		err = n.events.SetFilter(nil)
	}
	return err
}

// filterTooLong logs that the kernel does not filter events. The node filters them in any
// case.
func (n *Node) filterTooLong(err error) {
	n.log.Warn("cannot set event filtering: " + err.Error() + ". Filtering in user space.")
}

// coalesce is how long a busy node lets changes gather: waking up for each change and
// sending it alone costs more than everything else.
const coalesce = 8 * time.Millisecond

// eventsArrived is called by the reader of the events when there are some. If the lock
// is free the reader follows a few runs itself, and leaves the rest to the loop so that it
// can go on reading.
func (n *Node) eventsArrived() {
	n.arrived.Store(true)
	if !n.sched.TryLock() {
		n.sched.Wake()
		return
	}
	for i := 0; n.mayTakeEvents() && i < inlineRuns; i++ {
		if n.takeEvents() != nil {
			n.sched.Wake() // the loop meets the error again, and ends by it
			break
		}
	}
	n.sched.Unlock()
}

// eventSource is the part of the loop that follows the events which their reader has left.
type eventSource struct{ n *Node }

func (s eventSource) Due() time.Duration {
	switch n := s.n; {
	case !n.arrived.Load() || n.following:
		return sched.Never
	case n.linkBusy():
		return n.sched.Now() + heldPoll
	default:
		return n.sched.Now()
	}
}

func (s eventSource) Run() error { return s.n.takeEvents() }

// inlineRuns is how many runs of events their reader follows itself: usually one with
// events and one without.
const inlineRuns = 2

// mayTakeEvents reports whether there are events to follow now. While a run is being
// followed, and its holder lets others have the lock (Yield), nobody begins the next: the
// order of a flow's events matters.
func (n *Node) mayTakeEvents() bool { return n.arrived.Load() && !n.following && !n.linkBusy() }

// takeEvents follows one run of the kernel's events.
func (n *Node) takeEvents() error {
	// Cleared first: what arrives meanwhile sets it again.
	n.arrived.Store(false)
	run, err := n.events.Take(n.taken)
	n.taken = run
	if run == nil || err != nil {
		if err != nil {
			n.arrived.Store(true)
		}
		return err
	}
	n.arrived.Store(true) // there may be more
	// Not run.Dropped: losses behind runs that still wait are announced now, too.
	if dropped := n.events.Dropped(); dropped != n.dropped {
		n.overrun(dropped - n.dropped)
		n.dropped = dropped
	}
	n.following = true
	defer func() { n.following = false }()
	since := uint32(0)
	err = run.Each(func(m *nl.Message, _ time.Time) error {
		n.kernel.Events++
		if ctnetlink.IsExpect(m) {
			n.expectEvent(m)
		} else {
			n.flowEvent(m)
		}
		if since++; since > n.cfg.General.EventIterationLimit {
			since = 0
			n.kernel.LimitReached++
			n.sched.Yield()
		}
		return nil
	})
	if err != nil {
		// The rest of the run can't be read. A reading of the tables makes up for it;
		// replication goes on.
		n.kernel.FailedEvents++
		n.log.Error("read kernel events: " + err.Error())
		n.eventsLost(1)
		n.resyncLater()
	}
	return nil
}

// flowEvent handles one event of a flow.
func (n *Node) flowEvent(m *nl.Message) {
	f := &n.flow
	if m.Type != ctnetlink.TypeFlowNew && m.Type != ctnetlink.TypeFlowDelete {
		n.kernel.UnknownEvents++
		return
	}
	from := n.own[m.PortID]
	if m.PortID == 0 {
		from = foreign
	}
	if from == ownInjector {
		return
	}
	if err := f.Decode(m.Attrs); err != nil {
		n.kernel.FailedEvents++
		return
	}
	gone := ctnetlink.IsDelete(m)
	if why := incomplete(f); why != "" {
		n.kernel.Filtered++
		n.log.Error(why)
		return
	}
	if !n.filter.passes(f, gone) {
		n.kernel.Filtered++
		return
	}
	switch {
	case n.bypass:
		n.bypassEvent(m, from)
	case gone:
		n.flowEnded(f, from == foreign)
	case ctnetlink.IsNew(m):
		n.recordBegin(f)
		f.Has &^= ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply
		n.flowSeen(f, from, n.internal.flows.Replace)
	default:
		f.Has &^= ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply
		n.flowSeen(f, from, n.internal.flows.Put)
	}
}

func (n *Node) flowSeen(f *ctnetlink.Flow, from origin, put func(*ctnetlink.Flow, time.Duration) (cache.Handle, cache.Outcome)) {
	n.makeRoom(n.internal.flows)
	h, outcome := put(f, n.sched.Now())
	if stored(outcome) {
		n.recordChange(h, f)
		n.named(h)
	}
	if from == foreign && (outcome == cache.Created || outcome == cache.Replaced) {
		n.beganHere(h)
	}
	n.queueFlow(h, stored(outcome), from == foreign)
}

// makeRoom frees a slot in a full internal table that a dead object occupies: FT-FW keeps
// dead objects until the peer, which may be away, has acknowledged their end.
func (n *Node) makeRoom(table interface{ Full() bool }) {
	m, ok := n.machine.(*proto.FTFW)
	for ok && table.Full() {
		ok = m.MakeRoom()
		n.freeReleased()
	}
}

// queueFlow queues h for replication if tell is set. In ALARM every stored flow is
// announced periodically in any case: peers drop flows that are not announced again.
func (n *Node) queueFlow(h cache.Handle, stored, tell bool) {
	switch {
	case !stored:
	case tell:
		n.changedFlow(h)
	case n.alarm != nil:
		n.internal.flows.Arm(h, n.sched.Now(), n.alarm.RefreshDelay())
	}
}

// queueExpect is queueFlow for an expectation.
func (n *Node) queueExpect(h cache.Handle, stored, tell bool) {
	switch {
	case !stored:
	case tell:
		n.changedExpect(h)
	case n.alarm != nil:
		n.internal.expects.Arm(h, n.sched.Now(), n.alarm.RefreshDelay())
	}
}

// flowEnded handles a DESTROY event.
func (n *Node) flowEnded(f *ctnetlink.Flow, tell bool) {
	n.recordEnd(f)
	h := n.internal.flows.Find(f)
	if h == 0 {
		return
	}
	n.named(h)
	n.countTraffic(f)
	if n.ended != nil {
		n.ended(f)
	}
	n.goneFlow(h, tell)
}

// countTraffic adds the counters that f's end carries.
func (n *Node) countTraffic(f *ctnetlink.Flow) {
	if f.Has&ctnetlink.HasCountersOrig != 0 {
		n.traffic.Bytes += f.CountersOrig.Bytes
		n.traffic.Packets += f.CountersOrig.Packets
	}
	if f.Has&ctnetlink.HasCountersReply != 0 {
		n.traffic.Bytes += f.CountersReply.Bytes
		n.traffic.Packets += f.CountersReply.Packets
	}
}

// changedFlow queues h with the protocol.
func (n *Node) changedFlow(h cache.Handle) {
	if n.machine == nil {
		return
	}
	n.machine.Changed(proto.Object{Table: proto.Flows, Handle: uint64(h)})
	if n.alarm != nil {
		n.internal.flows.Arm(h, n.sched.Now(), n.alarm.RefreshDelay())
	}
}

func (n *Node) changedExpect(h cache.Handle) {
	n.machine.Changed(proto.Object{Table: proto.Expects, Handle: uint64(h)})
	if n.alarm != nil {
		n.internal.expects.Arm(h, n.sched.Now(), n.alarm.RefreshDelay())
	}
}

// goneFlow removes a flow from the internal cache. If the end is replicated the flow
// stays there as dead until the peers have it.
func (n *Node) goneFlow(h cache.Handle, tell bool) {
	if !n.internal.flows.Kill(h) {
		return
	}
	n.removed(proto.Object{Table: proto.Flows, Handle: uint64(h)}, tell)
}

func (n *Node) goneExpect(h cache.Handle, tell bool) {
	if n.internal.expects.Kill(h) {
		n.removed(proto.Object{Table: proto.Expects, Handle: uint64(h)}, tell)
	}
}

func (n *Node) removed(o proto.Object, tell bool) {
	switch {
	case n.machine == nil:
	case tell:
		n.machine.Deleted(o)
		return
	default:
		n.machine.Dropped(o)
	}
	n.release(o)
}

func (n *Node) release(o proto.Object) {
	if o.Table == proto.Flows {
		n.internal.flows.Release(cache.Handle(o.Handle))
	} else {
		n.internal.expects.Release(cache.Handle(o.Handle))
	}
}

// flushInternal empties the internal cache without replicating the ends.
func (n *Node) flushInternal() {
	if n.internal.flows == nil {
		return
	}
	if n.machine != nil {
		n.dropAll(proto.Flows, n.internal.flows.Next)
		n.dropAll(proto.Expects, n.internal.expects.Next)
	}
	n.internal.flows.Flush()
	if n.internal.expects != nil {
		n.internal.expects.Flush()
	}
}

// dropAll removes a table's objects from the protocol's queues.
func (n *Node) dropAll(table proto.Table, next func(*cache.Cursor, []cache.Handle) (int, bool)) {
	handles := make([]cache.Handle, sliceLen)
	var cur cache.Cursor
	for more := true; more; {
		var got int
		got, more = next(&cur, handles)
		for _, h := range handles[:got] {
			n.machine.Dropped(proto.Object{Table: table, Handle: uint64(h)})
		}
	}
}
