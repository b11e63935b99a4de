package replicate

import (
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/owner"
	"ctbox/sync/sched"
)

// No goroutine outlives what it belongs to.
func TestMain(m *testing.M) { os.Exit(netnstest.RunTests(m)) }

// unwired is a Replicator without sockets, whose loop the test turns by hand.
func unwired(mode conf.Mode) *Replicator {
	return unwiredWith(mode, cache.Config{Timers: mode == conf.ModeALARM})
}

func unwiredWith(mode conf.Mode, config cache.Config) *Replicator {
	s := sched.New(func() {}, func(string, error) {})
	return New(s, daemonlog.Log{Logger: slog.New(slog.DiscardHandler)}, Config{
		Sync:     &conf.Sync{Mode: mode, CacheTimeout: 180 * time.Second, RefreshTime: 15 * time.Second},
		Internal: cache.NewSide(config), External: cache.NewSide(config), Takeover: nobody{},
	})
}

// store stores a flow as a Follower does.
func (r *Replicator) store(f *ctnetlink.Flow, announce bool) {
	why := owner.Silent
	if announce {
		why = owner.ByKernel
	}
	r.MakeRoom(cache.FlowTable)
	if h, outcome := r.internal.Flows.Replace(f, r.sched.Now()); outcome.Stored() {
		r.FlowStored(h, f, why)
	}
}

// nobody is the Takeover of a node that never takes over.
type nobody struct{}

func (nobody) PeerEnded(*ctnetlink.Flow, time.Duration, bool, bool) {}
func (nobody) PeerCommitted(time.Duration)                          {}
func (nobody) PeerAnnouncesCommits()                                {}
func (nobody) PeerStarted()                                         {}
func (nobody) FlowBegan(cache.Handle)                               {}

// In ALARM peers keep only flows that are announced periodically, also committed ones.
func TestAlarmAnnouncesAllFlows(t *testing.T) {
	r := unwired(conf.ModeALARM)
	all := flowtest.Flows(3)
	r.store(&all[0], true)
	r.store(&all[1], false) // committed
	r.store(&all[2], false) // found by the first reading
	if got := r.machine.Pending(); got != 1 {
		t.Fatalf("%d are announced at once", got)
	}
	for r.machine.Pending() > 0 {
		r.machine.Next()
	}
	r.sched.SetNow(17 * time.Second)
	r.expire(r.sched.Now())
	if got := r.machine.Pending(); got != 3 {
		t.Errorf("%d of 3 flows are announced after RefreshTime", got)
	}
	// Announced again as new, they would count at the peer as ended and begun each time.
	for i := range all {
		if state, _ := r.internal.Flows.State(r.internal.Flows.Find(&all[i])); state != cache.Alive {
			t.Errorf("flow %d is announced again in state %d", i, state)
		}
	}
}

// A million entries that are due at once do not hold up the loop.
func TestAlarmExpiresInSlices(t *testing.T) {
	r := unwired(conf.ModeALARM)
	all := flowtest.Flows(10 * sliceLen)
	for i := range all {
		h, _ := r.external.Flows.Put(&all[i], 0)
		r.external.Flows.Arm(h, 0, r.cfg.CacheTimeout)
	}
	r.sched.SetNow(time.Hour)
	for turns := 1; ; turns++ {
		before := r.external.Flows.Len()
		r.expire(r.sched.Now())
		if gone := before - r.external.Flows.Len(); gone > sliceLen {
			t.Fatalf("%d went in one turn", gone)
		}
		if r.external.Flows.Len() == 0 {
			break
		}
		if due := (expirySource{r}).Due(); due > r.sched.Now() || turns > 1000 {
			t.Fatalf("turn %d: %d are left, the loop waits until %v", turns, r.external.Flows.Len(), due)
		}
	}
}

func TestLag(t *testing.T) {
	r := unwired(conf.ModeFTFW)
	h, _ := r.internal.Flows.Put(&flowtest.Flows(1)[0], 0)
	r.noteLag()
	r.sched.SetNow(time.Second)
	r.FlowStored(h, &flowtest.Flows(1)[0], owner.ByKernel)
	r.noteLag()
	r.sched.SetNow(3 * time.Second)
	r.noteLag()
	if !r.behind || r.sched.Now()-r.behindSince != 2*time.Second {
		t.Errorf("behind %v since %v, it is %v", r.behind, r.behindSince, r.sched.Now())
	}
	r.machine.Next()
	if r.noteLag(); r.behind {
		t.Error("behind, with nothing to send")
	}
}

// While the peer is away the ends of flows wait for its acknowledgement in the
// internal cache. They must not fill it up: what is refused then is not announced to
// the peer that comes back.
func TestTheDeadMakeRoom(t *testing.T) {
	const limit = 64
	r := unwiredWith(conf.ModeFTFW, cache.Config{Limit: limit})
	send := func() {
		for ok := true; ok; {
			_, ok = r.machine.Next()
		}
		r.freeReleased()
	}
	all := flowtest.Flows(10 * limit)
	living := all[:limit/2]
	for i := range living {
		r.store(&living[i], true)
	}
	send()
	for i := range all[len(living):] {
		f := &all[len(living)+i]
		r.store(f, true)
		send()
		h := r.internal.Flows.Find(f)
		r.internal.Flows.Kill(h)
		r.FlowEnded(h, true)
		send()
	}
	if s := r.internal.Flows.Stats(); s.NoSpace != 0 || s.Active != len(living) || s.Objects > limit {
		t.Errorf("%d flows live: %+v", len(living), s)
	}
	// Expectations have a table of their own.
	x := ctnetlink.Expect{Master: living[0].Orig, Tuple: living[0].Reply, Mask: living[0].Reply}
	for i := range 10 * limit {
		x.Tuple.SrcPort = uint16(i)
		r.MakeRoom(cache.ExpectTable)
		h, _ := r.internal.Expects.Replace(&x, 0)
		r.ExpectStored(h, true)
		send()
		r.internal.Expects.Kill(h)
		r.ExpectEnded(h, true)
		send()
	}
	if s := r.internal.Expects.Stats(); s.NoSpace != 0 || s.Objects > limit {
		t.Errorf("expectations: %+v", s)
	}
	// A table that is full of living ones gives nothing up.
	given := r.machine.Stats().GivenUp
	for i := range limit {
		r.store(&all[i], true)
		send()
	}
	given = r.machine.Stats().GivenUp - given
	r.store(&all[limit], true)
	if s := r.machine.Stats(); r.internal.Flows.Stats().NoSpace != 1 || given > limit {
		t.Errorf("full of living flows: %+v, %d given up", s, given)
	}
}

// Peers have the same order in each answer.
func TestPeersAreInOrder(t *testing.T) {
	r := unwired(conf.ModeFTFW)
	r.links = &links{owner: r}
	var peers []string
	for i := range 9 {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(9 - i)})
		r.peers[addr] = &peer{}
		peers = append(peers, addr.String())
	}
	slices.Sort(peers)
	for range 20 { // a map's order is another one each time
		var got []string
		for _, p := range r.Status().Peers {
			got = append(got, p.Addr.Addr().String())
		}
		if !slices.Equal(got, peers) {
			t.Fatalf("peers %v", got)
		}
	}
}
