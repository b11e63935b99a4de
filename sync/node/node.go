package node

import (
	"context"
	"log/slog"
	"os"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/follow"
	"ctbox/sync/ready"
	"ctbox/sync/replicate"
	"ctbox/sync/sched"
)

// Node is a running conntrackd: it wires the rooms to each other and answers the control
// socket. New makes it, Run runs it; its other methods may be called by any goroutine while
// it runs.
//
// The fields below the line are guarded by the lock of sched once Run has begun. The rooms
// are set by New and stay; each owns its state, and is used with the lock held.
type Node struct {
	log   daemonlog.Log
	sched *sched.Scheduler
	mode  Mode

	internal   cache.Side
	expectSync bool

	follower   *follow.Follower      // nil in ModeNone
	flusher    *commit.Flusher       // nil in ModeNone
	replicator *replicate.Replicator // nil without Sync, as are the three below
	committer  *commit.Committer
	failback   *commit.Failback
	injector   *commit.Injector // nil except with DisableExternalCache
	standby    *commit.Standby  // nil except with HotStandby

	// ---

	cfg        *conf.Config   // in force; immutable, Reconfigure replaces it
	purge      *sched.Timer   // -t
	ready      *ready.Machine // nil without Sync
	readyTimer *sched.Timer
	taskFailed uint64
	requests   requests  // takeovers that wait, where flows have owners
	takeover   *takeover // under way, with HotStandby; nil without
	adopted    bool      // the flows of a former life are the Standby's
}

// Ended is called by a node in statistics mode for each cached flow that has ended. f is
// the flow of the kernel's event, counters included, or the cached flow where the end had
// no event. Calls come one at a time with the node's lock held: Ended must not block, and
// must not keep f.
type Ended func(f *ctnetlink.Flow)

// FlowEnded makes an Ended a follow.Observer.
func (e Ended) FlowEnded(f *ctnetlink.Flow) { e(f) }

// New opens everything that cfg needs: kernel sockets, links. Nothing is replicated
// before Run. ended, which may be nil, is for statistics mode.
//
// The error names what could not be opened, in conntrack-tools' words where those exist.
func New(cfg *conf.Config, log *slog.Logger, ended Ended) (_ *Node, err error) {
	n := &Node{cfg: cfg, log: daemonlog.Log{Logger: log}}
	n.sched = sched.New(n.flush, n.taskEnded)
	n.purge = n.sched.NewTimer(n.purgeKernel)
	n.readyTimer = n.sched.NewTimer(n.decideAgain)
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	following := follow.Config{General: &cfg.General}
	switch {
	case cfg.Sync != nil:
		if err := n.openSync(cfg.Sync); err != nil {
			return nil, err
		}
		following.Cache, following.Announcer = n.internal, n.replicator
		following.Expects, following.Helpers = cfg.Sync.ExpectationSync, cfg.Sync.ExpectationHelpers
		following.Injects = n.injector != nil || n.standby != nil
		if n.standby != nil {
			following.Skip = n.skips
		}
	case cfg.Stats != nil:
		n.mode = ModeStats
		n.internal.Flows = cache.NewFlows(n.cacheConfig())
		following.Cache, following.Announcer = n.internal, follow.Local{Cache: n.internal}
		if ended != nil {
			following.Observer = ended
		}
	default:
		return n, nil // helpers, at most: no caches, no events
	}
	n.follower = follow.New(n.sched, n.log, following)
	if err := n.openKernel(); err != nil {
		return nil, err
	}
	return n, nil
}

// flush ends a slice of work: what it has produced is sent.
func (n *Node) flush() {
	if n.replicator != nil {
		n.replicator.Transmit()
	}
}

// taskEnded reports a task that has failed.
func (n *Node) taskEnded(what string, err error) {
	n.taskFailed++
	n.log.Error(what + ": " + err.Error())
}

func (n *Node) cacheConfig() cache.Config {
	g := &n.cfg.General
	return cache.Config{Limit: int(g.HashLimit), Buckets: int(g.HashSize)}
}

// modes are the modes of a Sync clause.
var modes = map[conf.Mode]Mode{conf.ModeFTFW: ModeFTFW, conf.ModeALARM: ModeALARM, conf.ModeNOTRACK: ModeNOTRACK}

// openSync makes what replicates: caches, protocol, links, and what changes the kernel.
func (n *Node) openSync(s *conf.Sync) (err error) {
	n.mode = modes[s.Mode]
	n.expectSync = s.ExpectationSync
	if _, err := replicate.ReadKeys(s, os.Geteuid()); err != nil {
		return err
	}
	config := n.cacheConfig()
	config.Timers = n.mode == ModeALARM
	if s.DisableInternalCache {
		n.log.Notice("disabling internal cache")
	} else {
		n.internal = cache.NewSide(config)
	}
	replicating := replicate.Config{Sync: s, Internal: n.internal}
	var announced func(*ctnetlink.Tuple, uint16) bool
	if s.DisableExternalCache {
		n.log.Notice("disabling external cache")
		if n.injector, err = commit.NewInjector(n.sched, n.log, s); err != nil {
			return err
		}
		replicating.Injector = n.injector
	} else {
		replicating.External = cache.NewSide(config)
		replicating.NewCopy = func() cache.Side { return cache.NewSide(n.cacheConfig()) }
		announced = func(orig *ctnetlink.Tuple, zone uint16) bool { return n.replicator.Announced(orig, zone) }
	}
	if err := n.openStandby(s, &replicating); err != nil {
		return err
	}
	if n.failback, err = commit.NewFailback(n.sched, n.internal, announced); err != nil {
		return err
	}
	n.ready = ready.New(readyConfig(s))
	replicating.Takeover = n.failback
	n.replicator = replicate.New(n.sched, n.log, replicating)
	n.committer, err = commit.NewCommitter(n.sched, n.log, s, n.failback, commit.Hooks{
		Began: func() { n.follower.CommitBegan() }, Ended: n.commitEnded, PeersMissing: n.replicator.PeersMissing,
	})
	if err != nil {
		return err
	}
	if err := n.replicator.Open(); err != nil {
		return err
	}
	n.failback.SetOwners(n.replicator.HasOwners())
	n.replicator.OnRelease(n.released)
	n.replicator.OnAsked(func() { n.decide() })
	return nil
}

