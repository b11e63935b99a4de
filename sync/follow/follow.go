// Package follow keeps an internal cache equal to the kernel's tables, and passes every
// change on.
//
// A Follower subscribes to the kernel's events (events.go) and reads the kernel's tables at
// the start, after it has lost events, when asked, and from time to time for flows that have
// no events (reading.go, overruns.go, silent.go). A Filter decides which flows and
// expectations it follows (filter.go). What changes goes to an Announcer, which replicates
// it, and to an Observer, which records it.
package follow

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/loglimit"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// Announcer replicates what a Follower finds. Its methods are called with the lock held,
// and handles are of the Follower's cache.
type Announcer interface {
	// FlowStored reports a flow that is new in the cache or has changed. f is what an event
	// or a reading reports of it; it must not be kept. why is Silent where peers have the flow
	// already, or a reading only fills the cache.
	FlowStored(h cache.Handle, f *ctnetlink.Flow, why owner.Why)
	ExpectStored(h cache.Handle, announce bool)
	// FlowEnded reports a flow that has been killed in the cache. The Announcer releases
	// it, once peers know its end if that is to be announced.
	FlowEnded(h cache.Handle, announce bool)
	ExpectEnded(h cache.Handle, announce bool)
	// FlowBegan reports a flow that began in this kernel by itself: no process made it.
	FlowBegan(h cache.Handle)
	// MakeRoom is called before an insertion into the table. If the table is full the
	// Announcer releases a dead object, if there is one.
	MakeRoom(table cache.Tables)

	// ForwardFlow and ForwardExpect pass on an event where there is no cache. change is
	// what the event reports. Neither may keep its argument.
	ForwardFlow(change cache.State, f *ctnetlink.Flow)
	ForwardExpect(change cache.State, e *ctnetlink.Expect)
	// Busy reports whether events should wait, which they do only without a cache.
	Busy() bool

	// EventsMissing reports how many events were lost that no reading has made up for. It
	// is called whenever the number may have changed.
	EventsMissing(events uint64)
}

// Observer records the ends of flows. Its methods are called with the lock held; they must
// not block, and must not keep their argument.
type Observer interface {
	// FlowEnded reports the end of a cached flow. f is the flow of the kernel's event,
	// counters included, or the cached flow where a reading found that it has ended.
	FlowEnded(f *ctnetlink.Flow)
}

// Recorder records the begin and the end of every flow. Its methods are called with the lock
// held; they must not block, and must not keep f.
type Recorder interface {
	// FlowBegan reports a flow that the cache does not have yet.
	FlowBegan(f *ctnetlink.Flow, c Cause)
	// FlowEnded reports the end of a flow. Without an event f is the cached flow. known is
	// false for a flow that the cache did not have.
	FlowEnded(f *ctnetlink.Flow, c Cause, known bool)
	// EventsLost reports that n more events were lost.
	EventsLost(n uint64)
}

// Cause is how a Follower learned of a change.
type Cause struct {
	// Event is set for the kernel's event of the begin or end. Otherwise that event was lost
	// or is older than the subscription, and a reading or a later event shows the change.
	Event bool
	// First is set until the first reading has ended, which finds the flows that are older than
	// the Follower.
	First  bool
	At     time.Time // of the event's arrival or of the reading
	PortID uint32    // netlink port of the process that made the event; 0 is the kernel
}

// Local is an Announcer for a cache that nobody replicates: it releases what has ended.
type Local struct{ Cache cache.Side }

func (l Local) FlowStored(cache.Handle, *ctnetlink.Flow, owner.Why)   {}
func (l Local) ExpectStored(cache.Handle, bool)                       {}
func (l Local) FlowEnded(h cache.Handle, _ bool)                      { l.Cache.Flows.Release(h) }
func (l Local) ExpectEnded(h cache.Handle, _ bool)                    { l.Cache.Expects.Release(h) }
func (l Local) FlowBegan(cache.Handle)                                {}
func (l Local) MakeRoom(cache.Tables)                                 {}
func (l Local) ForwardFlow(change cache.State, _ *ctnetlink.Flow)     {}
func (l Local) ForwardExpect(change cache.State, _ *ctnetlink.Expect) {}
func (l Local) Busy() bool                                            { return false }
func (l Local) EventsMissing(uint64)                                  {}

