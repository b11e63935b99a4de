// Package rtsp is the helper for RTSP's control connection (RFC 2326, and RFC 7826 where its
// messages announce ports). A client's SETUP names the UDP ports on which it wants the media,
// the server's answer the ports of the server. The helper expects the flows of both, RTP's and
// RTCP's, and rewrites ports and addresses behind NAT. Media that are interleaved with the
// connection need nothing.
//
// Messages are found where they begin: right behind the one before, whose length is known. So
// nothing in a body, or in interleaved media, is taken for a message, and a connection that
// does not begin with an RTSP request is never read. A message may be split over segments
// between any two lines. Of a line that is cut only the whole parameters of a SETUP's Transport
// are read; the first line of a connection must be whole.
package rtsp

import (
	"bytes"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
)

// Helper reads the connections of ports 554 and 8554.
var Helper = &helper.Helper{
	Name:       "rtsp",
	Protocols:  []uint8{unix.IPPROTO_TCP},
	Families:   []uint8{nl.FamilyIPv4, nl.FamilyIPv6},
	PrivateLen: privateLen,
	// Four streams (two cameras, sound and data, say), with two ports at each end.
	ExpectMax:     16,
	ExpectTimeout: 300 * time.Second,
	Read:          read,
	Ours:          true,
	Doc: helper.Doc{
		Port: 554, NAT: true,
		Reads:   "`SETUP` and its answer, `TEARDOWN`",
		Expects: "RTP and RTCP of each stream, in both directions",
		Rule:    "`-p tcp -m multiport --dports 554,8554 -j CT --helper rtsp`",
	},
}

// phase is what stands at a place of the stream.
type phase uint8

const (
	message       phase = iota // the first line of a message, or interleaved data
	header                     // a header line of a message without interest
	setup                      // a header line of a SETUP, or of an answer that may be to one
	headerRest                 // the rest of a header line
	setupRest                  // the same, of a SETUP's
	transportRest              // the rest of a SETUP's Transport
	emptyRest                  // the newline of an empty line
	lost                       // something unknown
)

// reader reads the segment of a packet.
type reader struct {
	p *helper.Packet
	a *helper.Answer
	memory
	dir  helper.Direction
	body int // the length of the message's body, as far as it is known
}

func read(p *helper.Packet, a *helper.Answer) {
	if p.Info != helper.Established && p.Info != helper.EstablishedReply || len(p.Payload) == 0 {
		return
	}
	r := reader{p: p, a: a, dir: p.Dir()}
	r.load(p.Private)
	switch {
	case r.flags&foreign != 0:
		return
	case r.dir == helper.Original:
		r.requests()
	default:
		r.replies()
	}
	r.store(p.Private)
}

// requests reads what the client sends.
func (r *reader) requests() {
	if r.flags&started == 0 {
		r.from = place{message, r.p.Seq}
		r.next = r.from
	}
	begin := r.next
	off, size := int(int32(begin.seq-r.p.Seq)), len(r.p.Payload)
	// What is sent again is read again, so that it is rewritten as before.
	if again := int(int32(r.from.seq - r.p.Seq)); again >= 0 && again < size {
		begin, off = r.from, again
	}
	switch {
	case off >= size:
		return // a body, or older than what is known
	case off < 0:
		begin, off = place{lost, r.p.Seq}, 0
	}
	at, ph := r.segment(off, begin.phase)
	if next := r.p.Seq + uint32(at); r.next == r.from || after(next, r.next.seq) {
		r.from, r.next = begin, place{ph, next}
		if r.body != 0 {
			r.flags |= foreign // the next segment would not know how long the body is
		}
	}
}

// replies reads what the server sends. Only a message that is split leaves a trace: interleaved
// media must not change the flow's private data with each segment.
func (r *reader) replies() {
	if r.streams[0].client == 0 {
		return // no answer is awaited
	}
	ph := lost
	if r.reply.phase != message && r.reply.seq == r.p.Seq {
		ph = r.reply.phase
	}
	at, ph := r.segment(0, ph)
	r.reply = place{}
	if ph != message && ph != lost && at == len(r.p.Payload) {
		r.reply = place{ph, r.p.Seq + uint32(at)}
	}
}

