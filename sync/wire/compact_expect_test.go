package wire

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"

	"github.com/google/go-cmp/cmp"
)

// randomTuple returns a complete tuple.
func randomTuple(r *rand.Rand, family, proto uint8) (t ctnetlink.Tuple) {
	t = ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto, Family: family, Proto: proto}
	for i := range addrLen(family) {
		t.Src[i], t.Dst[i] = byte(r.Uint32()), byte(r.Uint32())
	}
	if _, _, ok := layer4(&t); ok {
		setLayer4(&t, uint16(r.Uint32()), uint16(r.Uint32()))
	}
	return t
}

// randomExpect returns an expectation as a kernel may have it, and what a peer is to have of it.
func randomExpect(r *rand.Rand) (x, want ctnetlink.Expect) {
	maybe := func() bool { return r.IntN(3) == 0 }
	family := []uint8{nl.FamilyIPv4, nl.FamilyIPv6}[r.IntN(2)]
	protos := []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoGRE, ctnetlink.ProtoSCTP, ctnetlink.ProtoICMP, ctnetlink.ProtoDCCP, ctnetlink.ProtoUDPLite, 50}
	proto, master := protos[r.IntN(len(protos))], protos[r.IntN(len(protos))]
	x.Tuple, x.Mask, x.Master = randomTuple(r, family, proto), randomTuple(r, family, proto), randomTuple(r, family, master)
	number := func() uint32 { return []uint32{0, 1, 127, 128, 432000, 1<<32 - 1}[r.IntN(6)] }
	if !maybe() {
		x.Has |= ctnetlink.ExpectHasTimeout
		x.Timeout = number()
	}
	if !maybe() {
		x.Has |= ctnetlink.ExpectHasFlags
		x.Flags = number()
	}
	if !maybe() {
		x.Has |= ctnetlink.ExpectHasClass
		x.Class = number()
	}
	if maybe() {
		x.Has |= ctnetlink.ExpectHasZone
		x.Zone = uint16(1 + r.Uint32N(65535))
	}
	if maybe() {
		x.Has |= ctnetlink.ExpectHasNAT
		x.NATDir = r.Uint32N(2)
		x.NATTuple = randomTuple(r, family, master)
		x.NATTuple.Dst = ctnetlink.Addr{}
		if first, _, ok := layer4(&x.NATTuple); ok {
			setLayer4(&x.NATTuple, first, 0)
		}
	}
	if maybe() {
		x.Has |= ctnetlink.ExpectHasHelper
		copy(x.Helper[:], "a-long-name-ftp"[r.IntN(10):])
	}
	if maybe() {
		x.Has |= ctnetlink.ExpectHasFn
		x.SetFn("the-kernels-longest-function-nm"[r.IntN(20):])
	}
	want = x
	x.Has |= ctnetlink.ExpectHasID
	x.ID = r.Uint32()
	return x, want
}

// What a peer reads of an expectation is what the sender's kernel has, on both sides through
// the tables, for what version 1 cannot represent as well.
func TestCompactExpects(t *testing.T) {
	var unsayable [Reasons]int
	for seed := range uint64(2_000) {
		x, want := randomExpect(rand.New(rand.NewPCG(seed, 6)))
		unsayable[UnsayableExpect(&x)]++
		sender, receiver := cache.NewExpects(cache.Config{}), cache.NewExpects(cache.Config{})
		h, _ := sender.Put(&x, 0)
		var got ctnetlink.Expect
		if !sender.Load(h, &got) {
			t.Fatal("no expectation in the sender's table")
		}
		body, err := Encoder{}.AppendCompactExpect(nil, &got, false)
		if err != nil || len(body) > MaxCompactBody {
			t.Fatalf("seed %d: %d bytes, %v", seed, len(body), err)
		}
		if err := ParseCompactExpect(body, &got); err != nil {
			t.Fatalf("seed %d: %v in % x", seed, err, body)
		}
		if got != want {
			t.Fatalf("seed %d: % x:\n%s", seed, body, cmp.Diff(want, got))
		}
		h, _ = receiver.Replace(&got, 0)
		receiver.Load(h, &got)
		if again, err := (Encoder{}).AppendCompactExpect(nil, &got, false); err != nil || !bytes.Equal(again, body) {
			t.Fatalf("seed %d: the receiver has % x, the sender % x: %v", seed, again, body, err)
		}
		end, err := Encoder{}.AppendCompactExpect(nil, &x, true)
		if err != nil || len(end) > len(body) {
			t.Fatalf("seed %d: an end of %d bytes, %v", seed, len(end), err)
		}
		if err := ParseCompactExpect(end, &got); err != nil || receiver.Find(&got) != h {
			t.Fatalf("seed %d: the end of another expectation, %v", seed, err)
		}
		if got.Has&^ctnetlink.ExpectHasZone != 0 {
			t.Fatalf("seed %d: an end with %b", seed, got.Has)
		}
	}
	for why, n := range unsayable {
		if n == 0 && (why == int(Sayable) || why == int(ExpectZone) || why == int(ExpectNAT6)) {
			t.Errorf("no expectation of reason %d", why)
		}
	}
}

