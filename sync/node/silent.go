package node

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
func (n *Node) warnOfNoEvents() {
	n.log.Warn("net.netfilter.nf_conntrack_events is 0: the kernel reports no flow to this daemon; set it to 1, or use PollSecs")
}

// watchSilent has the tables read again from time to time, soon if what was read of them
// just now, with err, may be silent.
func (n *Node) watchSilent(err error) {
	g := &n.cfg.General
	if n.timers.silent.Pending() || g.NetlinkOverrunResync == 0 || g.PollInterval != 0 {
		return
	}
	n.silentDelay = silentLast
	switch {
	case n.eventsSetting == "0":
		n.silentDelay = silentFirst
	case n.eventsSetting == "2" && (err != nil || n.internal.flows.Len() > 0):
		n.notice("net.netfilter.nf_conntrack_events is 2: the kernel may report nothing of flows " +
			"that began before this daemon listened; its tables will be read again now and then")
		n.silentDelay = silentFirst
	}
	n.timers.silent.After(n.silentDelay)
}

// readSilent reads the tables and sets the time of the next look.
func (n *Node) readSilent() {
	if n.cfg.General.NetlinkOverrunResync == 0 {
		return
	}
	n.silentDelay = min(2*n.silentDelay, silentLast)
	n.timers.silent.After(n.silentDelay)
	n.startRefill(refill{tables: Flows | n.expectTables(), send: true, sweep: true, look: true}, func(err error) {
		if len(n.unnamed) > 0 {
			n.timers.unnamed.After(eventsUnderWay)
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
func (n *Node) found(h cache.Handle) {
	if n.injector != nil || n.kernel.Missing > 0 || len(n.unnamed) >= maxUnnamed {
		return
	}
	if n.unnamed == nil {
		n.unnamed, n.unnamedLost = map[cache.Handle]struct{}{}, n.kernel.Lost
	}
	n.unnamed[h] = struct{}{}
}

// named notes that an event has named a flow.
func (n *Node) named(h cache.Handle) {
	if len(n.unnamed) > 0 {
		delete(n.unnamed, h)
	}
}

// judgeUnnamed warns of flows that a look has found and no event has named since.
func (n *Node) judgeUnnamed() {
	count := len(n.unnamed)
	lost := n.kernel.Lost != n.unnamedLost // their events may be among those that were lost
	n.unnamed = nil
	if count == 0 || lost || n.unnamedSaid != 0 && n.sched.Now()-n.unnamedSaid < unnamedQuiet {
		return
	}
	n.unnamedSaid = n.sched.Now()
	atLeast := ""
	if count >= maxUnnamed {
		atLeast = "at least "
	}
	why := "does a rule keep them from having events (ctevents)?"
	if now := eventsSetting(); now != "" {
		n.eventsSetting = now
	}
	if n.eventsSetting == "0" {
		why = "net.netfilter.nf_conntrack_events is 0; set it to 1, or use PollSecs"
	}
	n.log.Warn(fmt.Sprintf("no event has reported %s%d of the flows in the kernel's table: %s", atLeast, count, why))
}
