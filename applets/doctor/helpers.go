package doctor

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ctbox/helpers/builtin"
	"ctbox/internal/nftrules"
	"ctbox/nl/cthelper"
)

// checkHelperClash looks for kernel helpers with the name of a user-space helper in the
// configuration. The kernel accepts only one helper of a name.
func checkHelperClash(h *host, r *report) {
	if h.cfg == nil || h.cfg.Helper == nil || len(h.cfg.Helper.Types) == 0 {
		return
	}
	seen := make(map[string]bool)
	clash := false
	for _, t := range h.cfg.Helper.Types {
		module := "nf_conntrack_" + t.Name
		if seen[module] {
			continue
		}
		seen[module] = true
		if h.exists("sys/module/" + module) {
			clash = true
			r.add(Error, "the kernel has its own helper "+t.Name+" (module "+module+")",
				"only one helper can have the name: conntrackd's Type "+t.Name+" is refused", "modprobe -r "+module+", and a line `blacklist "+module+"' in modprobe.d; a kernel with it built in needs another configuration")
		}
	}
	if !clash {
		r.ok("no helper of the kernel has the name of one in conntrackd.conf")
	}
}

// checkHelperQueues looks for helper objects whose queue no process reads.
func checkHelperQueues(h *host, r *report) {
	if h.conn == nil {
		return
	}
	if said, _ := h.ask(helperPart.typ); said != answerYes {
		return
	}
	var all []cthelper.Helper
	if err := cthelper.List(h.ctx, h.conn, func(x *cthelper.Helper) error {
		all = append(all, *x)
		return nil
	}); err != nil {
		return
	}
	table, err := h.file("proc/thread-self/net/netfilter/nfnetlink_queue")
	if err != nil && len(all) > 0 && !isNotExist(err) {
		return
	}
	judgeHelperQueues(all, table, r)
}

// kernelHelpers are the kernel's helpers with a module of their own, and the service of each.
var kernelHelpers = [...]struct {
	module, name, proto string
	port                uint16
}{
	{"amanda", "amanda", "udp", 10080},
	{"ftp", "ftp", "tcp", 21},
	{"h323", "Q.931", "tcp", 1720},
	{"irc", "irc", "tcp", 6667},
	{"netbios_ns", "netbios-ns", "udp", 137},
	{"pptp", "pptp", "tcp", 1723},
	{"sane", "sane", "tcp", 6566},
	{"sip", "sip", "udp", 5060},
	{"snmp", "snmp", "udp", 161},
	{"tftp", "tftp", "udp", 69},
}

// checkHelperRules looks for helpers that no rule of this network namespace assigns to a flow.
// Without a rule a helper does nothing, since Linux 4.7 by default and since 6.0 in any case.
func checkHelperRules(h *host, r *report) {
	if h.conn == nil {
		return
	}
	attached, err := nftrules.AttachedHelpers(h.ctx, h.conn)
	if err != nil {
		return // the check of the rules says why
	}
	legacy := false
	for _, file := range [...]string{"ip_tables_names", "ip6_tables_names"} {
		names, _ := h.file("proc/thread-self/net/" + file)
		legacy = legacy || slices.Contains(strings.Fields(names), "raw")
	}
	auto, _ := h.netfilter("nf_conntrack_helper")
	helpers := uint64(0)
	for _, k := range kernelHelpers {
		// A helper that is built in has no such file, and nobody has asked for it.
		if auto == "1" || !h.exists("sys/module/nf_conntrack_"+k.module+"/initstate") {
			continue
		}
		helpers++
		if !attached[k.name] {
			unattached(r, "the helper "+k.name+" (module nf_conntrack_"+k.module+")", Note, legacy, k.name, k.proto, k.port, "prerouting")
		}
	}
	if said, _ := h.ask(helperPart.typ); said == answerYes {
		seen := make(map[string]bool)
		_ = cthelper.List(h.ctx, h.conn, func(x *cthelper.Helper) error {
			if key := x.Name + decimal(uint64(x.Proto)); !seen[key] {
				seen[key] = true
				helpers++
				judgeHelperObject(x, attached, legacy, r)
			}
			return nil
		})
	}
	if helpers > 0 && len(attached) > 0 {
		r.ok(decimal(uint64(len(attached))) + " helpers are assigned by rules")
	}
}

// judgeHelperObject reports a user-space helper that no rule assigns.
func judgeHelperObject(x *cthelper.Helper, attached map[string]bool, legacy bool, r *report) {
	if attached[x.Name] {
		return
	}
	proto, port, hook := "tcp", uint16(0), "prerouting"
	if x.Proto == unix.IPPROTO_UDP {
		proto = "udp"
	}
	if b := builtin.Find(x.Name, x.Proto); b != nil {
		port = b.Doc.Port
		if strings.Contains(b.Doc.Rule, "OUTPUT") {
			hook = "output" // its flows begin on this host
		}
	}
	unattached(r, "the user-space helper "+x.Name, Warning, legacy, x.Name, proto, port, hook)
}

// unattached reports a helper that no rule assigns, with the rule that would.
func unattached(r *report, seen string, s Severity, legacy bool, name, proto string, port uint16, hook string) {
	seen += " is there, but no rule of this network namespace assigns it to a flow"
	if legacy {
		s, seen = Note, seen+"; rules of iptables-legacy are not read here, and it has a raw table"
	}
	fix := ""
	if port != 0 {
		object := strings.ToLower(strings.ReplaceAll(name, ".", "")) + "-" + proto
		chain := hook
		fix = `nft 'add table inet related; add ct helper inet related ` + object + ` { type "` + name + `" protocol ` + proto + `; }; ` +
			`add chain inet related ` + chain + ` { type filter hook ` + hook + ` priority filter; }; ` +
			`add rule inet related ` + chain + ` ` + proto + ` dport ` + decimal(uint64(port)) + ` ct helper set "` + object + `"'`
	}
	r.add(s, seen, "helpers are not assigned by themselves: the connections that its protocol announces are not RELATED", fix)
}

// judgeHelperQueues compares helper objects with the text of nfnetlink_queue, whose lines begin
// with a queue's number.
func judgeHelperQueues(all []cthelper.Helper, table string, r *report) {
	read := make(map[string]bool)
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 0 {
			read[f[0]] = true
		}
	}
	orphan := false
	for i := range all {
		x := &all[i]
		queue := strconv.FormatUint(uint64(x.Queue), 10)
		if x.Has&cthelper.HasStatus == 0 || x.Status != cthelper.Enabled || read[queue] {
			continue
		}
		orphan = true
		r.add(Warning, "the helper "+x.Name+" sends packets to queue "+queue+", which no process reads",
			"packets of flows that have this helper are dropped", "start conntrackd, or: nfct helper disable "+x.Name)
	}
	if !orphan && len(all) > 0 {
		r.ok(decimal(uint64(len(all))) + " user-space helpers have a reader")
	}
}
