// Package replicate keeps the peers' copies of this node's flows, and this node's copies of
// the peers' flows, over the dedicated links.
//
// A Replicator is the Announcer of a follow.Follower: it queues what has changed with the
// protocol's state machine (package proto), encodes the contents of the internal cache at
// the moment of transmission (send.go) and sends them over the current link (links.go). What
// peers send goes through the state machine into the external cache, or to an Injector
// (receive.go). With FT-FW sweep.go compares both nodes' accounts of the external cache, and
// hearing.go warns of silent peers. With a Cluster clause the protocol is version 2: cluster.go
// and the files beside it take the place of receive.go and send.go.
package replicate

import (
	"context"
	"math"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/loglimit"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/owner"
	"ctbox/sync/proto"
	"ctbox/sync/sched"
	"ctbox/sync/wire"
)

// Config is what a Replicator needs. It is fixed except for Sync (Reconfigure).
type Config struct {
	Sync *conf.Sync
	// Internal has what is announced. Both tables are nil with DisableInternalCache: then
	// the Source is read for bulks, and events are forwarded.
	Internal cache.Side
	// External takes what the peer announces; in ALARM and NOTRACK what all peers announce. Both
	// tables are nil with DisableExternalCache: then it goes to the Injector. The Replicator owns
	// this cache.
	External cache.Side
	// NewCopy returns an empty External for a further peer of a Cluster. It is not called where
	// there is one peer.
	NewCopy func() cache.Side
	// Injector is nil with an external cache, except with HotStandby: then it gets what that cache gets.
	Injector Injector
	Takeover Takeover
}

// Injector carries out the changes that peers announce (DisableExternalCache, HotStandby). Its
// methods are called with the lock held; they keep copies of their arguments.
type Injector interface {
	Flow(change wire.Type, f *ctnetlink.Flow)
	Expect(change wire.Type, e *ctnetlink.Expect)
	// Withdrawn is a flow that a peer no longer announces and that has not ended. Its entry has left the
	// external cache.
	Withdrawn(f *ctnetlink.Flow)
	// Adopt is a flow that this kernel has and that has left the internal cache, because a peer owns it now.
	Adopt(f *ctnetlink.Flow)
	// Hand ends a series of calls of the others.
	Hand()
	// Full reports whether the links' readers should wait before they hand over more. It
	// may be called without the lock.
	Full() bool
}

// Takeover decides what the takeovers of peers mean for this node's kernel. Its methods are
// called with the lock held.
type Takeover interface {
	// PeerEnded reports a flow that the peer has ended and that has left the external cache,
	// if it was there; then announced is when the peer last announced it. closed: with
	// owners, the hosts have closed the connection.
	PeerEnded(f *ctnetlink.Flow, announced time.Duration, there, closed bool)
	// PeerCommitted reports that the peer's last commit ended so long ago.
	PeerCommitted(ago time.Duration)
	// PeerAnnouncesCommits reports that the peer would announce a commit.
	PeerAnnouncesCommits()
	// PeerStarted reports a new life of the peer.
	PeerStarted()
	// FlowBegan reports a flow of the internal cache that began in this kernel by itself.
	FlowBegan(h cache.Handle)
}

// Source reads the kernel's tables for a bulk where there is no internal cache; see
// follow.Follower.ReadLive.
type Source interface {
	ReadLive(flows func(*ctnetlink.Flow), expects func(*ctnetlink.Expect), wait func(context.Context) error, ended func())
}

// Replicator replicates with the peers. The fields below the line are guarded by the lock of
// sched, which the caller of every method holds, except where the method says otherwise.
type Replicator struct {
	log      daemonlog.Log
	sched    *sched.Scheduler
	internal cache.Side
	newCopy  func() cache.Side
	injector Injector
	takeover Takeover
	source   Source                         // set before Begin
	forwards bool                           // DisableInternalCache
	started  *loglimit.Limit[uint8, string] // by the peer's number, with its name

	// ---

	cfg     *conf.Sync    // in force; immutable, Reconfigure replaces it
	machine proto.Machine // one of the three below
	// receiver is the machine.
	receiver proto.Receiver
	ftfw     *proto.FTFW
	alarm    *proto.Alarm
	notrack  *proto.NoTrack
	encoder  wire.Encoder
	packer   *wire.Packer
	past     proto.Stats // of the machines before this one
	cluster  *cluster    // version 2 of the protocol; nil without a Cluster clause
	links    *links
	flow     ctnetlink.Flow // reused
	expect   ctnetlink.Expect

	received  wire.Counters
	forwarded struct{ flows, expects cache.TableStatus }
	replica   ReplicaStatus
	peers     map[peerKey]*peer
	hearing   hearing
	paths     paths
	// external is the copy of the only peer's flows, or of all peers' flows without FT-FW. With
	// several peers of a Cluster it is that of one of them.
	external *peerCopy
	copies   []*peerCopy // all, external among them; none with DisableExternalCache

	missing   uint32        // events of the kernel that are lost and not made up for
	committed time.Duration // when the last commit ended; 0 for never
	lives     uint64        // of the peer, counted by its starts; FT-FW only
	asked     time.Duration // when everything was last requested by the operator or at the start; 0 for never

	filling     bool // the first reading of the kernel's tables has not ended yet
	bulkWaits   bool // a bulk was asked for meanwhile
	held        bool // messages wait for a slow link
	behind      bool // messages have been waiting since behindSince
	behindSince time.Duration
	expiring    bool // more of ALARM's entries are due
	expired     [sliceLen]cache.Handle
}

