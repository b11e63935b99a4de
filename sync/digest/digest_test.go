package digest

import (
	"math/rand/v2"
	"testing"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/wire"
)

// The vectors of SipHash's authors, for the key 00 01 … 0f and the data 00 01 ….
func TestSipHash(t *testing.T) {
	var key Key
	for i := range key {
		key[i] = byte(i)
	}
	data := make([]byte, 64)
	for i := range data {
		data[i] = byte(i)
	}
	for length, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 7: 0xab0200f58b01d137, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5, 63: 0x958a324ceb064572} {
		if got := sipHash(&key, data[:length]); got != want {
			t.Errorf("%d bytes: %#x, want %#x", length, got, want)
		}
	}
}

// A table's sums are those of its entries, whatever the order of the changes, and each bucket
// lists its own entries.
func TestTableAgainstAModel(t *testing.T) {
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, 6))
		var table Table
		model := map[uint32]uint64{}
		for range 20_000 {
			slot := uint32(random.IntN(3000))
			switch random.IntN(4) {
			case 0:
				table.Remove(slot)
				delete(model, slot)
			case 1: // stays in its bucket
				if h := model[slot]; h != 0 {
					h ^= 1 + random.Uint64N(1<<20)
					table.Set(slot, h)
					model[slot] = h
				}
			default:
				h := 1 + random.Uint64N(1<<63)
				table.Set(slot, h)
				model[slot] = h
			}
		}
		var root uint64
		groups, buckets := make(Sums, Groups), make(Sums, Buckets)
		for _, h := range model {
			root ^= h
			buckets[h>>50] ^= h
			groups[h>>58] ^= h
		}
		if table.Root() != root || table.Len() != len(model) {
			t.Fatalf("seed %d: root %#x of %d, want %#x of %d", seed, table.Root(), table.Len(), root, len(model))
		}
		table.Groups().Differing(groups, func(i int) { t.Errorf("seed %d: group %d", seed, i) })
		listed := 0
		for g := range Groups {
			table.Buckets(g).Differing(buckets[g*GroupLen:(g+1)*GroupLen], func(i int) { t.Errorf("seed %d: bucket %d of group %d", seed, i, g) })
			for b := range GroupLen {
				table.Entries(g*GroupLen+b, func(slot uint32, hash uint64) {
					listed++
					if model[slot] != hash || hash>>50 != uint64(g*GroupLen+b) {
						t.Errorf("seed %d: slot %d with %#x in bucket %d", seed, slot, hash, g*GroupLen+b)
					}
				})
			}
		}
		if listed != len(model) {
			t.Errorf("seed %d: %d of %d entries are listed", seed, listed, len(model))
		}
	}
}

// The receiver of a flow has the sender's hash, from its external cache; what one node has
// alone does not count, and what both must have does.
func TestBothNodesHashAlike(t *testing.T) {
	hasher := NewHasher(Key{1})
	sent := flowtest.TCP("192.0.2.1", "198.51.100.1")
	sent.Has |= ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasMark | ctnetlink.HasCountersOrig | ctnetlink.HasID | ctnetlink.HasLabels
	sent.Status = ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured | ctnetlink.StatusSrcNAT | ctnetlink.StatusSrcNATDone
	sent.Timeout, sent.Mark, sent.LabelsLen = 300, 7, 4
	sent.Labels.SetBit(5)
	sent.Reply.Dst, sent.Reply.DstPort = ctnetlink.Addr{203, 0, 113, 1}, 4000
	want, ok := hasher.Flow(&sent, 0)
	if !ok {
		t.Fatal("no hash")
	}
	body, err := wire.Encoder{}.AppendCompactFlow(nil, &sent, false)
	if err != nil {
		t.Fatal(err)
	}
	var received ctnetlink.Flow
	if _, err := wire.ParseCompactFlow(body, &received, false); err != nil {
		t.Fatal(err)
	}
	external := cache.NewFlows(cache.Config{})
	h, _ := external.Put(&received, 0)
	var held ctnetlink.Flow
	external.Load(h, &held)
	if got, ok := hasher.Flow(&held, 0); !ok || got != want {
		t.Errorf("the receiver's cache has another hash:\n%+v\n%+v", held, sent)
	}
	before := sent.Clone()
	for name, change := range map[string]func(*ctnetlink.Flow){
		"timeout":    func(f *ctnetlink.Flow) { f.Timeout = 1 },
		"offloading": func(f *ctnetlink.Flow) { f.Status |= ctnetlink.StatusOffload },
		"id":         func(f *ctnetlink.Flow) { f.ID = 99 },
		"counters":   func(f *ctnetlink.Flow) { f.CountersOrig.Packets = 9 },
	} {
		f := before.Clone()
		change(&f)
		if got, _ := hasher.Flow(&f, 0); got != want {
			t.Errorf("%s changes the hash", name)
		}
	}
	for name, change := range map[string]func(*ctnetlink.Flow){
		"port":        func(f *ctnetlink.Flow) { f.Orig.SrcPort++ },
		"translation": func(f *ctnetlink.Flow) { f.Reply.DstPort++ },
		"status":      func(f *ctnetlink.Flow) { f.Status &^= ctnetlink.StatusAssured },
		"mark":        func(f *ctnetlink.Flow) { f.Mark = 8 },
		"label":       func(f *ctnetlink.Flow) { f.Labels.SetBit(6) },
		"state":       func(f *ctnetlink.Flow) { f.TCPState++ },
		"zone":        func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasZone; f.Zone = 3 },
	} {
		f := before.Clone()
		change(&f)
		if got, _ := hasher.Flow(&f, 0); got == want {
			t.Errorf("%s does not change the hash", name)
		}
	}
	first, ok := hasher.Flow(&sent, 1)
	if other, _ := hasher.Flow(&sent, 2); !ok || first == want || other == want || other == first {
		t.Error("an epoch does not change the hash")
	}
	if got, _ := NewHasher(Key{2}).Flow(&sent, 0); got == want {
		t.Error("another key gives the same hash")
	}
	if _, ok := hasher.Flow(&ctnetlink.Flow{}, 0); ok {
		t.Error("a flow without addresses has a hash")
	}
}

func TestNothingIsAllocatedForAChange(t *testing.T) {
	hasher, all := NewHasher(Key{1}), flowtest.Flows(1000)
	var table Table
	run := func() {
		for i := range all {
			all[i].Mark++
			all[i].Has |= ctnetlink.HasMark
			h, _ := hasher.Flow(&all[i], uint32(i%3))
			table.Set(uint32(i), h)
		}
	}
	run()
	if n := testing.AllocsPerRun(5, run); n > 0 {
		t.Errorf("%v allocations for 1,000 changes", n)
	}
	if per := float64(table.Bytes()-8*(Buckets+Groups+1)-4*Buckets) / segmentLen; per > 24 {
		t.Errorf("%v bytes for a flow", per)
	}
}

// BenchmarkChange measures what a digest adds to a change of a flow.
func BenchmarkChange(b *testing.B) {
	hasher, all := NewHasher(Key{1}), flowtest.Flows(1000)
	var table Table
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f := &all[i%len(all)]
		f.Mark++
		f.Has |= ctnetlink.HasMark
		h, _ := hasher.Flow(f, 0)
		table.Set(uint32(i%len(all)), h)
	}
}
