package cache

import (
	"math/rand/v2"
	"testing"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

const t0 = 100 * time.Second

// internalFlow sets f to flow i as in the kernel's events: TCP, source NAT, id.
func internalFlow(f *ctnetlink.Flow, i uint32, ipv6 bool) {
	f.Reset()
	tuple(&f.Orig, i, ipv6)
	f.Reply = f.Orig.Inverted()
	if !ipv6 {
		f.Reply.Dst = ctnetlink.Addr{203, 0, 113, 1}
		f.Reply.DstPort = uint16(i)
	}
	f.Has = ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasID | ctnetlink.HasTCPState | ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply
	f.Status, f.Timeout, f.ID, f.TCPState = 0x19e, 432000, i*2654435761, ctnetlink.TCPStateEstablished
	f.TCPWScaleOrig, f.TCPWScaleRepl = 7, 7
}

// externalFlow sets f to the same flow as in a peer's message.
func externalFlow(f *ctnetlink.Flow, i uint32, ipv6 bool) {
	f.Reset()
	tuple(&f.Orig, i, ipv6)
	f.Has = ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasTCPState | ctnetlink.HasNATSrc
	f.Status, f.Timeout, f.TCPState = 0x19e, 432000, ctnetlink.TCPStateEstablished
	f.NATSrc = ctnetlink.NAT{HasAddr: true, HasPort: true, Port: uint16(i), Addr: ctnetlink.Addr{203, 0, 113, 1}}
	if ipv6 {
		f.NATSrc.Addr = ctnetlink.Addr{0x20, 0x01, 0x0d, 0xb8, 15: 1}
	}
}

func tuple(t *ctnetlink.Tuple, i uint32, ipv6 bool) {
	*t = ctnetlink.Tuple{Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP, Has: whole | ctnetlink.TuplePorts,
		Src: ctnetlink.Addr{198, 51, 100, byte(i >> 16)}, Dst: ctnetlink.Addr{192, 0, 2, byte(i >> 24)},
		SrcPort: uint16(i), DstPort: 443}
	if ipv6 {
		t.Family = nl.FamilyIPv6
		t.Src = ctnetlink.Addr{0x20, 0x01, 0x0d, 0xb8, 13: byte(i >> 16), 15: 1}
		t.Dst = ctnetlink.Addr{0x20, 0x01, 0x0d, 0xb8, 13: byte(i >> 24), 15: 2}
	}
}

func fill(c *Flows, from, to uint32, ipv6 bool, flow func(*ctnetlink.Flow, uint32, bool)) {
	var f ctnetlink.Flow
	for i := from; i < to; i++ {
		flow(&f, i, ipv6)
		c.Put(&f, t0)
	}
}

// Identity is tuple and zones; everything else is content.
func TestIdentity(t *testing.T) {
	base := func(ipv6 bool) *ctnetlink.Flow {
		var f ctnetlink.Flow
		internalFlow(&f, 1, ipv6)
		return &f
	}
	for name, c := range map[string]struct {
		change func(f *ctnetlink.Flow)
		same   bool
	}{
		"nothing":      {func(f *ctnetlink.Flow) {}, true},
		"mark":         {func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasMark; f.Mark = 1 }, true},
		"zone 0":       {func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasZone; f.Zone = 0 }, true},
		"zone":         {func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasZone; f.Zone = 1 }, false},
		"orig zone":    {func(f *ctnetlink.Flow) { f.Orig.Has |= ctnetlink.TupleZone; f.Orig.Zone = 1 }, false},
		"reply zone":   {func(f *ctnetlink.Flow) { f.Reply.Has |= ctnetlink.TupleZone; f.Reply.Zone = 1 }, true},
		"source":       {func(f *ctnetlink.Flow) { f.Orig.Src[3]++ }, false},
		"destination":  {func(f *ctnetlink.Flow) { f.Orig.Dst[3]++ }, false},
		"source port":  {func(f *ctnetlink.Flow) { f.Orig.SrcPort++ }, false},
		"dest. port":   {func(f *ctnetlink.Flow) { f.Orig.DstPort++ }, false},
		"protocol":     {func(f *ctnetlink.Flow) { f.Orig.Proto = ctnetlink.ProtoUDP }, false},
		"GRE key":      {func(f *ctnetlink.Flow) { f.Orig.Proto = ctnetlink.ProtoGRE; f.Orig.SrcPort = 9 }, false},
		"other family": {func(f *ctnetlink.Flow) { f.Orig.Family ^= nl.FamilyIPv4 ^ nl.FamilyIPv6 }, false},
	} {
		for _, ipv6 := range []bool{false, true} {
			tab := NewFlows(Config{})
			a, _ := tab.Put(base(ipv6), t0)
			f := base(ipv6)
			c.change(f)
			b, _ := tab.Put(f, t0)
			if (a == b) != c.same {
				t.Errorf("%s, IPv6 %t: same flow = %v, want %v", name, ipv6, a == b, c.same)
			}
			// Two flows may have the same hash.
			slot, k := tab.slot(a), must(keyOfFlow(f))
			if found := tab.find(&k, tab.heads.at(slot).hash); (found == slot) != c.same {
				t.Errorf("%s, IPv6 %t: with an equal hash it is found = %v, want %v", name, ipv6, found == slot, c.same)
			}
		}
	}
}

