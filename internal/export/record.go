package export

import (
	"ctbox/nl/ctnetlink"
)

// Kind is what a record says about its flow.
type Kind uint8

// The kinds. An Interim record is one of a long flow that goes on.
const (
	Begin Kind = iota
	Interim
	End
)

// Origin is how a record came about.
type Origin uint8

// The origins: from an event of the kernel; from the table, for a flow that existed when the
// exporter started; from the table, for a flow whose event the kernel could not deliver.
const (
	FromEvent Origin = iota
	Existing
	MadeUp
)

// EndReason is a value of flowEndReason (RFC 5102, section 5.11.3).
type EndReason uint8

// The reasons. LackOfResources is that of an end whose event was lost, so that the true reason
// is unknown.
const (
	IdleTimeout     EndReason = 1
	ActiveTimeout   EndReason = 2
	EndOfFlow       EndReason = 3
	ForcedEnd       EndReason = 4
	LackOfResources EndReason = 5
)

// Record is what is logged about a flow at one moment. It borrows the flow: an encoder copies
// what it needs.
type Record struct {
	Flow   *ctnetlink.Flow
	Kind   Kind
	Origin Origin
	Time   int64  // of the event, else when the flow was seen; nanoseconds since the epoch
	Start  int64  // of the flow, in nanoseconds since the epoch; 0 if unknown
	PortID uint32 // netlink port of the process that caused the event; 0 is the kernel
}

// start returns when the flow began: what the kernel says, else Start.
func (r *Record) start() int64 {
	if r.Flow.Has&ctnetlink.HasTimestampStart != 0 && r.Flow.TimestampStart != 0 {
		return int64(r.Flow.TimestampStart)
	}
	return r.Start
}

// end returns when the flow ended, or was last seen.
func (r *Record) end() int64 {
	if r.Kind == End && r.Flow.Has&ctnetlink.HasTimestampStop != 0 && r.Flow.TimestampStop != 0 {
		return int64(r.Flow.TimestampStop)
	}
	return r.Time
}

// Numbers of enum tcp_conntrack in which a TCP flow has ended.
const (
	tcpTimeWait = 7
	tcpClose    = 8
)

// Reason returns why the flow ended or, of an Interim record, why it is recorded.
func (r *Record) Reason() EndReason {
	f := r.Flow
	switch {
	case r.Kind == Interim:
		return ActiveTimeout
	case r.Origin == MadeUp:
		return LackOfResources
	case r.PortID != 0:
		return ForcedEnd
	case f.Has&ctnetlink.HasTCPState != 0 && f.Orig.Proto == ctnetlink.ProtoTCP && (f.TCPState == tcpTimeWait || f.TCPState == tcpClose):
		return EndOfFlow
	}
	return IdleTimeout
}

// zones returns the zones of the original and of the reply direction.
func (r *Record) zones() (orig, reply uint16) {
	f := r.Flow
	if f.Has&ctnetlink.HasZone != 0 {
		return f.Zone, f.Zone
	}
	if f.Orig.Has&ctnetlink.TupleZone != 0 {
		orig = f.Orig.Zone
	}
	if f.Reply.Has&ctnetlink.TupleZone != 0 {
		reply = f.Reply.Zone
	}
	return orig, reply
}

// ports returns the source and destination ports of a tuple, or an ICMP id as the source port,
// which is what a translation of ICMP changes (RFC 5508, section 3.1), or GRE's keys.
func ports(t *ctnetlink.Tuple) (src, dst uint16) {
	if ctnetlink.IsICMP(t.Proto) {
		return t.ICMPID, 0
	}
	return t.SrcPort, t.DstPort
}

// replied returns the ports of the reply tuple from the point of view of the original one: the
// translated source and destination.
func replied(t *ctnetlink.Tuple) (src, dst uint16) {
	if ctnetlink.IsICMP(t.Proto) {
		return t.ICMPID, 0
	}
	return t.DstPort, t.SrcPort
}

// translated reports whether NAT has changed the source or the destination of f.
func translated(f *ctnetlink.Flow) (source, destination bool) {
	if f.Reply.Has&ctnetlink.TupleAddrs != ctnetlink.TupleAddrs {
		return false, false
	}
	src, dst := ports(&f.Orig)
	postSrc, postDst := replied(&f.Reply)
	if f.Orig.Proto == ctnetlink.ProtoGRE {
		// Without NAT the keys are those of PPTP's two calls, one for each direction.
		postSrc, postDst = src, dst
	}
	return f.Orig.Src != f.Reply.Dst || src != postSrc, f.Orig.Dst != f.Reply.Src || dst != postDst
}

// Choice is which records an exporter makes, and what they contain.
type Choice struct {
	// NAT selects a record for the begin and one for the end of each translated flow, Flow
	// one for the end of each flow. As JSON, Flow also selects a record for each begin.
	NAT, Flow bool
	// WithoutDestinations leaves out the destinations of NAT records (RFC 6888, REQ-12).
	// Flows of which only the destination is translated then have no NAT records.
	WithoutDestinations bool
}

// wantsNAT reports whether a NAT record is made of r.
func (c *Choice) wantsNAT(r *Record) bool {
	if !c.NAT || r.Kind == Interim {
		return false
	}
	source, destination := translated(r.Flow)
	return source || destination && !c.WithoutDestinations
}
