package format

import (
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// FlowReader reads flows from JSON lines. The zero value is ready. It keeps
// memory between lines, so reading a file allocates nothing per line; it must
// not be used by two goroutines at once.
type FlowReader struct {
	s scanner
	f *ctnetlink.Flow
	e *Event

	tuple    *ctnetlink.Tuple    // the one being read
	counters *ctnetlink.Counters // of its direction; nil for the master
	counted  ctnetlink.Attr      // presence bit of counters
	seqAdj   *ctnetlink.SeqAdj

	family      uint8
	proto       uint8
	protoKnown  bool
	namedProto  uint8 // from proto_name, when proto is missing
	protoNamed  bool
	tupleIndex  int // of tuple in tupleProtos
	tupleProtos [3]tupleProtoState

	state   [32]byte // name or number, resolved when the protocol is known
	stateN  int
	stateAt int
}

// tupleProtoState is what a tuple says about its protocol.
type tupleProtoState uint8

const (
	tupleAbsent   tupleProtoState = iota
	tupleInherits                 // the flow's
	tupleOwn                      // its own, or explicitly none
)

// Flow sets f to the flow in line, which AppendFlow wrote or a program that
// follows docs/json.md, and e to its event's type, time and port. Members that
// are not known are skipped; known ones must have the right type and may occur
// once. Attributes that the line doesn't have are absent in f. The error is a
// *SyntaxError; f and e are then half filled.
func (r *FlowReader) Flow(line []byte, f *ctnetlink.Flow, e *Event) error {
	scratch := r.s.scratch
	*r = FlowReader{s: scanner{line: line, scratch: scratch}, f: f, e: e}
	f.Reset()
	*e = Event{}

	r.object(flowMembers)
	if r.s.err == nil && (r.s.peek() != 0 || r.s.at < len(line)) {
		r.s.fail(r.s.at, "text after the object")
	}
	if r.s.err == nil {
		r.finish()
	}
	r.f, r.e, r.tuple, r.counters, r.seqAdj, r.s.line = nil, nil, nil, nil, nil, nil
	if r.s.err != nil {
		return r.s.err
	}
	return nil
}

// finish settles what depends on members in any order.
func (r *FlowReader) finish() {
	f := r.f
	if !r.protoKnown && r.protoNamed {
		r.proto, r.protoKnown = r.namedProto, true
	}
	for i, t := range [...]*ctnetlink.Tuple{&f.Orig, &f.Reply, &f.Master} {
		if r.tupleProtos[i] == tupleInherits && r.protoKnown {
			t.Proto = r.proto
			t.Has |= ctnetlink.TupleProto
		}
		if r.family != nl.FamilyUnspec && t.Family != nl.FamilyUnspec && t.Family != r.family {
			r.s.fail(0, "addresses are not of the family")
			return
		}
	}
	if f.Orig.Has == 0 && f.Reply.Has == 0 {
		r.s.fail(0, "no flow: neither original nor reply is there")
		return
	}
	if f.Orig.Family != nl.FamilyUnspec && f.Reply.Family != nl.FamilyUnspec && f.Orig.Family != f.Reply.Family {
		r.s.fail(0, "original and reply differ in their family")
		return
	}
	if r.stateN > 0 {
		r.setState()
	}
}

func (r *FlowReader) setState() {
	text := r.state[:r.stateN]
	proto, _ := r.f.Proto()
	var number uint8
	var ok bool
	switch proto {
	case ctnetlink.ProtoTCP:
		number, ok = ctnetlink.TCPStateNumber(string(text))
	case ctnetlink.ProtoSCTP:
		number, ok = ctnetlink.SCTPStateNumber(string(text))
	case ctnetlink.ProtoDCCP:
		number, ok = ctnetlink.DCCPStateNumber(string(text))
	default:
		r.s.fail(r.stateAt, "state of a protocol that has none")
		return
	}
	if !ok {
		number, ok = decimal8(text)
	}
	if !ok {
		r.s.fail(r.stateAt, "unknown state")
		return
	}
	switch proto {
	case ctnetlink.ProtoTCP:
		r.f.TCPState = number
		r.f.Has |= ctnetlink.HasTCPState
	case ctnetlink.ProtoSCTP:
		r.f.SCTPState = number
		r.f.Has |= ctnetlink.HasSCTPState
	default:
		r.f.DCCPState = number
		r.f.Has |= ctnetlink.HasDCCPState
	}
}

func decimal8(text []byte) (uint8, bool) {
	v := 0
	for _, c := range text {
		if c < '0' || c > '9' || v > 255 {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return uint8(v), len(text) > 0 && v <= 255
}

// members are the names that an object may have, in the order of AppendFlow.
type members []struct {
	name string
	read func(*FlowReader)
}

// find returns the index of a name, looking from the index next on, or -1.
func (ms members) find(name []byte, next int) int {
	for range ms {
		if next >= len(ms) {
			next = 0
		}
		if string(name) == ms[next].name {
			return next
		}
		next++
	}
	return -1
}

// object reads an object with the members ms; there are at most 64.
func (r *FlowReader) object(ms members) {
	s := &r.s
	s.expect('{', "expected an object")
	if s.err != nil || s.take('}') {
		return
	}
	var seen uint64
	next := 0
	for s.err == nil {
		s.peek()
		at := s.at
		i := ms.find(s.string(), next)
		s.expect(':', "expected : after a name")
		switch {
		case s.err != nil:
			return
		case i < 0:
			s.skip(0)
		case seen&(1<<i) != 0:
			s.fail(at, "member "+ms[i].name+" twice")
		default:
			seen |= 1 << i
			ms[i].read(r)
			next = i + 1
		}
		if s.take('}') {
			return
		}
		s.expect(',', "expected , or } in an object")
	}
}
