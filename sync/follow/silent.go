package follow

import (
	"fmt"
	"os"
	"strings"
	"time"

	"ctbox/sync/cache"
)

// Silent flows are those of which the kernel sends no event. With
// net.netfilter.nf_conntrack_events at 2, Linux's default since 5.19, these are the flows
// that began when nobody on the machine listened: the kernel does not prepare such a flow
// for events, and their changes and their end have none either. Much of what a daemon
// finds at its start may be of that kind, since it is mostly the only listener. At 0 all
// flows are silent, and so are those that a rule takes events away from (ctevents of the
// CT target). So that silent flows do not stay in the caches of both nodes for ever, the
// kernel's tables are read again from time to time, as after an overrun.

// The first look comes silentFirst after the tables were read at the start, or after a
// reload that turned the looks on (NetlinkOverrunResync), and each next one after twice
// the time, up to silentLast. What has lived until one of them has mostly lived for long
// and goes on to live: the time for which a cache is wrong about a flow stays below the
// time for which it was right. Where no flow should be silent there is one look in
// silentLast.
const (
	silentFirst = 10 * time.Second
	silentLast  = time.Hour
)

// eventsSetting returns net.netfilter.nf_conntrack_events in the network namespace of the
// caller, "" where the kernel has no such setting: its events are always on, or there are
// none.
func eventsSetting() string {
	value, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_events")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// warnOfNoEvents is for a daemon that starts where the kernel sends no events.
func (fo *Follower) warnOfNoEvents() {
	fo.log.Warn("net.netfilter.nf_conntrack_events is 0: the kernel reports no flow to this daemon; set it to 1, or use PollSecs")
}

// watchSilent has the tables read again from time to time, soon if what was read of them
// just now, with err, may be silent.
func (fo *Follower) watchSilent(err error) {
	g := fo.cfg
	if fo.timers.silent.Pending() || g.NetlinkOverrunResync == 0 || g.PollInterval != 0 {
		return
	}
	fo.silentDelay = silentLast
	switch {
	case fo.eventsSetting == "0":
		fo.silentDelay = silentFirst
	case fo.eventsSetting == "2" && (err != nil || fo.cache.Flows.Len() > 0):
		fo.log.Notice("net.netfilter.nf_conntrack_events is 2: the kernel may report nothing of flows " +
			"that began before this daemon listened; its tables will be read again now and then")
		fo.silentDelay = silentFirst
	}
	fo.timers.silent.After(fo.silentDelay)
}

// readSilent reads the tables and sets the time of the next look.
func (fo *Follower) readSilent() {
	if fo.cfg.NetlinkOverrunResync == 0 {
		return
	}
	fo.silentDelay = min(2*fo.silentDelay, silentLast)
	fo.timers.silent.After(fo.silentDelay)
	fo.startRefill(refill{tables: cache.FlowTable | fo.expectTables(), send: true, sweep: true, look: true}, func(err error) {
		if len(fo.unnamed) > 0 {
			fo.timers.unnamed.After(eventsUnderWay)
		}
	})
}

const (
	// eventsUnderWay is how long the event of a flow may take after the flow was seen in
	// the kernel's table.
	eventsUnderWay = 5 * time.Second
	// maxUnnamed bounds the memory for flows that a look has found.
	maxUnnamed = 1024
	// unnamedQuiet is the least time between two warnings of flows without events.
	unnamedQuiet = silentLast - time.Minute
)

// found notes a flow that a look has found and no event has named before. With an
// injector that says nothing: its own flows are not cached.
func (fo *Follower) found(h cache.Handle) {
	if fo.injects || fo.status.Missing > 0 || len(fo.unnamed) >= maxUnnamed {
		return
	}
	if fo.unnamed == nil {
		fo.unnamed, fo.unnamedLost = map[cache.Handle]struct{}{}, fo.status.Lost
	}
	fo.unnamed[h] = struct{}{}
}

// named notes that an event has named a flow.
func (fo *Follower) named(h cache.Handle) {
	if len(fo.unnamed) > 0 {
		delete(fo.unnamed, h)
	}
}

// judgeUnnamed warns of flows that a look has found and no event has named since.
func (fo *Follower) judgeUnnamed() {
	count := len(fo.unnamed)
	lost := fo.status.Lost != fo.unnamedLost // their events may be among those that were lost
	fo.unnamed = nil
	if count == 0 || lost || fo.unnamedSaid != 0 && fo.sched.Now()-fo.unnamedSaid < unnamedQuiet {
		return
	}
	fo.unnamedSaid = fo.sched.Now()
	atLeast := ""
	if count >= maxUnnamed {
		atLeast = "at least "
	}
	why := "does a rule keep them from having events (ctevents)?"
	if now := eventsSetting(); now != "" {
		fo.eventsSetting = now
	}
	if fo.eventsSetting == "0" {
		why = "net.netfilter.nf_conntrack_events is 0; set it to 1, or use PollSecs"
	}
	fo.log.Warn(fmt.Sprintf("no event has reported %s%d of the flows in the kernel's table: %s", atLeast, count, why))
}
