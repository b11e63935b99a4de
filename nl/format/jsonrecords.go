package format

import "ctbox/nl/ctnetlink"

// appendExpectJSON writes an expectation as one object.
func appendExpectJSON(dst []byte, x *ctnetlink.Expect, s *Style, e *Event) []byte {
	has := x.Has &^ s.WithoutExpect
	o := newObject(dst)
	o.Begin()
	o.event(e)
	o.family(x.Tuple.Family)
	proto, known := x.Tuple.Proto, x.Tuple.Has&ctnetlink.TupleProto != 0
	if known {
		o.proto(proto)
	}
	for _, part := range [...]struct {
		name string
		t    *ctnetlink.Tuple
	}{{"expected", &x.Tuple}, {"mask", &x.Mask}, {"master", &x.Master}} {
		if part.t.Has == 0 {
			continue
		}
		o.Name(part.name)
		o.Begin()
		o.tuple(part.t, proto, known)
		o.End()
	}
	if has&ctnetlink.ExpectHasTimeout != 0 {
		o.Uint("timeout", uint64(x.Timeout))
	}
	if has&ctnetlink.ExpectHasZone != 0 {
		o.Uint("zone", uint64(x.Zone))
	}
	if has&ctnetlink.ExpectHasFlags != 0 {
		o.bits("flags", expectFlags, x.Flags)
	}
	if has&ctnetlink.ExpectHasClass != 0 {
		o.Uint("class", uint64(x.Class))
	}
	if has&ctnetlink.ExpectHasHelper != 0 {
		o.Bytes("helper", x.Helper.Bytes())
	}
	if has&ctnetlink.ExpectHasID != 0 {
		o.Uint("id", uint64(x.ID))
	}
	if has&ctnetlink.ExpectHasNAT != 0 {
		o.Name("nat")
		o.Begin()
		if x.NATDir == 0 {
			o.Token("direction", "original")
		} else {
			o.Token("direction", "reply")
		}
		o.tuple(&x.NATTuple, proto, known)
		o.End()
	}
	if has&ctnetlink.ExpectHasFn != 0 {
		o.Bytes("function", x.FnBytes())
	}
	o.End()
	return o.Dst
}

// AppendCountJSON appends the number of entries in a table ("conntrack" or
// "expect").
func AppendCountJSON(dst []byte, table string, count uint64) []byte {
	o := newObject(dst)
	o.Begin()
	o.Token("table", table)
	o.Uint("count", count)
	o.End()
	return o.Dst
}

// AppendLostJSON appends the record that stands in a stream of events where the
// kernel dropped messages. e.Time is when that was noticed.
func AppendLostJSON(dst []byte, messages uint64, e *Event) []byte {
	o := newObject(dst)
	o.Begin()
	o.Token("event", lostEvent)
	if e.Time > 0 {
		o.Nanoseconds("time", uint64(e.Time))
	}
	o.Uint("messages", messages)
	o.End()
	return o.Dst
}

// lostEvent is the "event" of AppendLostJSON.
const lostEvent = "lost"

// Counter is one number of a statistics record.
type Counter struct {
	Name  string
	Value uint64
}

// AppendStatsJSON appends the counters of one CPU.
func AppendStatsJSON(dst []byte, cpu uint, counters []Counter) []byte {
	o := newObject(dst)
	o.Begin()
	o.Uint("cpu", uint64(cpu))
	for _, c := range counters {
		o.Uint(c.Name, c.Value)
	}
	o.End()
	return o.Dst
}
