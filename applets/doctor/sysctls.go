package doctor

import (
	"strconv"

	"golang.org/x/sys/unix"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
)

// flag is a kernel parameter that should be on, or off.
type flag struct {
	name   string
	on     bool // the value that it should have
	reason string
	option string // of the kernel's configuration; "" if a missing parameter is no problem
}

// check reports the flag. Every value except 0 is on: for events, 2 means "while a process
// listens" (Linux 5.19).
func (f *flag) check(h *host, r *report, s Severity) {
	v, ok := h.netfilter(f.name)
	seen := "net.netfilter." + f.name + " is " + v
	switch {
	case !ok && (f.option == "" || !h.found):
	case !ok:
		r.add(s, "there is no net.netfilter."+f.name, f.reason, "a kernel with "+f.option)
	case (v != "0") == f.on:
		r.ok(seen)
	case f.on:
		r.add(s, seen, f.reason, setting(f.name, "1"))
	default:
		r.add(s, seen, f.reason, setting(f.name, "0"))
	}
}

var (
	events = flag{"nf_conntrack_events", true,
		"conntrack -E shows nothing, and conntrackd sees flows only with PollSecs", "CONFIG_NF_CONNTRACK_EVENTS"}
	acct = flag{"nf_conntrack_acct", true,
		"flows have no packet and byte counts; only flows that begin later get them", ""}
	timestamp = flag{"nf_conntrack_timestamp", true,
		"flows have no start and end time, and events no kernel time", "CONFIG_NF_CONNTRACK_TIMESTAMP"}
	loose = flag{"nf_conntrack_tcp_loose", false,
		"after a takeover the kernel takes an unknown TCP connection for a new one, without NAT, and that flow keeps the peer's from being committed", ""}
	strict = flag{"nf_conntrack_tcp_be_liberal", false,
		"packets outside the window are not INVALID in any connection", ""}
	liberal = flag{"nf_conntrack_tcp_be_liberal", true,
		"TCPWindowTracking is on, and sequence numbers are not replicated: after a takeover connections with data in transit may stall forever", ""}
	// Removed in Linux 6.0, where it is always off.
	autoHelper = flag{"nf_conntrack_helper", false,
		"the kernel's helpers read every connection to their port and open ports for any sender; rules should select the connections: ct helper set, -j CT --helper", ""}
)

func checkEvents(h *host, r *report) {
	s := Error
	if h.cfg != nil && h.cfg.General.PollInterval > 0 {
		s = Note
	}
	events.check(h, r, s)
}

// checkSilentFlows reports a kernel that sends no events about flows that begin before a process
// listens.
func checkSilentFlows(h *host, r *report) {
	const name = "nf_conntrack_events"
	switch v, ok := h.netfilter(name); {
	case !ok || v == "0": // reported by checkEvents
	case v == "2":
		r.add(Note, "net.netfilter."+name+" is 2",
			"flows that begin while no process listens, for example before conntrackd starts, cause no events, not even at their end; "+
				"conntrackd reads the table again from time to time to find such ends", setting(name, "1"))
	default:
		r.ok("net.netfilter." + name + " is " + v)
	}
}

func checkAcct(h *host, r *report)       { acct.check(h, r, Note) }
func checkTimestamp(h *host, r *report)  { timestamp.check(h, r, Note) }
func checkLoose(h *host, r *report)      { loose.check(h, r, h.replicated()) }
func checkAutoHelper(h *host, r *report) { autoHelper.check(h, r, Warning) }

func checkLiberal(h *host, r *report) {
	if h.replicates() && h.cfg.Sync.TCPWindowTracking {
		liberal.check(h, r, Warning)
		return
	}
	strict.check(h, r, Note)
}

// eventBuffer returns the limit below which conntrack -E reports that its buffer is smaller
// than it requested: the kernel doubles the number.
func eventBuffer() int {
	buffer, _ := ctnetlink.DefaultEvents(ctnetlink.KernelMemory())
	return buffer / 2
}

// checkEventBuffer tries whether the kernel lets the caller exceed rmem_max, as event sockets
// do.
func checkEventBuffer(h *host, r *report) {
	want := uint64(eventBuffer())
	if h.cfg != nil {
		want = uint64(h.cfg.General.NetlinkBufferSizeMaxGrowth)
		if !h.cfg.General.NetlinkBufferSizeFixed {
			want = max(want, uint64(ctnetlink.BurstBuffer(ctnetlink.KernelMemory())))
		}
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return // reported by examine
	}
	defer unix.Close(fd)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer()) == nil {
		r.ok("event sockets may have any buffer")
		return
	}
	text, _ := h.file("proc/sys/net/core/rmem_max")
	limit, err := strconv.ParseUint(text, 10, 64)
	switch {
	case err != nil: // before Linux 6.9 only the first network namespace has it
		r.add(Note, "net.core.rmem_max cannot be read in this network namespace",
			"it bounds the buffer of event sockets without CAP_NET_ADMIN in the first user namespace; whether it is enough is not known",
			"in the first network namespace: sysctl -w net.core.rmem_max="+decimal(want))
	case limit >= want:
		r.ok("net.core.rmem_max allows event sockets a buffer of " + size(want))
	default:
		r.add(Warning, "net.core.rmem_max allows event sockets "+size(limit)+" of "+size(want),
			"when many flows begin at once events are lost; with CAP_NET_ADMIN in the first user namespace there is no such limit",
			"sysctl -w net.core.rmem_max="+decimal(want))
	}
}

// checkConfig reports the findings of conf.Config.Check on this host.
func checkConfig(h *host, r *report) {
	if h.cfg == nil {
		return
	}
	// The severities are the same, in the same order.
	reasons := [...]string{
		conf.Note:    "the daemon runs; this may surprise",
		conf.Caution: "the daemon starts, and will probably not do what was meant",
		conf.Fatal:   "the daemon does not start, or cannot work",
	}
	worst := OK
	for _, f := range h.cfg.Check(conf.Host()) {
		s := Note + Severity(f.Severity)
		worst = max(worst, s)
		r.add(s, f.String(), reasons[f.Severity], "conntrackd -C "+h.cfg.File+" --check, and conntrackd.conf(5)")
	}
	if worst == OK {
		r.ok(h.cfg.File + " can be run on this host")
	}
}

// checkFiles checks the limit for open files: the daemon has its sockets and one descriptor for
// each client.
func checkFiles(h *host, r *report) {
	const need = 256
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	// The runtime has raised the soft limit to the hard one, as it does in the
	// daemon.
	if limit.Max < need {
		r.add(Warning, "a process may have "+decimal(limit.Max)+" open files",
			"the daemon could not take clients and peers when it should", "ulimit -n "+decimal(need)+", or LimitNOFILE="+decimal(need)+" in the systemd unit")
		return
	}
	r.ok("a process may have " + decimal(limit.Max) + " open files")
}