// segment reads the payload from offset at on, where ph stands, and returns where it has
// arrived, which may be behind the segment's end.
func (r *reader) segment(at int, ph phase) (int, phase) {
	for at < len(r.p.Payload) {
		b := r.p.Payload[at:]
		if ph == message && b[0] == '$' { // RFC 2326, section 10.12
			if r.dir == helper.Original && r.flags&started == 0 {
				r.flags |= foreign
				return at, lost
			}
			if r.dir == helper.Original {
				r.flags |= interleaved
			}
			if len(b) < 4 {
				return len(r.p.Payload), lost
			}
			at += 4 + int(binary.BigEndian.Uint16(b[2:]))
			continue
		}
		line, whole := b, false
		if end := bytes.IndexByte(b, '\n'); end >= 0 {
			line, whole = b[:end+1], true
		}
		ph = r.line(line, at, ph, whole)
		if ph == lost || r.flags&foreign != 0 {
			return len(r.p.Payload), lost
		}
		at += len(line)
		if whole && ph == message {
			at += r.body
			r.body = 0
		}
	}
	return at, ph
}

// length is the header line that has the body's length, and unknown stands for one that is cut.
const (
	length  = "content-length:"
	unknown = 1
)

// line reads a line, or the part of one that the segment has, and returns what follows.
func (r *reader) line(line []byte, at int, ph phase, whole bool) phase {
	if !whole && string(line) == "\r" && ph < headerRest {
		return emptyRest
	}
	switch ph {
	case message, lost:
		return r.first(line, ph, whole)
	case header, setup:
		if isEmpty(line) {
			return message
		}
		if value, ok := field(line, length); ok {
			n, _ := helper.Number(value, 1<<24)
			r.body = int(n)
		}
		if !whole && agrees(line, length) {
			r.body = unknown
		}
		if ph == header {
			if !whole {
				return headerRest
			}
			return header
		}
		if value, ok := field(line, "transport:"); ok {
			r.transport(value, at+len(line)-len(value), false, !whole)
			if !whole {
				return transportRest
			}
		}
		if value, ok := field(line, "session:"); ok && whole && r.dir == helper.Reply {
			r.session(value)
		}
		if !whole {
			return setupRest
		}
		return setup
	case transportRest:
		r.transport(line, at, true, !whole)
	case emptyRest:
		if string(line) == "\n" {
			return message
		}
		return lost
	case headerRest, setupRest:
		for i := 1; i < len(length); i++ {
			if agrees(line, length[i:]) {
				r.body = unknown
			}
		}
	}
	if whole && ph == headerRest {
		return header
	}
	if whole {
		return setup
	}
	return ph
}

// agrees reports whether a line, as far as it is there, begins with text, in two bytes or more.
func agrees(line []byte, text string) bool {
	n := min(len(line), len(text))
	return n > 1 && bytes.EqualFold(line[:n], []byte(text)[:n])
}

// first reads the first line of a message. Nothing else may stand there in a connection of
// RTSP, except empty lines.
func (r *reader) first(line []byte, ph phase, whole bool) phase {
	begun := r.dir == helper.Reply || r.flags&started != 0
	if isEmpty(line) && ph == message && begun {
		return message
	}
	if ph == lost && r.dir == helper.Original && r.flags&interleaved != 0 {
		return lost // media may look like anything
	}
	r.body = 0
	isSetup := bytes.HasPrefix(line, []byte("SETUP "))
	isReply := bytes.HasPrefix(line, []byte("RTSP/"))
	if !begun && (!whole || !isRequest(line)) {
		r.flags |= foreign // such as HTTP, which a web page may send to any port
		return lost
	}
	switch {
	case !whole && ph == lost:
		return lost
	case !whole:
		if r.dir == helper.Original && isSetup {
			return setupRest
		}
		return headerRest
	case isReply && r.dir == helper.Reply:
		if version, status, ok := bytes.Cut(line, []byte(" ")); ok && len(version) == len("RTSP/1.0") && bytes.HasPrefix(status, []byte("200")) {
			return setup
		}
		return header
	case isReply:
		return header
	case !isRequest(line):
		return lost
	case r.dir == helper.Reply:
		return header
	}
	r.flags |= started
	switch method, _, _ := bytes.Cut(line, []byte(" ")); string(method) {
	case "SETUP":
		return setup
	case "PAUSE":
		r.flags |= paused
	case "PLAY":
		r.play()
	case "TEARDOWN":
		r.teardown()
	}
	return header
}

// play expects the media again after a pause, in which their flows may have expired.
func (r *reader) play() {
	if r.flags&paused == 0 {
		return
	}
	r.flags &^= paused
	for _, s := range r.streams {
		if s.client != 0 && r.a.Count()+int(s.ports) <= helper.MaxExpect {
			r.expectStream(s, r.p.Src(helper.Reply).Addr())
		}
	}
}

// teardown removes what is still expected for a session that ends. If the connection has
// several sessions, it is unknown whose expectations they are, and they expire.
func (r *reader) teardown() {
	if r.flags&several != 0 {
		return
	}
	r.a.Forget = true
	if len(r.a.Expect) == 0 {
		r.streams, r.id = [streams]stream{}, 0
	}
}

