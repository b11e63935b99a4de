package doctor

import (
	"strconv"
	"strings"

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
