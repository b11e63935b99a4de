package ftp

import (
	"encoding/binary"

	"ctbox/helpers/helper"
)

// The private data of a flow: for each direction the sequence numbers at which
// lines are known to start, two at most, then for each direction how many are
// known. All are 32-bit numbers in little-endian order, as conntrack-tools has
// them on x86, so that a flow goes on under the other program. Two, since what
// follows the newest line may be a retransmission of that line.
const (
	lineStarts = 2
	countsAt   = 2 * lineStarts * 4
	privateLen = countsAt + 2*4
)

// knownStarts returns the sequence numbers known for that direction, encoded, and
// where their count is kept.
func knownStarts(private []byte, d helper.Direction) (starts []byte, count []byte) {
	count = private[countsAt+int(d)*4:][:4]
	known := min(binary.LittleEndian.Uint32(count), lineStarts)
	return private[int(d)*lineStarts*4:][: known*4 : lineStarts*4], count
}

// isLineStart reports whether a line is known to start at seq.
func isLineStart(private []byte, d helper.Direction, seq uint32) bool {
	for starts, _ := knownStarts(private, d); len(starts) > 0; starts = starts[4:] {
		if binary.LittleEndian.Uint32(starts) == seq {
			return true
		}
	}
	return false
}

// addLineStart remembers that a line starts at seq: in place of the older one of
// two, unless seq is older still.
func addLineStart(private []byte, d helper.Direction, seq uint32) {
	if isLineStart(private, d, seq) {
		return
	}
	starts, count := knownStarts(private, d)
	if n := len(starts); n < cap(starts) {
		binary.LittleEndian.PutUint32(starts[n:n+4], seq)
		binary.LittleEndian.PutUint32(count, uint32(n/4+1))
		return
	}
	oldest := starts[:4]
	if after(binary.LittleEndian.Uint32(oldest), binary.LittleEndian.Uint32(starts[4:])) {
		oldest = starts[4:]
	}
	if after(seq, binary.LittleEndian.Uint32(oldest)) {
		binary.LittleEndian.PutUint32(oldest, seq)
	}
}

// after reports whether sequence number a is later than b (RFC 9293, section 3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }
