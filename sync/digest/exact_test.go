package digest

import (
	"math/rand/v2"
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/wire"
)

// randomTuple returns a tuple with all that its protocol has.
func randomTuple(r *rand.Rand, family, proto uint8) ctnetlink.Tuple {
	t := ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto, Family: family, Proto: proto}
	n := 4
	if family == nl.FamilyIPv6 {
		n = 16
	}
	for i := range n {
		t.Src[i], t.Dst[i] = byte(r.Uint32()), byte(r.Uint32())
	}
	switch {
	case ctnetlink.IsICMP(proto):
		t.Has |= ctnetlink.TupleICMP
		t.ICMPID, t.ICMPType, t.ICMPCode = uint16(r.Uint32()), []uint8{0, 3, 8, 13, 128, 129}[r.IntN(6)], uint8(r.IntN(3))
	case proto != protoESP:
		t.Has |= ctnetlink.TuplePorts
		t.SrcPort, t.DstPort = uint16(r.Uint32()), uint16(r.Uint32())
	}
	if r.IntN(8) == 0 {
		t.Has |= ctnetlink.TupleZone
		t.Zone = uint16(r.IntN(3))
	}
	return t
}

const protoESP = 50

var protocols = []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoICMP, ctnetlink.ProtoICMPv6, ctnetlink.ProtoSCTP,
	ctnetlink.ProtoDCCP, ctnetlink.ProtoUDPLite, ctnetlink.ProtoGRE, protoESP}

// randomFlow returns a flow with any set of attributes, also of other protocols. The fields of
// absent attributes are not zero, as in a Flow that is used again.
func randomFlow(r *rand.Rand) (f ctnetlink.Flow) {
	family := []uint8{nl.FamilyIPv4, nl.FamilyIPv6}[r.IntN(2)]
	proto := protocols[r.IntN(len(protocols))]
	f.Orig = randomTuple(r, family, proto)
	if r.IntN(4) == 0 {
		f.Has, f.Zone = ctnetlink.HasZone, uint16(r.IntN(3))
	}
	content(r, &f)
	return f
}

// content fills in everything but what identifies the flow.
func content(r *rand.Rand, f *ctnetlink.Flow) {
	family, proto := f.Orig.Family, f.Orig.Proto
	f.Reply, f.Master = ctnetlink.Tuple{}, ctnetlink.Tuple{}
	switch r.IntN(8) {
	case 0: // a translation of everything
		f.Reply = randomTuple(r, family, proto)
	case 1: // a source of an event without a reply tuple
	case 2, 3: // a translation of one side
		f.Reply = f.Orig.Inverted()
		f.Reply.Dst[3]++
		if f.Reply.Has&ctnetlink.TuplePorts != 0 {
			f.Reply.DstPort += 7
		}
		if f.Reply.Has&ctnetlink.TupleICMP != 0 {
			f.Reply.ICMPID += 7
		}
	default:
		f.Reply = f.Orig.Inverted()
	}
	if r.IntN(4) == 0 {
		f.Master = randomTuple(r, family, []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, protoESP}[r.IntN(3)])
	}
	f.Has = f.Has&ctnetlink.HasZone | ctnetlink.Attr(r.Uint64()&r.Uint64())&(1<<40-1)&^ctnetlink.HasZone
	f.Status = r.Uint32()
	f.Timeout, f.Mark, f.ID, f.Secmark = r.Uint32(), r.Uint32N(3), 7, r.Uint32()
	f.TCPState, f.SCTPState, f.DCCPState = uint8(r.IntN(10)), uint8(r.IntN(8)), uint8(r.IntN(8))
	f.TCPWScaleOrig, f.TCPWScaleRepl, f.DCCPRole = uint8(r.IntN(15)), uint8(r.IntN(15)), uint8(r.IntN(2))
	f.SCTPVtagOrig, f.SCTPVtagReply = r.Uint32(), r.Uint32()
	f.TimestampStart, f.TimestampStop = r.Uint64(), r.Uint64()
	f.SeqAdjOrig.OffsetAfter, f.SeqAdjReply.OffsetBefore = r.Uint32(), r.Uint32()
	f.Synproxy.ISN = r.Uint32N(2)
	f.NATSrc = ctnetlink.NAT{Addr: f.Reply.Dst, HasAddr: r.IntN(2) == 0, Port: f.Reply.DstPort, HasPort: r.IntN(2) == 0}
	f.NATDst = ctnetlink.NAT{Addr: f.Reply.Src, HasAddr: r.IntN(2) == 0, Port: f.Reply.SrcPort, HasPort: r.IntN(2) == 0}
	f.LabelsLen = uint8(r.IntN(ctnetlink.LabelWords + 1))
	for i := range f.Labels {
		f.Labels[i] = r.Uint32N(2)
	}
	f.Helper = ctnetlink.Name{}
	copy(f.Helper[:], "fifteen-bytes-x"[r.IntN(16):])
}

