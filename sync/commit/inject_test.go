package commit

import (
	"log/slog"
	"testing"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/sched"
	"ctbox/sync/wire"
)

// injecting is an injector into the kernel of a namespace of its own.
func injecting(t *testing.T) *Injector {
	t.Helper()
	ns := netnstest.New(t, "in")
	s := sched.New(func() {}, func(string, error) {})
	var i *Injector
	var err error
	ns.Do(func() { i, err = NewInjector(s, daemonlog.Log{Logger: slog.New(slog.DiscardHandler)}, &conf.Sync{}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// carry carries out what the peer has announced, in one slice.
func (i *Injector) carry(t *testing.T) {
	t.Helper()
	if err := i.carryOut(t.Context(), i.next); err != nil {
		t.Fatal(err)
	}
	i.next = nil
}

// flowOf is the kernel's flow with that source port.
func (i *Injector) flowOf(t *testing.T, port uint16) (found ctnetlink.Flow) {
	t.Helper()
	if _, err := ctnetlink.DumpFlows(t.Context(), i.conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
		if f.Orig.SrcPort == port {
			found = f.Clone()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if found.Has == 0 {
		t.Fatalf("no flow from port %d", port)
	}
	return found
}

// established returns a flow as a peer announces it.
func established(port uint16) ctnetlink.Flow {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.Orig.SrcPort = port
	f.Reply = ctnetlink.Tuple{}
	f.Has |= ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasMark | ctnetlink.HasTCPState
	f.Status = ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured
	f.Timeout, f.TCPState = 3000, ctnetlink.TCPStateEstablished
	return f
}

// An update of a flow that has a master changes it, and does not make it anew: its
// counters go on, and nobody hears of its end.
func TestInjectUpdateOfRelatedFlow(t *testing.T) {
	i := injecting(t)
	master, related := established(1001), established(1002)
	related.Master, related.Status = master.Orig, related.Status|ctnetlink.StatusExpected
	i.Flow(wire.FlowNew, &master)
	i.Flow(wire.FlowNew, &related)
	i.carry(t)
	related.Mark = 7
	related.Has &^= ctnetlink.HasTimeout // one that is made anew has 60 s then
	i.Flow(wire.FlowUpdate, &related)
	i.carry(t)
	if got := i.flowOf(t, 1002); got.Mark != 7 || got.Timeout < 2000 {
		t.Errorf("mark %d, timeout %d; want 7 and what is left of 3000", got.Mark, got.Timeout)
	}
}

// A peer's new flow that meets an old one takes its place, also when an update of it
// comes right behind.
func TestInjectNewFlowWithItsUpdate(t *testing.T) {
	i := injecting(t)
	old := established(1001)
	i.Flow(wire.FlowNew, &old)
	i.carry(t)
	f := established(1001)
	f.Has |= ctnetlink.HasNATSrc
	f.NATSrc = ctnetlink.NAT{HasAddr: true, Addr: ctnetlink.Addr{203, 0, 113, 9}, HasPort: true, Port: 4000}
	i.Flow(wire.FlowNew, &f)
	f.Mark = 7
	i.Flow(wire.FlowUpdate, &f)
	i.carry(t)
	if got := i.flowOf(t, 1001); got.Reply.DstPort != 4000 || got.Mark != 7 {
		t.Errorf("replies go to port %d, mark %d; want 4000 and 7", got.Reply.DstPort, got.Mark)
	}
	if i.flows.Created != 2 || i.flows.Updated != 1 || i.flows.CreateFailed+i.flows.UpdateFailed != 0 {
		t.Errorf("counted %+v", i.flows)
	}
}

// A peer with a CommitTimeout announces no timeouts: the kernel's own stays.
func TestInjectUpdateWithoutTimeout(t *testing.T) {
	i := injecting(t)
	f := established(1001)
	i.Flow(wire.FlowNew, &f)
	i.carry(t)
	f.Has &^= ctnetlink.HasTimeout
	f.Mark = 7
	i.Flow(wire.FlowUpdate, &f)
	i.carry(t)
	if got := i.flowOf(t, 1001); got.Mark != 7 || got.Timeout < 2000 {
		t.Errorf("mark %d, timeout %d; want 7 and what is left of 3000", got.Mark, got.Timeout)
	}
	gone := established(1001)
	i.Flow(wire.FlowDelete, &gone)
	i.Flow(wire.FlowUpdate, &f)
	i.carry(t)
	if got := i.flowOf(t, 1001); got.Timeout == 0 || got.Timeout > 60 {
		t.Errorf("made anew with the timeout %d, want 60", got.Timeout)
	}
}

// What the peer ends is counted once, and not where the kernel had no such flow.
func TestInjectedEndsAreCounted(t *testing.T) {
	i := injecting(t)
	f, unknown := established(1001), established(1002)
	i.Flow(wire.FlowNew, &f)
	i.carry(t)
	i.Flow(wire.FlowDelete, &f)
	i.Flow(wire.FlowDelete, &unknown)
	i.carry(t)
	if want := (cache.TableStatus{Created: 1, Destroyed: 1}); i.flows != want {
		t.Errorf("counted %+v, want %+v", i.flows, want)
	}
}