// Two GRE flows between the same hosts are different flows if their keys are known.
// Update keeps nothing that the new contents lack, and the flow goes on.
func TestUpdateReplacesTheContents(t *testing.T) {
	c := NewFlows(Config{})
	c.Track()
	var f, got ctnetlink.Flow
	internalFlow(&f, 1, false)
	f.Has |= ctnetlink.HasMark | ctnetlink.HasLabels
	f.Mark, f.LabelsLen, f.Labels = 7, 1, ctnetlink.Labels{9}
	h, outcome := c.Update(&f, t0)
	if outcome != Created {
		t.Fatalf("outcome %d", outcome)
	}
	c.Clean(uint32(h))
	f.Has &^= ctnetlink.HasMark | ctnetlink.HasLabels
	f.ID++ // a peer's messages have none
	same, outcome := c.Update(&f, t0+time.Second)
	if same != h || outcome != Updated || c.Dirty(0) != uint32(h) {
		t.Errorf("handle %x and %x, outcome %d, dirty %d", h, same, outcome, c.Dirty(0))
	}
	if c.Load(h, &got); got.Has&(ctnetlink.HasMark|ctnetlink.HasLabels) != 0 || got.ID != f.ID {
		t.Errorf("%+v", got)
	}
	created, updated, _ := c.Times(h)
	if state, _ := c.State(h); state != Alive || created != t0 || updated != t0+time.Second {
		t.Errorf("state %d, created %v, updated %v", state, created, updated)
	}
	if s := c.Stats(); s.Created != 1 || s.Updated != 1 || s.Destroyed != 0 {
		t.Errorf("%+v", s)
	}
	if _, outcome := c.Update(&ctnetlink.Flow{}, t0); outcome != Malformed {
		t.Errorf("outcome %d without a tuple", outcome)
	}
}

func TestGREKeys(t *testing.T) {
	c := NewFlows(Config{})
	var f ctnetlink.Flow
	for key := range uint16(3) {
		tuple(&f.Orig, 0, false)
		f.Orig.Proto, f.Orig.SrcPort, f.Orig.DstPort = ctnetlink.ProtoGRE, key, 100+key
		c.Replace(&f, t0)
	}
	if c.Len() != 3 {
		t.Fatalf("%d flows, want 3", c.Len())
	}
	if h := c.FindTuple(&f.Orig, 0); !c.Load(h, &f) || f.Orig.SrcPort != 2 || f.Orig.DstPort != 102 {
		t.Fatalf("keys %d, %d after Load", f.Orig.SrcPort, f.Orig.DstPort)
	}
	f.Orig.Has &^= ctnetlink.TuplePorts // as in a peer's message
	f.Orig.SrcPort, f.Orig.DstPort = 0, 0
	if h := c.FindTuple(&f.Orig, 0); h != 0 {
		t.Fatal("a flow without keys found one with keys")
	}
}