// Config is what a Follower needs. It is fixed except for General (Reconfigure).
type Config struct {
	General *conf.General
	// Cache is kept equal to the kernel's tables. Without a table of flows events are
	// forwarded instead (DisableInternalCache). The Announcer may release dead objects of
	// the cache and use its timers; all else that changes the cache goes through the
	// Follower.
	Cache cache.Side
	// Expects has expectations followed, those of Helpers or, if it is empty, of all.
	Expects bool
	Helpers []string
	// Injects says that a peer's changes go into the kernel at once (Ignore).
	Injects bool
	// Skip reports whether readings leave out a flow that the cache does not have. It is called with the
	// lock held; nil leaves out none.
	Skip      func(*ctnetlink.Flow) bool
	Announcer Announcer
	Observer  Observer // may be nil
	// Recorder may be nil. With one, flows of which the kernel does not say when they began
	// (net.netfilter.nf_conntrack_timestamp) get the time of their event.
	Recorder Recorder
	// LifeOnly subscribes to the begins and ends of flows, not to what changes in between: a
	// TCP connection has five such events. The filter must not depend on these.
	LifeOnly bool
}

// Follower follows the kernel's tables. The fields below the line are guarded by the lock
// of sched, which the caller of every method holds.
type Follower struct {
	log                           daemonlog.Log
	sched                         *sched.Scheduler
	cache                         cache.Side
	announcer                     Announcer
	observer                      Observer
	recorder                      Recorder
	expectSync, injects, forwards bool
	lifeOnly                      bool
	skip                          func(*ctnetlink.Flow) bool // may be nil
	burstBuffer                   int                        // what the event buffer grows to at once

	// ---

	cfg    *conf.General     // in force; immutable, Reconfigure replaces it
	filter *Filter           // immutable, Reconfigure replaces it
	own    map[uint32]origin // port ids of our own sockets

	events    *ctnetlink.Subscription // nil when polling
	taken     *ctnetlink.Events       // the last run, which Take reuses
	arrived   atomic.Bool             // there may be events to take; its reader sets it without the lock
	following bool                    // in the middle of a run, though another may hold the lock (Yield)
	dropped   uint64
	flow      ctnetlink.Flow // reused
	expect    ctnetlink.Expect
	known     ctnetlink.Flow

	status  Status
	traffic Traffic

	filled     bool // the first reading has ended
	refilling  bool
	refillNext []func()
	ends       *ends // what events report during a reading; nil without one
	unsent     bool  // a reading found something that was not replicated

	eventsSetting string        // net.netfilter.nf_conntrack_events, see silent.go
	silentDelay   time.Duration // until the next look at flows without events
	unnamed       map[cache.Handle]struct{}
	unnamedLost   uint64        // events that were lost when the first of these was found
	unnamedSaid   time.Duration // when the log last warned of these

	adjusted map[cache.Handle]struct{} // to be read again, see adjusted.go
	zones    map[uint16]struct{}       // of flows with a helper, see expects.go

	committing                bool          // a commit is under way
	commitEnded               time.Duration // when the last one ended; 0 without one
	overrunDelay, lastOverrun time.Duration
	atLeast                   string // in front of that number, where the kernel does not count what it drops
	grownOut                  bool   // the log has that the buffer can't grow further
	lost                      *loglimit.Limit[struct{}, struct{}]

	timers struct {
		resync   *sched.Timer // after an overrun
		silent   *sched.Timer // the next look at flows without events
		unnamed  *sched.Timer // when flows that a look has found should have had an event
		poll     *sched.Timer
		adjusted *sched.Timer // see adjusted.go
	}
}

// Status counts what came from the kernel.
type Status struct {
	Events        uint64 // received, filtered ones included
	Filtered      uint64
	UnknownEvents uint64 // of a type that means nothing here
	FailedEvents  uint64 // events that could not be read
	UnknownDumps  uint64
	Overruns      uint64 // times that the kernel had to drop events
	Lost          uint64 // events that the kernel dropped
	Missing       uint64 // lost events that no reading of the kernel's tables has made up for yet
	Resyncs       uint64 // readings of a table, except those of the start and of polling
	BufferSize    uint64 // of the event socket, bytes, as the kernel counts it
	LimitReached  uint64 // times that EventIterationLimit gave peers and commands a turn between events
}

// Traffic sums both directions of ended flows that were cached; it needs
// net.netfilter.nf_conntrack_acct.
type Traffic struct{ Bytes, Packets uint64 }

