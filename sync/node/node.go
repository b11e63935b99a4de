package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ctbox/conf"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

// Node is a running conntrackd. New makes it, Run runs it; its other methods may
// be called by any goroutine while it runs.
//
// All fields below the line belong to whoever has the turn once Run has begun, unless
// their comment says otherwise.
type Node struct {
	log     *slog.Logger
	ended   Ended // statistics mode: told of flows that ended
	restore restorer
	mode    Mode

	turn    chan struct{} // turn.go: full while somebody has the turn
	calls   chan func()
	ready   chan struct{} // there may be events
	stopped chan struct{} // closed when Run has returned
	working sync.WaitGroup
	ctx     context.Context // Run's, for tasks

	// ---

	cfg   *conf.Config // in force; not changed itself, see Reconfigure
	start time.Time
	now   time.Time // of this turn

	filter *filter // not changed itself, see Reconfigure

	conns struct{ commit, flush *nl.Conn } // tasks use them, one at a time
	own   map[uint32]origin                // port ids of our own sockets

	events    *ctnetlink.Subscription // nil when polling
	taken     *ctnetlink.Events       // the last run, to be given back
	waiting   bool                    // more runs may be there
	following bool                    // in the middle of a run, though the turn may be another's
	dropped   uint64
	flow      ctnetlink.Flow // reused
	expect    ctnetlink.Expect
	known     ctnetlink.Flow

	internal, external caches
	expectSync         bool
	bypass             bool // DisableInternalCache
	traffic            Traffic
	kernel             KernelStatus

	machine  proto.Machine // nil without Sync
	alarm    *proto.Alarm  // the machine in ALARM mode
	notrack  *proto.NoTrack
	encoder  wire.Encoder
	packer   *wire.Packer
	links    *links
	received wire.Counters
	bypassed struct{ flows, expects TableStatus }
	replica  ReplicaStatus
	peers    map[peerKey]*peer
	hearing  hearing
	injector *injector // DisableExternalCache

	tasks       map[*task]struct{}
	taskFailed  uint64
	committing  bool
	joined      []joiner // of the commit that is under way
	commits     CommitsStatus
	commitEnded time.Time
	flushing    bool
	refilling   bool
	filling     bool // the first refill has not ended yet
	bulkWaits   bool // a bulk was asked for meanwhile
	refillNext  []func()
	chores      []func() bool
	ends        *ends // what events tell while a dump is under way; nil without
	untold      bool  // a reading found something that was not replicated
	agreement   agreement
	held        bool // messages wait for a slow link
	behind      bool // something has been waiting to be sent, since behindSince
	behindSince time.Duration
	expiring    bool // more of ALARM's entries are due
	expired     [sliceLen]cache.Handle
	timers      timers
	wake        *time.Timer   // wakes the loop
	armed       time.Duration // when it does

	eventsSetting string        // net.netfilter.nf_conntrack_events, see silent.go
	silentDelay   time.Duration // until the next look at flows without events
	unnamed       map[cache.Handle]struct{}
	unnamedLost   uint64        // events that were lost when the first of these was found
	unnamedSaid   time.Duration // when the log last warned of these

	overrunDelay, lastOverrun time.Duration
	atLeast                   string // in front of that number, where the kernel does not count what it drops
	grownOut                  bool   // said that the buffer can't grow further
	burstBuffer               int    // what the event buffer grows to at once
	limits                    limits
}

// caches are the tables of one side; nil where there are none.
type caches struct {
	flows   *cache.Flows
	expects *cache.Expects
}

// origin is who caused a kernel event, by the socket's port id.
type origin uint8

const (
	foreign     origin = iota // the kernel itself, or somebody else's change
	ownChange                 // a commit or flush: caches follow, peers know already
	ownInjector               // what the peer told us to do: nothing to learn
)

// timers are the moments at which the loop has something to do by itself; zero
// means never. They are times of the node's clock.
type timers struct {
	purge   time.Duration // -t
	resync  time.Duration // after an overrun
	silent  time.Duration // the next look at flows without events
	unnamed time.Duration // when flows that a look has found should have had an event
	poll    time.Duration
}

