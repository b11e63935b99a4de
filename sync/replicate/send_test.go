package replicate

import (
	"context"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// A peer that starts at the same time asks for everything before the kernel's table
// has been read; it must get that table, and not the empty cache of that moment.
func TestBulkWaitsForTheFirstReading(t *testing.T) {
	r := unwired(conf.ModeNOTRACK)
	r.filling = true
	r.Bulk()
	r.sched.RunSteps()
	all := flowtest.Flows(3)
	for i := range all {
		r.store(&all[i], false)
	}
	if got := r.machine.Pending(); got != 0 {
		t.Fatalf("%d messages before the table was read", got)
	}
	r.Filled()
	r.sched.RunSteps()
	if got := r.machine.Pending(); got != len(all) {
		t.Errorf("%d of %d flows are announced", got, len(all))
	}
}

// Requests for everything that come during a bulk become one more bulk.
func TestBulksDoNotPileUp(t *testing.T) {
	r := unwired(conf.ModeNOTRACK)
	all := flowtest.Flows(10 * sliceLen)
	for i := range all {
		r.internal.Flows.Put(&all[i], 0)
	}
	rounds := func() int {
		r.Bulk()
		for range 100 {
			r.Bulk()
		}
		waiting := r.sched.Steps()
		r.sched.RunSteps()
		return waiting
	}
	if got := rounds(); got != 2 { // flows and expectations
		t.Errorf("%d walks over the caches wait", got)
	}
	r.sched.SetNow(time.Minute)
	if err := (protocolSource{r}).Run(); err != nil {
		t.Fatal(err)
	}
	if r.sched.Steps() != 2 {
		t.Errorf("%d walks over the caches for what was asked for in the middle of the first", r.sched.Steps())
	}
}

// pending is a Source whose readings end when the test says so.
type pending struct{ ended []func() }

func (p *pending) ReadLive(_ func(*ctnetlink.Flow), _ func(*ctnetlink.Expect), _ func(context.Context) error, ended func()) {
	p.ended = append(p.ended, ended)
}

// Requests for everything do not pile up in a node without an internal cache either, for
// which the kernel's tables are read.
func TestLiveBulksDoNotPileUp(t *testing.T) {
	r := unwired(conf.ModeNOTRACK)
	var source pending
	r.ReadFrom(&source)
	r.forwards = true
	for range 100 {
		r.Bulk()
	}
	if len(source.ended) != 1 {
		t.Fatalf("the kernel's tables are read %d times at once", len(source.ended))
	}
	source.ended[0]()
	if r.machine.Tick(r.sched.Now()+time.Hour)&proto.BulkWanted == 0 {
		t.Error("what was asked for in the middle of a bulk is forgotten")
	}
}

// An event that cannot be sent on must not look like a lost message at the peer.
func TestForwardingLeavesNoGap(t *testing.T) {
	r := unwired(conf.ModeNOTRACK)
	r.notrack = proto.NewNoTrack(0, 7, false)
	r.machine, r.forwards, r.packer = r.notrack, true, wire.NewPacker(1400)
	incomplete := flowtest.Flows(1)[0]
	incomplete.Orig.Has &^= ctnetlink.TuplePorts
	r.ForwardFlow(cache.New, &incomplete)
	r.ForwardFlow(cache.New, &flowtest.Flows(1)[0])
	reader := wire.ReadDatagram(r.packer.Bytes())
	var c wire.Counters
	if got, ok := reader.Next(&c); !ok || got.Seq != 7 || got.Kind() != wire.KindData {
		t.Errorf("got %+v, %v, want data with number 7", got, ok)
	}
	if got, ok := reader.Next(&c); ok {
		t.Errorf("and %+v", got)
	}
	if r.replica.Sent != 1 {
		t.Errorf("%d messages count as sent", r.replica.Sent)
	}
}
