package follow

import (
	"testing"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/flowtest"
)

// Only TCP connections with NAT are read again, and each once.
func TestAdjustedConnectionsAreReadAgain(t *testing.T) {
	l := newLife(0)
	for i := range 4 {
		f := flowtest.Flows(4)[i]
		f.Has |= ctnetlink.HasStatus
		if i > 0 {
			f.Status = ctnetlink.StatusSrcNAT
		}
		if i == 3 {
			f.Orig.Zone, f.Orig.Has = 7, f.Orig.Has|ctnetlink.TupleZone
		}
		l.cache.Flows.Put(&f, 0)
		child := flowtest.TCP("192.0.2.1", "198.51.100.2")
		child.Master = f.Orig
		child.Master.Zone, child.Master.Has = 0, child.Master.Has&^ctnetlink.TupleZone
		child.Orig.Zone, child.Orig.Has = f.Orig.Zone, child.Orig.Has|f.Orig.Has&ctnetlink.TupleZone
		l.noteMaster(&child)
		if i == 1 {
			l.noteAdjusted(l.cache.Flows.Find(&f))
		}
	}
	if len(l.adjusted) != 3 || !l.timers.adjusted.Pending() {
		t.Errorf("%d connections are read again, want 3", len(l.adjusted))
	}
}

// What is read of a connection changes nothing but its sequence adjustment, and nothing of
// another connection that has its tuple by now.
func TestMergedAdjustment(t *testing.T) {
	for _, id := range []uint32{1, 2} {
		l := newLife(0)
		f := flowtest.Flows(2)[1]
		h, _ := l.cache.Flows.Put(&f, 0)
		read := f.Clone()
		read.ID = id
		read.TCPState++
		read.Has |= ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply | ctnetlink.HasMark
		read.Mark, read.SeqAdjOrig = 9, ctnetlink.SeqAdj{CorrectionPos: 1, OffsetAfter: 2}
		l.mergeAdjusted(&read)
		var got ctnetlink.Flow
		if !l.cache.Flows.Load(h, &got) {
			t.Fatal("the flow is gone")
		}
		if got.TCPState != f.TCPState || got.Has&ctnetlink.HasMark != 0 || got.ID != 1 || got.Reply != f.Reply {
			t.Errorf("of id %d: %+v", id, got)
		}
		if has := got.Has&ctnetlink.HasSeqAdjOrig != 0 && got.SeqAdjOrig == read.SeqAdjOrig; has != (id == 1) {
			t.Errorf("of id %d the adjustment is %v %+v", id, has, got.SeqAdjOrig)
		}
	}
}
