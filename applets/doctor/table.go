package doctor

import (
	"strconv"
	"strings"

	"ctbox/nl/ctnetlink"
)

// Limits of the checks on the kernel's table.
const (
	// nearlyFull is the share of nf_conntrack_max, in percent, from which a burst of new
	// connections can fill the table before an administrator reacts.
	nearlyFull = 80
	// longChains is how many flows per bucket are acceptable when the table is full. The
	// kernel's default is one.
	longChains = 8
	// flowSize is the kernel memory of a flow with its usual extensions: struct nf_conn,
	// 256 to 320 bytes, and 128 for the extensions.
	flowSize = 448
)

func checkFull(h *host, r *report) {
	limit, ok := h.number("nf_conntrack_max")
	n, err := h.count()
	switch {
	case !ok || err != nil:
	case limit == 0:
		r.ok(decimal(n) + " flows, without a limit")
	case n >= limit:
		r.add(Error, decimal(n)+" flows, and nf_conntrack_max is "+decimal(limit),
			"packets of new connections are dropped: nf_conntrack: table full", setting("nf_conntrack_max", decimal(2*limit)))
	case n*100 >= limit*nearlyFull:
		r.add(Warning, decimal(n)+" flows, "+decimal(n*100/limit)+" % of nf_conntrack_max "+decimal(limit),
			"when the table is full, packets of new connections are dropped", setting("nf_conntrack_max", decimal(2*limit)))
	default:
		r.ok(decimal(n) + " flows of at most " + decimal(limit))
	}
}

func checkBuckets(h *host, r *report) {
	limit, ok := h.number("nf_conntrack_max")
	buckets, known := h.number("nf_conntrack_buckets")
	switch {
	case !ok || !known || buckets == 0:
	case limit > longChains*buckets:
		r.add(Warning, "nf_conntrack_max is "+decimal(limit)+" with "+decimal(buckets)+" buckets: "+decimal(limit/buckets)+" flows in each when it is full",
			"every packet walks through such a chain: long chains slow down everything, listing included",
			setting("nf_conntrack_buckets", decimal(limit))+" (in the first network namespace; at boot: options nf_conntrack hashsize="+decimal(limit)+" in modprobe.d)")
	default:
		r.ok(decimal(buckets) + " buckets for at most " + decimal(limit) + " flows")
	}
}

// checkTableMemory compares the memory of a full table with the machine's memory.
func checkTableMemory(h *host, r *report) {
	limit, ok := h.number("nf_conntrack_max")
	memory := h.memory()
	if !ok || memory == 0 || limit == 0 {
		return
	}
	need := limit * flowSize
	seen := "a full table of " + decimal(limit) + " flows takes about " + size(need) + " of " + size(memory)
	switch {
	case need > memory/2:
		r.add(Error, seen, "the machine runs out of memory before the table is full",
			setting("nf_conntrack_max", decimal(memory/8/flowSize)))
	case need > memory/4:
		r.add(Warning, seen, "a flood of connections takes the memory of everything else",
			setting("nf_conntrack_max", decimal(memory/8/flowSize)))
	default:
		r.ok(seen)
	}
}

// memory returns the machine's memory in bytes, or 0 if it is unknown.
func (h *host) memory() uint64 {
	text, err := h.file("proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}

// counter is a counter that indicates a problem, with its attribute number (enum
// ctattr_stats_cpu).
type counter struct {
	attr     int
	name     string
	severity Severity
	reason   string
	fix      string
}

var counters = [...]counter{
	{10, "drop", Warning, "packets were dropped because the table was full or the kernel had no memory",
		"raise nf_conntrack_max, or shorten timeouts (nfct timeout, nf_conntrack_*_timeout)"},
	{11, "early_drop", Warning, "flows that were not ASSURED were removed to make room in a full table",
		"raise nf_conntrack_max, or shorten timeouts (nfct timeout, nf_conntrack_*_timeout)"},
	{9, "insert_failed", Note, "packets were dropped because another packet of the same flow, or of a flow to which NAT gave the same tuple, was first; with DNS over UDP the cause is two queries from one socket",
		"more ports or addresses for source NAT (--random-fully), one query per socket (options single-request-reopen in resolv.conf)"},
	{15, "chaintoolong", Warning, "packets were dropped because a bucket was full of flows: too few buckets, or an attack on one bucket",
		"raise nf_conntrack_buckets"},
	{4, "invalid", Note, "packets that fit no flow and cannot begin one, or are outside the window: if rules drop them, connections stall",
		"look at them: sysctl -w net.netfilter.nf_conntrack_log_invalid=255"},
}

// checkCounters reports the counters since the network namespace was created, summed over all
// CPUs, and the CPU with the highest count.
func checkCounters(h *host, r *report) {
	if h.conn == nil || !h.found {
		return
	}
	var all []ctnetlink.CPUStats
	if err := ctnetlink.DumpStats(h.ctx, h.conn, ctnetlink.TypeFlowStatsCPU, func(s *ctnetlink.CPUStats) error {
		all = append(all, *s)
		return nil
	}); err != nil {
		return
	}
	judgeCounters(all, r)
}

func judgeCounters(all []ctnetlink.CPUStats, r *report) {
	quiet := true
	for _, c := range counters {
		var sum, most uint64
		var cpu uint16
		for i := range all {
			v := uint64(all[i].Value[c.attr])
			if sum += v; v > most {
				most, cpu = v, all[i].CPU
			}
		}
		if sum == 0 {
			continue
		}
		quiet = false
		seen := c.name + "=" + decimal(sum)
		if len(all) > 1 {
			seen += ", " + decimal(most) + " of them on CPU " + decimal(uint64(cpu))
		}
		r.add(c.severity, seen, c.reason, c.fix)
	}
	if quiet {
		r.ok("no packet was dropped or found INVALID and no flow removed on " + decimal(uint64(len(all))) + " CPUs")
	}
}
