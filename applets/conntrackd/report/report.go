// Package report writes what a conntrackd answers: its numbers as the text of
// conntrack-tools 1.4.9 (byte by byte; scripts and exporters read it), as JSON
// (docs/json.md) and as OpenMetrics (docs/metrics.md), and the entries of its
// caches. Everything appends to a buffer of the caller.
package report

import (
	"strconv"

	"ctbox/sync/node"
)

// Local counts what happened in the daemon beside the node.
type Local struct {
	// Of the control socket:
	ReadFailed uint64 // clients that went, or waited too long, before a request was complete
	Unknown    uint64 // requests that mean nothing
	Refused    uint64 // clients of other users
	Dropped    uint64 // clients that kept others waiting

	Helpers *Helpers // nil where there are none
}

// Helpers counts what user-space helpers did.
type Helpers struct {
	Names []string // each with its family, protocol and queue

	Packets      uint64 // read from the queues
	Unread       uint64 // of those: accepted, because no helper could read them
	Dropped      uint64 // of those: dropped, as the helper wanted it
	Rewritten    uint64 // of those: sent on with another payload
	Expectations uint64 // given to the kernel
	Refused      uint64 // of those: refused, as far as the kernel tells
	Verdicts     uint64 // that the kernel refused for what came with them
	Overruns     uint64 // times that the receive buffer was full
}

// field is a number with the text around it. Width is what the number is padded
// to with spaces, in front.
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

// of picks the table that a report is about.
func of(c *node.CacheStatus, t node.Tables) *node.TableStatus {
	if t == node.Expects {
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
