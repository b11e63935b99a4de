package follow

import (
	"errors"
	"fmt"
	"time"

	"ctbox/conf"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
	"ctbox/sync/sched"
)

// heldPoll is the period of checking whether a slow link can take more.
const heldPoll = 2 * time.Millisecond

// subscribe joins the kernel's events. The order of its log lines is conntrack-tools'.
func (fo *Follower) subscribe() error {
	g := fo.cfg
	opts := ctnetlink.EventOptions{
		Groups: fo.groups(), Reliable: g.NetlinkEventsReliable, Filter: kernelFilter(g, fo.filter),
		Coalesce: coalesce, Arrived: fo.eventsArrived,
	}
	if opts.Reliable {
		fo.log.Notice("reliable ctnetlink event delivery is ENABLED.")
	}
	buffer, said := fo.eventBuffer(g)
	opts.Buffer = buffer
	if !g.NetlinkBufferSizeFixed {
		opts.Backlog = min(ctnetlink.DefaultEventBacklog, fo.burstBuffer)
	}
	sub, err := ctnetlink.Subscribe(opts)
	if errors.Is(err, ctnetlink.ErrFilterTooLong) {
		fo.filterTooLong(err)
		opts.Filter = nil
		sub, err = ctnetlink.Subscribe(opts)
	}
	if err != nil {
		return err
	}
	fo.events = sub
	if !sub.CountsDrops() {
		fo.atLeast = "at least "
		fo.log.Notice("this kernel does not count the events that it drops (Linux 4.12 and later do): each overrun counts as one lost event")
	}
	switch {
	case opts.Filter != nil:
		fo.log.Notice("using kernel-space event filtering")
	case g.Filter.Active():
		fo.log.Notice("using user-space event filtering")
	}
	if said != "" {
		fo.log.Notice(said)
	}
	fo.status.BufferSize = uint64(sub.Buffer())
	fo.log.Notice(fmt.Sprintf("netlink event socket buffer size has been set to %d bytes", sub.Buffer()))
	return nil
}

// groups returns the events to subscribe to.
func (fo *Follower) groups() ctnetlink.Group {
	groups := ctnetlink.AllFlowEvents
	if fo.lifeOnly {
		groups &^= ctnetlink.GroupFlowUpdate
	}
	if fo.expectSync {
		groups |= ctnetlink.AllExpectEvents
	}
	return groups
}

// kernelFilter returns the filter that the kernel applies to events, nil for none.
func kernelFilter(g *conf.General, filter *Filter) *ctnetlink.EventFilter {
	if !g.Filter.InKernel() {
		return nil
	}
	return filter.kernel()
}

// filterEvents replaces the kernel's event filter with the configuration's.
func (fo *Follower) filterEvents(g *conf.General, filter *Filter) error {
	err := fo.events.SetFilter(kernelFilter(g, filter))
	if errors.Is(err, ctnetlink.ErrFilterTooLong) {
		fo.filterTooLong(err)
		err = fo.events.SetFilter(nil)
	}
	return err
}

// filterTooLong logs that the kernel does not filter events. The node filters them in any
// case.
func (fo *Follower) filterTooLong(err error) {
	fo.log.Warn("cannot set event filtering: " + err.Error() + ". Filtering in user space.")
}

// coalesce is how long a busy node lets changes gather: waking up for each change and
// sending it alone costs more than everything else.
const coalesce = 8 * time.Millisecond

// eventsArrived is called by the reader of the events when there are some. If the lock
// is free the reader follows a few runs itself, and leaves the rest to the loop so that it
// can go on reading.
func (fo *Follower) eventsArrived() {
	fo.arrived.Store(true)
	if !fo.sched.TryLock() {
		fo.sched.Wake()
		return
	}
	for i := 0; fo.mayTakeEvents() && i < inlineRuns; i++ {
		if fo.takeEvents() != nil {
			fo.sched.Wake() // the loop meets the error again, and ends by it
			break
		}
	}
	fo.sched.Unlock()
}

// eventSource is the part of the loop that follows the events which their reader has left.
type eventSource struct{ f *Follower }

func (s eventSource) Due() time.Duration {
	switch {
	case !s.f.arrived.Load() || s.f.following:
		return sched.Never
	case s.f.busy():
		return s.f.sched.Now() + heldPoll
	default:
		return s.f.sched.Now()
	}
}

func (s eventSource) Run() error { return s.f.takeEvents() }

// inlineRuns is how many runs of events their reader follows itself: usually one with
// events and one without.
const inlineRuns = 2

