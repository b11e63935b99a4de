package doctor

import (
	"math"

	"golang.org/x/sys/unix"

	"ctbox/applets/conntrackd/daemonize"
)

// checkClock asks adjtimex(2) whether the clock is synchronised. Without mode bits it only
// reads.
func checkClock(h *host, r *report) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		r.add(Note, "whether the clock is synchronised is not known: "+err.Error(), "it was not checked", "")
		return
	}
	judgeClock(h, r, t.Status&unix.STA_UNSYNC == 0)
}

func judgeClock(h *host, r *report, synchronised bool) {
	if synchronised {
		r.ok("the clock is synchronised")
		return
	}
	r.add(h.replicated(), "the clock is not synchronised", "logs and timestamps of the two nodes cannot be compared",
		"systemctl enable --now systemd-timesyncd (or chrony, ntpd)")
}

// checkMemory compares the memory that the daemon's caches can take with the available memory.
func checkMemory(h *host, r *report) {
	if h.cfg == nil {
		return
	}
	caches := 1
	if s := h.cfg.Sync; s != nil {
		caches = 2
		if s.DisableInternalCache {
			caches--
		}
		if s.DisableExternalCache {
			caches--
		}
	}
	limit, where := uint64(math.MaxInt64), ""
	if n := h.memory(); n > 0 {
		limit, where = n, "the machine has "
	}
	if n := daemonize.CgroupLimit(h.root); uint64(n) < limit {
		limit, where = uint64(n), "the control group may take "
	}
	if where == "" {
		return
	}
	need := uint64(daemonize.MemoryNeed(h.cfg.General.HashLimit, caches))
	seen := "caches of " + decimal(uint64(h.cfg.General.HashLimit)) + " flows take up to " + size(need) + ", and " + where + size(limit)
	if need > limit-limit/10 {
		r.add(Warning, seen, "the daemon would be killed when the table is full",
			"a lower HashLimit in conntrackd.conf, or a higher MemoryMax in the systemd unit")
		return
	}
	r.ok(seen)
}