// session notes which session an answer belongs to.
func (r *reader) session(value []byte) {
	value, _, _ = bytes.Cut(value, []byte(";"))
	hash := uint32(2166136261) // FNV-1a
	for _, c := range bytes.TrimSpace(value) {
		hash = (hash ^ uint32(c)) * 16777619
	}
	switch id := uint16(hash>>16^hash) | 1; r.id {
	case 0, id:
		r.id = id
	default:
		r.flags |= several
	}
}

// isRequest reports whether line is a method, a URL and RTSP's version.
func isRequest(line []byte) bool {
	line = bytes.TrimRight(line, "\r\n")
	method := bytes.IndexByte(line, ' ')
	version := bytes.LastIndexByte(line, ' ')
	if method < 1 || version <= method || !bytes.HasPrefix(line[version+1:], []byte("RTSP/")) {
		return false
	}
	for _, c := range line[:method] {
		if (c < 'A' || 'Z' < c) && c != '_' {
			return false
		}
	}
	return true
}

func isEmpty(line []byte) bool { return string(line) == "\r\n" || string(line) == "\n" }

// field returns the value of a header line whose name, with the colon, is that one.
func field(line []byte, name string) (value []byte, ok bool) {
	if len(line) < len(name) || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return nil, false
	}
	return bytes.TrimLeft(line[len(name):], " \t"), true
}

// place is a place in a stream.
type place struct {
	phase phase
	seq   uint32
}

// stream is one for which the client has announced ports: its own first one, the one that the
// server has got instead, and how many follow.
type stream struct {
	client, announced uint16
	ports             uint8
}

// streams is how many are remembered, the newest first.
const streams = 3

// memory is what is kept from packet to packet.
type memory struct {
	flags uint16
	// Requests: where reading began the last time, and where it goes on.
	from, next place
	reply      place // where a split answer goes on
	streams    [streams]stream
	id         uint16 // a hash of the session's, never 0; 0 without one
}

// Bits of memory.flags.
const (
	started     = 1 << iota // the connection has begun with a request
	foreign                 // or with something else, or it cannot be followed
	interleaved             // the client sends media on it
	several                 // sessions
	paused
	flagBits = iota
)

// The private data: a word of flags and three phases, three sequence numbers, the session, the
// streams. All numbers are little-endian.
const (
	phaseBits  = 3
	phaseMask  = 1<<phaseBits - 1
	streamsAt  = 16
	streamLen  = 5
	privateLen = streamsAt + streamLen*streams
)

func (m *memory) load(b []byte) {
	n := binary.LittleEndian
	word := n.Uint16(b)
	m.flags = word & (1<<flagBits - 1)
	for i, at := range [...]*place{&m.from, &m.next, &m.reply} {
		*at = place{phase(word >> (flagBits + phaseBits*i) & phaseMask), n.Uint32(b[2+4*i:])}
	}
	m.id = n.Uint16(b[14:])
	for i := range m.streams {
		s := b[streamsAt+streamLen*i:]
		m.streams[i] = stream{n.Uint16(s), n.Uint16(s[2:]), s[4]}
	}
}

func (m *memory) store(b []byte) {
	n := binary.LittleEndian
	word := m.flags
	for i, at := range [...]place{m.from, m.next, m.reply} {
		word |= uint16(at.phase) << (flagBits + phaseBits*i)
		n.PutUint32(b[2+4*i:], at.seq)
	}
	n.PutUint16(b, word)
	n.PutUint16(b[14:], m.id)
	for i, s := range m.streams {
		at := b[streamsAt+streamLen*i:]
		n.PutUint16(at, s.client)
		n.PutUint16(at[2:], s.announced)
		at[4] = s.ports
	}
}

// announce notes that the client has announced a run of ports.
func (m *memory) announce(c *run) {
	s := stream{c.first, c.first, uint8(c.ports)}
	last := len(m.streams) - 1
	for i, old := range m.streams {
		if old.client == s.client {
			s.announced, last = old.announced, i
			break
		}
	}
	copy(m.streams[1:last+1], m.streams[:last])
	m.streams[0] = s
}

// announcedAs notes in the private data which port the server has got for one of the client's.
func announcedAs(private []byte, port, announced uint16) {
	for i := range streams {
		if s := private[streamsAt+streamLen*i:]; binary.LittleEndian.Uint16(s) == port {
			binary.LittleEndian.PutUint16(s[2:], announced)
		}
	}
}

// after reports whether sequence number a is later than b (RFC 9293, section 3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }
