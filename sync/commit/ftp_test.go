package commit

import (
	"net/netip"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/passtest"
)

// translating is the rules of a gateway that hides its clients behind addresses of another
// length than theirs, which changes the length of FTP's commands.
const translating = `table inet gateway {
	chain hide {
		type nat hook postrouting priority srcnat;
		oifname server ip daddr 198.51.100.129 snat ip to 203.0.113.77
		oifname server ip6 daddr 2001:db8:d::129 snat ip6 to 2001:db8:f::7
	}
}`

// watchingFTP gives new connections the kernel's FTP helper.
const watchingFTP = `table inet watch {
	ct helper ftp { type "ftp" protocol tcp; }
	chain pre { type filter hook prerouting priority 0; tcp dport 21 ct helper set "ftp"; }
}`

// FTP in active mode behind NAT survives a takeover: the control connection, whose sequence
// numbers are adjusted because the addresses in its commands have other lengths than those that
// replace them, an open data connection, and one that is expected. The helper, which the new
// gateway has by the commit only, goes on.
func TestFTPSurvivesTakeover(t *testing.T) {
	for _, family := range []struct {
		name, client, server, outside string
	}{
		{"IPv4", passtest.Client4, passtest.Server4, "203.0.113.77"},
		{"IPv6", passtest.Client6, passtest.Server6, "2001:db8:f::7"},
	} {
		t.Run(family.name, func(t *testing.T) {
			old, heir := netnstest.New(t, "old"), netnstest.New(t, "heir")
			old.NFT(translating)
			old.NFT(watchingFTP)
			heir.NFT(translating)
			n := passtest.New(t, 1, old, heir)
			origin, target := kernelOf(t, old), kernelOf(t, heir)

			s := passtest.DialFTP(t, n.Clients[0], n.Server, family.client, family.server)
			outside := netip.MustParseAddr(family.outside)
			offer := func(when string) *passtest.Offer {
				t.Helper()
				o := s.Offer()
				if o.At.Addr() != outside {
					t.Errorf("%s the server is asked to connect to %v, want %v", when, o.At, outside)
				}
				return o
			}
			data := offer("before the takeover").Connect()
			expected := offer("before the takeover, once more")

			adjusted := 0
			for _, f := range origin.flows() {
				if f.Has&ctnetlink.HasSeqAdjOrig != 0 && f.SeqAdjOrig.OffsetAfter != 0 {
					adjusted++
				}
			}
			if adjusted != 1 || len(origin.expects()) != 1 {
				t.Fatalf("%d flows have adjusted sequence numbers, %d expectations are there, want one each", adjusted, len(origin.expects()))
			}
			external := cache.NewSide(cache.Config{})
			origin.announce(external)
			c := committingIn(t, heir, external)
			if r := c.commitAll(t); r.Flows.Committed < 2 || r.Expects.Committed != 1 || r.Failed() != 0 {
				t.Errorf("the commit: %+v", r)
			}
			n.Through(1)

			data.Pass("still open")
			expected.Connect()
			s.Command("NOOP", "200 nothing done")
			for _, when := range []string{"after the takeover", "after the takeover, once more"} {
				offer(when).Connect()
				s.Command("NOOP", "200 nothing done")
			}
			for _, f := range target.flows() {
				if f.Orig.DstPort == 21 && (f.Helper.String() != "ftp" || f.Has&ctnetlink.HasSeqAdjOrig == 0) {
					t.Errorf("the control connection is %+v", f)
				}
			}
		})
	}
}
