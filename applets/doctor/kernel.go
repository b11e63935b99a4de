package doctor

import (
	"strings"

	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// part is a part of the kernel that a program needs.
type part struct {
	name   string
	typ    nl.Type // of a dump that asks for it
	module string
	option string // of the kernel's configuration
}

// The requests are dumps (linux/netfilter/nfnetlink_*.h) that return no packets and no flows.
var (
	conntrackPart = part{"flows over netlink", ctnetlink.TypeFlowStatsCPU, "nf_conntrack_netlink", "CONFIG_NF_CT_NETLINK"}
	timeoutPart   = part{"timeout policies", unix.NFNL_SUBSYS_CTNETLINK_TIMEOUT<<8 | 1, "nfnetlink_cttimeout", "CONFIG_NF_CT_NETLINK_TIMEOUT"}
	helperPart    = part{"user-space helpers", unix.NFNL_SUBSYS_CTHELPER<<8 | 1, "nfnetlink_cthelper", "CONFIG_NF_CT_NETLINK_HELPER"}
	queuePart     = part{"packets to user space", 0, "nfnetlink_queue", "CONFIG_NETFILTER_NETLINK_QUEUE"}
)

// missing reports a part that the running kernel does not have.
func (p *part) missing(h *host, r *report, s Severity, reason string) {
	seen := "the kernel has no " + p.name + " (module " + p.module + ", " + p.option + ")"
	if at := h.module(p.module); at != "" {
		r.add(s, seen+": the module exists but is not loaded", reason, "modprobe "+p.module)
		return
	}
	if said := h.option(p.option); said != "" {
		seen += ": its configuration says " + said
	}
	r.add(s, seen, reason, "install the kernel modules that have "+p.module+", or a kernel with "+p.option)
}

// module returns the path of a module below /lib/modules, or "".
func (h *host) module(name string) string {
	deps, err := h.file("lib/modules/" + release() + "/modules.dep")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(deps) {
		path, _, ok := strings.Cut(line, ":")
		base := path[strings.LastIndexByte(path, '/')+1:]
		base, _, _ = strings.Cut(base, ".")
		if ok && strings.ReplaceAll(base, "-", "_") == name {
			return path
		}
	}
	return ""
}

// option returns the line about an option in the kernel's configuration in /boot, or "".
func (h *host) option(name string) string {
	text, err := h.file("boot/config-" + release())
	if err != nil {
		return ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, name+"=") || line == "# "+name+" is not set" {
			return strings.TrimPrefix(line, "# ")
		}
	}
	return ""
}

// have asks whether the kernel has a part and reports the answer.
func (p *part) have(h *host, r *report, s Severity, reason string) bool {
	said, err := h.ask(p.typ)
	switch said {
	case answerYes:
		r.ok("the kernel has " + p.name)
		return true
	case answerNo:
		p.missing(h, r, s, reason)
	case answerDenied:
		r.add(Note, "whether the kernel has "+p.name+" is not known without CAP_NET_ADMIN", "it was not checked", "")
	default:
		r.add(Note, "whether the kernel has "+p.name+" is not known: "+err.Error(), "it was not checked", "")
	}
	return false
}

func checkConntrack(h *host, r *report) {
	h.found = conntrackPart.have(h, r, Error, "without it no flow can be listed, changed or watched")
}

// checkDumpFilters reports by what the kernel can filter a dump.
func checkDumpFilters(h *host, r *report) {
	if !h.found {
		return
	}
	can, err := ctnetlink.ProbeFeatures(h.ctx, nl.Config{})
	if err != nil {
		r.add(Note, "the kernel's dump filters are not known: "+err.Error(), "it was not checked", "")
		return
	}
	var lacks []string
	for _, f := range [...]struct {
		has  bool
		what string
	}{
		{can.StatusFilter, "status"},
		{can.TupleFilter, "addresses and ports"},
		{can.ZoneFilter, "zone"},
	} {
		if !f.has {
			lacks = append(lacks, f.what)
		}
	}
	if len(lacks) > 0 {
		r.add(Note, "this kernel does not filter flows by "+strings.Join(lacks, ", "),
			"conntrack then reads the whole table and filters it itself: the result is the same, but slower", "")
		return
	}
	r.ok("the kernel filters flows by status, addresses and ports, and zone")
}

func checkTimeouts(h *host, r *report) {
	timeoutPart.have(h, r, h.needed(Error), "nfct timeout cannot work without it")
}

// helperNeed returns the severity if user-space helpers cannot run.
func (h *host) helperNeed() Severity {
	if h.cfg != nil && h.cfg.Helper != nil && len(h.cfg.Helper.Types) > 0 {
		return Error
	}
	return Note
}

func checkHelpers(h *host, r *report) {
	helperPart.have(h, r, h.helperNeed(), "conntrackd's Helper clause and nfct helper cannot work without it")
}

// checkQueue checks for a file, because every request of the subsystem has effects.
func checkQueue(h *host, r *report) {
	if h.exists("proc/thread-self/net/netfilter/nfnetlink_queue") {
		r.ok("the kernel has " + queuePart.name)
		return
	}
	queuePart.missing(h, r, h.helperNeed(), "conntrackd's Helper clause cannot work without it")
}