// sliceLen is how many flows or expectations are handled at once with the lock held: a
// fraction of a millisecond's work.
const sliceLen = 256

// New returns a Replicator, which sends and receives nothing before Open.
func New(s *sched.Scheduler, log daemonlog.Log, c Config) *Replicator {
	r := &Replicator{
		log: log, sched: s, internal: c.Internal, external: &peerCopy{Side: c.External}, newCopy: c.NewCopy, injector: c.Injector, takeover: c.Takeover,
		forwards: c.Internal.Flows == nil, cfg: c.Sync, peers: map[peerKey]*peer{},
		encoder: wire.Encoder{OmitTimeout: c.Sync.CommitTimeout > 0, WindowTracking: c.Sync.TCPWindowTracking},
	}
	if c.External.Flows != nil {
		r.copies = []*peerCopy{r.external}
	}
	first := wire.Seq(s.Start().Unix())
	switch c.Sync.Mode {
	case conf.ModeFTFW:
		r.ftfw = proto.NewFTFW(0, ftfwConfig(c.Sync, first))
		r.machine, r.receiver = r.ftfw, r.ftfw
	case conf.ModeALARM:
		r.alarm = proto.NewAlarm(first, c.Sync.RefreshTime, uint64(s.Start().UnixNano()))
		r.machine, r.receiver = r.alarm, r.alarm
	default:
		r.notrack = proto.NewNoTrack(0, first, c.Sync.StartupResync)
		r.machine, r.receiver = r.notrack, r.notrack
	}
	r.machine.SetDelays(delaysOf(&c.Sync.Delay))
	r.started = loglimit.New[uint8](1, startedPeriod, r.noticeStarts)
	return r
}

func ftfwConfig(s *conf.Sync, first wire.Seq) proto.FTFWConfig {
	return proto.FTFWConfig{
		FirstSeq: first, Window: int(s.ACKWindowSize), Resend: int(s.ResendQueueSize), StartupResync: s.StartupResync,
	}
}

// Open opens the links.
func (r *Replicator) Open() error {
	if err := r.openCluster(); err != nil {
		return err
	}
	if r.alarm != nil {
		r.sched.Add(expirySource{r})
	}
	r.sched.Add(protocolSource{r})
	r.sched.Add(hearingSource{r})
	if r.alarm == nil {
		r.sched.Add(pathSource{r})
	}
	return r.openLinks()
}

// ReadFrom sets where bulks come from if there is no internal cache.
func (r *Replicator) ReadFrom(source Source) { r.source = source }

// Begin starts the watch for silent peers. If filling is set bulks wait for Filled.
func (r *Replicator) Begin(filling bool) {
	r.hearing.next = r.sched.Now() + peerQuiet
	r.filling = filling
	if r.cfg.StartupResync {
		r.asked = max(r.sched.Now(), 1)
	}
}

// Filled reports that the first reading of the kernel's tables has ended.
func (r *Replicator) Filled() {
	r.filling = false
	r.waitingBulk()
}

// waitingBulk sends the bulk that was asked for while this node was not ready for it.
func (r *Replicator) waitingBulk() {
	if r.bulkWaits {
		r.bulkWaits = false
		r.Bulk()
	}
}

// Close closes the links and logs what was held back.
func (r *Replicator) Close() {
	if r.links != nil {
		r.links.close()
	}
	r.cluster.close()
	r.started.Close()
}

