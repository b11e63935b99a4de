package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
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
// more than that it has announced the flow since then.
type failback struct {
	down      bool          // this node has stepped down
	committed time.Duration // the last commit here ended; 0: none
	speaks    bool          // the peer announces its commits
	peer      time.Duration // its last commit ended; 0: none that is known

	// ends are what the peer has ended of this kernel's flows, until it is known what that
	// means, or they are removed.
	ends []endedFlow
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
}

// maxEnds bounds what is remembered. What does not fit stays in the kernel, as without all
// this.
const maxEnds = 1 << 14

// peerRules reports whether the peer has taken over since this node has.
func (b *failback) peerRules() bool { return b.peer > 0 && b.peer > b.committed }

// stepDown notes that the peer takes over.
func (n *Node) stepDown() {
	b := &n.failback
	if b.down || n.bypass || n.injector != nil {
		return
	}
	b.down = true
	b.began = map[cache.Handle]struct{}{}
	n.settleEnds()
}

// stepUp notes that this node takes over or has nothing left to remove.
func (n *Node) stepUp() {
	n.failback.down = false
	n.failback.ends, n.failback.began = nil, nil
}

// tookOver notes that a commit has ended here, and announces it.
func (n *Node) tookOver() {
	n.failback.committed = max(n.sched.Now(), 1)
	if m, ok := n.machine.(*proto.FTFW); ok {
		m.Committed(n.sched.Now())
	}
}

// beganHere notes a flow that began in this kernel by itself.
func (n *Node) beganHere(h cache.Handle) {
	if n.failback.down && h != 0 {
		n.failback.began[h] = struct{}{}
	}
}

// peerCommitted notes that the peer's last commit ended so long ago.
func (n *Node) peerCommitted(ago time.Duration) {
	n.failback.speaks = true
	n.failback.peer = max(n.sched.Now()-ago, 1)
	n.settleEnds()
}

// endExternal removes f, which the peer has ended, from the external cache, where h is its
// entry, and from this kernel if the peer rules.
func (n *Node) endExternal(h cache.Handle, f *ctnetlink.Flow) {
	_, announced, there := n.external.flows.Times(h)
	n.external.flows.Delete(h)
	b := &n.failback
	rules := b.speaks && b.peerRules()
	if !b.down && !rules || n.internal.flows == nil || len(b.ends) >= maxEnds {
		return
	}
	mine := n.internal.flows.Find(f)
	if mine == 0 || !n.internal.flows.Load(mine, &n.known) || n.known.Has&ctnetlink.HasID == 0 {
		return
	}
	if !b.speaks && (!there || announced < b.committed.Truncate(time.Second)) {
		return
	}
	k := &n.known
	b.ends = append(b.ends, endedFlow{n.sched.Now(), mine, k.Orig, k.Has & (ctnetlink.HasID | ctnetlink.HasZone), k.Zone, k.ID})
	n.settleEnds()
}

// settleEnds begins the removal of what the peer has ended, once that is certain.
func (n *Node) settleEnds() {
	b := &n.failback
	if !b.down || len(b.ends) == 0 || b.removing != nil || b.speaks && !b.peerRules() {
		return
	}
	gone := n.certain()
	if len(gone) == 0 {
		return
	}
	b.removing = make(chan struct{})
	n.run(sched.KindAny, "removal of what the peer has ended", func(ctx context.Context, _ *sched.Task) error {
		return n.removeEnded(ctx, n.conns.remove, gone)
	}, func(error) {
		close(b.removing)
		b.removing = nil
		n.settleEnds()
	})
}

// certain takes those of the ends that are to be removed, and forgets the others: what
// the peer ended before it took over, and what it has announced again.
func (n *Node) certain() []endedFlow {
	b := &n.failback
	var gone []endedFlow
	for _, e := range b.ends {
		_, own := b.began[e.handle]
		if !own && (!b.speaks || e.at >= b.peer) && n.external.flows.FindTuple(&e.orig, e.zone) == 0 {
			gone = append(gone, e)
		}
	}
	b.ends = b.ends[:0]
	return gone
}

// removeEnded deletes flows from the kernel, named by tuple, zone and id. It runs beside
// the loop.
func (n *Node) removeEnded(ctx context.Context, conn *nl.Conn, gone []endedFlow) error {
	var failed error
	removed := len(gone)
	p := conn.NewPipeline(ctx, func(b *nl.Batch) error {
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
	return n.sched.Do(ctx, func() { n.replica.EndedByPeer += uint64(removed) })
}

// clearEnded is the first step of a commit: it removes what the peer has ended, and waits
// for the removal that is under way.
func (n *Node) clearEnded(ctx context.Context) error {
	var gone []endedFlow
	var removing chan struct{}
	if err := n.sched.Do(ctx, func() {
		b := &n.failback
		removing = b.removing
		if b.down && (!b.speaks || b.peerRules()) {
			gone = n.certain()
		}
		n.stepUp()
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
	if err := n.removeEnded(ctx, n.conns.remove, gone); err != nil {
		return fmt.Errorf("remove what the peer has ended: %w", err)
	}
	return nil
}
