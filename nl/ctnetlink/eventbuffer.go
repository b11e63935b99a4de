package ctnetlink

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

// A daemon's event buffer is a 32nd of the memory, rounded up to a power of two and
// within these bounds. The kernel charges 1,280 bytes for the event of a flow: the least
// holds 6,500 events, a burst of 4,000 changes while the reader does not run at all;
// a gigabyte of memory gives 32 MiB, 26,000 events, for 20,000 new flows in a tenth of a
// second; the most holds 209,000, nearly one for each flow of a table of the default
// size (262,144).
const (
	leastBurstBuffer = 8 << 20
	mostBurstBuffer  = 256 << 20
	burstMemoryShare = 32
)

// BurstBuffer returns the receive buffer that holds the bursts of events of a machine
// with that much memory, in bytes as the kernel reports a buffer: twice the requested size.
// Memory is used only while events wait in it.
func BurstBuffer(memory uint64) int {
	share := memory / burstMemoryShare
	switch {
	case share <= leastBurstBuffer:
		return leastBurstBuffer
	case share > mostBurstBuffer/2:
		return mostBurstBuffer
	}
	return 1 << bits.Len64(share-1)
}

// DefaultEventBuffer and DefaultEventBacklog are DefaultEvents of a machine with 4 GiB of
// memory and more. A busy kernel makes bursts of 100,000 events and more in a second.
const (
	DefaultEventBuffer  = 64 << 20
	DefaultEventBacklog = 32 << 20
)

// DefaultEvents returns how many bytes of events wait for a slow consumer, unless it says
// otherwise, on a machine with that much memory: in the socket, as is asked for (the
// kernel reports twice that, BurstBuffer at most), and in the process. Memory is taken
// only as events wait. A machine of 64 MiB has 4 MiB and 2 MiB: conntrack -E whose output
// nobody reads then takes 12 MB, and the kernel 8 MiB, where it would be 72 MB and 128 MiB.
func DefaultEvents(memory uint64) (buffer, backlog int) {
	burst := BurstBuffer(memory)
	return min(burst/2, DefaultEventBuffer), min(burst/4, DefaultEventBacklog)
}

// KernelMemory returns how much memory the kernel can use for itself, in bytes: all, or on a
// 32-bit machine all but high memory. It is 0 if the kernel does not report it.
func KernelMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return (uint64(info.Totalram) - uint64(info.Totalhigh)) * uint64(info.Unit)
}
