package node

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ctbox/conf"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// unwired is a node without sockets, whose loop the test turns by hand.
func unwired(mode Mode) *Node {
	n := &Node{
		cfg: &conf.Config{Sync: &conf.Sync{CacheTimeout: 180 * time.Second}}, log: slog.New(slog.DiscardHandler),
		mode: mode, own: map[uint32]origin{}, peers: map[peerKey]*peer{},
	}
	n.schedule()
	n.filter = newFilter(&n.cfg.General.Filter, nil)
	config := cache.Config{Timers: mode == ModeALARM}
	n.internal = caches{cache.NewFlows(config), cache.NewExpects(config)}
	n.external = caches{cache.NewFlows(config), cache.NewExpects(config)}
	switch mode {
	case ModeALARM:
		n.alarm = proto.NewAlarm(1, 15*time.Second, 1)
		n.machine = n.alarm
	case ModeFTFW:
		n.machine = proto.NewFTFW(0, proto.FTFWConfig{FirstSeq: 1})
	}
	return n
}

// flows makes many flows that differ in the source port.
func flows(count int) []ctnetlink.Flow {
	out := make([]ctnetlink.Flow, count)
	for i := range out {
		out[i] = tcp("192.0.2.1", "198.51.100.1")
		out[i].Orig.SrcPort = uint16(i)
		out[i].Reply = out[i].Orig.Inverted()
		out[i].Has |= ctnetlink.HasID
		out[i].ID = uint32(i)
	}
	return out
}

// In ALARM peers keep only flows that are announced periodically, also committed ones.
func TestAlarmTellsWhatItFound(t *testing.T) {
	n := unwired(ModeALARM)
	all := flows(3)
	n.flowSeen(&all[0], foreign, n.internal.flows.Replace)
	n.flowSeen(&all[1], ownChange, n.internal.flows.Replace) // committed
	n.mergeFlow(&all[2], refill{})                           // was there before us
	if got := n.machine.Pending(); got != 1 {
		t.Fatalf("%d are told at once", got)
	}
	for n.machine.Pending() > 0 {
		n.machine.Next()
	}
	n.sched.SetNow(17 * time.Second)
	n.expire(n.sched.Now())
	if got := n.machine.Pending(); got != 3 {
		t.Errorf("%d of 3 flows are told after RefreshTime", got)
	}
	// Announced again as new, they would count at the peer as ended and begun each time.
	for i := range all {
		if state, _ := n.internal.flows.State(n.internal.flows.Find(&all[i])); state != cache.Alive {
			t.Errorf("flow %d is announced again in state %d", i, state)
		}
	}
}

// A million entries that are due at once do not hold up the loop.
func TestAlarmExpiresInSlices(t *testing.T) {
	n := unwired(ModeALARM)
	all := flows(10 * sliceLen)
	for i := range all {
		h, _ := n.external.flows.Put(&all[i], 0)
		n.external.flows.Arm(h, 0, n.cfg.Sync.CacheTimeout)
	}
	n.sched.SetNow(time.Hour)
	for turns := 1; ; turns++ {
		before := n.external.flows.Len()
		n.expire(n.sched.Now())
		if gone := before - n.external.flows.Len(); gone > sliceLen {
			t.Fatalf("%d went in one turn", gone)
		}
		if n.external.flows.Len() == 0 {
			break
		}
		if due := (expirySource{n}).Due(); due > n.sched.Now() || turns > 1000 {
			t.Fatalf("turn %d: %d are left, the loop waits until %v", turns, n.external.flows.Len(), due)
		}
	}
}