// A dead flow keeps its contents while a new flow with its tuple is inserted.
func TestDeadFlowAndItsSuccessor(t *testing.T) {
	c := NewFlows(Config{})
	var f ctnetlink.Flow
	internalFlow(&f, 1, true)
	old, _ := c.Replace(&f, t0)
	c.Kill(old)
	f.Mark, f.Has = 7, f.Has|ctnetlink.HasMark
	h, outcome := c.Put(&f, t0+time.Second)
	if outcome != Created || h == old {
		t.Fatalf("outcome %d, handle %x after %x", outcome, h, old)
	}
	if s, _ := c.State(h); s != New {
		t.Errorf("the successor is in state %d", s)
	}
	if !c.Load(old, &f) || f.Has&ctnetlink.HasMark != 0 {
		t.Error("the dead flow lost its contents")
	}
	if !c.Release(old) || c.Release(h) || c.Load(old, &f) || !c.Load(h, &f) {
		t.Error("Release freed the wrong flow")
	}
}

// The memory of a million entries is freed when they are removed.
func TestMemoryIsFreed(t *testing.T) {
	const n = 20000
	c := NewFlows(Config{Timers: true})
	empty := c.Bytes()
	var f ctnetlink.Flow
	for round := range 3 {
		var handles []Handle
		for i := range uint32(n) {
			internalFlow(&f, i, i%2 == 1)
			f.Helper.Set("ftp")
			f.Has |= ctnetlink.HasHelper
			h, _ := c.Put(&f, t0)
			c.Arm(h, t0, time.Minute)
			handles = append(handles, h)
		}
		if got := c.Bytes() / n; got > 200 {
			t.Errorf("round %d: %d bytes for a flow", round, got)
		}
		rand.Shuffle(n, func(i, j int) { handles[i], handles[j] = handles[j], handles[i] })
		for _, h := range handles {
			if !c.Delete(h) {
				t.Fatal("a flow is gone")
			}
		}
		// The index and a segment of each kind stay.
		if got, most := c.Bytes(), empty+n*8+segmentSize*200+segmentSize*(24+64+32+16+16); got > most {
			t.Errorf("round %d: %d bytes when empty, want at most %d", round, got, most)
		}
	}
	internalFlow(&f, 1, true)
	h, _ := c.Put(&f, t0)
	c.Flush()
	if c.Load(h, &f) || c.Bytes() > empty {
		t.Errorf("after Flush: the handle is valid, or %d bytes are left", c.Bytes())
	}
	internalFlow(&f, 1, true)
	if again, _ := c.Put(&f, t0); again == h {
		t.Error("a handle from before Flush names a new flow")
	}
}

// An iteration visits an entry that stays in the table exactly once, despite other changes.
func TestCursor(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	c := NewFlows(Config{})
	fill(c, 0, 5000, false, internalFlow)
	keep := map[Handle]int{}
	var others []Handle
	for h := range collect(c.Next) {
		if r.IntN(2) == 0 {
			keep[h] = 0
		} else {
			others = append(others, h)
		}
	}
	var cursor Cursor
	var batch [64]Handle
	fresh := uint32(100000)
	for more := true; more; {
		var n int
		n, more = c.Next(&cursor, batch[:])
		for _, h := range batch[:n] {
			if _, ok := keep[h]; ok {
				keep[h]++
			}
		}
		for range 100 {
			if len(others) > 0 {
				c.Delete(others[0])
				others = others[1:]
			}
			fill(c, fresh, fresh+2, true, externalFlow)
			fresh += 2
		}
		if fresh > 200000 {
			t.Fatal("the iteration runs after the insertions")
		}
	}
	for h, n := range keep {
		if n != 1 {
			t.Fatalf("%x visited %d times", h, n)
		}
	}
}