// mayTakeEvents reports whether there are events to follow now. While a run is being
// followed, and its holder lets others have the lock (Yield), nobody begins the next: the
// order of a flow's events matters.
func (fo *Follower) mayTakeEvents() bool { return fo.arrived.Load() && !fo.following && !fo.busy() }

// busy reports whether events should wait until a link can take more.
func (fo *Follower) busy() bool { return fo.forwards && fo.announcer.Busy() }

// takeEvents follows one run of the kernel's events.
func (fo *Follower) takeEvents() error {
	// Cleared first: what arrives meanwhile sets it again.
	fo.arrived.Store(false)
	run, err := fo.events.Take(fo.taken)
	fo.taken = run
	if run == nil || err != nil {
		if err != nil {
			fo.arrived.Store(true)
		}
		return err
	}
	fo.arrived.Store(true) // there may be more
	// Not run.Dropped: losses behind runs that still wait are announced now, too.
	if dropped := fo.events.Dropped(); dropped != fo.dropped {
		fo.overrun(dropped - fo.dropped)
		fo.dropped = dropped
	}
	fo.following = true
	defer func() { fo.following = false }()
	since := uint32(0)
	err = run.Each(func(m *nl.Message, at time.Time) error {
		fo.status.Events++
		if ctnetlink.IsExpect(m) {
			fo.expectEvent(m)
		} else {
			fo.flowEvent(m, at)
		}
		if since++; since > fo.cfg.EventIterationLimit {
			since = 0
			fo.status.LimitReached++
			fo.sched.Yield()
		}
		return nil
	})
	if err != nil {
		// The rest of the run can't be read. A reading of the tables makes up for it;
		// replication goes on.
		fo.status.FailedEvents++
		fo.log.Error("read kernel events: " + err.Error())
		fo.eventsLost(1)
		fo.resyncLater()
	}
	return nil
}

// flowEvent handles one event of a flow, which arrived at the given time.
func (fo *Follower) flowEvent(m *nl.Message, at time.Time) {
	f := &fo.flow
	if m.Type != ctnetlink.TypeFlowNew && m.Type != ctnetlink.TypeFlowDelete {
		fo.status.UnknownEvents++
		return
	}
	from := fo.own[m.PortID]
	if m.PortID == 0 {
		from = foreign
	}
	if from == ownInjector && (fo.recorder == nil || !ctnetlink.IsDelete(m)) {
		return
	}
	if err := f.Decode(m.Attrs); err != nil {
		fo.status.FailedEvents++
		return
	}
	gone := ctnetlink.IsDelete(m)
	if why := Incomplete(f); why != "" {
		fo.status.Filtered++
		fo.log.Error(why)
		return
	}
	if !fo.filter.Passes(f, gone) {
		fo.status.Filtered++
		fo.dropUnmarked(f, from == foreign)
		return
	}
	if fo.recorder != nil {
		fo.recordEvent(f, m, at)
	}
	switch {
	case fo.forwards:
		fo.forwardFlow(m, from)
	case gone:
		fo.flowEnded(f, from == foreign)
	case ctnetlink.IsNew(m):
		fo.recordBegin(f)
		fo.flowSeen(f, whyStored(from, m), fo.cache.Flows.Replace)
		fo.noteMaster(f)
	default:
		fo.flowSeen(f, whyStored(from, m), fo.cache.Flows.Put)
	}
}

// recordEvent reports to the Recorder what an event means for the flows that are recorded. It
// is called before the cache changes.
func (fo *Follower) recordEvent(f *ctnetlink.Flow, m *nl.Message, at time.Time) {
	c := Cause{Event: true, At: at, PortID: m.PortID}
	if !ctnetlink.IsDelete(m) {
		c.Event = ctnetlink.IsNew(m)
		c.First = !c.Event && !fo.filled
		fo.recordSeen(f, c)
		return
	}
	h := fo.cache.Flows.Find(f)
	if h != 0 && !fo.cache.Flows.IsSame(h, f) {
		fo.recordReplaced(h, at)
	}
	if h != 0 && f.Has&ctnetlink.HasTimestampStart == 0 && fo.cache.Flows.Load(h, &fo.known) && fo.known.Has&ctnetlink.HasTimestampStart != 0 {
		f.TimestampStart, f.Has = fo.known.TimestampStart, f.Has|ctnetlink.HasTimestampStart
	}
	fo.recorder.FlowEnded(f, c, h != 0)
}

