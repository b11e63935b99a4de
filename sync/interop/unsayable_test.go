package interop

import (
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// TestUnsayableFlowsAreNotSent checks that flows that version 1 cannot represent are not sent,
// for example two flows with the same tuple in different original zones, which would become one
// flow without a zone. Each reason is logged once, and the ends of such flows remove nothing at
// the peer.
func TestUnsayableFlowsAreNotSent(t *testing.T) {
	for _, mode := range []string{"FTFW {\n}", "NOTRACK {\n}", "ALARM {\n\tRefreshTime 1\n}"} {
		t.Run(strings.Fields(mode)[0], func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(programs{ours, ours}, clause(mode, ""), "")
			a := p.a
			same := a.flow(1)
			a.kernel.create(&same)
			p.b.follows(a, "before")
			var unsayable []ctnetlink.Flow
			add := func(change func(*ctnetlink.Flow)) {
				f := a.flow(uint16(len(unsayable) + 2))
				change(&f)
				a.kernel.create(&f)
				unsayable = append(unsayable, f)
			}
			for zone := uint16(3); zone <= 4; zone++ {
				add(func(f *ctnetlink.Flow) {
					*f = a.flow(1) // the tuple of a flow without a zone
					f.Orig.Has, f.Orig.Zone = f.Orig.Has|ctnetlink.TupleZone, zone
					f.Has |= ctnetlink.HasNATSrc
					_, addr := parseAddr(a.host4(100 + int(zone)))
					f.NATSrc = ctnetlink.NAT{HasAddr: true, Addr: addr}
				})
			}
			add(func(f *ctnetlink.Flow) {
				f.Reply = f.Orig.Inverted()
				f.Reply.Has, f.Reply.Zone = f.Reply.Has|ctnetlink.TupleZone, 5
			})
			for _, proto := range []uint8{ctnetlink.ProtoGRE, ctnetlink.ProtoUDPLite} {
				add(func(f *ctnetlink.Flow) {
					f.Has &^= ctnetlink.HasTCPState
					f.Orig.Proto = proto
					f.Reply = f.Orig.Inverted()
				})
			}
			// A later message has arrived, so these would have been sent before.
			last := a.flow(100)
			a.kernel.create(&last)
			has := func(when string, want int) {
				t.Helper()
				netnstest.Eventually(t, patience, when, func() bool {
					_, there := p.b.external()[entryOfFlow(&last)]
					return there && len(p.b.external()) == want
				})
			}
			has("two of seven flows are replicated", 2)
			if mode[0] != 'A' {
				a.daemon.client("-B")
			}
			last = a.flow(101)
			a.kernel.create(&last)
			has("three of eight flows are replicated, also after a bulk", 3)
			p.b.daemon.commit()
			if got := len(p.b.kernel.flows()); got != 3 {
				t.Errorf("%d flows are in the kernel after the commit, want 3", got)
			}
			for i := range unsayable {
				a.kernel.removeExactly(&unsayable[i])
			}
			last = a.flow(102)
			a.kernel.create(&last)
			has("their ends remove nothing", 4)
			log := a.daemon.log()
			for text, want := range map[string]int{"flows whose zone is of one direction are not replicated": 1,
				"GRE flows with keys (PPTP) are not replicated": 1, "UDP-Lite flows are not replicated": 1} {
				if got := strings.Count(log, text); got != want {
					t.Errorf("%q is said %d times\n%s", text, got, log)
				}
			}
			text := a.daemon.statistics()
			if text.Lost != 0 || p.b.daemon.statistics().Lost != 0 {
				t.Errorf("messages count as lost: %+v", text)
			}
		})
	}
}