// copies returns the external cache: what each peer has announced. It is empty where the node has no
// such cache.
func (n *Node) copies() []replicate.Copy {
	if n.replicator == nil {
		return nil
	}
	return n.replicator.Copies()
}

// openKernel opens what follows and flushes the kernel's tables.
func (n *Node) openKernel() (err error) {
	if n.flusher, err = commit.NewFlusher(n.sched, n.follower.Filter); err != nil {
		return err
	}
	if err := follow.Probe(context.Background()); err != nil {
		return err
	}
	n.follower.Own(n.flusher.PortID())
	if n.replicator != nil {
		n.replicator.ReadFrom(n.follower)
		// Not the failback's socket: the peer may have been sent what is removed (in a bulk
		// that it asked for when it stepped down), and only the end takes it out of the
		// peer's cache again.
		n.follower.Own(n.committer.PortID())
	}
	if n.injector != nil {
		n.follower.Ignore(n.injector.PortID())
	}
	if n.standby != nil {
		n.follower.Ignore(n.standby.PortID())
	}
	return n.follower.Open()
}

// Run replicates until ctx ends, and then closes everything. It returns nil then,
// and an error when the node can't go on.
func (n *Node) Run(ctx context.Context) error { return n.sched.Run(ctx, n.begin, n.close) }

// InjectorPorts returns the netlink ports of the sockets that bring the peers' flows into this kernel as
// they are announced (HotStandby, DisableExternalCache). It does not need the lock.
func (n *Node) InjectorPorts() (ports []uint32) {
	if n.injector != nil {
		ports = append(ports, n.injector.PortID())
	}
	if n.standby != nil {
		ports = append(ports, n.standby.PortID())
	}
	return ports
}

// begin starts what runs beside the loop, and the first reading of the kernel's tables.
func (n *Node) begin() {
	if n.injector != nil {
		n.sched.Beside(n.injector.Run)
	}
	if n.standby != nil {
		n.sched.Beside(n.standby.Run)
	}
	if n.replicator != nil {
		n.replicator.Begin(n.internal.Flows != nil)
		n.readyTimer.After(readyPeriod)
	}
	if n.follower != nil {
		n.follower.Begin(n.filled)
	}
}

// filled follows the first reading of the kernel's tables.
func (n *Node) filled() {
	if n.replicator != nil {
		n.replicator.Filled()
	}
}

// commitEnded follows each commit.
func (n *Node) commitEnded(tables cache.Tables) {
	n.follower.CommitEnded()
	if tables&cache.FlowTable != 0 {
		n.failback.TookOver()
		n.replicator.Committed()
		n.decide()
	}
}

// close releases what New opened.
func (n *Node) close() {
	if n.follower != nil {
		n.follower.Close()
	}
	if n.replicator != nil {
		n.replicator.Close()
	}
	if n.injector != nil {
		n.injector.Close()
	}
	if n.standby != nil {
		n.standby.Close()
	}
	if n.committer != nil {
		n.committer.Close()
	}
	if n.failback != nil {
		n.failback.Close()
	}
	if n.flusher != nil {
		n.flusher.Close()
	}
}

// Reconfigure puts another configuration in force. It may differ from the one before in
// what a running daemon can change (conf.Change.Live); the rest must be the same. Caches,
// sequence numbers and links go on as they are. After an error nothing has changed.
// follow.Follower.Reconfigure says what a changed filter means.
func (n *Node) Reconfigure(ctx context.Context, cfg *conf.Config) error {
	return n.do(ctx, func() error { return n.reconfigure(cfg) })
}

// reconfigure is the part of Reconfigure that needs the lock.
func (n *Node) reconfigure(cfg *conf.Config) error {
	// The only steps that can fail are this one and the next.
	keys, err := replicate.ReadKeys(cfg.Sync, os.Geteuid())
	if err != nil {
		return err
	}
	if n.follower != nil {
		if err := n.follower.Reconfigure(&cfg.General); err != nil {
			return err
		}
	}
	n.cfg = cfg
	sides := []cache.Side{n.internal}
	for _, c := range n.copies() {
		sides = append(sides, c.Side)
	}
	for _, side := range sides {
		if side.Flows != nil {
			side.Flows.SetLimit(int(cfg.General.HashLimit))
		}
		if side.Expects != nil {
			side.Expects.SetLimit(int(cfg.General.HashLimit))
		}
	}
	if n.replicator != nil {
		n.replicator.Reconfigure(cfg.Sync, keys)
		n.failback.SetOwners(n.replicator.HasOwners())
		n.committer.Reconfigure(cfg.Sync)
		n.ready.Configure(readyConfig(cfg.Sync))
	}
	if n.injector != nil {
		n.injector.Reconfigure(cfg.Sync)
	}
	if n.standby != nil {
		n.standby.Reconfigure(cfg.Sync)
	}
	return nil
}