// A flow that ends while the kernel's table is read must not be brought back by
// the part of the table that was read before.
func TestDumpDoesNotReviveTheDead(t *testing.T) {
	n := unwired(ModeFTFW)
	all := flows(4)
	n.flowSeen(&all[1], foreign, n.internal.flows.Replace)
	n.beginDump()
	n.flowEnded(&all[0], true) // not cached yet
	n.flowEnded(&all[1], true)
	n.flowEnded(&all[2], true)
	n.recordBegin(&all[2]) // the same tuple in the same place of the kernel's memory
	for i := range all {
		n.mergeFlow(&all[i], refill{send: true})
	}
	n.endDump()
	for i, want := range []bool{false, false, true, true} {
		if got := n.internal.flows.Find(&all[i]) != 0; got != want {
			t.Errorf("flow %d is cached: %v, want %v", i, got, want)
		}
	}
	if n.ends != nil {
		t.Error("what ended is remembered after the dump")
	}
}

// What an event has told while the kernel's table is read is not undone by the part
// of the table that was read before. What the event did not tell, the table does.
func TestDumpDoesNotUndoEvents(t *testing.T) {
	n := unwired(ModeFTFW)
	f := flows(1)[0]
	f.Has |= ctnetlink.HasMark | ctnetlink.HasLabels
	f.Mark, f.LabelsLen = 1, ctnetlink.LabelWords
	f.Labels.SetBit(5)
	old := f
	n.beginDump()
	event := ctnetlink.Flow{Orig: f.Orig, Reply: f.Reply, Has: ctnetlink.HasID | ctnetlink.HasStatus | ctnetlink.HasMark, ID: f.ID, Status: ctnetlink.StatusConfirmed, Mark: 2}
	n.flowSeen(&event, foreign, n.internal.flows.Put)
	n.mergeFlow(&old, refill{send: true})
	n.endDump()
	var got ctnetlink.Flow
	n.internal.flows.Load(n.internal.flows.Find(&f), &got)
	if got.Mark != 2 || !got.Labels.Bit(5) {
		t.Errorf("mark %d, label 5 set %v; want the event's mark 2 and the table's label", got.Mark, got.Labels.Bit(5))
	}
	again := f
	n.beginDump()
	n.mergeFlow(&again, refill{})
	n.endDump()
	if n.internal.flows.Load(n.internal.flows.Find(&f), &got); got.Mark != 1 {
		t.Errorf("mark %d after a dump without events, want what it shows, 1", got.Mark)
	}
}

// The same for expectations, which have no id.
func TestDumpDoesNotReviveExpectations(t *testing.T) {
	n := unwired(ModeFTFW)
	n.expectSync = true
	master := flows(1)[0]
	n.flowSeen(&master, foreign, n.internal.flows.Replace)
	expects := make([]ctnetlink.Expect, 2)
	for i := range expects {
		e := &expects[i]
		e.Master, e.Tuple, e.Mask = master.Orig, master.Orig, master.Orig
		e.Tuple.DstPort = uint16(2000 + i)
	}
	n.beginDump()
	n.recordExpectEnd(&expects[0])
	n.recordExpectEnd(&expects[1])
	n.recordExpectBegin(&expects[1])
	for i := range expects {
		n.mergeExpect(&expects[i], refill{})
	}
	n.endDump()
	for i, want := range []bool{false, true} {
		if got := n.internal.expects.Find(&expects[i]) != 0; got != want {
			t.Errorf("expectation %d is cached: %v, want %v", i, got, want)
		}
	}
	n.mergeExpect(&expects[0], refill{})
	if n.internal.expects.Find(&expects[0]) == 0 {
		t.Error("what ended is remembered after the dump")
	}
}

// A bulk that begins before the sweep after the last one is over must not have
// that sweep take what the new bulk has not told yet.
func TestSweepEndsWhenTheNextBegins(t *testing.T) {
	n := unwired(ModeFTFW)
	all := flows(100 * sliceLen) // many slices, though nothing is to be removed
	n.beginExternalSweep()
	for i := range all {
		n.external.flows.Put(&all[i], 0)
	}
	n.endExternalSweep(false)
	n.sched.RunStep()
	n.beginExternalSweep()
	n.sched.RunSteps()
	if got := n.external.flows.Len(); got != len(all) {
		t.Errorf("%d of %d flows are left", got, len(all))
	}
	// This sweep is still to find what the second bulk did not announce. It is so much
	// that everything is asked for again before it goes.
	for bulk, want := range []int{len(all), 1} {
		n.external.flows.Put(&all[0], 0)
		n.endExternalSweep(false)
		n.sched.RunSteps()
		if got := n.external.flows.Len(); got != want {
			t.Errorf("%d flows are left after bulk %d, which announced one, want %d", got, bulk+2, want)
		}
		if asked := n.machine.Stats().Resyncs; asked != 1 {
			t.Errorf("asked for everything %d times", asked)
		}
		n.beginExternalSweep()
	}
}