// Reconfigure puts another Sync in force. keys are what ReadKeys has read for it.
func (r *Replicator) Reconfigure(s *conf.Sync, keys Keys) {
	r.cfg = s
	r.encoder.OmitTimeout, r.encoder.WindowTracking = s.CommitTimeout > 0, s.TCPWindowTracking
	r.machine.SetDelays(delaysOf(&s.Delay))
	if m, ok := r.machine.(interface{ SetLimits(window, resend int) }); ok {
		m.SetLimits(int(s.ACKWindowSize), int(s.ResendQueueSize))
	}
	if r.alarm != nil {
		r.alarm.SetRefresh(s.RefreshTime)
	}
	r.cluster.reconfigure(s.Cluster, keys)
}

// RequestResync asks the peers for everything that they have (-n).
func (r *Replicator) RequestResync() {
	r.log.Notice("resync requested")
	r.asked = max(r.sched.Now(), 1)
	r.machine.RequestResync(r.sched.Now())
}

// Committed announces that a commit has ended here.
func (r *Replicator) Committed() {
	if m, ok := r.machine.(interface{ Committed(time.Duration) }); ok {
		r.committed = r.sched.Now()
		m.Committed(r.committed)
	}
}

// FlushExternal empties the external cache: the copies of all peers' flows. With several peers it
// asks all of them for everything.
func (r *Replicator) FlushExternal() {
	if len(r.copies) == 0 {
		return
	}
	r.forgetNotices() // of what this cache lacks
	for _, p := range r.copies {
		p.flushed = true
		p.Flows.Flush()
		p.Expects.Flush()
	}
	if r.cluster.several() {
		r.cluster.lackCopies()
		r.RequestResync()
	}
}

// ForgetInternal removes all objects of the internal cache from the protocol's queues, for a
// flush that announces no end.
func (r *Replicator) ForgetInternal() {
	if r.forwards {
		return
	}
	r.forgetAll(proto.Flows, r.internal.Flows.Next)
	r.forgetAll(proto.Expects, r.internal.Expects.Next)
}

// Forget removes a flow of the internal cache from the protocol's queues. The caller deletes it from the
// cache.
func (r *Replicator) Forget(h cache.Handle) { r.machine.Dropped(flowObject(h)) }

func (r *Replicator) forgetAll(table proto.Table, next func(*cache.Cursor, []cache.Handle) (int, bool)) {
	handles := make([]cache.Handle, sliceLen)
	var cur cache.Cursor
	for more := true; more; {
		var got int
		got, more = next(&cur, handles)
		for _, h := range handles[:got] {
			r.machine.Dropped(proto.Object{Table: table, Handle: uint64(h)})
		}
	}
}

// FlowStored queues h if it is to be announced and does not wait. In ALARM every stored flow that
// does not wait is announced periodically in any case: peers drop flows that are not announced
// again.
func (r *Replicator) FlowStored(h cache.Handle, f *ctnetlink.Flow, why owner.Why) {
	announce := r.cluster.announces(h, f, why)
	switch {
	case announce && !r.waits(h, f):
		r.machine.Changed(flowObject(h))
	case !announce && urgent(&r.cfg.Delay, f): // a reading shows more than events do
		r.endWait(h)
	}
	if !announce {
		r.cluster.unannounced(flowObject(h))
	}
	r.armRefresh(h)
}

// announceFlow queues h.
func (r *Replicator) announceFlow(h cache.Handle) {
	r.machine.Changed(flowObject(h))
	r.armRefresh(h)
}

// armRefresh sets the time at which ALARM announces h again.
func (r *Replicator) armRefresh(h cache.Handle) {
	if r.alarm != nil && !r.machine.Waits(flowObject(h)) {
		r.internal.Flows.Arm(h, r.sched.Now(), r.alarm.RefreshDelay())
	}
}

// ExpectStored is FlowStored for an expectation.
func (r *Replicator) ExpectStored(h cache.Handle, announce bool) {
	if announce {
		r.endWaitOfMaster(h)
		r.machine.Changed(expectObject(h))
	} else {
		r.cluster.keepsExpect(h)
	}
	if r.alarm != nil {
		r.internal.Expects.Arm(h, r.sched.Now(), r.alarm.RefreshDelay())
	}
}

// FlowEnded queues the end of h if announce is set; the flow stays in the internal cache as
// dead until the peers have its end.
func (r *Replicator) FlowEnded(h cache.Handle, announce bool) {
	if announce {
		r.cluster.ending(h)
	}
	r.cluster.goesOn(h)
	r.ended(flowObject(h), announce)
}

// ExpectEnded is FlowEnded for an expectation.
func (r *Replicator) ExpectEnded(h cache.Handle, announce bool) { r.ended(expectObject(h), announce) }

