package ctnetlink

import "testing"

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