// origin is the cause of a kernel event, known by the socket's port id.
type origin uint8

const (
	foreign     origin = iota // the kernel itself, or another program
	ownChange                 // our commit or flush: the cache follows, peers know already
	ownInjector               // our injection of a peer's change: the cache does not follow
)

// New returns a Follower, which follows nothing before Open and Begin.
func New(s *sched.Scheduler, log daemonlog.Log, c Config) *Follower {
	fo := &Follower{
		log: log, sched: s, cache: c.Cache, announcer: c.Announcer, observer: c.Observer, recorder: c.Recorder,
		expectSync: c.Expects, injects: c.Injects, forwards: c.Cache.Flows == nil, lifeOnly: c.LifeOnly, skip: c.Skip,
		burstBuffer: ctnetlink.BurstBuffer(ctnetlink.KernelMemory()),
		cfg:         c.General, filter: NewFilter(&c.General.Filter, c.Helpers), own: map[uint32]origin{},
	}
	fo.lost = loglimit.New[struct{}](1, lostPeriod, fo.warnLost)
	fo.timers.resync = s.NewTimer(fo.resync)
	fo.timers.silent = s.NewTimer(fo.readSilent)
	fo.timers.unnamed = s.NewTimer(fo.judgeUnnamed)
	fo.timers.poll = s.NewTimer(fo.poll)
	fo.timers.adjusted = s.NewTimer(fo.readAdjusted)
	return fo
}

// Open subscribes to the kernel's events, before Begin reads the tables so that no change is
// missed in between. With PollSecs it does not subscribe.
func (fo *Follower) Open() error {
	if fo.cfg.PollInterval > 0 {
		fo.log.Notice("running in polling mode")
		fo.status.BufferSize = uint64(fo.cfg.NetlinkBufferSize)
		if fo.forwards {
			fo.log.Warn("PollSecs with DisableInternalCache replicates nothing: without a cache polling finds no changes")
		}
	} else {
		if fo.eventsSetting = eventsSetting(); fo.eventsSetting == "0" {
			fo.warnOfNoEvents()
		}
		if err := fo.subscribe(); err != nil {
			return err
		}
	}
	fo.sched.Add(eventSource{fo})
	return nil
}

// Begin starts the first reading of the kernel's tables. filled is called when the reading
// has ended, also if it failed; without a cache it is not called.
func (fo *Follower) Begin(filled func()) {
	if fo.forwards {
		return
	}
	if fo.cfg.PollInterval > 0 {
		fo.timers.poll.After(fo.cfg.PollInterval)
	}
	fo.startRefill(refill{tables: cache.FlowTable | fo.expectTables(), routine: true}, func(err error) {
		fo.watchSilent(err)
		filled()
		fo.retryRefill(err)
	})
}

// Close ends the subscription and logs what was held back.
func (fo *Follower) Close() {
	if fo.events != nil {
		fo.events.Close()
	}
	fo.lost.Close()
}

// Own names a socket whose changes of the kernel's tables peers know already: the cache
// follows them, and they are not announced.
func (fo *Follower) Own(portID uint32) { fo.own[portID] = ownChange }

// Ignore names a socket whose changes of the kernel's tables are not followed. A Recorder gets the
// ends all the same: packets may have passed such a flow.
func (fo *Follower) Ignore(portID uint32) { fo.own[portID] = ownInjector }

// CommitBegan and CommitEnded enclose a commit, whose events come faster than any others.
func (fo *Follower) CommitBegan() { fo.committing = true }

// CommitEnded ends what CommitBegan began.
func (fo *Follower) CommitEnded() {
	fo.committing = false
	fo.commitEnded = max(fo.sched.Now(), 1)
}

// Filter returns the filter in force. It is immutable.
func (fo *Follower) Filter() *Filter { return fo.filter }

// Status returns the counters of this moment.
func (fo *Follower) Status() Status { return fo.status }

// Traffic returns the traffic of ended flows.
func (fo *Follower) Traffic() Traffic { return fo.traffic }

// Flush empties the cache without announcing the ends. The Announcer must have forgotten the
// handles before.
func (fo *Follower) Flush() {
	if fo.cache.Flows != nil {
		fo.cache.Flows.Flush()
	}
	if fo.cache.Expects != nil {
		fo.cache.Expects.Flush()
	}
}

