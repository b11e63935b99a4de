package format

import "ctbox/nl/ctnetlink"

// appendExpectJSON writes an expectation as one object.
func appendExpectJSON(dst []byte, x *ctnetlink.Expect, s *Style, e *Event) []byte {
	has := x.Has &^ s.WithoutExpect
	o := object{dst}
	o.open()
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
		o.name(part.name)
		o.open()
		o.tuple(part.t, proto, known)
		o.close()
	}
	if has&ctnetlink.ExpectHasTimeout != 0 {
		o.uint("timeout", uint64(x.Timeout))
	}
	if has&ctnetlink.ExpectHasZone != 0 {
		o.uint("zone", uint64(x.Zone))
	}
	if has&ctnetlink.ExpectHasFlags != 0 {
		o.bits("flags", expectFlags, x.Flags)
	}
	if has&ctnetlink.ExpectHasClass != 0 {
		o.uint("class", uint64(x.Class))
	}
	if has&ctnetlink.ExpectHasHelper != 0 {
		o.text("helper", x.Helper.Bytes())
	}
	if has&ctnetlink.ExpectHasID != 0 {
		o.uint("id", uint64(x.ID))
	}
	if has&ctnetlink.ExpectHasNAT != 0 {
		o.name("nat")
		o.open()
		if x.NATDir == 0 {
			o.token("direction", "original")
		} else {
			o.token("direction", "reply")
		}
		o.tuple(&x.NATTuple, proto, known)
		o.close()
	}
	if has&ctnetlink.ExpectHasFn != 0 {
		o.text("function", x.FnBytes())
	}
	o.close()
	return o.dst
}

// AppendCountJSON appends the number of entries in a table ("conntrack" or
// "expect").
func AppendCountJSON(dst []byte, table string, count uint64) []byte {
	o := object{dst}
	o.open()
	o.token("table", table)
	o.uint("count", count)
	o.close()
	return o.dst
}

// AppendLostJSON appends the record that stands in a stream of events where the
// kernel dropped messages. e.Time is when that was noticed.
func AppendLostJSON(dst []byte, messages uint64, e *Event) []byte {
	o := object{dst}
	o.open()
	o.token("event", lostEvent)
	if e.Time > 0 {
		o.seconds("time", uint64(e.Time))
	}
	o.uint("messages", messages)
	o.close()
	return o.dst
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
	o := object{dst}
	o.open()
	o.uint("cpu", uint64(cpu))
	for _, c := range counters {
		o.uint(c.Name, c.Value)
	}
	o.close()
	return o.dst
}
