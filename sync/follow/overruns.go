package follow

import (
	"fmt"
	"time"

	"ctbox/conf"
	"ctbox/sync/cache"

	"golang.org/x/sys/unix"
)

// The tables are read firstResync after an overrun, when the burst is probably over; until
// then the peer's copy is incomplete. Overruns in quick succession mean that the machine is
// busy, and reading makes it busier: after an overrun that follows another within
// overrunCalm the reading waits for NetlinkOverrunResync, and twice as long after each
// further one.
const (
	firstResync    = 500 * time.Millisecond
	overrunCalm    = time.Minute
	maxResyncDelay = 8 * time.Minute
	usualResync    = 30 * time.Second // the default of NetlinkOverrunResync
)

// A commit causes events faster than anything else, and the internal cache is expected to
// have what was committed. Events lost during a commit, or shortly after it, lead to a
// reading soon, and do not count as a sign of a busy machine.
const (
	commitBurst  = 5 * time.Second
	commitResync = time.Second
)

// overrun reacts to events that the kernel dropped: with a larger buffer for the next
// burst, and a reading of the tables for what was lost in this one.
func (fo *Follower) overrun(lost uint64) {
	fo.status.Overruns++
	fo.status.Lost += lost
	fo.eventsLost(lost)
	fo.logLost(lost)
	fo.growBuffer()
	fo.resyncLater()
}

// eventsLost counts lost events that no reading of the tables has made up for, and
// announces them to the peers, whose copies lack them.
func (fo *Follower) eventsLost(events uint64) {
	fo.status.Missing += events
	if fo.recorder != nil {
		fo.recorder.EventsLost(events)
	}
	fo.announcer.EventsMissing(fo.status.Missing)
}

// eventsMadeUp subtracts the events that were missing when a complete reading began.
func (fo *Follower) eventsMadeUp(events uint64) {
	fo.status.Missing -= events
	fo.announcer.EventsMissing(fo.status.Missing)
}

// resyncLater schedules a reading of the kernel's tables for events that were lost,
// unless NetlinkOverrunResync is off.
func (fo *Follower) resyncLater() {
	if delay := fo.cfg.NetlinkOverrunResync; delay != 0 && !fo.forwards {
		fo.scheduleResync(delay)
	}
}

// scheduleResync schedules a reading of the kernel's tables: soon, or after delay and more
// where readings have been scheduled lately. A reading that is scheduled already is not
// postponed: under steady overruns it would never come. If a commit is the cause, the
// reading follows the commit.
func (fo *Follower) scheduleResync(delay time.Duration) {
	now := fo.sched.Now()
	if fo.committing || fo.commitEnded > 0 && now-fo.commitEnded < commitBurst {
		fo.timers.resync.Set(min(fo.timers.resync.Due(), now+commitResync))
		return
	}
	calm := fo.overrunDelay == 0 || now-fo.lastOverrun > overrunCalm+fo.overrunDelay
	fo.lastOverrun = now
	switch {
	case calm:
		fo.overrunDelay = firstResync
	case !fo.timers.resync.Pending():
		fo.overrunDelay = min(max(2*fo.overrunDelay, delay), max(maxResyncDelay, delay))
	}
	if !fo.timers.resync.Pending() {
		fo.timers.resync.Set(now + fo.overrunDelay)
	}
}

// resync reads the kernel's tables again and replicates what is new.
func (fo *Follower) resync() {
	if fo.committing {
		fo.timers.resync.After(commitResync)
		return
	}
	fo.startRefill(refill{tables: cache.FlowTable | fo.expectTables(), send: true, all: fo.unsent, sweep: true}, fo.retryRefill)
}

// lostPeriod is the least time between two log lines about lost events. Under a steady
// overload there would be hundreds in a second.
const lostPeriod = time.Second

// logLost logs the number of lost events, at once or with those that follow.
func (fo *Follower) logLost(lost uint64) {
	if fo.lost.AdmitN(struct{}{}, struct{}{}, lost) {
		fo.warnLost(struct{}{}, lost)
	}
}