// A peer that starts at the same time asks for everything before the kernel's table
// was taken over; it must be told that, and not the empty cache of that moment.
func TestBulkWaitsForTheFirstFill(t *testing.T) {
	n := unwired(ModeNOTRACK)
	n.machine = proto.NewNoTrack(0, 1, false)
	n.filling = true
	n.startBulk()
	n.sched.RunSteps()
	all := flows(3)
	for i := range all {
		n.mergeFlow(&all[i], refill{})
	}
	if got := n.machine.Pending(); got != 0 {
		t.Fatalf("%d messages before the table was taken over", got)
	}
	n.filled(nil)
	n.sched.RunSteps()
	if got := n.machine.Pending(); got != len(all) {
		t.Errorf("%d of %d flows are told", got, len(all))
	}
}

// The kernel's table is looked at soon where flows may be silent, also where the start
// could not read it, and where only a reload turns the looks on; else once in an hour.
func TestLooksAtSilentFlows(t *testing.T) {
	for _, c := range []struct {
		name, setting string
		flows         int
		err           error
		want          time.Duration
	}{
		{"all have events", "1", 1, nil, silentLast},
		{"no such setting", "", 1, nil, silentLast},
		{"none was there before", "2", 0, nil, silentLast},
		{"some were there before", "2", 1, nil, silentFirst},
		{"perhaps some were", "2", 0, errGone, silentFirst},
		{"none has events", "0", 0, nil, silentFirst},
	} {
		n := unwired(ModeStats)
		n.eventsSetting, n.cfg.General.NetlinkOverrunResync = c.setting, 30*time.Second
		for _, f := range flows(c.flows) {
			n.flowSeen(&f, foreign, n.internal.flows.Replace)
		}
		if n.filled(c.err); n.timers.silent.Due() != c.want {
			t.Errorf("%s: the first look comes after %v, want %v", c.name, n.timers.silent.Due(), c.want)
		}
	}
	n := unwired(ModeStats)
	n.eventsSetting = "2"
	n.flowSeen(&flows(1)[0], foreign, n.internal.flows.Replace)
	n.filled(nil)
	if n.timers.silent.Pending() {
		t.Error("it is looked for silent flows with NetlinkOverrunResync off")
	}
	on := *n.cfg
	on.General.NetlinkOverrunResync = 30 * time.Second
	if err := n.reconfigure(&on); err != nil || !n.timers.silent.Pending() {
		t.Errorf("NetlinkOverrunResync is on by a reload, and silent flows stay: %v", err)
	}
}