// New opens everything that cfg asks for: kernel sockets, links. Nothing is
// replicated before Run. ended may be nil; it is for statistics mode.
//
// The error names what could not be opened, in conntrack-tools' words where it
// has some.
func New(cfg *conf.Config, log *slog.Logger, ended Ended) (_ *Node, err error) {
	n := &Node{
		cfg:   cfg,
		log:   log,
		ended: ended,
		turn:  make(chan struct{}, 1),
		ready: make(chan struct{}, 1),
		calls: make(chan func()), stopped: make(chan struct{}),
		start:       time.Now(),
		own:         map[uint32]origin{},
		tasks:       map[*task]struct{}{},
		peers:       map[peerKey]*peer{},
		burstBuffer: ctnetlink.BurstBuffer(ctnetlink.KernelMemory()),
	}
	n.now = n.start
	n.limits.open(n)
	n.turn <- struct{}{} // Run's, to begin with
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	var helpers []string
	if cfg.Sync != nil {
		helpers = cfg.Sync.ExpectationHelpers
	}
	n.filter = newFilter(&cfg.General.Filter, helpers)
	switch {
	case cfg.Sync != nil:
		if err := n.openSync(); err != nil {
			return nil, err
		}
	case cfg.Stats != nil:
		n.mode = ModeStats
		n.internal.flows = cache.NewFlows(n.cacheConfig())
	default:
		return n, nil // helpers, at most: no caches, no events
	}
	if err := n.openKernel(); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Node) cacheConfig() cache.Config {
	g := &n.cfg.General
	return cache.Config{Limit: int(g.HashLimit), Buckets: int(g.HashSize)}
}

// openSync makes caches, protocol and links.
func (n *Node) openSync() error {
	s := n.cfg.Sync
	n.expectSync = s.ExpectationSync
	n.bypass = s.DisableInternalCache
	n.restore = restorer{timeout: s.CommitTimeout, windowTracking: s.TCPWindowTracking}
	n.encoder = wire.Encoder{OmitTimeout: s.CommitTimeout > 0, WindowTracking: s.TCPWindowTracking}
	first := wire.Seq(n.start.Unix())
	switch s.Mode {
	case conf.ModeFTFW:
		n.mode = ModeFTFW
		n.machine = proto.NewFTFW(0, proto.FTFWConfig{
			FirstSeq: first, Window: int(s.ACKWindowSize), Resend: int(s.ResendQueueSize), StartupResync: s.StartupResync,
		})
	case conf.ModeALARM:
		n.mode = ModeALARM
		n.alarm = proto.NewAlarm(first, s.RefreshTime, uint64(n.start.UnixNano()))
		n.machine = n.alarm
	default:
		n.mode = ModeNOTRACK
		n.notrack = proto.NewNoTrack(0, first, s.StartupResync)
		n.machine = n.notrack
	}
	config := n.cacheConfig()
	config.Timers = n.mode == ModeALARM
	if n.bypass {
		n.notice("disabling internal cache")
	} else {
		n.internal = caches{cache.NewFlows(config), cache.NewExpects(config)}
	}
	if s.DisableExternalCache {
		n.notice("disabling external cache")
		injector, err := newInjector(n)
		if err != nil {
			return err
		}
		n.injector = injector
		n.own[injector.conn.PortID()] = ownInjector
	} else {
		n.external = caches{cache.NewFlows(config), cache.NewExpects(config)}
	}
	return n.openLinks()
}

// openKernel opens the sockets to the kernel. Events are subscribed to before any
// table is read, so that nothing falls between.
func (n *Node) openKernel() (err error) {
	if n.conns.commit, err = nl.Dial(nl.Config{}); err != nil {
		return err
	}
	if n.conns.flush, err = nl.Dial(nl.Config{}); err != nil {
		return err
	}
	// The table is read later, and a kernel without one takes the subscription all the
	// same, and only never sends an event.
	if _, _, err := ctnetlink.Count(context.Background(), n.conns.commit); err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w (this kernel has no nf_conntrack_netlink)", err)
		}
		return fmt.Errorf("can't get kernel conntrack table: %w", err)
	}
	n.own[n.conns.commit.PortID()] = ownChange
	n.own[n.conns.flush.PortID()] = ownChange
	g := &n.cfg.General
	if g.PollInterval > 0 {
		n.notice("running in polling mode")
		n.kernel.BufferSize = uint64(g.NetlinkBufferSize)
		if n.bypass {
			n.log.Warn("PollSecs with DisableInternalCache replicates nothing: without a cache polling finds no changes")
		}
		return nil
	}
	if n.eventsSetting = eventsSetting(); n.eventsSetting == "0" {
		n.warnOfNoEvents()
	}
	return n.subscribe()
}

// clock is the time since the node's start. It is monotonic: a step of the wall
// clock moves no timer and ages no entry.
func (n *Node) clock() time.Duration { return n.now.Sub(n.start) }

func (n *Node) notice(text string) { n.log.Log(context.Background(), LevelNotice, text) }