func TestCompactExpectSizes(t *testing.T) {
	x := expectDump()
	body, err := Encoder{}.AppendCompactExpect(nil, &x, false)
	end, _ := Encoder{}.AppendCompactExpect(nil, &x, true)
	v1, _ := Encoder{}.AppendExpect(nil, Header{}, &x)
	t.Logf("FTP's expectation with NAT: %d bytes, its end %d; version 1: %d", streamLen(len(body)), streamLen(len(end)), len(v1))
	if err != nil || len(body) > 78 || len(end) > 38 {
		t.Errorf("%d and %d bytes, %v", len(body), len(end), err)
	}
	without, err := Encoder{OmitTimeout: true}.AppendCompactExpect(nil, &x, false)
	if err != nil || len(without) != len(body)-2 {
		t.Errorf("%d bytes without a timeout, %v", len(without), err)
	}
}

func TestCompactExpectRefusals(t *testing.T) {
	x := expectDump()
	end, err := Encoder{}.AppendCompactExpect(nil, &x, true)
	if err != nil {
		t.Fatal(err)
	}
	for n := range end {
		if ParseCompactExpect(end[:n], &x) == nil {
			t.Errorf("%d bytes of %d are read", n, len(end))
		}
	}
	with := func(form byte, more ...byte) []byte {
		b := append(bytes.Clone(end), more...)
		b[0] |= form
		return b
	}
	other := bytes.Clone(end)
	other[1+12+12] |= compactIPv6
	marked := bytes.Clone(end)
	marked[1+12+12] |= compactMark
	for _, c := range []struct {
		name string
		body []byte
		want error
	}{
		{"bytes behind", with(0, 1), ErrAttrLength},
		{"no flags", with(compactExpectFlags), ErrAttrLength},
		{"flags in two bytes for one", with(compactExpectFlags, 0x88, 0), ErrAttrLength},
		{"a cut translation", with(compactExpectNAT, 1, 6, 192, 0, 2, 1, 5), ErrAttrLength},
		{"a third direction", with(compactExpectNAT, 2, 6, 192, 0, 2, 1, 0, 5), ErrAttrValue},
		{"a master with a mark", marked, ErrAttrValue},
		{"a master of another family", append(other, make([]byte, 24)...), ErrFamily},
		{"an unknown attribute", with(compactAttrs, 0x60, 0), ErrAttrNumber},
		{"an unknown attribute that may be skipped", with(compactAttrs, 0xe0, 1, 7), nil},
		{"a zone of one byte", with(compactAttrs, 1, 1, 7), ErrAttrSize},
		{"a name of 16 bytes", with(compactAttrs, append([]byte{2, 16}, "a-name-that-is-1"...)...), ErrAttrSize},
		{"a name with a zero byte", with(compactAttrs, 3, 3, 'a', 0, 'b'), ErrAttrValue},
	} {
		if err := ParseCompactExpect(c.body, &x); err != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for name, change := range map[string]func(*ctnetlink.Expect){
		"no addresses":             func(x *ctnetlink.Expect) { x.Tuple.Has &^= ctnetlink.TupleSrc },
		"no ports in the mask":     func(x *ctnetlink.Expect) { x.Mask.Has &^= ctnetlink.TuplePorts },
		"no master":                func(x *ctnetlink.Expect) { x.Master = ctnetlink.Tuple{} },
		"a mask of another family": func(x *ctnetlink.Expect) { x.Mask.Family = nl.FamilyIPv6 },
	} {
		x := expectDump()
		change(&x)
		if b, err := (Encoder{}).AppendCompactExpect([]byte{1}, &x, false); err != ErrIncompleteExpect || len(b) != 1 {
			t.Errorf("%s: %v, % x", name, err, b)
		}
	}
}

func TestCompactExpectAllocations(t *testing.T) {
	x := expectDump()
	var got ctnetlink.Expect
	buf := make([]byte, 0, MaxCompactBody)
	if n := testing.AllocsPerRun(100, func() {
		buf, _ = Encoder{}.AppendCompactExpect(buf[:0], &x, false)
		if ParseCompactExpect(buf, &got) != nil || ParseCompactExpect(buf[:5], &got) == nil {
			t.Fatal("parsed wrongly")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCompactExpect: whatever is read is written so that it is read the same again.
func FuzzCompactExpect(f *testing.F) {
	for seed := range uint64(30) {
		x, _ := randomExpect(rand.New(rand.NewPCG(seed, 6)))
		body, _ := Encoder{}.AppendCompactExpect(nil, &x, seed%5 == 0)
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second ctnetlink.Expect
		if ParseCompactExpect(body, &first) != nil {
			return
		}
		again, err := Encoder{}.AppendCompactExpect(nil, &first, false)
		if err != nil {
			t.Fatalf("% x is read and not written: %v", body, err)
		}
		if err := ParseCompactExpect(again, &second); err != nil {
			t.Fatalf("% x is written as % x: %v", body, again, err)
		}
		if twice, _ := (Encoder{}).AppendCompactExpect(nil, &second, false); !bytes.Equal(again, twice) {
			t.Errorf("% x, then % x", again, twice)
		}
		if _, err := (Encoder{}).AppendCompactExpect(nil, &first, true); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkAppendCompactExpect(b *testing.B) {
	x := expectDump()
	buf := make([]byte, 0, MaxCompactBody)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = Encoder{}.AppendCompactExpect(buf[:0], &x, false)
	}
}

func BenchmarkParseCompactExpect(b *testing.B) {
	x := expectDump()
	body, err := Encoder{}.AppendCompactExpect(nil, &x, false)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := ParseCompactExpect(body, &x); err != nil {
			b.Fatal(err)
		}
	}
}

// A flow goes through the tables of both nodes without a change of what the message carries.
func TestCompactFlowsThroughTheTables(t *testing.T) {
	e := Encoder{WindowTracking: true}
	for seed := range uint64(2_000) {
		f, _ := randomFlow(rand.New(rand.NewPCG(seed, 5)))
		want, err := e.AppendCompactFlow(nil, &f, false)
		if err != nil {
			t.Fatal(err)
		}
		end, err := e.AppendCompactFlow(nil, &f, true)
		if err != nil {
			t.Fatal(err)
		}
		sender, receiver := cache.NewFlows(cache.Config{}), cache.NewFlows(cache.Config{})
		var got ctnetlink.Flow
		load := func(name string, table *cache.Flows, h cache.Handle) {
			t.Helper()
			if !table.Load(h, &got) {
				t.Fatalf("seed %d: no flow in the table", seed)
			}
			if body, err := e.AppendCompactFlow(nil, &got, false); err != nil || !bytes.Equal(body, want) {
				t.Fatalf("seed %d: %s: % x, want % x: %v", seed, name, body, want, err)
			}
		}
		// A dump brings a flow by Put, an event by Replace.
		h, _ := sender.Put(&f, 0)
		load("put", sender, h)
		h, _ = sender.Replace(&f, 0)
		load("replaced", sender, h)
		if _, err := ParseCompactFlow(want, &got, false); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		h, _ = receiver.Replace(&got, 0)
		load("received", receiver, h)
		if _, err := ParseCompactFlow(end, &got, true); err != nil || receiver.Find(&got) != h {
			t.Fatalf("seed %d: the end of another flow, %v", seed, err)
		}
	}
}
