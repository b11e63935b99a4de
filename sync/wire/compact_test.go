package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"ctbox/internal/seeds"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"

	"github.com/google/go-cmp/cmp"
)

// randomFlow returns a flow as a kernel may have it, and what a peer is to have of it.
func randomFlow(r *rand.Rand) (f, want ctnetlink.Flow) {
	addr := func(family uint8) (a ctnetlink.Addr) {
		n := 4
		if family == nl.FamilyIPv6 {
			n = 16
		}
		for i := range n {
			a[i] = byte(r.Uint32())
		}
		return a
	}
	tuple := func(family, proto uint8) (t ctnetlink.Tuple) {
		t = ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto, Family: family, Proto: proto, Src: addr(family), Dst: addr(family)}
		if _, _, ok := layer4(&t); ok {
			setLayer4(&t, uint16(r.Uint32()), uint16(r.Uint32()))
			if ctnetlink.IsICMP(proto) {
				t.ICMPType = []uint8{8, 13, 128, 139}[r.IntN(4)]
			}
		}
		return t
	}
	maybe := func() bool { return r.IntN(3) == 0 }
	family := []uint8{nl.FamilyIPv4, nl.FamilyIPv6}[r.IntN(2)]
	proto := []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoICMP, ctnetlink.ProtoICMPv6,
		ctnetlink.ProtoSCTP, ctnetlink.ProtoDCCP, ctnetlink.ProtoUDPLite, ctnetlink.ProtoGRE, 50}[r.IntN(10)]
	f.Orig = tuple(family, proto)
	f.Reply = f.Orig.Inverted()
	f.Has = ctnetlink.HasStatus
	f.Status = r.Uint32N(1<<16) &^ (ctnetlink.StatusDying | ctnetlink.StatusSrcNATDone | ctnetlink.StatusDstNATDone)
	nat := func(status uint32, a *ctnetlink.Addr, port *uint16) {
		if !maybe() {
			return
		}
		f.Status |= status
		*a = addr(family)
		if hasPortsOrKeys(proto) && maybe() {
			*port ^= 1 + uint16(r.Uint32N(1000))
		}
	}
	nat(ctnetlink.StatusSrcNAT|ctnetlink.StatusSrcNATDone, &f.Reply.Dst, &f.Reply.DstPort)
	nat(ctnetlink.StatusDstNAT|ctnetlink.StatusDstNATDone, &f.Reply.Src, &f.Reply.SrcPort)
	if ctnetlink.IsICMP(proto) && maybe() {
		f.Reply.ICMPID ^= 7
	}
	if maybe() {
		f.Has |= ctnetlink.HasTimeout
		f.Timeout = []uint32{0, 1, 127, 128, 432000, 1<<32 - 1}[r.IntN(6)]
	}
	if maybe() {
		f.Has |= ctnetlink.HasMark
		f.Mark = 1 + r.Uint32N(1<<32-1)
	}
	if maybe() {
		f.Has |= ctnetlink.HasZone
		f.Zone = uint16(1 + r.Uint32N(65535))
	} else if maybe() {
		f.Orig.Has |= ctnetlink.TupleZone
		f.Orig.Zone = uint16(r.Uint32())
		if maybe() {
			f.Reply.Has |= ctnetlink.TupleZone
			f.Reply.Zone = uint16(r.Uint32())
		}
	}
	if maybe() {
		f.Master = tuple(family, proto)
	}
	if maybe() {
		f.Has |= ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply
		f.SeqAdjOrig = ctnetlink.SeqAdj{CorrectionPos: r.Uint32(), OffsetBefore: r.Uint32(), OffsetAfter: r.Uint32()}
		f.SeqAdjReply = ctnetlink.SeqAdj{CorrectionPos: r.Uint32(), OffsetBefore: r.Uint32(), OffsetAfter: r.Uint32()}
	}
	switch proto {
	case ctnetlink.ProtoTCP:
		if !maybe() {
			f.Has |= ctnetlink.HasTCPState
			f.TCPState = uint8(r.IntN(maxTCPState + 1))
		}
		if maybe() {
			f.Has |= ctnetlink.HasTCPWScaleOrig
			f.TCPWScaleOrig = uint8(r.IntN(15))
		}
		if maybe() {
			f.Has |= ctnetlink.HasTCPWScaleReply
			f.TCPWScaleRepl = uint8(r.IntN(15))
		}
	case ctnetlink.ProtoSCTP:
		if maybe() {
			f.Has |= ctnetlink.SCTPAttrs
			f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = uint8(r.IntN(maxSCTPState+1)), r.Uint32(), r.Uint32()
		}
	case ctnetlink.ProtoDCCP:
		if maybe() {
			f.Has |= ctnetlink.HasDCCPState | ctnetlink.HasDCCPRole
			f.DCCPState, f.DCCPRole = uint8(r.IntN(maxDCCPState+1)), uint8(r.IntN(2))
		}
	}
	if maybe() {
		f.Has |= ctnetlink.HasSynproxy
		f.Synproxy = ctnetlink.Synproxy{ISN: r.Uint32(), ITS: r.Uint32(), TSOff: r.Uint32()}
	}
	if maybe() {
		f.Has |= ctnetlink.HasLabels
		f.LabelsLen = uint8(1 + r.IntN(ctnetlink.LabelWords))
		f.Labels[0] = 1 + r.Uint32N(1<<31)
	}
	if maybe() {
		f.Has |= ctnetlink.HasHelper
		copy(f.Helper[:], "a-long-name-ftp"[r.IntN(10):])
	}
	if maybe() {
		f.Has |= ctnetlink.HasTimestampStart
		f.TimestampStart = r.Uint64()
	}
	want = f
	if maybe() && f.Has&ctnetlink.HasSynproxy == 0 {
		f.Has |= ctnetlink.HasSynproxy
		f.Synproxy = ctnetlink.Synproxy{}
	}
	// What stays on this node.
	f.Has |= ctnetlink.HasID | ctnetlink.HasCountersOrig | ctnetlink.HasUse | ctnetlink.HasSecmark
	f.ID, f.Use, f.Secmark = 1, 2, 3
	if maybe() {
		f.Status |= ctnetlink.StatusDying
	}
	return f, want
}

// What a peer reads of a compact message is what the sender has, for each attribute, protocol
// and translation.
func TestCompactFlows(t *testing.T) {
	for seed := range seeds.Count(20_000) {
		f, want := randomFlow(rand.New(rand.NewPCG(seed, 5)))
		e := Encoder{WindowTracking: true}
		epoch := uint32(seed%3) * uint32(seed) << (seed % 16) & MaxEpoch // 0 in a third
		body, err := e.AppendCompactFlow(nil, &f, false)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		body = AppendCompactEpoch(body, epoch)
		if len(body) > MaxCompactBody {
			t.Fatalf("seed %d: %d bytes", seed, len(body))
		}
		var got ctnetlink.Flow
		if gotEpoch, err := ParseCompactFlow(body, &got, false); err != nil || gotEpoch != epoch {
			t.Fatalf("seed %d: epoch %d, want %d: %v in % x", seed, gotEpoch, epoch, err, body)
		}
		got.HelperInfo, got.Secctx = nil, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d: % x:\n%s", seed, body, diff)
		}
		end, err := e.AppendCompactFlow(nil, &f, true)
		if err != nil {
			t.Fatal(err)
		}
		end = AppendCompactEpoch(end, epoch)
		if gotEpoch, err := ParseCompactFlow(end, &got, true); err != nil || gotEpoch != epoch || got.Orig != want.Orig || got.Has&ctnetlink.HasZone != want.Has&ctnetlink.HasZone ||
			got.Has&ctnetlink.HasZone != 0 && got.Zone != want.Zone || got.Reply.Zone != want.Reply.Zone {
			t.Fatalf("seed %d: the end is read as %+v: %v", seed, got.Orig, err)
		}
		if len(end) > len(body) {
			t.Errorf("seed %d: an end of %d bytes for a flow of %d", seed, len(end), len(body))
		}
	}
}

