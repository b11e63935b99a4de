package follow

import (
	"context"
	"errors"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// Where a helper of the kernel replaces addresses in a connection's text by longer or shorter
// ones, as in FTP's PORT command behind NAT, the kernel adjusts the connection's sequence
// numbers, and sends no event of that. But then the helper also expects another connection,
// and that one begins: at both events the connection is read again. A copy of it without
// the adjustment would break it at a takeover.

const (
	// adjustedDelay is how long after such an event the connection is read: the kernel sends
	// the expectation's event just before it adjusts.
	adjustedDelay = 20 * time.Millisecond
	// maxAdjusted bounds how many connections are read at once.
	maxAdjusted = 1024
)

// noteAdjusted has h, the master of an expectation or of a flow, read again if the kernel may have
// adjusted its sequence numbers. h may be 0.
func (fo *Follower) noteAdjusted(h cache.Handle) {
	k := &fo.known
	if h == 0 || len(fo.adjusted) >= maxAdjusted || !fo.cache.Flows.Load(h, k) || k.Orig.Proto != ctnetlink.ProtoTCP ||
		k.Status&(ctnetlink.StatusSrcNAT|ctnetlink.StatusDstNAT) == 0 {
		return
	}
	if fo.adjusted == nil {
		fo.adjusted = map[cache.Handle]struct{}{}
	}
	fo.adjusted[h] = struct{}{}
	if !fo.timers.adjusted.Pending() {
		fo.timers.adjusted.After(adjustedDelay)
	}
}

// noteMaster is noteAdjusted for the master of a new flow, which is in the flow's own zone.
func (fo *Follower) noteMaster(f *ctnetlink.Flow) {
	if f.Master.Has == 0 || fo.lifeOnly || fo.forwards {
		return
	}
	master, zone := f.Master, uint16(0)
	if f.Has&ctnetlink.HasZone != 0 {
		zone = f.Zone
	}
	if f.Orig.Has&ctnetlink.TupleZone != 0 {
		master.Has, master.Zone = master.Has|ctnetlink.TupleZone, f.Orig.Zone
	}
	fo.noteAdjusted(fo.cache.Flows.FindTuple(&master, zone))
}

// readAdjusted reads the connections that were noted.
func (fo *Follower) readAdjusted() {
	asked := make([]ctnetlink.Flow, 0, len(fo.adjusted))
	for h := range fo.adjusted {
		if fo.cache.Flows.Load(h, &fo.known) {
			k := &fo.known
			asked = append(asked, ctnetlink.Flow{Orig: k.Orig, Has: k.Has & ctnetlink.HasZone, Zone: k.Zone})
		}
	}
	clear(fo.adjusted)
	fo.sched.Go(sched.KindAny, "reading of sequence adjustment", func(ctx context.Context, _ *sched.Task) error {
		c, err := nl.Dial(nl.Config{})
		if err != nil {
			return err
		}
		defer c.Close()
		var f ctnetlink.Flow
		for i := range asked {
			if err := ctnetlink.Get(ctx, c, &asked[i], &f); err != nil {
				if errors.Is(err, unix.ENOENT) {
					continue
				}
				return err
			}
			if err := fo.sched.Do(ctx, func() { fo.mergeAdjusted(&f) }); err != nil {
				return err
			}
		}
		return nil
	}, nil)
}

// mergeAdjusted merges the sequence adjustment of a flow that was read, and nothing else:
// events may have reported a later state of the rest.
func (fo *Follower) mergeAdjusted(f *ctnetlink.Flow) {
	h := fo.cache.Flows.Find(f)
	if h == 0 || !fo.cache.Flows.IsSame(h, f) {
		return
	}
	f.Has &= ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply | ctnetlink.HasZone | ctnetlink.HasID
	f.Reply, f.Master = ctnetlink.Tuple{}, ctnetlink.Tuple{}
	_, outcome := fo.cache.Flows.Put(f, fo.sched.Now())
	fo.announcer.FlowStored(h, f, changedIf(outcome == cache.Updated))
}
