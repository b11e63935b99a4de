package format

import (
	"net/netip"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// now is the time of the dumps in these tests, and utc their zone.
var now = time.Date(2026, 11, 23, 1, 0, 27, 589432123, time.UTC).UnixNano()

const second = uint64(time.Second)

func setAddr(a *ctnetlink.Addr, text string) (family uint8) {
	addr := netip.MustParseAddr(text)
	*a = ctnetlink.Addr{}
	if addr.Is4() {
		b := addr.As4()
		copy(a[:], b[:])
		return nl.FamilyIPv4
	}
	*a = addr.As16()
	return nl.FamilyIPv6
}

func tuple(proto uint8, src, dst string) ctnetlink.Tuple {
	t := ctnetlink.Tuple{Proto: proto, Has: ctnetlink.TupleProto | ctnetlink.TupleAddrs}
	t.Family = setAddr(&t.Src, src)
	setAddr(&t.Dst, dst)
	return t
}

func ports(t ctnetlink.Tuple, src, dst uint16) ctnetlink.Tuple {
	t.SrcPort, t.DstPort = src, dst
	t.Has |= ctnetlink.TuplePorts
	return t
}

func icmp(t ctnetlink.Tuple, typ, code uint8, id uint16) ctnetlink.Tuple {
	t.ICMPType, t.ICMPCode, t.ICMPID = typ, code, id
	t.Has |= ctnetlink.TupleICMP
	return t
}

// flow is a flow without NAT: its reply is the original turned round. The parts
// are applied in order.
func flow(orig ctnetlink.Tuple, parts ...func(*ctnetlink.Flow)) *ctnetlink.Flow {
	f := &ctnetlink.Flow{Orig: orig, Reply: orig.Inverted()}
	for _, part := range parts {
		part(f)
	}
	return f
}

func timeout(v uint32) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Timeout = v; f.Has |= ctnetlink.HasTimeout }
}

func status(v uint32) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Status = v; f.Has |= ctnetlink.HasStatus }
}

func mark(v uint32) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Mark = v; f.Has |= ctnetlink.HasMark }
}

func use(v uint32) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Use = v; f.Has |= ctnetlink.HasUse }
}

func id(v uint32) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.ID = v; f.Has |= ctnetlink.HasID }
}

func zone(v uint16) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Zone = v; f.Has |= ctnetlink.HasZone }
}

func tcpState(v uint8) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.TCPState = v; f.Has |= ctnetlink.HasTCPState }
}

func sctp(state uint8, orig, reply uint32) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) {
		f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = state, orig, reply
		f.Has |= ctnetlink.HasSCTPState | ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply
	}
}

func dccpState(v uint8) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.DCCPState = v; f.Has |= ctnetlink.HasDCCPState }
}

func counters(op, ob, rp, rb uint64) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) {
		f.CountersOrig = ctnetlink.Counters{Packets: op, Bytes: ob}
		f.CountersReply = ctnetlink.Counters{Packets: rp, Bytes: rb}
		f.Has |= ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply
	}
}

func started(ago uint64) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.TimestampStart = uint64(now) - ago; f.Has |= ctnetlink.HasTimestampStart }
}

func stopped(ago uint64) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.TimestampStop = uint64(now) - ago; f.Has |= ctnetlink.HasTimestampStop }
}

func helper(name string) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Helper.Set(name); f.Has |= ctnetlink.HasHelper }
}

func labels(bits ...int) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) {
		for _, b := range bits {
			f.Labels.SetBit(b)
		}
		f.LabelsLen = ctnetlink.LabelWords
		f.Has |= ctnetlink.HasLabels
	}
}

func secctx(text string) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Secctx = []byte(text); f.Has |= ctnetlink.HasSecctx }
}

func secmark(v uint32) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Secmark = v; f.Has |= ctnetlink.HasSecmark }
}

func origZone(v uint16) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Orig.Zone = v; f.Orig.Has |= ctnetlink.TupleZone }
}

func replyZone(v uint16) func(*ctnetlink.Flow) {
	return func(f *ctnetlink.Flow) { f.Reply.Zone = v; f.Reply.Has |= ctnetlink.TupleZone }
}

// ftpControl is the first example of the text format.
func ftpControl() *ctnetlink.Flow {
	return flow(ports(tuple(ctnetlink.ProtoTCP, "192.0.2.1", "192.0.2.2"), 34746, 21),
		timeout(431999), tcpState(ctnetlink.TCPStateEstablished), counters(5, 290, 4, 232),
		status(ctnetlink.StatusSeenReply|ctnetlink.StatusAssured|ctnetlink.StatusConfirmed), mark(0),
		started(second), helper("ftp"), use(1), id(2072818273))
}

// ftpData is the example of an expectation.
func ftpData() *ctnetlink.Expect {
	x := &ctnetlink.Expect{
		Has:     ctnetlink.ExpectHasTimeout | ctnetlink.ExpectHasClass | ctnetlink.ExpectHasHelper,
		Tuple:   ports(tuple(ctnetlink.ProtoTCP, "192.0.2.2", "192.0.2.1"), 0, 5142),
		Mask:    ports(tuple(ctnetlink.ProtoTCP, "255.255.255.255", "255.255.255.255"), 0, 65535),
		Master:  ports(tuple(ctnetlink.ProtoTCP, "192.0.2.1", "192.0.2.2"), 41840, 21),
		Timeout: 298,
	}
	x.Helper.Set("ftp")
	return x
}
