package digest

import (
	"testing"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/wire"
)

// FuzzComparer gives a Comparer and an Answerer messages of any kind, at any time, among answers
// as they should be. Nothing panics, what is sent is bounded, and an exchange ends.
func FuzzComparer(f *testing.F) {
	// An instruction is a byte, and for a message its length and content.
	digest := (&wire.StreamMessage{Type: wire.Digest, Entries: 3, Root: 9}).Append([]byte{0, 15})
	f.Add(digest)
	f.Add(append(append([]byte{3, 2, 2, 2}, digest...), 1, 2, 4, 2))
	seed := []byte{3, 3, 3}
	for _, m := range []wire.StreamMessage{
		{Type: wire.Digest, Entries: 3, Root: 9},
		{Type: wire.Sums, Level: wire.LevelGroups, Sums: make([]uint64, 64)},
		{Type: wire.Entries, Index: 7, Low: 7 << bucketShift, High: 8<<bucketShift - 1, Sums: []uint64{7<<bucketShift | 5}},
		{Type: wire.Compare, Node: 1, Stream: 77, Level: wire.LevelEntries, Indexes: []uint16{1, 1, 1, 1 << 13}},
		{Type: wire.Want, Node: 1, Stream: 77, Sums: []uint64{5, 6}},
	} {
		b := m.Append(nil)
		if len(b) < 256 {
			seed = append(append(seed, 0, byte(len(b))), b...)
		}
		seed = append(seed, 2, 1)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, script []byte) {
		flows, now := cache.NewFlows(cache.Config{}), time.Hour
		receiver := NewFlowLedger(Key{1}, flows)
		sender := &Ledger{hasher: NewHasher(Key{1}), cache: announced{}}
		comparer := NewComparer(1, 77, 0, receiver)
		s := Situation{Whole: true}
		var answers []wire.StreamMessage
		sent := 0
		answerer := NewAnswerer(now, 1, 77, sender, &Ledger{cache: announced{}}, Sender{
			Queued:   func(uint8, cache.Handle) bool { return false },
			Announce: func(uint8, cache.Handle) {},
			Send: func(m *wire.StreamMessage) {
				if sent++; sent > 20_000 {
					t.Fatal("the answerer does not end")
				}
				if len(answers) < 1000 {
					var c wire.StreamMessage
					r := wire.ReadStream(m.Append(nil))
					r.Next(&c)
					answers = append(answers, c)
				}
			},
		})
		act := func(a Action) {
			if len(a.Send) > 2+mostEntries/hashesLen+1 {
				t.Fatalf("%d messages at once", len(a.Send))
			}
			for i := range a.Send {
				if n := len(a.Send[i].Append(nil)); n > 600 || uint64(n) != messageLen(&a.Send[i]) {
					t.Fatalf("a message of %d bytes", n)
				}
				answerer.Take(now, &a.Send[i])
			}
			for _, h := range a.Remove {
				flows.Delete(h)
			}
		}
		next := func() (b byte) {
			if len(script) > 0 {
				b, script = script[0], script[1:]
			}
			return b
		}
		for i := 0; len(script) > 0 && i < 300; i++ {
			switch next() % 7 {
			case 0: // a message from the network
				n := min(int(next()), len(script))
				var m wire.StreamMessage
				r := wire.ReadStream(script[:n])
				script = script[n:]
				for {
					if ok, _ := r.Next(&m); !ok {
						break
					}
					answerer.Take(now, &m)
					act(comparer.Take(now, &m, s))
				}
			case 1:
				now += time.Duration(next()) * 10 * time.Millisecond
				act(comparer.Tick(now))
				answerer.Tick(now)
			case 2: // the answers
				for n := 0; len(answers) > 0 && n < 1000; n++ {
					m := answers[0]
					answers = answers[1:]
					act(comparer.Take(now, &m, s))
				}
			case 3: // the sender has something else
				sender.table.Set(uint32(next()), 1+uint64(next())<<56|uint64(next())<<50)
			case 4:
				f := simFlow(stable, int(next()), 1)
				flows.Replace(&f, now)
			case 5:
				s.Whole = !s.Whole
			case 6:
				s.Refused += uint64(next() & 1)
				s.Full = next()&1 != 0
			}
		}
		if n := len(comparer.wanted) + len(comparer.extra) + len(comparer.differing) + len(comparer.chunk); n > 1<<16 {
			t.Errorf("%d entries are kept", n)
		}
	})
}