// The common flow takes less than half of what version 1 takes.
func TestCompactSizes(t *testing.T) {
	tcp, _ := flowDumps[0].flow, 0
	tcp.Has = ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasTCPState
	tcp.Status, tcp.Timeout = ctnetlink.StatusSeenReply|ctnetlink.StatusAssured|ctnetlink.StatusConfirmed, 432000
	tcp.Reply = tcp.Orig.Inverted()
	snat := tcp
	snat.Status |= ctnetlink.StatusSrcNAT | ctnetlink.StatusSrcNATDone
	snat.Reply.Dst, snat.Reply.DstPort = ctnetlink.Addr{203, 0, 113, 1}, 4000
	for _, c := range []struct {
		name string
		flow ctnetlink.Flow
		end  bool
		most int
	}{{"TCP", tcp, false, 18}, {"TCP with SNAT", snat, false, 26}, {"its end", snat, true, 13}} {
		body, err := Encoder{}.AppendCompactFlow(nil, &c.flow, c.end)
		if err != nil || len(body) > c.most {
			t.Errorf("%s: %d bytes, want at most %d: %v", c.name, len(body), c.most, err)
		}
	}
}

func TestCompactRefusals(t *testing.T) {
	key := []byte{192, 0, 2, 1, 198, 51, 100, 1, 0, 80, 0, 81}
	for _, c := range []struct {
		name string
		body []byte
		end  bool
		want error
	}{
		{"empty", nil, false, ErrAttrLength},
		{"cut key", append([]byte{0}, key[:5]...), false, ErrAttrLength},
		{"no status", append([]byte{0}, key...), false, ErrAttrLength},
		{"bytes behind", append(append([]byte{0}, key...), 8, 1), false, ErrAttrLength},
		{"a varint of two bytes for one", append(append([]byte{0}, key...), 0x88, 0), false, ErrAttrLength},
		{"a TCP state of UDP", append(append([]byte{compactTCPState | compactUDP}, key...), 8, 1), false, ErrAttrValue},
		{"an unknown TCP state", append(append([]byte{compactTCPState}, key...), 8, 99), false, ErrAttrValue},
		{"an end with a status", append([]byte{compactMark}, key...), true, ErrAttrValue},
		{"an empty reply", append(append([]byte{compactReply}, key...), 8, 0), false, ErrAttrValue},
		{"an unknown part of a reply", append(append([]byte{compactReply}, key...), 8, 0x10), false, ErrAttrValue},
		{"an unknown attribute", append(append([]byte{compactAttrs}, key...), 8, 0x60, 0), false, ErrAttrNumber},
		{"an unknown attribute that may be skipped", append(append([]byte{compactAttrs}, key...), 8, 0xe0, 1, 7), false, nil},
		{"a cut attribute", append(append([]byte{compactAttrs}, key...), 8, 1, 2, 0), false, ErrAttrLength},
		{"an attribute of the wrong size", append(append([]byte{compactAttrs}, key...), 8, 1, 1, 0), false, ErrAttrSize},
		{"SCTP's of TCP", append(append([]byte{compactAttrs}, key...), 8, 6, 9, 1, 0, 0, 0, 1, 0, 0, 0, 2), false, ErrAttrValue},
		{"a half of ESP", append(append([]byte{compactReply | compactOther, 50}, key[:8]...), 8, replyFirst, 0, 1), false, ErrAttrValue},
		{"a master with a mark", append(append(append([]byte{compactAttrs}, key...), 8, 4, 13, compactMark), key...), false, ErrAttrValue},
		{"a master of IPv6", append(append(append([]byte{compactAttrs}, key...), 8, 4, 37, compactIPv6), make([]byte, 36)...), false, ErrFamily},
		{"an unknown SCTP state", append(append([]byte{compactAttrs | compactOther, ctnetlink.ProtoSCTP}, key...), 8, 6, 9, 99, 0, 0, 0, 1, 0, 0, 0, 2), false, ErrAttrValue},
		{"DCCP's of TCP", append(append([]byte{compactAttrs}, key...), 8, 7, 2, 1, 0), false, ErrAttrValue},
		{"an unknown DCCP state", append(append([]byte{compactAttrs | compactOther, ctnetlink.ProtoDCCP}, key...), 8, 7, 2, 99, 0), false, ErrAttrValue},
		{"labels of five bytes", append(append([]byte{compactAttrs}, key...), 8, 0x82, 5, 1, 2, 3, 4, 5), false, ErrAttrSize},
		{"an epoch of three bytes", append(append([]byte{compactAttrs}, key...), 8, 9, 3, 0, 0, 1), false, ErrAttrSize},
		{"an epoch with a mark", append(append([]byte{compactAttrs}, key...), 8, 9, 4, 0x80, 0, 0, 1), false, ErrAttrValue},
		{"an end with an epoch with a mark", append(append([]byte{compactAttrs}, key...), 9, 4, 0x80, 0, 0, 0), true, ErrAttrValue},
	} {
		var f ctnetlink.Flow
		if _, err := ParseCompactFlow(c.body, &f, c.end); !errors.Is(err, c.want) && err != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := (Encoder{}).AppendCompactFlow(nil, &ctnetlink.Flow{}, false); err != ErrIncompleteTuple {
		t.Errorf("a flow without addresses: %v", err)
	}
}

// A flow with the largest of all that a message carries fits into MaxCompactBody, with an epoch.
func TestLongestCompactFlow(t *testing.T) {
	for _, proto := range []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoSCTP, ctnetlink.ProtoDCCP, ctnetlink.ProtoGRE} {
		var f ctnetlink.Flow
		tuple := func(last byte) ctnetlink.Tuple {
			return ctnetlink.Tuple{Family: nl.FamilyIPv6, Proto: proto, Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts | ctnetlink.TupleZone,
				Src: ctnetlink.Addr{0x20, 0x01, 0x0d, 0xb8, 15: last}, Dst: ctnetlink.Addr{0x20, 0x01, 0x0d, 0xb8, 15: last + 1}, SrcPort: uint16(last), DstPort: uint16(last), Zone: 7}
		}
		f.Orig, f.Reply, f.Master = tuple(1), tuple(5), tuple(9)
		f.Master.Proto = ctnetlink.ProtoSCTP
		f.Has = ^ctnetlink.Attr(0)
		f.Status, f.Timeout, f.Mark, f.Zone, f.LabelsLen, f.Labels[0] = 1<<32-1, 1<<32-1, 1, 7, ctnetlink.LabelWords, 1
		f.TCPState, f.SCTPState, f.DCCPState = 3, 3, 3
		f.Synproxy.ISN = 1
		f.Helper.Set("fifteen-bytes-x")
		body, err := Encoder{WindowTracking: true}.AppendCompactFlow(nil, &f, false)
		if err != nil {
			t.Fatal(err)
		}
		body = AppendCompactEpoch(body, MaxEpoch)
		if len(body) < 200 || len(body) > MaxCompactBody {
			t.Errorf("protocol %d: %d bytes", proto, len(body))
		}
		if epoch, err := ParseCompactFlow(body, &f, false); err != nil || epoch != MaxEpoch {
			t.Errorf("protocol %d: epoch %d, %v", proto, epoch, err)
		}
	}
}