func (fo *Follower) warnLost(_ struct{}, lost uint64) {
	fo.log.Warn(fmt.Sprintf("the kernel dropped %s%d events: its buffer was full", fo.atLeast, lost))
}

// eventBuffer returns the size to ask for, which the kernel doubles, and what the log is
// to say about it.
func (fo *Follower) eventBuffer(g *conf.General) (size int, said string) {
	size, unused := g.EventBuffer()
	switch {
	case size != 0:
		return size / 2, ""
	case g.NetlinkBufferSizeFixed:
		return systemBuffer(), "NetlinkBufferSize is either not set or is greater than NetlinkBufferSizeMaxGrowth. Using current system buffer size"
	case unused:
		said = "NetlinkBufferSize is greater than NetlinkBufferSizeMaxGrowth. Using the default buffer size"
	}
	return fo.burstBuffer / 2, said
}

// sameBuffer reports whether two configurations ask for the same buffer.
func sameBuffer(a, b *conf.General) bool {
	sizeA, _ := a.EventBuffer()
	sizeB, _ := b.EventBuffer()
	return sizeA == sizeB && (sizeA != 0 || a.NetlinkBufferSizeFixed == b.NetlinkBufferSizeFixed)
}

// systemBuffer returns what the system gives a new socket, net.core.rmem_default. Asked
// for, it is doubled: events gather for a while (coalesce). What a burst brings
// beyond it waits in this process.
func systemBuffer() int {
	const usual = 212992
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return usual
	}
	defer unix.Close(fd)
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return usual
	}
	return size
}

// growBuffer enlarges the event socket's buffer after an overrun: a small one to the
// default at once, since a burst that did not fit will not fit twice the size either, and
// any other to twice its size, up to the configured maximum.
func (fo *Follower) growBuffer() {
	if fo.grownOut {
		return
	}
	g := fo.cfg
	before, burst := fo.status.BufferSize, uint64(fo.burstBuffer)
	switch {
	case !g.NetlinkBufferSizeFixed && before < burst:
		fo.resizeBuffer(burst)
		if fo.status.BufferSize > before {
			fo.log.Notice(fmt.Sprintf("netlink event socket buffer size has been raised from %d to %d bytes: events did not fit "+
				"what the configuration has (NetlinkBufferSizeFixed forbids this)", before, fo.status.BufferSize))
		}
	case 2*before <= uint64(g.NetlinkBufferSizeMaxGrowth):
		fo.resizeBuffer(2 * before)
		if fo.status.BufferSize > before {
			fo.log.Notice(fmt.Sprintf("netlink event socket buffer size has been doubled to %d bytes", fo.status.BufferSize))
		}
	default:
		fo.grownOut = true
		fo.log.Notice("netlink event socket buffer size cannot be doubled further since it will exceed " +
			"NetlinkBufferSizeMaxGrowth. We are likely to be losing events, this may lead to " +
			"unsynchronized replicas. Please, consider increasing netlink socket buffer size via " +
			"NetlinkBufferSize and NetlinkBufferSizeMaxGrowth clauses in conntrackd.conf")
	}
}

// resizeBuffer asks for a buffer of size bytes. A refusal is logged once: without
// CAP_NET_ADMIN net.core.rmem_max is the most.
func (fo *Follower) resizeBuffer(size uint64) {
	err := fo.events.SetBuffer(int(size / 2)) // the kernel doubles it
	granted := uint64(fo.events.Buffer())
	switch {
	case err != nil:
		fo.log.Error("grow the netlink event buffer: " + err.Error())
	case granted < size:
		fo.log.Warn(fmt.Sprintf("the kernel grants the netlink event socket a buffer of %d bytes instead of %d: "+
			"without CAP_NET_ADMIN net.core.rmem_max is the limit", granted, size))
	}
	fo.grownOut = err != nil || granted < size
	fo.status.BufferSize = granted
}
