package node

import (
	"os"
	"strings"
	"time"
)

// Silent flows are those that began when nobody on the machine listened to the
// kernel's events. With net.netfilter.nf_conntrack_events at 2, Linux's default since
// 5.19, the kernel does not prepare such a flow for events and never tells of its
// changes, nor of its end. Much of what a daemon finds at its start may be of that
// kind, since it is mostly the only listener. So that these flows do not stay in the
// caches of both nodes for ever, the kernel's tables are read again from time to time,
// as after an overrun.

// The first look comes silentFirst after the tables were read at the start, or after a
// reload that turned the looks on (NetlinkOverrunResync), and each next one after twice
// the time, up to silentLast. What has lived until one of them has mostly lived for long
// and goes on to live: the time for which a cache is wrong about a flow stays below the
// time for which it was right.
const (
	silentFirst = 10 * time.Second
	silentLast  = time.Hour
)

// maySilence reports whether the kernel leaves flows without events while nobody
// listens, in the network namespace of the caller.
func maySilence() bool {
	// Without the file events are always on, or there are none.
	value, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_events")
	return err == nil && strings.TrimSpace(string(value)) == "2"
}

// watchSilent has the tables read again from time to time, if what was read of them
// just now, with err, may be silent.
func (n *Node) watchSilent(err error) {
	if !n.silence || n.timers.silent != 0 || n.cfg.General.NetlinkOverrunResync == 0 ||
		err == nil && n.internal.flows.Len() == 0 {
		return
	}
	n.notice("net.netfilter.nf_conntrack_events is 2: the kernel may tell nothing of flows " +
		"that began before this daemon listened; its tables will be read again now and then")
	n.silentDelay = silentFirst
	n.timers.silent = n.clock() + n.silentDelay
}

// lookAtSilent reads the tables and sets the time of the next look.
func (n *Node) lookAtSilent() {
	if n.cfg.General.NetlinkOverrunResync == 0 {
		return
	}
	n.silentDelay = min(2*n.silentDelay, silentLast)
	n.timers.silent = n.clock() + n.silentDelay
	n.startRefill(refill{tables: Flows | n.expectTables(), send: true, sweep: true}, nil)
}
