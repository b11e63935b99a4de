package follow

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"ctbox/internal/daemonlog"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/owner"
)

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
		{"perhaps some were", "2", 0, errBroken, silentFirst},
		{"none has events", "0", 0, nil, silentFirst},
	} {
		fo := unwired()
		fo.eventsSetting, fo.cfg.NetlinkOverrunResync = c.setting, 30*time.Second
		for _, f := range flowtest.Flows(c.flows) {
			fo.flowSeen(&f, owner.ByKernel, fo.cache.Flows.Replace)
		}
		if fo.watchSilent(c.err); fo.timers.silent.Due() != c.want {
			t.Errorf("%s: the first look comes after %v, want %v", c.name, fo.timers.silent.Due(), c.want)
		}
	}
	fo := unwired()
	fo.eventsSetting = "2"
	fo.flowSeen(&flowtest.Flows(1)[0], owner.ByKernel, fo.cache.Flows.Replace)
	fo.watchSilent(nil)
	if fo.timers.silent.Pending() {
		t.Error("it is looked for silent flows with NetlinkOverrunResync off")
	}
	on := *fo.cfg
	on.NetlinkOverrunResync = 30 * time.Second
	if err := fo.Reconfigure(&on); err != nil || !fo.timers.silent.Pending() {
		t.Errorf("NetlinkOverrunResync is on by a reload, and silent flows stay: %v", err)
	}
}

// A look warns of flows that no event has named some time after, once in an hour, and not
// of those whose events were lost.
func TestFlowsWithoutEventsAreSaid(t *testing.T) {
	var log bytes.Buffer
	fo := unwired()
	fo.log = daemonlog.Log{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	all := flowtest.Flows(12)
	look := func(of []ctnetlink.Flow, events func()) (said string) {
		log.Reset()
		for i := range of {
			fo.mergeFlow(&of[i], refill{look: true})
		}
		events()
		fo.judgeUnnamed()
		fo.sched.SetNow(fo.sched.Now() + time.Hour)
		return log.String()
	}
	nothing := func() {}
	if said := look(all[:2], func() {
		fo.flowSeen(&all[0], owner.ByKernel, fo.cache.Flows.Replace)
		fo.flowEnded(&all[1], true)
	}); said != "" {
		t.Errorf("all had events: %s", said)
	}
	if said := look(all[2:5], func() { fo.flowSeen(&all[3], owner.ByKernel, fo.cache.Flows.Put) }); !strings.Contains(said, "no event has reported 2 of the flows") {
		t.Errorf("two had none: %s", said)
	}
	if said := look(all[2:5], nothing); said != "" {
		t.Errorf("all are known: %s", said)
	}
	if said := look(all[5:6], func() { fo.status.Lost++ }); said != "" {
		t.Errorf("events were lost meanwhile: %s", said)
	}
	fo.status.Missing = 1
	if said := look(all[6:7], nothing); said != "" {
		t.Errorf("events are missing: %s", said)
	}
	fo.status.Missing = 0
	if said := look(all[7:8], nothing); said == "" {
		t.Error("nothing is said in the next hour")
	}
	fo.sched.SetNow(fo.sched.Now() - 30*time.Minute)
	if said := look(all[8:9], nothing); said != "" {
		t.Errorf("said again within an hour: %s", said)
	}
}
