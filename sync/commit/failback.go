package commit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// A node that has stepped down (-t) keeps its kernel's flows until PurgeTimeout, so that
// it can take over again at once. Meanwhile the peer ends some of them. Left in the kernel
// they would come back with the next takeover, be replicated as living, and with NAT keep
// living ones out. So what the peer ends is removed from this kernel too, by the kernel's
// id: a flow that began here meanwhile and has the same tuple stays.
//
// An end counts only from a peer that has taken over. A backup's flows end as well,
// because no packet comes there, while they live here. A ctbox peer announces its last
// commit, which has to be later than the last one here. From a C daemon the protocol has no
// more than that it has announced the flow since then. Where flows have owners, it counts from
// the owner, and from nobody else.

// Failback removes from this node's kernel what the peer has ended. Its fields are guarded by
// the lock of sched, which the caller of every method but clear holds. Without both caches
// it does nothing.
type Failback struct {
	sched    *sched.Scheduler
	internal cache.Side
	// announced reports whether a peer announces a flow; nil without an external cache.
	announced func(orig *ctnetlink.Tuple, zone uint16) bool
	conn      *nl.Conn
	known     ctnetlink.Flow // reused
	removed   uint64
	owners    bool // flows have owners

	down bool // this node has stepped down
	// steppedDown is down, also where no flow is to be removed.
	steppedDown bool
	// requested: since then this node was requested to take over.
	requested bool
	committed time.Duration // the last commit here ended; 0: none
	speaks    bool          // the peer announces its commits
	peer      time.Duration // its last commit ended; 0: none that is known

	// ends are what the peer has ended of this kernel's flows, until it is known what that
	// means, or they are removed.
	ends []endedFlow
	// closed are those of them that go although this node has not stepped down.
	closed []endedFlow
	// began are flows that began here since the node has stepped down.
	began map[cache.Handle]struct{}

	removing chan struct{} // closed when the removal that is under way ends; nil without
}

// endedFlow is a flow that the peer has ended and this kernel may have.
type endedFlow struct {
	at     time.Duration
	handle cache.Handle // in the internal cache
	orig   ctnetlink.Tuple
	has    ctnetlink.Attr
	zone   uint16
	id     uint32
	epoch  uint32 // of this node's flow
}

// maxEnds bounds what is remembered. What does not fit stays in the kernel, as without all
// this.
const maxEnds = 1 << 14

// NewFailback returns the Failback of a node with this internal cache. announced, which is called with
// the lock held, reports whether the external cache has a flow; it is nil without an external cache.
func NewFailback(s *sched.Scheduler, internal cache.Side, announced func(orig *ctnetlink.Tuple, zone uint16) bool) (*Failback, error) {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return nil, err
	}
	return &Failback{sched: s, internal: internal, announced: announced, conn: c}, nil
}

// Close closes the socket.
func (b *Failback) Close() { b.conn.Close() }

// Removed returns how many flows were removed from the kernel because the peer, which has
// taken over, has ended them.
func (b *Failback) Removed() uint64 { return b.removed }

// peerRules reports whether the peer has taken over since this node has.
func (b *Failback) peerRules() bool { return b.peer > 0 && b.peer > b.committed }

// Primary reports whether this node has the traffic, as far as it knows: it has taken over,
// has not stepped down, and the peer has not taken over since. With owners it has a part of the
// traffic if it has not stepped down and has taken over or announces flows.
func (b *Failback) Primary(announces bool) bool {
	if b.owners {
		return !b.steppedDown && (b.committed > 0 || announces)
	}
	return b.committed > 0 && !b.steppedDown && !b.peerRules()
}

// SetOwners says whether flows have owners, because the Cluster has several peers. Then an end
// counts from whichever peer owns the flow, and PeerEnded is called for no other.
func (b *Failback) SetOwners(on bool) { b.owners = on }

// StepDown notes that the peer takes over.
func (b *Failback) StepDown() {
	b.steppedDown, b.requested = true, false
	if b.down || b.internal.Flows == nil || b.announced == nil {
		return
	}
	b.down = true
	if b.owners {
		b.forgetEnds()
	}
	b.began = map[cache.Handle]struct{}{}
	b.settleEnds()
}

// StepUp notes that this node takes over or has nothing left to remove.
func (b *Failback) StepUp() {
	b.down = false
	b.ends, b.began = nil, nil
}

// Requested notes that this node is requested to take over, by a commit that ends later.
func (b *Failback) Requested() { b.requested = true }

// TookOver notes that a commit has ended here. A node that has stepped down since it was requested, or that took
// over by itself what a peer gave up, stays as it is.
func (b *Failback) TookOver() {
	b.committed = max(b.sched.Now(), 1)
	if b.requested {
		b.steppedDown = false
	}
}

// PeerStarted notes a new life of the peer, which has committed nothing yet. With owners it
// changes nothing: the node has other peers.
func (b *Failback) PeerStarted() {
	if !b.owners {
		b.speaks, b.peer = false, 0
	}
}

// PeerAnnouncesCommits notes that the peer would announce a commit.
func (b *Failback) PeerAnnouncesCommits() { b.speaks = true }

// FlowBegan notes a flow that began in this kernel by itself.
func (b *Failback) FlowBegan(h cache.Handle) {
	if b.down && h != 0 {
		b.began[h] = struct{}{}
	}
}

// PeerCommitted notes that the peer's last commit ended so long ago. Of several peers (owners)
// the latest commit counts.
func (b *Failback) PeerCommitted(ago time.Duration) {
	b.speaks = true
	at := max(b.sched.Now()-ago, 1)
	if b.owners {
		at = max(at, b.peer)
	}
	b.peer = at
	b.settleEnds()
}

