package format

import (
	"net/netip"
	"time"

	"ctbox/nl"
)

// now is the time of the dumps in these tests, and utc their zone.
var now = time.Date(2026, 11, 23, 1, 0, 27, 589432123, time.UTC).UnixNano()

const second = uint64(time.Second)

func setAddr(a *nl.Addr, text string) (family uint8) {
	addr := netip.MustParseAddr(text)
	*a = nl.Addr{}
	if addr.Is4() {
		b := addr.As4()
		copy(a[:], b[:])
		return nl.FamilyIPv4
	}
	*a = addr.As16()
	return nl.FamilyIPv6
}

func tuple(proto uint8, src, dst string) nl.Tuple {
	t := nl.Tuple{Proto: proto, Has: nl.TupleProto | nl.TupleAddrs}
	t.Family = setAddr(&t.Src, src)
	setAddr(&t.Dst, dst)
	return t
}

func ports(t nl.Tuple, src, dst uint16) nl.Tuple {
	t.SrcPort, t.DstPort = src, dst
	t.Has |= nl.TuplePorts
	return t
}

func icmp(t nl.Tuple, typ, code uint8, id uint16) nl.Tuple {
	t.ICMPType, t.ICMPCode, t.ICMPID = typ, code, id
	t.Has |= nl.TupleICMP
	return t
}

// flow is a flow without NAT: its reply is the original turned round. The parts
// are applied in order.
func flow(orig nl.Tuple, parts ...func(*nl.Flow)) *nl.Flow {
	f := &nl.Flow{Orig: orig, Reply: orig.Inverted()}
	for _, part := range parts {
		part(f)
	}
	return f
}

func timeout(v uint32) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Timeout = v; f.Has |= nl.HasTimeout }
}

func status(v uint32) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Status = v; f.Has |= nl.HasStatus }
}

func mark(v uint32) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Mark = v; f.Has |= nl.HasMark }
}

func use(v uint32) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Use = v; f.Has |= nl.HasUse }
}

func id(v uint32) func(*nl.Flow) {
	return func(f *nl.Flow) { f.ID = v; f.Has |= nl.HasID }
}

func zone(v uint16) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Zone = v; f.Has |= nl.HasZone }
}

func tcpState(v uint8) func(*nl.Flow) {
	return func(f *nl.Flow) { f.TCPState = v; f.Has |= nl.HasTCPState }
}

func sctp(state uint8, orig, reply uint32) func(*nl.Flow) {
	return func(f *nl.Flow) {
		f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = state, orig, reply
		f.Has |= nl.HasSCTPState | nl.HasSCTPVtagOrig | nl.HasSCTPVtagReply
	}
}

func dccpState(v uint8) func(*nl.Flow) {
	return func(f *nl.Flow) { f.DCCPState = v; f.Has |= nl.HasDCCPState }
}

func counters(op, ob, rp, rb uint64) func(*nl.Flow) {
	return func(f *nl.Flow) {
		f.CountersOrig = nl.Counters{Packets: op, Bytes: ob}
		f.CountersReply = nl.Counters{Packets: rp, Bytes: rb}
		f.Has |= nl.HasCountersOrig | nl.HasCountersReply
	}
}

func started(ago uint64) func(*nl.Flow) {
	return func(f *nl.Flow) { f.TimestampStart = uint64(now) - ago; f.Has |= nl.HasTimestampStart }
}

func stopped(ago uint64) func(*nl.Flow) {
	return func(f *nl.Flow) { f.TimestampStop = uint64(now) - ago; f.Has |= nl.HasTimestampStop }
}

func helper(name string) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Helper.Set(name); f.Has |= nl.HasHelper }
}

func labels(bits ...int) func(*nl.Flow) {
	return func(f *nl.Flow) {
		for _, b := range bits {
			f.Labels.SetBit(b)
		}
		f.LabelsLen = nl.LabelWords
		f.Has |= nl.HasLabels
	}
}

func secctx(text string) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Secctx = []byte(text); f.Has |= nl.HasSecctx }
}

func secmark(v uint32) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Secmark = v; f.Has |= nl.HasSecmark }
}

func origZone(v uint16) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Orig.Zone = v; f.Orig.Has |= nl.TupleZone }
}

func replyZone(v uint16) func(*nl.Flow) {
	return func(f *nl.Flow) { f.Reply.Zone = v; f.Reply.Has |= nl.TupleZone }
}

// ftpControl is the first example of the text format.
func ftpControl() *nl.Flow {
	return flow(ports(tuple(nl.ProtoTCP, "192.0.2.1", "192.0.2.2"), 34746, 21),
		timeout(431999), tcpState(nl.TCPStateEstablished), counters(5, 290, 4, 232),
		status(nl.StatusSeenReply|nl.StatusAssured|nl.StatusConfirmed), mark(0),
		started(second), helper("ftp"), use(1), id(2072818273))
}

// ftpData is the example of an expectation.
func ftpData() *nl.Expect {
	x := &nl.Expect{
		Has:     nl.ExpectHasTimeout | nl.ExpectHasClass | nl.ExpectHasHelper,
		Tuple:   ports(tuple(nl.ProtoTCP, "192.0.2.2", "192.0.2.1"), 0, 5142),
		Mask:    ports(tuple(nl.ProtoTCP, "255.255.255.255", "255.255.255.255"), 0, 65535),
		Master:  ports(tuple(nl.ProtoTCP, "192.0.2.1", "192.0.2.2"), 41840, 21),
		Timeout: 298,
	}
	x.Helper.Set("ftp")
	return x
}
