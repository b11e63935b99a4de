package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"ctbox/conf"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/sched"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

// Node is a running conntrackd. New makes it, Run runs it; its other methods may
// be called by any goroutine while it runs.
//
// The fields below the line are guarded by the lock of sched once Run has begun, unless
// their comment says otherwise.
type Node struct {
	log     *slog.Logger
	ended   Ended // statistics mode: called for flows that end
	restore restorer
	mode    Mode

	sched *sched.Scheduler

	// ---

	cfg *conf.Config // in force; immutable, Reconfigure replaces it

	filter *filter // immutable, Reconfigure replaces it

	conns struct{ commit, flush, remove *nl.Conn } // tasks use them, one at a time
	own   map[uint32]origin                        // port ids of our own sockets

	events    *ctnetlink.Subscription // nil when polling
	taken     *ctnetlink.Events       // the last run, which Take reuses
	arrived   atomic.Bool             // there may be events to take; its reader sets it without the lock
	following bool                    // in the middle of a run, though another may hold the lock (Yield)
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

	taskFailed  uint64
	committing  bool
	joined      []joiner // of the commit that is under way
	commits     CommitsStatus
	commitEnded time.Duration
	flushing    bool
	refilling   bool
	filling     bool // the first refill has not ended yet
	bulkWaits   bool // a bulk was asked for meanwhile
	refillNext  []func()
	ends        *ends // what events report during a dump; nil without one
	untold      bool  // a reading found something that was not replicated
	agreement   agreement
	failback    failback
	held        bool // messages wait for a slow link
	behind      bool // messages have been waiting since behindSince
	behindSince time.Duration
	expiring    bool // more of ALARM's entries are due
	expired     [sliceLen]cache.Handle
	timers      timers

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

// caches are the tables of one side, nil where the side has none.
type caches struct {
	flows   *cache.Flows
	expects *cache.Expects
}

// origin is the cause of a kernel event, known by the socket's port id.
type origin uint8

const (
	foreign     origin = iota // the kernel itself, or another program
	ownChange                 // our commit or flush: the caches follow, peers know already
	ownInjector               // our injection of a peer's change: the caches do not follow
)

// timers are what the loop does by itself at a certain time.
type timers struct {
	purge   *sched.Timer // -t
	resync  *sched.Timer // after an overrun
	silent  *sched.Timer // the next look at flows without events
	unnamed *sched.Timer // when flows that a look has found should have had an event
	poll    *sched.Timer
}

// schedule sets up the node's scheduler; its timers are not set yet.
func (n *Node) schedule() {
	n.sched = sched.New(n.transmit)
	n.timers = timers{
		purge:   n.sched.NewTimer(n.purge),
		resync:  n.sched.NewTimer(n.resync),
		silent:  n.sched.NewTimer(n.readSilent),
		unnamed: n.sched.NewTimer(n.judgeUnnamed),
		poll:    n.sched.NewTimer(n.poll),
	}
}

// addSources has the loop look after what New has opened.
func (n *Node) addSources() {
	if n.alarm != nil {
		n.sched.Add(expirySource{n})
	}
	if n.machine != nil {
		n.sched.Add(protocolSource{n})
		n.sched.Add(hearingSource{n})
	}
	n.sched.Add(eventSource{n})
}

// New opens everything that cfg needs: kernel sockets, links. Nothing is replicated
// before Run. ended, which may be nil, is for statistics mode.
//
// The error names what could not be opened, in conntrack-tools' words where those exist.
func New(cfg *conf.Config, log *slog.Logger, ended Ended) (_ *Node, err error) {
	n := &Node{
		cfg:         cfg,
		log:         log,
		ended:       ended,
		own:         map[uint32]origin{},
		peers:       map[peerKey]*peer{},
		burstBuffer: ctnetlink.BurstBuffer(ctnetlink.KernelMemory()),
	}
	n.schedule()
	n.limits.open(n)
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
	n.addSources()
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
	first := wire.Seq(n.sched.Start().Unix())
	switch s.Mode {
	case conf.ModeFTFW:
		n.mode = ModeFTFW
		n.machine = proto.NewFTFW(0, proto.FTFWConfig{
			FirstSeq: first, Window: int(s.ACKWindowSize), Resend: int(s.ResendQueueSize), StartupResync: s.StartupResync,
		})
	case conf.ModeALARM:
		n.mode = ModeALARM
		n.alarm = proto.NewAlarm(first, s.RefreshTime, uint64(n.sched.Start().UnixNano()))
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

// openKernel opens the sockets to the kernel. The subscription to events precedes the
// first reading of the tables, so that no change is missed in between.
func (n *Node) openKernel() (err error) {
	if n.conns.commit, err = nl.Dial(nl.Config{}); err != nil {
		return err
	}
	if n.conns.flush, err = nl.Dial(nl.Config{}); err != nil {
		return err
	}
	// A kernel without ctnetlink accepts the subscription too, and then never sends an
	// event; the table itself is read later.
	if _, _, err := ctnetlink.Count(context.Background(), n.conns.commit); err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w (this kernel has no nf_conntrack_netlink)", err)
		}
		return fmt.Errorf("can't get kernel conntrack table: %w", err)
	}
	if n.conns.remove, err = nl.Dial(nl.Config{}); err != nil {
		return err
	}
	// Not conns.remove: the peer may have been sent what is removed (in a bulk that it asked
	// for when it stepped down), and only the end takes it out of the peer's cache again.
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

func (n *Node) notice(text string) { n.log.Log(context.Background(), LevelNotice, text) }

// Run replicates until ctx ends, and then closes everything. It returns nil then,
// and an error when the node can't go on.
func (n *Node) Run(ctx context.Context) error { return n.sched.Run(ctx, n.begin, n.close) }

// begin starts what runs beside the loop, and the first reading of the kernel's tables.
func (n *Node) begin() {
	if n.injector != nil {
		n.sched.Beside(n.injector.run)
	}
	if n.cfg.General.PollInterval > 0 && n.internal.flows != nil {
		n.timers.poll.After(n.cfg.General.PollInterval)
	}
	if n.machine != nil {
		n.hearing.next = n.sched.Now() + peerQuiet
	}
	if n.internal.flows != nil {
		n.filling = true
		n.startRefill(refill{tables: Flows | n.expectTables(), routine: true}, func(err error) {
			n.filled(err)
			n.retryRefill(err)
		})
	}
}

// filled is called when the first reading of the kernel's tables has ended, with its error.
func (n *Node) filled(err error) {
	n.filling = false
	n.watchSilent(err)
	if n.bulkWaits {
		n.bulkWaits = false
		n.startBulk()
	}
}

// expectTables returns Expects where expectations are replicated, and 0 otherwise.
func (n *Node) expectTables() Tables {
	if n.expectSync && n.internal.expects != nil {
		return Expects
	}
	return 0
}

// heldPoll is the period of checking whether a slow link can take more.
const heldPoll = 2 * time.Millisecond

// poll reads the kernel's tables, in the place of events (PollSecs).
func (n *Node) poll() {
	n.timers.poll.After(n.cfg.General.PollInterval)
	if !n.refilling {
		n.startRefill(refill{tables: Flows | n.expectTables(), send: true, all: true, sweep: true, routine: true}, nil)
	}
}

// protocolSource is the part of the loop that keeps the protocol's time.
type protocolSource struct{ n *Node }

func (s protocolSource) Due() time.Duration {
	due := s.n.machine.Deadline()
	if s.n.held {
		due = min(due, s.n.sched.Now()+heldPoll) // each turn of the loop tries the link again
	}
	return due
}

func (s protocolSource) Run() error {
	s.n.protocolEvents(s.n.machine.Tick(s.n.sched.Now()))
	return nil
}

// expirySource is the part of the loop that keeps ALARM's time.
type expirySource struct{ n *Node }

func (s expirySource) Due() time.Duration {
	if s.n.expiring {
		return s.n.sched.Now()
	}
	return s.n.nextExpiry()
}

func (s expirySource) Run() error {
	s.n.expire(s.n.sched.Now())
	return nil
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
	for _, c := range []*nl.Conn{n.conns.commit, n.conns.flush, n.conns.remove} {
		if c != nil {
			c.Close()
		}
	}
	n.limits.close()
}

// errnoText returns the text of the kernel's refusal in the words of strerror(3).
func errnoText(err error) string {
	var refusal *nl.Error
	if errors.As(err, &refusal) {
		return refusal.Strerror()
	}
	return fmt.Sprint(err)
}