// The index grows by one bucket at a time and keeps its chains short.
func TestIndexGrowth(t *testing.T) {
	c := NewFlows(Config{Buckets: 1})
	var f ctnetlink.Flow
	for i := range uint32(50000) {
		before := c.index.n
		internalFlow(&f, i, false)
		c.Put(&f, t0)
		if c.index.n-before > 1 {
			t.Fatalf("%d buckets split by one insertion", c.index.n-before)
		}
	}
	longest := 0
	for b := range c.index.n {
		n := 0
		for s := c.index.buckets[b>>bucketBits][b&bucketMask]; s != 0; s = c.heads.at(s).next {
			n++
		}
		longest = max(longest, n)
	}
	if longest > 16 {
		t.Errorf("the longest chain has %d flows", longest)
	}
}

// Beyond the limit of distinct security contexts, flows are stored without theirs.
func TestTooManyContexts(t *testing.T) {
	c := NewFlows(Config{})
	var f ctnetlink.Flow
	for i := range uint32(maxSecctx + 10) {
		internalFlow(&f, i, false)
		f.Has |= ctnetlink.HasSecctx
		f.Secctx = append(f.Secctx[:0], 's', byte(i>>8), byte(i))
		h, _ := c.Put(&f, t0)
		if c.Load(h, &f); f.Has&ctnetlink.HasSecctx != 0 != (i < maxSecctx) {
			t.Fatalf("context %d kept: %v", i, f.Has&ctnetlink.HasSecctx != 0)
		}
	}
}

// CacheTimeout can be the largest number of the configuration, which some use for "never". A
// timer that is longer than the wheel's range must not end at once.
func TestLongestTimer(t *testing.T) {
	const longest = (1<<31 - 1) * time.Second
	c := NewFlows(Config{Timers: true})
	var f ctnetlink.Flow
	internalFlow(&f, 1, false)
	now := t0
	h, _ := c.Put(&f, now)
	c.Arm(h, now, longest)
	var batch [4]Handle
	for range 100 {
		now += 24 * time.Hour
		for more := true; more; {
			var n int
			if n, more = c.Expired(now, batch[:]); n != 0 {
				t.Fatalf("it ended after %v", now-t0)
			}
		}
	}
	if at, ok := c.Deadline(h); !ok || at < now+365*24*time.Hour {
		t.Errorf("it ends at %v, armed: %v", at, ok)
	}
}

// Operations in the steady state cause no allocations.
func TestAllocs(t *testing.T) {
	for name, ipv6 := range map[string]bool{"IPv4": false, "IPv6": true} {
		c := NewFlows(Config{Timers: true})
		fill(c, 0, 3000, ipv6, internalFlow)
		var in, ex, out ctnetlink.Flow
		var cursor Cursor
		batch := make([]Handle, 16)
		i := uint32(0)
		now := t0
		if n := testing.AllocsPerRun(2000, func() {
			i++
			now += 10 * time.Millisecond
			internalFlow(&in, i, ipv6)
			externalFlow(&ex, 10000+i, ipv6)
			ex.Has |= ctnetlink.HasLabels | ctnetlink.HasHelper
			ex.LabelsLen = 4
			h, _ := c.Put(&in, now)
			c.Arm(h, now, time.Minute)
			c.Load(h, &out)
			x, _ := c.Replace(&ex, now)
			c.Put(&ex, now)
			c.Load(x, &out)
			c.Find(&in)
			c.Next(&cursor, batch)
			c.NextUnseen(&cursor, batch)
			c.Expired(now, batch)
			c.Delete(x)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
