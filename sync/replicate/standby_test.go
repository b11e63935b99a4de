//go:build !no_cluster

package replicate

import (
	"math/rand/v2"
	"testing"
	"time"

	"ctbox/internal/seeds"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/wire"
)

// injected is an Injector that notes what would be in the kernel, by tuple, with the marks.
type injected map[ctnetlink.FlowKey]uint32

// Flow implements Injector.
func (k injected) Flow(change wire.Type, f *ctnetlink.Flow) {
	if change == wire.FlowDelete {
		delete(k, f.Key())
	} else {
		k[f.Key()] = markOf(f)
	}
}

func markOf(f *ctnetlink.Flow) uint32 {
	if f.Has&ctnetlink.HasMark == 0 {
		return 0
	}
	return f.Mark
}

func (k injected) Withdrawn(f *ctnetlink.Flow)         { delete(k, f.Key()) }
func (k injected) Adopt(f *ctnetlink.Flow)             { k[f.Key()] = markOf(f) }
func (k injected) Expect(wire.Type, *ctnetlink.Expect) {}
func (k injected) Hand()                               {}
func (k injected) Full() bool                          { return false }

// What comes into a copy, changes there or leaves it does so in the kernel of a hot standby, on each way:
// messages, bulks and what they leave out, and repairs of what a digest has shown.
func TestStandbyGetsWhatTheCopyGets(t *testing.T) {
	for seed := range seeds.Count(20) {
		r := rand.New(rand.NewPCG(seed, 14))
		w := newTown(t)
		a, b := w.nodes[0], w.nodes[1]
		kernel := injected{}
		b.injector = kernel
		flows := flowtest.Flows(600)
		for i := range flows {
			flows[i].Has |= ctnetlink.HasMark
			if i < 300 {
				a.store(&flows[i], false) // only a bulk has them
			}
		}
		w.bothProven("at the start")
		w.lose = func(from int, _ []byte) bool { return r.IntN(5) == 0 }
		for range 40 {
			for range 20 {
				f := &flows[r.IntN(len(flows))]
				switch f.Mark = r.Uint32(); r.IntN(4) {
				case 0:
					a.store(f, true)
				case 1:
					a.rewrite(f)
				case 2:
					a.end(f)
				case 3: // the entry leaves the cache without an announcement
					if h := a.internal.Flows.Find(f); h != 0 {
						a.Forget(h)
						a.internal.Flows.Delete(h)
					}
				}
			}
			if f := flows[r.IntN(len(flows))]; r.IntN(8) == 0 && b.copyOf(0).Flows.Find(&f) != 0 { // an entry is altered, which its digest shows
				f.Mark, f.Has = r.Uint32(), f.Has&^ctnetlink.HasID
				b.copyOf(0).Flows.Put(&f, w.now)
			}
			w.pass(time.Duration(r.IntN(300)) * time.Millisecond)
		}
		w.lose = nil
		began := w.now + 1
		w.until("proven at the end", 2*time.Minute, func() bool { return b.proven(w.now - began) }) // bulks have to wait
		copied := b.copyOf(0).Flows
		if copied.Len() != len(kernel) {
			t.Errorf("seed %d: %d flows in the copy, %d in the kernel", seed, copied.Len(), len(kernel))
		}
		var cur cache.Cursor
		var f ctnetlink.Flow
		handles := make([]cache.Handle, 64)
		for more := true; more; {
			var got int
			got, more = copied.Next(&cur, handles)
			for _, h := range handles[:got] {
				copied.Load(h, &f)
				if mark, there := kernel[f.Key()]; !there || mark != markOf(&f) {
					t.Errorf("seed %d: a flow has the mark %d in the copy; in the kernel %v, %d", seed, f.Mark, there, mark)
				}
			}
		}
		if t.Failed() {
			t.Fatalf("%s\n%s", &a.log, &b.log)
		}
	}
}