// A look warns of flows that no event has named some time after, once in an hour, and not
// of those whose events were lost.
func TestFlowsWithoutEventsAreSaid(t *testing.T) {
	var log bytes.Buffer
	n := unwired(ModeFTFW)
	n.log = slog.New(slog.NewTextHandler(&log, nil))
	all := flows(12)
	look := func(of []ctnetlink.Flow, events func()) (said string) {
		log.Reset()
		for i := range of {
			n.mergeFlow(&of[i], refill{look: true})
		}
		events()
		n.judgeUnnamed()
		n.sched.SetNow(n.sched.Now() + time.Hour)
		return log.String()
	}
	nothing := func() {}
	if said := look(all[:2], func() {
		n.flowSeen(&all[0], foreign, n.internal.flows.Replace)
		n.flowEnded(&all[1], true)
	}); said != "" {
		t.Errorf("all had events: %s", said)
	}
	if said := look(all[2:5], func() { n.flowSeen(&all[3], foreign, n.internal.flows.Put) }); !strings.Contains(said, "no event has reported 2 of the flows") {
		t.Errorf("two had none: %s", said)
	}
	if said := look(all[2:5], nothing); said != "" {
		t.Errorf("all are known: %s", said)
	}
	if said := look(all[5:6], func() { n.kernel.Lost++ }); said != "" {
		t.Errorf("events were lost meanwhile: %s", said)
	}
	n.kernel.Missing = 1
	if said := look(all[6:7], nothing); said != "" {
		t.Errorf("events are missing: %s", said)
	}
	n.kernel.Missing = 0
	if said := look(all[7:8], nothing); said == "" {
		t.Error("nothing is said in the next hour")
	}
	n.sched.SetNow(n.sched.Now() - 30*time.Minute)
	if said := look(all[8:9], nothing); said != "" {
		t.Errorf("said again within an hour: %s", said)
	}
}

// What the kernel no longer had when it was asked may have come again since.
func TestSweepSparesWhatCameAgain(t *testing.T) {
	n := unwired(ModeStats)
	n.mode, n.machine = ModeStats, nil
	var ended []uint16
	n.ended = func(f *ctnetlink.Flow) { ended = append(ended, f.Orig.SrcPort) }
	all := flows(2)
	var handles []cache.Handle
	for i := range all {
		h, _ := n.internal.flows.Put(&all[i], 0)
		handles = append(handles, h)
	}
	n.internal.flows.BeginSweep()
	n.flowSeen(&all[1], foreign, n.internal.flows.Replace)
	n.removeUnseen(handles)
	if n.internal.flows.Find(&all[0]) != 0 || n.internal.flows.Find(&all[1]) == 0 {
		t.Error("the sweep took the wrong flow")
	}
	if len(ended) != 1 || ended[0] != all[0].Orig.SrcPort {
		t.Errorf("statistics have the ends of %v", ended)
	}
}

func TestPollingWithoutACache(t *testing.T) {
	n := unwired(ModeNone)
	n.cfg.General.PollInterval = time.Second
	n.machine, n.internal, n.external = nil, caches{}, caches{}
	n.begin()
	n.sched.SetNow(time.Minute)
	n.turnOnce(t)
	if n.taskCount() != 0 {
		t.Error("there is no cache to fill")
	}
}

func TestLag(t *testing.T) {
	n := unwired(ModeFTFW)
	h, _ := n.internal.flows.Put(&flows(1)[0], 0)
	n.noteLag()
	n.sched.SetNow(time.Second)
	n.changedFlow(h)
	n.noteLag()
	n.sched.SetNow(3 * time.Second)
	n.noteLag()
	if !n.behind || n.sched.Now()-n.behindSince != 2*time.Second {
		t.Errorf("behind %v since %v, it is %v", n.behind, n.behindSince, n.sched.Now())
	}
	n.machine.Next()
	if n.noteLag(); n.behind {
		t.Error("behind, with nothing to send")
	}
}

func TestThirdNodeIsListed(t *testing.T) {
	n := unwired(ModeFTFW)
	n.links = &links{node: n}
	first, third := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	for i, from := range []netip.Addr{first, third, third} {
		n.sched.SetNow(time.Duration(i) * time.Second)
		n.takeMessage(0, from, &wire.Message{Header: wire.Header{Type: wire.Control, Flags: wire.Alive, Seq: wire.Seq(i)}})
	}
	if p := n.peers[first]; p == nil || p.ignored {
		t.Errorf("the peer is %+v", p)
	}
	if p := n.peers[third]; p == nil || !p.ignored || p.messages != 0 || p.last != 2*time.Second {
		t.Errorf("the third node is %+v", p)
	}
}

