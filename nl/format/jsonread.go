package format

import (
	"encoding/hex"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// FlowReader reads flows from JSON lines. The zero value is ready. It reuses memory, so
// that reading a file allocates nothing per line. It is for one goroutine.
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

// tupleProtoState is where a tuple's protocol comes from.
type tupleProtoState uint8

const (
	tupleAbsent   tupleProtoState = iota
	tupleInherits                 // the flow's
	tupleOwn                      // its own, which may be null
)

// Flow sets f to the flow in line, written by AppendFlow or as docs/json.md specifies,
// and e to its event's type, time and port. Unknown members are skipped; known ones must
// have the right type and may occur once. Attributes that the line lacks are absent in f.
// The error is a *SyntaxError; f and e are then partly filled.
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

// finish sets what depends on several members, which may come in any order.
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
		r.s.fail(0, "no flow: original and reply are missing")
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
		r.s.fail(r.stateAt, "state of a protocol without states")
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

// members are the possible members of an object, in the order of AppendFlow.
type members []struct {
	name string
	read func(*FlowReader)
}

// find returns the index of a name, searching from the index next on, or -1.
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

// SyntaxError is the error of a line that is not JSON, or not a flow.
type SyntaxError struct {
	Column  int // byte of the line, from 1
	Problem string
}

func (e *SyntaxError) Error() string {
	return "column " + strconv.Itoa(e.Column) + ": " + e.Problem
}

// maxDepth is how deep the values of unknown members may be nested.
const maxDepth = 100

// scanner reads JSON (RFC 8259) from one line. After the first problem it is at the end
// of the line and every method returns a zero value, so that callers check err once.
type scanner struct {
	line []byte
	at   int
	err  *SyntaxError

	scratch []byte // the last string, if it had escapes; reused
}

// fail sets err to a problem at the offset at, unless err is already set.
func (s *scanner) fail(at int, problem string) {
	if s.err == nil {
		s.err = &SyntaxError{at + 1, problem}
	}
	s.at = len(s.line)
}

// peek skips white space and returns the next byte without consuming it; 0 is the end of
// the line.
func (s *scanner) peek() byte {
	for s.at < len(s.line) {
		switch c := s.line[s.at]; c {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// take consumes the byte c if it is next.
func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.at >= len(s.line) {
		return false
	}
	s.at++
	return true
}

// expect consumes the byte c; problem is the error if the next byte is another.
func (s *scanner) expect(c byte, problem string) {
	if !s.take(c) {
		s.fail(s.at, problem)
	}
}

// null consumes a null if one is next.
func (s *scanner) null() bool {
	if s.peek() != 'n' {
		return false
	}
	s.literal("null")
	return true
}

func (s *scanner) literal(word string) {
	end := s.at + len(word)
	if end > len(s.line) || string(s.line[s.at:end]) != word {
		s.fail(s.at, "not a JSON value")
		return
	}
	s.at = end
}

// list reads an array; element is called at the start of each element.
func (s *scanner) list(element func()) {
	s.expect('[', "expected an array")
	if s.err != nil || s.take(']') {
		return
	}
	for s.err == nil {
		element()
		if s.take(']') {
			return
		}
		s.expect(',', "expected , or ] in an array")
	}
}

// uint reads a whole number up to limit.
func (s *scanner) uint(limit uint64) uint64 {
	s.peek()
	start := s.at
	v, ok := s.digits()
	if !ok {
		s.fail(start, "expected a whole number that is not negative")
		return 0
	}
	if s.fraction() {
		s.fail(start, "expected a whole number")
		return 0
	}
	if v > limit {
		s.fail(start, "number too large")
		return 0
	}
	return v
}

// int reads a whole number of 32 bits with a sign.
func (s *scanner) int() int32 {
	s.peek()
	start := s.at
	negative := s.take('-')
	if s.at >= len(s.line) || s.line[s.at] < '0' || s.line[s.at] > '9' {
		s.fail(start, "expected a whole number")
		return 0
	}
	limit := uint64(math.MaxInt32)
	if negative {
		limit++
	}
	v := int64(s.uint(limit))
	if negative {
		v = -v
	}
	return int32(v)
}

// seconds reads a time in seconds with up to nine decimals as nanoseconds.
func (s *scanner) seconds() uint64 {
	s.peek()
	start := s.at
	v, ok := s.digits()
	if !ok {
		s.fail(start, "expected seconds since the epoch")
		return 0
	}
	nanos, places := uint64(0), 0
	if s.at < len(s.line) && s.line[s.at] == '.' {
		s.at++
		for ; s.at < len(s.line) && s.line[s.at] >= '0' && s.line[s.at] <= '9'; places++ {
			nanos = nanos*10 + uint64(s.line[s.at]-'0')
			s.at++
		}
		if places == 0 || places > 9 {
			s.fail(start, "expected one to nine decimals")
			return 0
		}
	}
	if s.fraction() {
		s.fail(start, "expected seconds without an exponent")
		return 0
	}
	for ; places < 9; places++ {
		nanos *= 10
	}
	if v > (math.MaxInt64-nanos)/1e9 {
		s.fail(start, "time too late")
		return 0
	}
	return v*1e9 + nanos
}

// digits reads a number without sign, fraction and exponent. A number that overflows is
// math.MaxUint64.
func (s *scanner) digits() (uint64, bool) {
	start, v := s.at, uint64(0)
	for s.at < len(s.line) {
		d := uint64(s.line[s.at] - '0')
		if d > 9 {
			break
		}
		if v > (math.MaxUint64-d)/10 {
			v = math.MaxUint64
		} else {
			v = v*10 + d
		}
		s.at++
	}
	n := s.at - start
	return v, n == 1 || n > 1 && s.line[start] != '0'
}

// fraction reports whether a fraction or exponent follows the number just read.
func (s *scanner) fraction() bool {
	if s.at >= len(s.line) {
		return false
	}
	switch s.line[s.at] {
	case '.', 'e', 'E':
		return true
	}
	return false
}

// string reads a string. It is valid until the next one is read.
func (s *scanner) string() []byte {
	s.expect('"', "expected a string")
	start := s.at
	for i := start; i < len(s.line); i++ {
		switch c := s.line[i]; {
		case c == '"':
			s.at = i + 1
			return s.checked(start, s.line[start:i])
		case c == '\\':
			return s.escaped(start, i)
		case c < ' ':
			s.fail(i, "control character in a string")
			return nil
		}
	}
	s.fail(len(s.line), "string without end")
	return nil
}

func (s *scanner) checked(start int, text []byte) []byte {
	if !utf8.Valid(text) {
		s.fail(start, "string is not UTF-8")
		return nil
	}
	return text
}

// escapes are the one-letter escapes.
var escapes = [...]struct{ letter, char byte }{
	{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', '\b'}, {'f', '\f'}, {'n', '\n'}, {'r', '\r'}, {'t', '\t'},
}

// escaped reads the rest of the string that starts at start and has its first
// backslash at i.
func (s *scanner) escaped(start, i int) []byte {
	text := append(s.scratch[:0], s.line[start:i]...)
	for i < len(s.line) {
		c := s.line[i]
		switch {
		case c == '"':
			s.at, s.scratch = i+1, text
			return s.checked(start, text)
		case c < ' ':
			s.fail(i, "control character in a string")
			return nil
		case c != '\\':
			text = append(text, c)
			i++
			continue
		}
		if i+1 >= len(s.line) {
			break
		}
		if s.line[i+1] == 'u' {
			r, next := s.unicode(i)
			if s.err != nil {
				return nil
			}
			text = utf8.AppendRune(text, r)
			i = next
			continue
		}
		known := false
		for _, e := range escapes {
			if e.letter == s.line[i+1] {
				text, known = append(text, e.char), true
				break
			}
		}
		if !known {
			s.fail(i, "unknown escape in a string")
			return nil
		}
		i += 2
	}
	s.fail(len(s.line), "string without end")
	return nil
}

// unicode reads the \uXXXX at i, or the two of a surrogate pair, and returns
// where the text goes on.
func (s *scanner) unicode(i int) (rune, int) {
	unit := func(at int) (rune, bool) {
		if at+6 > len(s.line) || s.line[at] != '\\' || s.line[at+1] != 'u' {
			return 0, false
		}
		var b [2]byte
		if _, err := hex.Decode(b[:], s.line[at+2:at+6]); err != nil {
			return 0, false
		}
		return rune(b[0])<<8 | rune(b[1]), true
	}
	r, ok := unit(i)
	if !ok {
		s.fail(i, "expected four hexadecimal digits after \\u")
		return 0, i
	}
	if !utf16.IsSurrogate(r) {
		return r, i + 6
	}
	second, ok := unit(i + 6)
	if r = utf16.DecodeRune(r, second); !ok || r == utf8.RuneError {
		s.fail(i, "half of a surrogate pair")
		return 0, i
	}
	return r, i + 12
}

// skip reads a value of any type.
func (s *scanner) skip(depth int) {
	if depth > maxDepth {
		s.fail(s.at, "nested too deeply")
		return
	}
	switch c := s.peek(); {
	case c == '"':
		s.string()
	case c == '{':
		s.at++
		if s.take('}') {
			return
		}
		for s.err == nil {
			s.string()
			s.expect(':', "expected : after a name")
			s.skip(depth + 1)
			if s.take('}') {
				return
			}
			s.expect(',', "expected , or } in an object")
		}
	case c == '[':
		s.list(func() { s.skip(depth + 1) })
	case c == 't':
		s.literal("true")
	case c == 'f':
		s.literal("false")
	case c == 'n':
		s.literal("null")
	default:
		s.number()
	}
}

// number reads a number of any form.
func (s *scanner) number() {
	start := s.at
	if s.at < len(s.line) && s.line[s.at] == '-' {
		s.at++
	}
	_, ok := s.digits()
	if ok && s.at < len(s.line) && s.line[s.at] == '.' {
		s.at++
		ok = s.anyDigits()
	}
	if ok && s.at < len(s.line) && (s.line[s.at] == 'e' || s.line[s.at] == 'E') {
		s.at++
		if s.at < len(s.line) && (s.line[s.at] == '+' || s.line[s.at] == '-') {
			s.at++
		}
		ok = s.anyDigits()
	}
	if !ok {
		s.fail(start, "not a JSON value")
	}
}

func (s *scanner) anyDigits() bool {
	start := s.at
	for s.at < len(s.line) && s.line[s.at] >= '0' && s.line[s.at] <= '9' {
		s.at++
	}
	return s.at > start
}