// Probe reports whether the kernel has ctnetlink, by asking it. A kernel without it
// accepts a subscription too, and then never sends an event.
func Probe(ctx context.Context) error {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return err
	}
	defer c.Close()
	if _, _, err := ctnetlink.Count(ctx, c); err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w (this kernel has no nf_conntrack_netlink)", err)
		}
		return fmt.Errorf("can't get kernel conntrack table: %w", err)
	}
	return nil
}

// expectTables returns cache.ExpectTable where expectations are followed into a cache, and 0
// otherwise.
func (fo *Follower) expectTables() cache.Tables {
	if fo.expectSync && fo.cache.Expects != nil {
		return cache.ExpectTable
	}
	return 0
}

// poll reads the kernel's tables, in the place of events (PollSecs).
func (fo *Follower) poll() {
	fo.timers.poll.After(fo.cfg.PollInterval)
	if !fo.refilling {
		fo.startRefill(refill{tables: cache.FlowTable | fo.expectTables(), send: true, all: true, sweep: true, routine: true}, nil)
	}
}

// Reconfigure puts another General in force. After an error nothing has changed.
//
// A changed filter applies to events from now on. Flows of the cache that no longer pass are
// removed and their end is announced, since their real end would not be. Then the kernel's
// table is read for flows that pass now. Both happen after Reconfigure has returned. Without
// a cache the new filter applies to events only.
func (fo *Follower) Reconfigure(g *conf.General) error {
	before := fo.cfg
	filter, refilter := fo.filter, !g.Filter.Equal(&before.Filter)
	if refilter {
		filter = NewFilter(&g.Filter, fo.filter.helpers)
	}
	if fo.events != nil {
		if err := fo.resubscribe(g, filter, refilter); err != nil {
			return err
		}
	}
	fo.cfg, fo.filter = g, filter
	fo.grownOut = fo.grownOut && g.NetlinkBufferSizeMaxGrowth == before.NetlinkBufferSizeMaxGrowth &&
		g.NetlinkBufferSizeFixed == before.NetlinkBufferSizeFixed
	if g.NetlinkOverrunResync != before.NetlinkOverrunResync {
		fo.overrunDelay = 0
		if before.NetlinkOverrunResync == 0 && !fo.forwards {
			fo.watchSilent(nil)
		}
	}
	if refilter && !fo.forwards {
		fo.dropExcluded()
		fo.startRefill(refill{tables: cache.FlowTable | fo.expectTables(), send: true}, func(err error) {
			fo.watchSilent(err)
			fo.retryRefill(err)
		})
	}
	return nil
}

// resubscribe changes the event socket to suit another configuration.
func (fo *Follower) resubscribe(g *conf.General, filter *Filter, refilter bool) error {
	before := fo.cfg
	if refilter {
		if err := fo.filterEvents(g, filter); err != nil {
			return err
		}
	}
	if sameBuffer(g, before) {
		return nil // what it has grown to since, it keeps
	}
	size, said := fo.eventBuffer(g)
	if said != "" {
		fo.log.Notice(said)
	}
	if err := fo.events.SetBuffer(size); err != nil {
		if refilter {
			err = errors.Join(err, fo.filterEvents(before, fo.filter))
		}
		return err
	}
	fo.status.BufferSize = uint64(fo.events.Buffer())
	return nil
}

// dropExcluded removes from the cache, slice by slice, flows that the filter no longer
// passes, and then their expectations.
func (fo *Follower) dropExcluded() {
	handles := make([]cache.Handle, sliceLen)
	var flows, expects cache.Cursor
	fo.sched.Step(func() bool {
		got, more := fo.cache.Flows.Next(&flows, handles)
		for _, h := range handles[:got] {
			if fo.cache.Flows.Load(h, &fo.known) && !fo.filter.Passes(&fo.known, false) {
				fo.goneFlow(h, true)
			}
		}
		return more
	})
	if fo.cache.Expects == nil {
		return
	}
	fo.sched.Step(func() bool {
		got, more := fo.cache.Expects.Next(&expects, handles)
		for _, h := range handles[:got] {
			if fo.cache.Expects.Load(h, &fo.expect) && fo.cache.Flows.FindMaster(&fo.expect) == 0 {
				fo.goneExpect(h, true)
			}
		}
		return more
	})
}
