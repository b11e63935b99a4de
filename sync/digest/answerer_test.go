package digest

import (
	"testing"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/wire"
)

// TestDigestWaitsForSlices: after a change of all flows at once, a call looks at a slice of them
// only, and the digest comes when the rest is small enough for one call.
func TestDigestWaitsForSlices(t *testing.T) {
	const total = mostDirty + 2*sentSlice
	flows := cache.NewFlows(cache.Config{})
	f := flowtest.Flows(1)[0]
	for i := range total {
		f.Orig.SrcPort, f.Orig.DstPort = uint16(i), uint16(1+i>>16)
		f.Reply = f.Orig.Inverted()
		flows.Update(&f, 0)
	}
	key := Key{1}
	ledger := NewFlowLedger(key, flows)
	looked, digests := 0, 0
	var queued bool
	a := NewAnswerer(0, 1, 77, ledger, NewExpectLedger(key, cache.NewExpects(cache.Config{})), Sender{
		Queued:   func(uint8, cache.Handle) bool { looked++; return queued },
		Announce: func(uint8, cache.Handle) {},
		Send: func(m *wire.StreamMessage) {
			if m.Type == wire.Digest {
				digests++
			}
		},
	})
	now := time.Duration(0)
	for slice := range 2 {
		looked = 0
		a.Tick(now)
		if looked != sentSlice || digests != 0 {
			t.Fatalf("slice %d: %d flows looked at, %d digests", slice, looked, digests)
		}
		if now = a.Deadline(); now != time.Duration(slice+1)*sliceInterval {
			t.Fatalf("slice %d: the next is due at %v", slice, now)
		}
	}
	looked = 0
	a.Tick(now)
	if looked != mostDirty || digests != 2 || a.Deadline() != now+digestInterval || ledger.Dirty() != 0 {
		t.Fatalf("%d flows looked at, %d digests, the next due at %v, %d dirty", looked, digests, a.Deadline(), ledger.Dirty())
	}

	// Announced flows that change, and wait for transmission, stay dirty: a slice of them too.
	ledger.Rekey(key)
	ledger.Settle()
	flows.Flush()
	ledger.cache.Soil()
	now, looked, queued = a.Deadline(), 0, true
	a.Tick(now)
	if looked > sentSlice {
		t.Fatalf("%d flows looked at after a flush", looked)
	}
}