// Epoch 0 changes nothing, and another one takes six bytes.
func TestCompactEpochs(t *testing.T) {
	f := typicalFlow()
	for _, end := range []bool{false, true} {
		body, err := Encoder{}.AppendCompactFlow(nil, f, end)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendCompactEpoch(bytes.Clone(body), 0); !bytes.Equal(got, body) {
			t.Errorf("with epoch 0 % x is % x", body, got)
		}
		if got := AppendCompactEpoch(bytes.Clone(body), 1); len(got) != len(body)+6 {
			t.Errorf("with epoch 1 % x is % x", body, got)
		}
	}
}

func TestCompactAllocations(t *testing.T) {
	f, _ := randomFlow(rand.New(rand.NewPCG(3, 5)))
	var got ctnetlink.Flow
	buf := make([]byte, 0, 512)
	if n := testing.AllocsPerRun(100, func() {
		buf, _ = Encoder{WindowTracking: true}.AppendCompactFlow(buf[:0], &f, false)
		buf = AppendCompactEpoch(buf, 7)
		epoch, err := ParseCompactFlow(buf, &got, false)
		if _, cut := ParseCompactFlow(buf[:5], &got, false); epoch != 7 || err != nil || cut == nil {
			t.Fatal("parsed wrongly")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCompactFlow: whatever is read is written so that it is read the same again.
func FuzzCompactFlow(f *testing.F) {
	for seed := range uint64(30) {
		flow, _ := randomFlow(rand.New(rand.NewPCG(seed, 5)))
		body, _ := Encoder{WindowTracking: true}.AppendCompactFlow(nil, &flow, seed%5 == 0)
		f.Add(AppendCompactEpoch(body, uint32(seed%3)<<(seed%31)), seed%5 == 0)
	}
	f.Fuzz(func(t *testing.T, body []byte, end bool) {
		var first, second ctnetlink.Flow
		epoch, err := ParseCompactFlow(body, &first, end)
		if err != nil {
			return
		}
		e := Encoder{WindowTracking: true}
		again, err := e.AppendCompactFlow(nil, &first, end)
		if err != nil {
			t.Fatalf("% x is read and not written: %v", body, err)
		}
		again = AppendCompactEpoch(again, epoch)
		if same, err := ParseCompactFlow(again, &second, end); err != nil || same != epoch {
			t.Fatalf("% x is written as % x: epoch %d, want %d: %v", body, again, same, epoch, err)
		}
		twice, _ := e.AppendCompactFlow(nil, &second, end)
		twice = AppendCompactEpoch(twice, epoch)
		if !bytes.Equal(again, twice) {
			t.Errorf("% x, then % x", again, twice)
		}
	})
}

func BenchmarkAppendCompactFlow(b *testing.B) {
	f := typicalFlow()
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = Encoder{}.AppendCompactFlow(buf[:0], f, false)
	}
}

func BenchmarkParseCompactFlow(b *testing.B) {
	body, err := Encoder{}.AppendCompactFlow(nil, typicalFlow(), false)
	if err != nil {
		b.Fatal(err)
	}
	var f ctnetlink.Flow
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseCompactFlow(body, &f, false); err != nil {
			b.Fatal(err)
		}
	}
}

// A cache keeps all that a message carries: what it holds of a flow is encoded as the flow was.
// Both sides compute their digests from that.
func TestCompactFlowsInACache(t *testing.T) {
	for seed := range uint64(5_000) {
		f, _ := randomFlow(rand.New(rand.NewPCG(seed, 7)))
		e := Encoder{WindowTracking: true}
		body, err := e.AppendCompactFlow(nil, &f, false)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		var heard, held ctnetlink.Flow
		if _, err := ParseCompactFlow(body, &heard, false); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for name, put := range map[string]*ctnetlink.Flow{"kernel's": &f, "peer's": &heard} {
			table := cache.NewFlows(cache.Config{})
			h, _ := table.Replace(put, 0)
			if !table.Load(h, &held) {
				t.Fatalf("seed %d: the cache does not take the %s", seed, name)
			}
			if again, _ := e.AppendCompactFlow(nil, &held, false); !bytes.Equal(again, body) {
				t.Fatalf("seed %d: the %s flow % x is in the cache as % x", seed, name, body, again)
			}
			if table.Find(&heard) != h {
				t.Errorf("seed %d: the peer's flow is not found in the cache of the %s", seed, name)
			}
		}
	}
}