func (r *Replicator) ended(o proto.Object, announce bool) {
	if announce {
		r.machine.Deleted(o)
		return
	}
	r.machine.Dropped(o)
	r.release(o)
}

func (r *Replicator) release(o proto.Object) {
	if o.Table == proto.Flows {
		r.internal.Flows.Release(cache.Handle(o.Handle))
	} else {
		r.internal.Expects.Release(cache.Handle(o.Handle))
	}
}

func flowObject(h cache.Handle) proto.Object {
	return proto.Object{Table: proto.Flows, Handle: uint64(h)}
}
func expectObject(h cache.Handle) proto.Object {
	return proto.Object{Table: proto.Expects, Handle: uint64(h)}
}

// FlowBegan passes on that h began in this kernel by itself.
func (r *Replicator) FlowBegan(h cache.Handle) { r.takeover.FlowBegan(h) }

// MakeRoom frees a slot in a full internal table that a dead object occupies: FT-FW keeps
// dead objects until the peer, which may be away, has acknowledged their end.
func (r *Replicator) MakeRoom(tables cache.Tables) {
	machine, ok := r.machine.(interface{ MakeRoom() bool })
	if !ok {
		return
	}
	var table interface{ Full() bool } = r.internal.Flows
	if tables == cache.ExpectTable {
		table = r.internal.Expects
	}
	for table.Full() && machine.MakeRoom() {
		r.freeReleased()
	}
}

// EventsMissing announces how many events of the kernel were lost and not made up for.
func (r *Replicator) EventsMissing(events uint64) {
	r.missing = uint32(min(events, math.MaxUint32))
	r.machine.SetIncomplete(r.sched.Now(), r.missing)
}

// PeersMissing returns how many events the peers have lost and not yet made up for, by their
// last notices.
func (r *Replicator) PeersMissing() (events uint64) {
	for _, p := range r.peers {
		events += uint64(p.incomplete)
	}
	return events
}

// heldPoll is the period of checking whether a slow link can take more.
const heldPoll = 2 * time.Millisecond

// protocolSource is the part of the loop that keeps the protocol's time.
type protocolSource struct{ r *Replicator }

func (s protocolSource) Due() time.Duration {
	due := s.r.machine.Deadline()
	if s.r.held {
		due = min(due, s.r.sched.Now()+heldPoll) // each turn of the loop tries the link again
	}
	return due
}

func (s protocolSource) Run() error {
	s.r.protocolEvents(s.r.external, s.r.machine.Tick(s.r.sched.Now()))
	s.r.endWaits()
	return nil
}

// expirySource is the part of the loop that keeps ALARM's time.
type expirySource struct{ r *Replicator }

func (s expirySource) Due() time.Duration {
	if s.r.expiring {
		return s.r.sched.Now()
	}
	return s.r.nextExpiry()
}

func (s expirySource) Run() error {
	s.r.expire(s.r.sched.Now())
	return nil
}

// clocked is one of ALARM's tables with the action for objects whose timer has ended.
type clocked struct {
	table interface {
		Expired(now time.Duration, batch []cache.Handle) (n int, more bool)
		NextExpiry() (at time.Duration, ok bool)
	}
	due func(cache.Handle)
}

// clocks returns ALARM's tables: internal objects are announced again, external objects
// that were not announced again expire.
func (r *Replicator) clocks() [4]clocked {
	return [4]clocked{
		{r.internal.Flows, func(h cache.Handle) { r.internal.Flows.Settle(h); r.announceFlow(h) }},
		{r.internal.Expects, func(h cache.Handle) { r.internal.Expects.Settle(h); r.ExpectStored(h, true) }},
		{r.external.Flows, func(h cache.Handle) { r.external.Flows.Delete(h) }},
		{r.external.Expects, func(h cache.Handle) { r.external.Expects.Delete(h) }},
	}
}

// expire handles ALARM's ended timers, one slice of each table in a turn of the loop: a
// million may end at once.
func (r *Replicator) expire(now time.Duration) {
	r.expiring = false
	for _, c := range r.clocks() {
		got, more := c.table.Expired(now, r.expired[:])
		for _, h := range r.expired[:got] {
			c.due(h)
		}
		r.expiring = r.expiring || more
	}
}

// nextExpiry returns when expire next has something to do.
func (r *Replicator) nextExpiry() time.Duration {
	next := proto.None
	for _, c := range r.clocks() {
		if at, ok := c.table.NextExpiry(); ok {
			next = min(next, at)
		}
	}
	return next
}
