package follow

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
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

// follower is a Follower without sockets, whose loop the test turns by hand. It is its own
// Announcer, which notes what is to be announced.
type follower struct {
	*Follower
	Local
	changed map[cache.Handle]bool // announced and not sent
}

func (f *follower) FlowStored(h cache.Handle, _ *ctnetlink.Flow, why owner.Why) {
	if why != owner.Silent {
		f.changed[h] = true
	}
}

// announced returns how many flows are to be announced.
func (f *follower) announced() int { return len(f.changed) }

// endedPorts is an Observer that notes the source ports of flows that have ended.
type endedPorts []uint16

func (e *endedPorts) FlowEnded(f *ctnetlink.Flow) { *e = append(*e, f.Orig.SrcPort) }

func unwired() *follower { return unwiredWith(Config{}) }

func unwiredWith(c Config) *follower {
	c.General = &conf.General{}
	c.Cache = cache.NewSide(cache.Config{})
	f := &follower{Local: Local{c.Cache}, changed: map[cache.Handle]bool{}}
	c.Announcer = f
	s := sched.New(func() {}, func(string, error) {})
	f.Follower = New(s, daemonlog.Log{Logger: slog.New(slog.DiscardHandler)}, c)
	return f
}

// sleeping is a follower whose loop runs and has nothing to do.
func sleeping(t *testing.T) *follower {
	fo := unwired()
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		if err := fo.sched.Run(ctx, func() {}, func() {}); err != nil {
			t.Errorf("the loop ended by %v", err)
		}
	})
	t.Cleanup(func() { cancel(); loop.Wait() })
	return fo
}

var errBroken = errors.New("broken")

// While a run of events is being followed, and others have the lock in between, nobody
// takes the next run: the order of a flow's events matters.
func TestEventsAreFollowedInOrder(t *testing.T) {
	fo := unwired()
	fo.arrived.Store(true)
	if !fo.mayTakeEvents() || (eventSource{fo.Follower}).Due() > fo.sched.Now() {
		t.Error("waiting events are not followed")
	}
	fo.following = true
	if fo.mayTakeEvents() || (eventSource{fo.Follower}).Due() != sched.Never {
		t.Error("a second run is begun in the middle of one")
	}
}

func TestPollingWithoutACache(t *testing.T) {
	fo := unwired()
	fo.cfg.PollInterval = time.Second
	fo.cache, fo.forwards = cache.Side{}, true
	fo.Begin(func() { t.Error("the tables were read") })
	fo.sched.SetNow(time.Minute)
	if err := fo.sched.Turn(); err != nil {
		t.Fatal(err)
	}
	fo.sched.Tasks(func(*sched.Task) { t.Error("there is no cache to fill") })
}

// What the kernel no longer had when it was asked may have come again since.
func TestSweepSparesWhatCameAgain(t *testing.T) {
	fo := unwired()
	var ended endedPorts
	fo.observer = &ended
	all := flowtest.Flows(2)
	var handles []cache.Handle
	for i := range all {
		h, _ := fo.cache.Flows.Put(&all[i], 0)
		handles = append(handles, h)
	}
	fo.cache.Flows.BeginSweep()
	fo.flowSeen(&all[1], owner.ByKernel, fo.cache.Flows.Replace)
	fo.removeUnseen(handles)
	if fo.cache.Flows.Find(&all[0]) != 0 || fo.cache.Flows.Find(&all[1]) == 0 {
		t.Error("the sweep took the wrong flow")
	}
	if len(ended) != 1 || ended[0] != all[0].Orig.SrcPort {
		t.Errorf("statistics have the ends of %v", ended)
	}
}