// What the sender hashes when it encodes a flow from its cache is what the receiver hashes from
// its own, for every protocol and set of attributes, after any sequence of updates on the
// sender, and whatever entry the receiver had before.
func TestEveryFlowHashesAlike(t *testing.T) {
	hasher := NewHasher(Key{5})
	internal, external := cache.NewFlows(cache.Config{}), cache.NewFlows(cache.Config{})
	var held, received, back ctnetlink.Flow // used again, with what earlier flows left
	refused := 0
	for seed := range uint64(10_000) {
		r := rand.New(rand.NewPCG(seed, 12))
		f := randomFlow(r)
		h, outcome := internal.Replace(&f, 0)
		for range r.IntN(3) {
			content(r, &f)
			if again, _ := internal.Put(&f, 0); again != h {
				t.Fatalf("seed %d: another flow", seed)
			}
		}
		if !outcome.Stored() || !internal.Load(h, &held) {
			t.Fatalf("seed %d: not stored", seed)
		}
		epoch := r.Uint32N(3) << r.IntN(29)
		want, ok := hasher.Flow(&held, epoch)
		body, err := wire.Encoder{WindowTracking: seed%2 == 0}.AppendCompactFlow(nil, &held, false)
		if ok != (err == nil) {
			t.Fatalf("seed %d: a hash %v, a message %v", seed, ok, err)
		}
		if err != nil {
			refused++
			continue
		}
		body = wire.AppendCompactEpoch(body, epoch)
		// What an absent attribute's field holds does not count.
		content(r, &back)
		internal.Load(h, &back)
		if got, _ := hasher.Flow(&back, epoch); got != want {
			t.Fatalf("seed %d: read again it has another hash:\n%+v\n%+v", seed, held, back)
		}
		if epoch, err = wire.ParseCompactFlow(body, &received, false); err != nil {
			t.Fatalf("seed %d: %v in % x", seed, err, body)
		}
		if got, _ := hasher.Flow(&received, epoch); got != want {
			t.Fatalf("seed %d: the message has another hash:\n%+v\n%+v", seed, held, received)
		}
		before := received
		content(r, &before)
		external.Replace(&before, 0)
		to, _ := external.Replace(&received, 0)
		if !external.Load(to, &back) {
			t.Fatalf("seed %d: the receiver has nothing", seed)
		}
		if got, _ := hasher.Flow(&back, epoch); got != want {
			t.Fatalf("seed %d: the receiver's cache has another hash:\n%+v\n%+v", seed, held, back)
		}
		end, err := wire.Encoder{}.AppendCompactFlow(nil, &held, true)
		if err == nil {
			_, err = wire.ParseCompactFlow(end, &received, true)
		}
		if err != nil {
			t.Fatalf("seed %d: no end: %v", seed, err)
		}
		if !external.Delete(external.Find(&received)) {
			t.Fatalf("seed %d: the end does not find the flow", seed)
		}
		internal.Delete(h)
	}
	if refused > 0 {
		t.Errorf("%d flows have no message", refused)
	}
}

// TestEveryExpectHashesAlike is the same for expectations.
func TestEveryExpectHashesAlike(t *testing.T) {
	hasher := NewHasher(Key{5})
	internal, external := cache.NewExpects(cache.Config{}), cache.NewExpects(cache.Config{})
	var held, received, back ctnetlink.Expect
	for seed := range uint64(5_000) {
		r := rand.New(rand.NewPCG(seed, 13))
		family := []uint8{nl.FamilyIPv4, nl.FamilyIPv6}[r.IntN(2)]
		proto := protocols[r.IntN(len(protocols))]
		x := ctnetlink.Expect{Tuple: randomTuple(r, family, proto), Mask: randomTuple(r, family, proto),
			Master: randomTuple(r, family, protocols[r.IntN(len(protocols))])}
		x.NATTuple = randomTuple(r, []uint8{nl.FamilyIPv4, nl.FamilyIPv6}[r.IntN(2)], proto)
		x.Has = ctnetlink.ExpectAttr(r.Uint32())
		x.Timeout, x.ID, x.Flags, x.Class, x.Zone, x.NATDir = r.Uint32(), r.Uint32(), r.Uint32N(8), r.Uint32N(3), uint16(r.IntN(3)), r.Uint32N(3)
		copy(x.Helper[:], "fifteen-bytes-x"[r.IntN(16):])
		x.SetFn("nat-follow-master"[r.IntN(17):])
		h, _ := internal.Put(&x, 0)
		internal.Load(h, &held)
		want, ok := hasher.Expect(&held)
		body, err := wire.Encoder{}.AppendCompactExpect(nil, &held, false)
		if !ok || err != nil {
			t.Fatalf("seed %d: a hash %v, a message %v", seed, ok, err)
		}
		if err := wire.ParseCompactExpect(body, &received); err != nil {
			t.Fatalf("seed %d: %v in % x", seed, err, body)
		}
		to, _ := external.Replace(&received, 0)
		external.Load(to, &back)
		if got, _ := hasher.Expect(&back); got != want {
			t.Fatalf("seed %d: the receiver's cache has another hash:\n%+v\n%+v", seed, held, back)
		}
		x.Flags++
		x.Has |= ctnetlink.ExpectHasFlags
		if got, _ := hasher.Expect(&x); got == want {
			t.Fatalf("seed %d: the flags do not change the hash", seed)
		}
		internal.Delete(h)
		external.Delete(to)
	}
}