// recordSeen reports a flow that the cache does not have yet, and the end of another one whose
// place it takes.
func (fo *Follower) recordSeen(f *ctnetlink.Flow, c Cause) {
	if h := fo.cache.Flows.Find(f); h != 0 {
		if fo.cache.Flows.IsSame(h, f) {
			return
		}
		fo.recordReplaced(h, c.At)
	} else if !c.Event && fo.cache.Flows.Full() {
		return // it would be new each time it is seen
	}
	if c.Event && f.Has&ctnetlink.HasTimestampStart == 0 {
		f.TimestampStart, f.Has = uint64(c.At.UnixNano()), f.Has|ctnetlink.HasTimestampStart
	}
	fo.recorder.FlowBegan(f, c)
}

// recordReplaced reports the end of a cached flow, since another one has its tuple now.
func (fo *Follower) recordReplaced(h cache.Handle, at time.Time) {
	if fo.cache.Flows.Load(h, &fo.known) {
		fo.recorder.FlowEnded(&fo.known, Cause{At: at}, true)
	}
}

// dropUnmarked removes a flow from the cache, and announces that, because its mark has changed so
// that the filter no longer passes it. f does not pass.
func (fo *Follower) dropUnmarked(f *ctnetlink.Flow, announce bool) {
	if fo.forwards || fo.filter.passesMark(f) {
		return
	}
	if h := fo.cache.Flows.Find(f); h != 0 {
		fo.goneFlow(h, announce)
	}
}

// flowSeen stores a flow that an event has reported.
func (fo *Follower) flowSeen(f *ctnetlink.Flow, why owner.Why, put func(*ctnetlink.Flow, time.Duration) (cache.Handle, cache.Outcome)) {
	fo.announcer.MakeRoom(cache.FlowTable)
	h, outcome := put(f, fo.sched.Now())
	if !outcome.Stored() {
		return
	}
	fo.noteZone(f)
	fo.recordChange(h, f)
	fo.named(h)
	if why != owner.Silent && (outcome == cache.Created || outcome == cache.Replaced) {
		fo.announcer.FlowBegan(h)
	}
	fo.announcer.FlowStored(h, f, why)
}

// whyStored returns why the flow of an event is stored.
func whyStored(from origin, m *nl.Message) owner.Why {
	switch {
	case from != foreign:
		return owner.Silent
	case m.PortID == 0:
		return owner.ByKernel
	}
	return owner.Changed
}

// flowEnded handles a DESTROY event.
func (fo *Follower) flowEnded(f *ctnetlink.Flow, announce bool) {
	fo.recordEnd(f)
	h := fo.cache.Flows.Find(f)
	if h == 0 {
		return
	}
	fo.named(h)
	fo.countTraffic(f)
	if fo.observer != nil {
		fo.observer.FlowEnded(f)
	}
	fo.goneFlow(h, announce)
}

// countTraffic adds the counters that f's end carries.
func (fo *Follower) countTraffic(f *ctnetlink.Flow) {
	if f.Has&ctnetlink.HasCountersOrig != 0 {
		fo.traffic.Bytes += f.CountersOrig.Bytes
		fo.traffic.Packets += f.CountersOrig.Packets
	}
	if f.Has&ctnetlink.HasCountersReply != 0 {
		fo.traffic.Bytes += f.CountersReply.Bytes
		fo.traffic.Packets += f.CountersReply.Packets
	}
}

// goneFlow kills a flow of the cache. If its end is announced the flow stays there as dead
// until peers have it.
func (fo *Follower) goneFlow(h cache.Handle, announce bool) {
	if fo.cache.Flows.Kill(h) {
		fo.announcer.FlowEnded(h, announce)
	}
}

func (fo *Follower) goneExpect(h cache.Handle, announce bool) {
	if fo.cache.Expects.Kill(h) {
		fo.announcer.ExpectEnded(h, announce)
	}
}

// forwardFlow passes on the event of a flow where there is no cache. What this node did
// itself peers know.
func (fo *Follower) forwardFlow(m *nl.Message, from origin) {
	if ctnetlink.IsDelete(m) {
		fo.countTraffic(&fo.flow)
	}
	if from == foreign {
		fo.announcer.ForwardFlow(changeOf(m), &fo.flow)
	}
}

// forwardExpect is forwardFlow for expectations.
func (fo *Follower) forwardExpect(m *nl.Message, from origin) {
	if from == foreign && fo.wantsExpect(&fo.expect) {
		fo.announcer.ForwardExpect(changeOf(m), &fo.expect)
	}
}

// changeOf returns what an event reports.
func changeOf(m *nl.Message) cache.State {
	switch {
	case ctnetlink.IsDelete(m):
		return cache.Dead
	case ctnetlink.IsNew(m):
		return cache.New
	}
	return cache.Alive
}
