package ctnetlink

import (
	"testing"

	"ctbox/internal/netnstest"
)

func TestBurstBuffer(t *testing.T) {
	const mib = 1 << 20
	for memory, want := range map[uint64]int{
		0: 8 * mib, 58 * mib: 8 * mib, 256 * mib: 8 * mib, 257 * mib: 16 * mib, 490 * mib: 16 * mib,
		980 * mib: 32 * mib, 1024 * mib: 32 * mib, 1025 * mib: 64 * mib, 3900 * mib: 128 * mib,
		4096 * mib: 128 * mib, 7900 * mib: 256 * mib, 1 << 40: 256 * mib, 1<<64 - 1: 256 * mib,
	} {
		if got := BurstBuffer(memory); got != want {
			t.Errorf("%d MiB of memory give %d, want %d", memory/mib, got, want)
		}
	}
	if KernelMemory() == 0 {
		t.Error("the kernel's memory is not known")
	}
}

func TestDefaultEvents(t *testing.T) {
	const mib = 1 << 20
	for memory, want := range map[uint64][2]int{
		0: {4 * mib, 2 * mib}, 58 * mib: {4 * mib, 2 * mib}, 256 * mib: {4 * mib, 2 * mib}, 490 * mib: {8 * mib, 4 * mib},
		1024 * mib: {16 * mib, 8 * mib}, 3900 * mib: {DefaultEventBuffer, DefaultEventBacklog}, 1 << 40: {DefaultEventBuffer, DefaultEventBacklog},
	} {
		if buffer, backlog := DefaultEvents(memory); [2]int{buffer, backlog} != want {
			t.Errorf("%d MiB of memory give %d and %d, want %d", memory/mib, buffer, backlog, want)
		}
	}
	sub, err := Subscribe(EventOptions{Groups: GroupFlowNew, NetNS: netnstest.New(t, "defaults").FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if buffer, backlog := DefaultEvents(KernelMemory()); sub.Buffer() != 2*buffer || sub.backlog != backlog {
		t.Errorf("a subscription has a buffer of %d and a backlog of %d, want %d and %d", sub.Buffer(), sub.backlog, 2*buffer, backlog)
	}
}
