// Package report formats conntrackd's answers: statistics as the text of conntrack-tools
// 1.4.9 (byte for byte, for scripts and exporters), as JSON (docs/json.md) and as
// OpenMetrics (docs/metrics.md), and the entries of its caches. All functions append to a
// buffer of the caller.
package report

import (
	"strconv"

	"ctbox/internal/export"
	"ctbox/sync/cache"
	"ctbox/sync/node"
)

// Local has the counters of the daemon outside the node.
type Local struct {
	// Of the control socket:
	ReadFailed uint64 // clients that disconnected or timed out before a request was complete
	Unknown    uint64 // unknown requests
	Refused    uint64 // clients of other users
	Dropped    uint64 // clients that kept others waiting

	Helpers *Helpers // nil without helpers
	Exports []export.Status
}

// Helpers has the counters of user-space helpers.
type Helpers struct {
	Names []string // with family, protocol and queue

	Packets      uint64 // read from the queues
	Unread       uint64 // of those: accepted because no helper could parse them
	Dropped      uint64 // of those: dropped by a helper
	Rewritten    uint64 // of those: forwarded with another payload
	Expectations uint64 // sent to the kernel
	Refused      uint64 // of those: refused, if the kernel reports it
	Verdicts     uint64 // verdicts that the kernel refused because of their attributes
	Overruns     uint64 // times that the receive buffer was full
}

// field is a number with the text around it. The number is padded on the left to width.
type field struct {
	before string
	width  int
	n      uint64
	after  string
}

// The widths of 32-bit and 64-bit numbers.
const (
	w12 = 12
	w20 = 20
)

func appendFields(dst []byte, fields ...field) []byte {
	for _, f := range fields {
		dst = append(dst, f.before...)
		dst = appendPadded(dst, f.n, f.width)
		dst = append(dst, f.after...)
	}
	return dst
}

func appendPadded(dst []byte, n uint64, width int) []byte {
	var digits [20]byte
	text := strconv.AppendUint(digits[:0], n, 10)
	for range width - len(text) {
		dst = append(dst, ' ')
	}
	return append(dst, text...)
}

// of returns the cache's table for t.
func of(c *node.CacheStatus, t cache.Tables) *cache.TableStatus {
	if t == cache.ExpectTable {
		return &c.Expects
	}
	return &c.Flows
}

// cacheNames returns the names of the two caches; statistics mode has one.
func cacheNames(m node.Mode) (internal, external string) {
	if m == node.ModeStats {
		return "stats", ""
	}
	return "internal", "external"
}