// Run replicates until ctx ends, and then closes everything. It returns nil then,
// and an error when the node can't go on.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	n.ctx = ctx
	defer func() {
		cancel()
		close(n.stopped)
		n.letFinish()
		n.close()
		n.working.Wait()
	}()
	n.begin()
	err := n.loop(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// begin starts what runs beside the loop.
func (n *Node) begin() {
	if n.injector != nil {
		n.working.Add(1)
		go n.injector.run()
	}
	if n.cfg.General.PollInterval > 0 && n.internal.flows != nil {
		n.timers.poll = n.clock() + n.cfg.General.PollInterval
	}
	if n.machine != nil {
		n.hearing.next = n.clock() + peerQuiet
	}
	if n.internal.flows != nil {
		n.filling = true
		n.startRefill(refill{tables: Flows | n.expectTables(), routine: true}, func(err error) {
			n.filled(err)
			n.retryRefill(err)
		})
	}
}

// filled is called when the internal caches have taken over the kernel's tables
// for the first time, or failed to.
func (n *Node) filled(err error) {
	n.filling = false
	n.watchSilent(err)
	if n.bulkWaits {
		n.bulkWaits = false
		n.startBulk()
	}
}

// expectTables is Expects where expectations are replicated.
func (n *Node) expectTables() Tables {
	if n.expectSync && n.internal.expects != nil {
		return Expects
	}
	return 0
}

// loop is the node's own goroutine. It keeps the turn when it ends.
func (n *Node) loop(ctx context.Context) error {
	n.wake = time.NewTimer(0)
	defer n.wake.Stop()
	n.armed = n.clock()
	for {
		n.now = time.Now()
		n.due()
		n.chore()
		if n.mayTakeEvents() {
			if err := n.takeEvents(); err != nil {
				return err
			}
		}
		n.transmit()
		n.arm()
		if err := n.sleep(ctx); err != nil {
			return err
		}
	}
}

// sleep lays the turn down until the loop has something to do, and begins it.
func (n *Node) sleep(ctx context.Context) (err error) {
	var call func()
	var events, changed, woken bool
	<-n.turn
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case call = <-n.calls:
	case <-n.ready:
		events = true
	case <-n.links.changes():
		changed = true
	case <-n.wake.C:
		woken = true
	}
	n.turn <- struct{}{}
	n.now = time.Now()
	switch {
	case call != nil:
		call()
	case events:
		n.waiting = true
	case changed:
		n.linkChanged()
	case woken:
		n.armed = proto.None
	}
	return err
}

// heldPoll is how soon a slow link is looked at again.
const heldPoll = 2 * time.Millisecond

// wait is how long the loop may sleep.
func (n *Node) wait() time.Duration {
	if len(n.chores) > 0 || n.mayTakeEvents() || n.expiring {
		return 0
	}
	if n.held || n.jammed() {
		return heldPoll
	}
	next := proto.None
	earliest := func(at time.Duration) {
		if at != 0 {
			next = min(next, at)
		}
	}
	earliest(n.timers.purge)
	earliest(n.timers.resync)
	earliest(n.timers.silent)
	earliest(n.hearing.next)
	earliest(n.timers.unnamed)
	earliest(n.timers.poll)
	if n.machine != nil {
		next = min(next, n.machine.Deadline())
	}
	if n.alarm != nil {
		next = min(next, n.nextExpiry())
	}
	if next == proto.None {
		return time.Hour
	}
	return max(next-n.clock(), 0)
}

// due does what is due by the clock.
func (n *Node) due() {
	now := n.clock()
	reached := func(at *time.Duration) bool {
		if *at == 0 || now < *at {
			return false
		}
		*at = 0
		return true
	}
	if reached(&n.timers.purge) {
		n.purge()
	}
	if reached(&n.timers.resync) {
		n.resync()
	}
	if at := n.hearing.next; reached(&n.hearing.next) {
		n.lookForPeers(at)
	}
	if reached(&n.timers.silent) {
		n.lookAtSilent()
	}
	if reached(&n.timers.unnamed) {
		n.judgeUnnamed()
	}
	if reached(&n.timers.poll) {
		n.timers.poll = now + n.cfg.General.PollInterval
		if !n.refilling {
			n.startRefill(refill{tables: Flows | n.expectTables(), send: true, all: true, sweep: true, routine: true}, nil)
		}
	}
	if n.alarm != nil {
		n.expire(now)
	}
	if n.machine != nil && now >= n.machine.Deadline() {
		n.protocolEvents(n.machine.Tick(now))
	}
}

// close releases what New opened.
func (n *Node) close() {
	if n.events != nil {
		n.events.Close()
	}
	if n.links != nil {
		n.links.close()
	}
	if n.injector != nil {
		n.injector.close()
	}
	for _, c := range []*nl.Conn{n.conns.commit, n.conns.flush} {
		if c != nil {
			c.Close()
		}
	}
	n.limits.close()
}

// errnoText is the text of a kernel's refusal as strerror(3) has it.
func errnoText(err error) string {
	var refusal *nl.Error
	if errors.As(err, &refusal) {
		text := []byte(refusal.Error())
		if text[0] >= 'a' && text[0] <= 'z' {
			text[0] -= 'a' - 'A'
		}
		return string(text)
	}
	return fmt.Sprint(err)
}
