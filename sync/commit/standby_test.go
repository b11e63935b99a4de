package commit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"
	"ctbox/internal/seeds"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

// waiting is a Standby of a node with one peer, in a namespace, whose clock the test moves.
type waiting struct {
	*Standby
	t    *testing.T
	ns   *netnstest.NS
	copy *cache.Flows
	log  bytes.Buffer
}

func newWaiting(t *testing.T) *waiting {
	t.Helper()
	w := &waiting{t: t, ns: netnstest.New(t, "standby"), copy: cache.NewFlows(cache.Config{})}
	s := sched.New(func() {}, func(string, error) {})
	s.SetNow(0)
	s.SetContext(t.Context())
	var err error
	w.ns.Do(func() {
		w.Standby, err = NewStandby(s, daemonlog.Log{Logger: slog.New(slog.NewTextHandler(&w.log, nil))}, &conf.Sync{CommitTimeout: time.Minute},
			cache.NewFlows(cache.Config{}), copiesOf(w.copy))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// copiesOf is the copies of nodes 0, 1 and so on.
func copiesOf(tables ...*cache.Flows) Copies {
	var all []Source
	for i, t := range tables {
		all = append(all, Source{uint8(i), cache.Side{Flows: t}})
	}
	return Copies{
		All:  func() []Source { return all },
		Owns: func(node uint8, h cache.Handle, f *ctnetlink.Flow) bool { return tables[node].Find(f) == h },
		Announced: func(orig *ctnetlink.Tuple, zone uint16) bool {
			return slices.ContainsFunc(tables, func(c *cache.Flows) bool { return c.FindTuple(orig, zone) != 0 })
		},
	}
}

// announced is what the peer announces, in the copy and in the kernel.
func (w *waiting) announced(change wire.Type, f ctnetlink.Flow) {
	w.t.Helper()
	if change == wire.FlowDelete {
		w.copy.Delete(w.copy.Find(&f))
	} else {
		w.copy.Update(&f, 0)
	}
	w.Flow(change, &f)
	w.carry()
}

// carry does what has been ordered.
func (w *waiting) carry() {
	w.t.Helper()
	w.Injector.Hand()
	for len(w.orders) > 0 {
		if err := w.carryOut(w.t.Context(), <-w.orders); err != nil {
			w.t.Fatal(err)
		}
	}
}

// renews lets the time of a whole walk pass.
func (w *waiting) renews() {
	w.t.Helper()
	for end := w.sched.Now() + renewalWalk; w.sched.Now() <= end; w.carry() {
		w.sched.SetNow(w.timer.Due())
		if err := w.timer.Run(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// has returns the kernel's flow of a source port.
func (w *waiting) has(port uint16) (f ctnetlink.Flow, has bool) {
	w.t.Helper()
	if _, err := ctnetlink.DumpFlows(w.t.Context(), w.conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(found *ctnetlink.Flow) error {
		if found.Orig.SrcPort == port {
			f, has = found.Clone(), true
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return f, has
}

// change changes a flow of the kernel.
func (w *waiting) change(f ctnetlink.Flow, has ctnetlink.Attr) {
	w.t.Helper()
	f.Has = has
	f.Reply = ctnetlink.Tuple{}
	if err := w.conn.Do(w.t.Context(), nl.Request{Type: ctnetlink.TypeFlowNew, Family: f.Orig.Family, Attrs: f.Append}, nil); err != nil {
		w.t.Fatal(err)
	}
}

// What the peer announces is in the kernel with a timeout of an hour, whatever the timeout in
// the announcement and CommitTimeout are, and packets may change the timeout. Updates do not change it. What
// ends is removed.
func TestStandbyFollowsThePeer(t *testing.T) {
	w := newWaiting(t)
	f := established(1001)
	f.Status |= ctnetlink.StatusFixedTimeout
	w.announced(wire.FlowNew, f)
	got, has := w.has(1001)
	if !has || got.Timeout < 3590 || got.Timeout > 3600 || got.Status&ctnetlink.StatusFixedTimeout != 0 || got.Status&ctnetlink.StatusAssured == 0 {
		t.Fatalf("in the kernel: %v, timeout %d, status %#x", has, got.Timeout, got.Status)
	}
	for _, timeout := range []uint32{100, 432000} {
		f.Timeout = timeout
		w.change(f, ctnetlink.HasTimeout)
		f.Timeout, f.Mark = 30, timeout
		w.announced(wire.FlowUpdate, f)
		if got, _ := w.has(1001); got.Mark != timeout || got.Timeout > timeout || got.Timeout < timeout-10 {
			t.Errorf("after an update: mark %d, timeout %d; want %d and what it was", got.Mark, got.Timeout, timeout)
		}
	}
	w.announced(wire.FlowUpdate, established(1002)) // whose begin was not seen
	if got, has := w.has(1002); !has || got.Timeout < 3590 {
		t.Errorf("an unknown flow: %v, timeout %d", has, got.Timeout)
	}
	w.announced(wire.FlowDelete, f)
	w.announced(wire.FlowDelete, f)
	if _, has := w.has(1001); has {
		t.Error("the flow has ended and is there")
	}
	if flows, _ := w.Status(); flows != (cache.TableStatus{Created: 1, Updated: 3, Destroyed: 1}) {
		t.Errorf("counted %+v", flows)
	}
}

// What the internal cache has is this kernel's own: the peer changes and ends nothing of it.
func TestStandbyLeavesTheKernelsOwnAlone(t *testing.T) {
	w := newWaiting(t)
	f := established(1001)
	w.announced(wire.FlowNew, f)
	w.internal.Put(&f, 0)
	f.Mark = 9
	w.announced(wire.FlowUpdate, f)
	w.renews()
	w.announced(wire.FlowDelete, f)
	w.Withdrawn(&f)
	w.carry()
	if got, has := w.has(1001); !has || got.Mark != 0 || got.Timeout > 3600 {
		t.Errorf("there: %v, mark %d, timeout %d", has, got.Mark, got.Timeout)
	}
	w.announced(wire.FlowNew, established(1002)) // but not one that only has its port
	if _, has := w.has(1002); !has {
		t.Error("another flow is not there")
	}
}

// A flow that a peer no longer announces stays while another one does.
func TestStandbyWithdrawn(t *testing.T) {
	w := newWaiting(t)
	other := cache.NewFlows(cache.Config{})
	w.copies = copiesOf(w.copy, other)
	f := established(1001)
	w.announced(wire.FlowNew, f)
	other.Put(&f, 0)
	for _, c := range []*cache.Flows{w.copy, other} {
		if _, has := w.has(1001); !has {
			t.Fatal("the flow is not there")
		}
		c.Delete(c.Find(&f))
		w.Withdrawn(&f)
		w.carry()
	}
	if _, has := w.has(1001); has {
		t.Error("nobody announces the flow, and it is there")
	}
}

// With several peers an end deletes what no packet has passed here, and leaves the rest to the kernel.
func TestStandbyEndsOfSeveralPeers(t *testing.T) {
	w := newWaiting(t)
	w.copies = copiesOf(w.copy, cache.NewFlows(cache.Config{}))
	// Packets give a flow the kernel's own timeout, here that of an established connection or of UDP.
	timeouts := map[uint16]uint32{1001: 3600, 1002: 432_000, 1003: 120, 1004: 2000}
	for port, timeout := range timeouts {
		f := established(port)
		w.announced(wire.FlowNew, f)
		f.Timeout = timeout
		w.change(f, ctnetlink.HasTimeout)
	}
	adopted := established(1005)
	w.announced(wire.FlowNew, adopted)
	adopted.Timeout = 432_000
	w.change(adopted, ctnetlink.HasTimeout)
	w.Adopt(&adopted)
	w.carry()
	if got, _ := w.has(1005); got.Timeout > 3600 {
		t.Errorf("the adopted flow has a timeout of %d", got.Timeout)
	}
	w.announced(wire.FlowDelete, established(999)) // which is not there
	for port := uint16(1001); port <= 1005; port++ {
		w.announced(wire.FlowDelete, established(port))
		if _, has := w.has(port); has != (port == 1002 || port == 1003) {
			t.Errorf("port %d after the end: %v", port, has)
		}
	}
	if flows, _ := w.Status(); flows.Destroyed != 3 || flows.DestroyFailed != 0 || flows.Created != 5 {
		t.Errorf("counted %+v", flows)
	}
}

// A walk renews timeouts that are not longer already, creates what the kernel has lost, and makes flows anew
// that another one has taken the place of.
func TestStandbyRenews(t *testing.T) {
	w := newWaiting(t)
	nat := established(1004)
	nat.Has |= ctnetlink.HasNATSrc
	nat.Status |= ctnetlink.StatusSrcNAT | ctnetlink.StatusSrcNATDone
	nat.NATSrc = ctnetlink.NAT{HasAddr: true, Addr: ctnetlink.Addr{203, 0, 113, 9}, HasPort: true, Port: 4000}
	for _, f := range []ctnetlink.Flow{established(1001), established(1002), established(1003), nat, established(1005)} {
		w.announced(wire.FlowNew, f)
	}
	short, long, gone := established(1001), established(1002), established(1003)
	short.Timeout, long.Timeout = 1000, 100_000
	w.change(short, ctnetlink.HasTimeout)
	w.change(long, ctnetlink.HasTimeout)
	for _, f := range []ctnetlink.Flow{gone, nat} {
		f.Has, f.Reply = 0, ctnetlink.Tuple{}
		if err := w.conn.Do(t.Context(), nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Orig.Family, Attrs: f.Append}, nil); err != nil {
			t.Fatal(err)
		}
	}
	stale := nat
	stale.NATSrc.Port = 5000
	w.restore.flow(&w.Standby.flow, &stale, 0)
	if err := w.conn.Do(t.Context(), nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE, Family: stale.Orig.Family, Attrs: w.Standby.flow.Append}, nil); err != nil {
		t.Fatal(err)
	}
	before, _ := w.Status()
	w.renews()
	for port, timeout := range map[uint16]uint32{1001: 3600, 1002: 100_000, 1003: 3600, 1004: 3600, 1005: 3600} {
		got, has := w.has(port)
		if !has || got.Timeout > timeout || got.Timeout < timeout-10 {
			t.Errorf("port %d: %v, timeout %d, want %d", port, has, got.Timeout, timeout)
		}
		if port == 1004 && got.Reply.DstPort != 4000 {
			t.Errorf("the flow of before is there: replies go to port %d", got.Reply.DstPort)
		}
	}
	if after, _ := w.Status(); after.CreateFailed+after.UpdateFailed+after.DestroyFailed != 0 || after.Created != before.Created || after.Updated < before.Updated+3 {
		t.Errorf("counted %+v and then %+v", before, after)
	}
}

// A flow that is announced before its master waits for it; one whose master never comes is counted as
// refused and logged.
func TestStandbyAwaitsMasters(t *testing.T) {
	w := newWaiting(t)
	master, related := established(1001), established(1002)
	related.Master, related.Status = master.Orig, related.Status|ctnetlink.StatusExpected
	w.announced(wire.FlowNew, related)
	w.announced(wire.FlowNew, master)
	orphan := established(1003)
	orphan.Master = established(1004).Orig
	w.announced(wire.FlowUpdate, orphan)
	w.renews()
	if got, has := w.has(1002); !has || got.Status&ctnetlink.StatusExpected == 0 {
		t.Errorf("behind its master: %v, status %#x", has, got.Status)
	}
	if _, has := w.has(1003); has {
		t.Error("a flow is there without its master")
	}
	flows, _ := w.Status()
	if flows.CreateFailed+flows.UpdateFailed == 0 || !strings.Contains(w.log.String(), "could not update ct entry, even if creating it instead") {
		t.Errorf("counted %+v; log:\n%s", flows, w.log.String())
	}
}

// Adopted flows are the peer's, or end.
func TestStandbyAdopts(t *testing.T) {
	w := newWaiting(t)
	for _, port := range []uint16{1001, 1002} {
		f := established(port)
		w.announced(wire.FlowNew, f)
		f.Timeout = 500
		w.change(f, ctnetlink.HasTimeout)
	}
	left := established(1002)
	w.copy.Delete(w.copy.Find(&left))
	for _, port := range []uint16{1001, 1002} {
		f := established(port)
		w.Adopt(&f)
	}
	w.carry()
	if got, has := w.has(1001); !has || got.Timeout < 3590 {
		t.Errorf("the peer's flow: %v, timeout %d", has, got.Timeout)
	}
	if _, has := w.has(1002); has {
		t.Error("nobody's flow is there")
	}
}

// A full table refuses flows. They are counted and logged, and come when there is room.
func TestStandbyWithAFullTable(t *testing.T) {
	if !netnstest.Long {
		return // it takes as many flows as the kernel's limit
	}
	w := newWaiting(t)
	limit, err := strconv.Atoi(strings.TrimSpace(w.ns.ReadSysctl("net.netfilter.nf_conntrack_max")))
	if err != nil || limit == 0 {
		t.Fatalf("nf_conntrack_max: %d, %v", limit, err)
	}
	numbered := func(i int) ctnetlink.Flow {
		f := established(uint16(i))
		f.Orig.Src = ctnetlink.Addr{10, 1, byte(i >> 24), byte(i >> 16)}
		return f
	}
	for i := range limit + 100 {
		f := numbered(i)
		w.copy.Update(&f, 0)
		if w.Flow(wire.FlowNew, &f); i%1024 == 0 {
			w.carry()
		}
	}
	w.carry()
	flows, _ := w.Status()
	if flows.CreateFailed == 0 || !strings.Contains(w.log.String(), "could not add new ct entry") {
		t.Fatalf("with %d flows of at most %d: %+v\n%s", limit+100, limit, flows, w.log.String())
	}
	for i := range 200 {
		w.announced(wire.FlowDelete, numbered(i))
	}
	w.renews()
	count, _, err := ctnetlink.Count(t.Context(), w.conn)
	if err != nil || int(count) != limit-100 {
		t.Errorf("with room for all the kernel has %d flows, %v; want %d", count, err, limit-100)
	}
}

// The first packet of an injected flow gives it the kernel's own timeout: a shorter one of UDP, and a longer
// one of an established TCP connection.
func TestPacketRestoresTheKernelsTimeout(t *testing.T) {
	for _, proto := range []string{"tcp", "udp"} {
		t.Run(proto, func(t *testing.T) {
			w := newWaiting(t)
			var client, server net.Conn
			var err error
			w.ns.Do(func() { client, server, err = connected(proto) })
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			defer server.Close()
			from, to := netip.MustParseAddrPort(client.LocalAddr().String()), netip.MustParseAddrPort(client.RemoteAddr().String())
			f := established(from.Port())
			copy(f.Orig.Src[:], from.Addr().AsSlice())
			copy(f.Orig.Dst[:], to.Addr().AsSlice())
			f.Orig.DstPort = to.Port()
			own := uint32(432000)
			if proto == "udp" {
				f.Orig.Proto, f.Has = ctnetlink.ProtoUDP, f.Has&^ctnetlink.HasTCPState
				own = 120
			}
			w.announced(wire.FlowNew, f)
			if got, _ := w.has(from.Port()); got.Timeout < 3590 || got.Timeout > 3600 {
				t.Fatalf("injected with the timeout %d", got.Timeout)
			}
			w.ns.Track() // until now the kernel saw no packet
			for _, c := range []net.Conn{client, server} {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range []net.Conn{server, client} {
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			netnstest.Eventually(t, 10*time.Second, fmt.Sprintf("the timeout is the kernel's %d", own), func() bool {
				got, has := w.has(from.Port())
				return has && got.Timeout <= own && got.Timeout > own-20
			})
			w.renews()
			if got, _ := w.has(from.Port()); got.Timeout < min(own-20, 3590) {
				t.Errorf("after a renewal the timeout is %d", got.Timeout)
			}
		})
	}
}

// connected returns both ends of a connection over the loopback interface.
func connected(proto string) (client, server net.Conn, err error) {
	if proto == "udp" {
		first, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, nil, err
		}
		at := first.LocalAddr().(*net.UDPAddr)
		c, err := net.DialUDP("udp", nil, at)
		if err != nil {
			return nil, nil, errors.Join(err, first.Close())
		}
		to := c.LocalAddr().(*net.UDPAddr)
		first.Close()
		s, err := net.DialUDP("udp", at, to)
		return c, s, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	server, err = l.Accept()
	return client, server, err
}

// Each entry that stays is visited at least once in half of the timeout, and at a steady pace,
// whatever comes and goes.
func TestRenewalsComeInTime(t *testing.T) {
	for seed := range seeds.Count(40) {
		r := rand.New(rand.NewPCG(seed, 0))
		tables := make([]*cache.Flows, 1+r.IntN(3))
		for i := range tables {
			tables[i] = cache.NewFlows(cache.Config{})
		}
		var p pace
		var w walk
		var f ctnetlink.Flow
		next := uint32(0)
		alive := [][2]uint64{} // table and handle
		last := map[[2]uint64]time.Duration{}
		insert := func(now time.Duration, n int) {
			for range n {
				f := established(uint16(next))
				f.Orig.Src[2], f.Orig.Src[3] = byte(next>>16), byte(next>>24)
				next++
				i := r.IntN(len(tables))
				h, _ := tables[i].Put(&f, now)
				id := [2]uint64{uint64(i), uint64(h)}
				alive = append(alive, id)
				last[id] = now
			}
		}
		insert(0, r.IntN(5000))
		for now := time.Duration(0); now < 3*standbyTimeout; now += renewalPeriod {
			switch r.IntN(4000) {
			case 0:
				insert(now, r.IntN(3000))
			case 1: // most end
				for range r.IntN(1 + len(alive)) {
					k := r.IntN(len(alive))
					tables[alive[k][0]].Delete(cache.Handle(alive[k][1]))
					delete(last, alive[k])
					alive[k] = alive[len(alive)-1]
					alive = alive[:len(alive)-1]
				}
			}
			held := 0
			for _, c := range tables {
				held += c.Len()
			}
			due := p.due(now, held)
			if most := int(int64(p.most)*int64(2*renewalPeriod)/int64(renewalWalk)) + 1; due > most {
				t.Fatalf("seed %d: %d of %d are due at once", seed, due, p.most)
			}
			if w.next(copiesOf(tables...).All(), due, &f, func(node uint8, h cache.Handle) {
				last[[2]uint64{uint64(node), uint64(h)}] = now
			}) {
				p.begin(held)
			}
			if r.IntN(1000) == 0 {
				for _, id := range alive {
					if now-last[id] > standbyTimeout/2+time.Minute {
						t.Fatalf("seed %d: after %v an entry of %d was last renewed at %v", seed, now, len(alive), last[id])
					}
				}
			}
		}
	}
}

// Nothing is allocated for each change of a peer.
func TestStandbyOrdersWithoutAllocation(t *testing.T) {
	w := newWaiting(t)
	f := established(1001)
	w.next = make([]order, 0, injectSlice)
	if allocated := testing.AllocsPerRun(1000, func() {
		w.next = w.next[:0]
		w.Flow(wire.FlowNew, &f)
		w.Withdrawn(&f)
		w.Adopt(&f)
	}); allocated != 0 {
		t.Errorf("%v allocations", allocated)
	}
}