// An event that cannot be sent on must not look like a lost message at the peer.
func TestBypassLeavesNoGap(t *testing.T) {
	n := unwired(ModeNOTRACK)
	n.notrack = proto.NewNoTrack(0, 7, false)
	n.machine, n.bypass, n.packer = n.notrack, true, wire.NewPacker(1400)
	m := nl.Message{Type: ctnetlink.TypeFlowNew}
	n.flow = flows(1)[0]
	n.flow.Orig.Has &^= ctnetlink.TuplePorts
	n.bypassEvent(&m, foreign)
	n.flow = flows(1)[0]
	n.bypassEvent(&m, foreign)
	r := wire.ReadDatagram(n.packer.Bytes())
	var c wire.Counters
	if got, ok := r.Next(&c); !ok || got.Seq != 7 || got.Kind() != wire.KindData {
		t.Errorf("got %+v, %v, want data with number 7", got, ok)
	}
	if got, ok := r.Next(&c); ok {
		t.Errorf("and %+v", got)
	}
	if n.replica.Sent != 1 {
		t.Errorf("%d messages count as sent", n.replica.Sent)
	}
}

// Under a steady overload the log has a few lines, and no lost event is left out.
func TestLostEventsAreSaidOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := unwired(ModeStats)
		var log bytes.Buffer
		n.log = slog.New(slog.NewTextHandler(&log, nil))
		n.limits.open(n)
		n.grownOut = true
		n.kernel.BufferSize = 1
		for range 100 {
			n.overrun(3)
		}
		time.Sleep(lostPeriod + 1)
		synctest.Wait()
		lines := bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n"))
		if len(lines) != 2 || !bytes.Contains(lines[0], []byte("dropped 3 events")) || !bytes.Contains(lines[1], []byte("dropped 297 events")) {
			t.Errorf("the log has\n%s", &log)
		}
		if n.kernel.Lost != 300 || n.kernel.Overruns != 100 {
			t.Errorf("counted %+v", n.kernel)
		}
	})
}

// While the peer is away the ends of flows wait for its acknowledgement in the
// internal cache. They must not fill it up: what is refused then is not told to the
// peer that comes back.
func TestTheDeadMakeRoom(t *testing.T) {
	const limit = 64
	n := unwired(ModeFTFW)
	n.internal = caches{cache.NewFlows(cache.Config{Limit: limit}), cache.NewExpects(cache.Config{Limit: limit})}
	send := func() {
		for ok := true; ok; {
			_, ok = n.machine.Next()
		}
		n.freeReleased()
	}
	all := flows(10 * limit)
	living := all[:limit/2]
	for i := range living {
		n.flowSeen(&living[i], foreign, n.internal.flows.Replace)
	}
	send()
	for i := range all[len(living):] {
		f := &all[len(living)+i]
		n.flowSeen(f, foreign, n.internal.flows.Replace)
		send()
		n.flowEnded(f, true)
		send()
	}
	if s := n.internal.flows.Stats(); s.NoSpace != 0 || s.Active != len(living) || s.Objects > limit {
		t.Errorf("%d flows live: %+v", len(living), s)
	}
	// Expectations have a table of their own.
	x := ctnetlink.Expect{Master: living[0].Orig, Tuple: living[0].Reply, Mask: living[0].Reply}
	for i := range 10 * limit {
		x.Tuple.SrcPort = uint16(i)
		n.expectSeen(&x, foreign, n.internal.expects.Replace)
		send()
		n.goneExpect(n.internal.expects.Find(&x), true)
		send()
	}
	if s := n.internal.expects.Stats(); s.NoSpace != 0 || s.Objects > limit {
		t.Errorf("expectations: %+v", s)
	}
	// A table that is full of living ones gives nothing up.
	given := n.machine.Stats().GivenUp
	for i := range limit {
		n.flowSeen(&all[i], foreign, n.internal.flows.Replace)
		send()
	}
	given = n.machine.Stats().GivenUp - given
	n.flowSeen(&all[limit], foreign, n.internal.flows.Replace)
	if s := n.machine.Stats(); n.internal.flows.Stats().NoSpace != 1 || given > limit {
		t.Errorf("full of living flows: %+v, %d given up", s, given)
	}
}