// The sender's settings change what a message carries, and not the hash: nodes with different
// settings of TCPWindowTracking and CommitTimeout hold the same.
func TestHashDoesNotDependOnSettings(t *testing.T) {
	f := flowtest.TCP("192.0.2.1", "198.51.100.1")
	f.Has |= ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply
	f.Timeout, f.TCPWScaleOrig, f.TCPWScaleRepl = 432000, 7, 9
	x := ctnetlink.Expect{Master: f.Orig, Tuple: f.Orig, Mask: f.Orig, Has: ctnetlink.ExpectHasTimeout, Timeout: 300}
	for i, sender := range settings {
		flow, err := sender.AppendCompactFlow(nil, &f, false)
		if err != nil {
			t.Fatal(err)
		}
		expect, err := sender.AppendCompactExpect(nil, &x, false)
		if err != nil {
			t.Fatal(err)
		}
		// The ledger hashes what was encoded.
		flows, expects := cache.NewFlows(cache.Config{}), cache.NewExpects(cache.Config{})
		sent, sentExpects := NewFlowLedger(Key{5}, flows), NewExpectLedger(Key{5}, expects)
		h, _ := flows.Put(&f, 0)
		sent.SentFlow(h, &f)
		h, _ = expects.Put(&x, 0)
		sentExpects.SentExpect(h, &x)
		for j, receiver := range settings {
			held, heldExpects := cache.NewFlows(cache.Config{}), cache.NewExpects(cache.Config{})
			got, gotExpects := NewFlowLedger(Key{5}, held), NewExpectLedger(Key{5}, heldExpects)
			var r ctnetlink.Flow
			var e ctnetlink.Expect
			if _, err := wire.ParseCompactFlow(flow, &r, false); err != nil || wire.ParseCompactExpect(expect, &e) != nil {
				t.Fatalf("the messages of sender %d are refused", i)
			}
			held.Put(&r, 0)
			heldExpects.Put(&e, 0)
			got.Settle()
			gotExpects.Settle()
			if got.Table().Root() != sent.Table().Root() || gotExpects.Table().Root() != sentExpects.Table().Root() {
				t.Errorf("receiver %d has another digest than sender %d", j, i)
			}
			// What it announces itself after a takeover has that hash, too.
			again, err := receiver.AppendCompactFlow(nil, &r, false)
			if err == nil {
				_, err = wire.ParseCompactFlow(again, &r, false)
			}
			if err != nil {
				t.Fatal(err)
			}
			if hash, _ := NewHasher(Key{5}).Flow(&r, 0); hash != sent.Table().Root() {
				t.Errorf("what receiver %d has of sender %d and announces has another hash", j, i)
			}
		}
		if hasTimeout, hasScales := messageHas(t, flow); hasTimeout == sender.OmitTimeout || hasScales != sender.WindowTracking {
			t.Errorf("the message of sender %d has a timeout: %v, window scales: %v", i, hasTimeout, hasScales)
		}
	}
}

// settings are all settings of CommitTimeout and TCPWindowTracking.
var settings = [...]wire.Encoder{{}, {OmitTimeout: true}, {WindowTracking: true}, {OmitTimeout: true, WindowTracking: true}}

func messageHas(t *testing.T, body []byte) (timeout, scales bool) {
	t.Helper()
	var f ctnetlink.Flow
	if _, err := wire.ParseCompactFlow(body, &f, false); err != nil {
		t.Fatal(err)
	}
	return f.Has&ctnetlink.HasTimeout != 0, f.Has&ctnetlink.HasTCPWScaleOrig != 0
}
