package conntrackd

import (
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// silent creates flows without events, like flows that begin while no process listens. Whether a
// process listens depends on the whole machine, so this function turns events off instead, with the
// same effect.
func (h *host) silent(ports ...int) {
	h.t.Helper()
	h.Sysctl("net.netfilter.nf_conntrack_events", "0")
	for _, port := range ports {
		h.insert("198.51.100.1", port)
	}
	h.Sysctl("net.netfilter.nf_conntrack_events", "1")
	h.TakesSysctl("net.netfilter.nf_conntrack_events", "2")
}

// hasSilentFlows reports whether this kernel has the mode in which flows can be without events
// (Linux 5.19).
func hasSilentFlows(t *testing.T) bool {
	t.Helper()
	has := netnstest.New(t, "mode").TakesSysctl("net.netfilter.nf_conntrack_events", "2")
	if !has {
		t.Log("this kernel's flows all have events")
	}
	return has
}

// soon is the time in which a daemon has certainly checked silent flows once, and again on a busy
// machine.
const soon = 90 * time.Second

// becomes waits until a dump contains a text, or no longer contains it.
func (h *host) becomes(dump, text string, there bool) {
	h.t.Helper()
	netnstest.Eventually(h.t, soon, dump+": "+text, func() bool {
		return strings.Contains(h.client(dump), text) == there
	})
}

// Flows that began before the daemon can end and change without an event. This node and its peer
// learn of that anyway.
func TestSilentFlows(t *testing.T) {
	if !hasSilentFlows(t) {
		return
	}
	for _, c := range []struct{ name, general string }{{"events", ""}, {"reliable", "NetlinkEventsReliable On"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, b := newPair(t)
			a.silent(1001, 1002, 1003)
			p := a.start(ours(t), a.configure(c.general, ftfwTo("192.0.2.1", "192.0.2.2")))
			b.start(ours(t), b.configure("", ftfwTo("192.0.2.2", "192.0.2.1")))
			b.caches("-e", map[int]bool{1001: true, 1002: true, 1003: true})
			if !strings.Contains(p.Stdout.String(), "nf_conntrack_events is 2") {
				t.Errorf("logged %s", p.Stdout)
			}
			a.Must("/usr/sbin/conntrack", "-D", "-p", "tcp", "--sport", "1001")
			a.Must(netnstest.Applet(t, "conntrack"), "-U", "-p", "tcp", "--sport", "1002", "--mark", "77")
			a.becomes("-i", "sport=1001 ", false)
			a.becomes("-i", "mark=77", true)
			b.becomes("-e", "sport=1001 ", false)
			b.becomes("-e", "mark=77", true)
			b.caches("-e", map[int]bool{1001: false, 1002: true, 1003: true})
		})
	}
}

// -R finds flows that ended without an event, and announces their ends to the peer.
func TestRefillAnnouncesEndedFlows(t *testing.T) {
	if !hasSilentFlows(t) {
		return
	}
	t.Parallel()
	a, b := newPair(t)
	// In this mode no node requests everything by itself.
	notrack := func(me, peer string) string { return strings.Replace(ftfwTo(me, peer), "FTFW", "NOTRACK", 1) }
	a.silent(1001, 1002)
	a.start(ours(t), a.configure("NetlinkOverrunResync Off", notrack("192.0.2.1", "192.0.2.2")))
	b.start(ours(t), b.configure("", notrack("192.0.2.2", "192.0.2.1")))
	netnstest.Eventually(t, soon, "b receives both flows", func() bool {
		a.client("-B")
		return strings.Count(b.client("-e"), "\n") == 2
	})
	a.Must("/usr/sbin/conntrack", "-D", "-p", "tcp", "--sport", "1001")
	a.client("-R")
	a.caches("-i", map[int]bool{1001: false, 1002: true})
	b.becomes("-e", "sport=1001 ", false)
	b.caches("-e", map[int]bool{1002: true})
}

// If the kernel sends no events, the daemon logs that, finds flows by reading the table, and logs
// that no event has reported them.
func TestNoEvents(t *testing.T) {
	t.Parallel()
	a, b := newPair(t)
	a.Sysctl("net.netfilter.nf_conntrack_events", "0")
	p := a.start(ours(t), a.configure("", ftfwTo("192.0.2.1", "192.0.2.2")))
	b.start(ours(t), b.configure("", ftfwTo("192.0.2.2", "192.0.2.1")))
	const off = "net.netfilter.nf_conntrack_events is 0"
	if !strings.Contains(p.Stdout.String()+p.Stderr.String(), off) {
		t.Errorf("logged at the start: %s%s", p.Stdout, p.Stderr)
	}
	a.insert("198.51.100.1", 1001)
	b.becomes("-e", "sport=1001 ", true)
	netnstest.Eventually(t, soon, "the daemon warns of the flow", func() bool {
		return strings.Contains(p.Stdout.String()+p.Stderr.String(), "no event has reported 1 of the flows in the kernel's table: "+off)
	})
	// Polling needs no events.
	b.client("-k")
	b.Sysctl("net.netfilter.nf_conntrack_events", "0")
	p = b.start(ours(t), b.configure(" PollSecs 1", setups["stats"]))
	if said := p.Stdout.String() + p.Stderr.String(); strings.Contains(said, off) {
		t.Errorf("polling: %s", said)
	}
}

// A daemon does not read the kernel's tables again if every flow has events, or if that is turned
// off.
func TestNoSilentFlows(t *testing.T) {
	if !hasSilentFlows(t) {
		return
	}
	for _, c := range []struct{ name, events, general string }{
		{"always", "1", ""},
		{"not wanted", "2", "NetlinkOverrunResync Off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.silent(1001)
			h.Sysctl("net.netfilter.nf_conntrack_events", c.events)
			p := h.start(ours(t), h.configure(c.general, setups["ftfw"]))
			h.caches("-i", map[int]bool{1001: true})
			// The first reading has ended by then.
			if strings.Contains(p.Stdout.String(), "nf_conntrack_events") {
				t.Errorf("logged %s", p.Stdout)
			}
		})
	}
}