// PeerEnded notes a flow that the peer has ended and that has left the external cache, if it
// was there; then announced is when the peer last announced it. With owners the peer is the
// flow's owner. Then a closed connection goes from the kernel at once, also where this node has not stepped down:
// the address may have moved that it was translated to, and comes back with connections that
// need its port. Other ends do not prove that no packet comes through this node.
func (b *Failback) PeerEnded(f *ctnetlink.Flow, announced time.Duration, there, closed bool) {
	rules := b.owners || b.speaks && b.peerRules()
	if !b.down && !rules || b.internal.Flows == nil {
		return
	}
	if len(b.ends) >= maxEnds && !(b.owners && !b.down && b.forgetHalf()) {
		return
	}
	mine := b.internal.Flows.Find(f)
	if mine == 0 || !b.internal.Flows.Load(mine, &b.known) || b.known.Has&ctnetlink.HasID == 0 {
		return
	}
	if !b.owners && !b.speaks && (!there || announced < b.committed.Truncate(time.Second)) {
		return
	}
	k := &b.known
	e := endedFlow{b.sched.Now(), mine, k.Orig, k.Has & (ctnetlink.HasID | ctnetlink.HasZone), k.Zone, k.ID, b.epoch(mine)}
	if b.owners && !b.down && closed && len(b.closed) < maxEnds {
		b.closed = append(b.closed, e)
	} else {
		b.ends = append(b.ends, e)
	}
	b.settleEnds()
}

// endsKept is how long an end is remembered, with owners, by a node that has not stepped down: long
// enough for a takeover's two halves, which keepalived runs in any order. Without owners the
// peer's commit says that this node is about to step down.
const endsKept = 10 * time.Second

// forgetEnds forgets the ends that are older than endsKept.
func (b *Failback) forgetEnds() {
	i := sort.Search(len(b.ends), func(i int) bool { return b.ends[i].at >= b.sched.Now()-endsKept })
	b.ends = append(b.ends[:0], b.ends[i:]...)
}

// forgetHalf forgets the older half of the ends, if these are older than endsKept, so that the
// next ones cost nothing. It reports whether there is room now.
func (b *Failback) forgetHalf() bool {
	half := len(b.ends) / 2
	if b.ends[half].at >= b.sched.Now()-endsKept {
		return false
	}
	b.ends = append(b.ends[:0], b.ends[half:]...)
	return true
}

// epoch returns the epoch of a flow of the internal cache, which a claim changes. It is 0
// without owners.
func (b *Failback) epoch(h cache.Handle) uint32 {
	return b.internal.Flows.Epoch(h) &^ cache.EpochMark
}

// undecided reports whether it is not known yet if what the peer ends counts.
func (b *Failback) undecided() bool { return !b.owners && b.speaks && !b.peerRules() }

// settleEnds begins the removal of what the peer has ended, once that is certain.
func (b *Failback) settleEnds() {
	if b.removing != nil || b.undecided() {
		return
	}
	gone := b.certain(&b.closed)
	if b.down {
		gone = append(gone, b.certain(&b.ends)...)
	}
	if len(gone) == 0 {
		return
	}
	b.removing = make(chan struct{})
	b.sched.Go(sched.KindAny, "removal of what the peer has ended", func(ctx context.Context, _ *sched.Task) error {
		return b.remove(ctx, gone)
	}, func(error) {
		close(b.removing)
		b.removing = nil
		b.settleEnds()
	})
}

// certain empties a list of ends. It returns those that are to be removed; the others are what the peer ended
// before it took over, what it has announced again, and what this node has claimed since.
func (b *Failback) certain(ends *[]endedFlow) []endedFlow {
	var gone []endedFlow
	for _, e := range *ends {
		_, own := b.began[e.handle]
		if !own && (b.owners || !b.speaks || e.at >= b.peer) && b.epoch(e.handle) == e.epoch && !b.announced(&e.orig, e.zone) {
			gone = append(gone, e)
		}
	}
	*ends = (*ends)[:0]
	return gone
}

// remove deletes flows from the kernel, named by tuple, zone and id. It runs beside
// the loop.
func (b *Failback) remove(ctx context.Context, gone []endedFlow) error {
	var failed error
	removed := len(gone)
	p := b.conn.NewPipeline(ctx, func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			removed--
			if !errors.Is(f.Err, unix.ENOENT) {
				failed = f.Err
			}
		}
		return nil
	})
	batch, err := p.Batch()
	var f ctnetlink.Flow
	for _, e := range gone {
		if err != nil {
			break
		}
		f = ctnetlink.Flow{Orig: e.orig, Has: e.has, Zone: e.zone, ID: e.id}
		batch.Add(nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Orig.Family, Attrs: f.Append})
		if batch.Full() {
			if err = p.Submit(batch); err == nil {
				batch, err = p.Batch()
			}
		}
	}
	if err == nil {
		err = p.Submit(batch)
	}
	if err = cmp.Or(err, p.Close(), failed); err != nil {
		return err
	}
	return b.sched.Do(ctx, func() { b.removed += uint64(removed) })
}

// clear is the first step of a commit: it removes what the peer has ended, and waits
// for the removal that is under way.
func (b *Failback) clear(ctx context.Context) error {
	var gone []endedFlow
	var removing chan struct{}
	if err := b.sched.Do(ctx, func() {
		removing = b.removing
		if b.down && !b.undecided() {
			gone = b.certain(&b.ends)
		}
		gone = append(gone, b.certain(&b.closed)...)
		if !b.steppedDown || b.requested {
			b.StepUp()
		}
	}); err != nil {
		return err
	}
	if removing != nil {
		select {
		case <-removing:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := b.remove(ctx, gone); err != nil {
		return fmt.Errorf("remove what the peer has ended: %w", err)
	}
	return nil
}
