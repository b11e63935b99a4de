package wire

import "encoding/binary"

// StreamPacker collects messages of version 2 into payloads as full as a capacity allows. It
// holds one payload at a time and passes it on when the next message does not fit. It writes
// the POSITION and AGAIN messages that give the numbered ones their numbers.
//
// A message never spans payloads. One that is longer than the capacity gets a payload of its
// own, for the network layer to fragment.
type StreamPacker struct {
	capacity int
	flush    func(payload []byte)
	position func() Seq
	head     func(dst []byte) []byte

	buf     []byte
	scratch []byte
	next    Seq // the number that a reader would give to the next numbered message
	again   bool
}

// NewStreamPacker returns a StreamPacker for payloads of up to capacity bytes. flush gets each
// full payload, which is valid during the call; it must not call the StreamPacker.
func NewStreamPacker(capacity int, flush func(payload []byte)) *StreamPacker {
	return &StreamPacker{capacity: capacity, flush: flush}
}

// Begin sets what a payload begins with. position returns the number of the next new message;
// it is called for payloads that do not begin with such a message. head appends what comes
// before the first POSITION; it may be nil.
func (p *StreamPacker) Begin(position func() Seq, head func(dst []byte) []byte) {
	p.position, p.head = position, head
}

// SetCapacity changes the capacity for the messages to come.
func (p *StreamPacker) SetCapacity(capacity int) { p.capacity = capacity }

// numberLen is the length of a POSITION and of an AGAIN.
const numberLen = 2 + 4

// Numbered adds a numbered message with its type and body. seq must be the number after that
// of the numbered message before, unless again says that the message repeats number seq.
func (p *StreamPacker) Numbered(seq Seq, again bool, typ StreamType, body []byte) {
	p.fit(streamLen(len(body)), true, seq, again)
	if seq != p.next || again != p.again {
		p.number(seq, again)
	}
	p.next++
	p.buf = append(p.buf, byte(typ))
	if len(body) < longLength {
		p.buf = append(p.buf, byte(len(body)))
	} else {
		p.buf = append(p.buf, longLength, byte(len(body)>>8), byte(len(body)))
	}
	p.buf = append(p.buf, body...)
}

// Message adds a message. A numbered one is added as Numbered does, with m.Number and m.Again.
// A POSITION is needed only where a number was skipped.
func (p *StreamPacker) Message(m *StreamMessage) {
	if m.Type.Numbered() {
		p.scratch = m.appendBody(p.scratch[:0])
		p.Numbered(m.Number, m.Again, m.Type, p.scratch)
		return
	}
	p.scratch = m.Append(p.scratch[:0])
	p.fit(len(p.scratch), false, 0, false)
	p.buf = append(p.buf, p.scratch...)
	if m.Type == Position {
		p.next, p.again = m.From, false
	}
}

// Open begins a payload if none has begun, so that Flush passes one on in any case.
func (p *StreamPacker) Open() { p.fit(0, false, 0, false) }

// Room returns how many bytes are left in the payload, for a message with its type and length
// and for the POSITION or AGAIN that it may need.
func (p *StreamPacker) Room() int {
	if len(p.buf) == 0 {
		return max(0, p.capacity-numberLen)
	}
	return max(0, p.capacity-len(p.buf))
}

// Flush passes on the payload that has begun, if any.
func (p *StreamPacker) Flush() {
	if len(p.buf) == 0 {
		return
	}
	p.flush(p.buf)
	p.buf = p.buf[:0]
}

// streamLen returns the length of a message whose body has length bytes.
func streamLen(length int) int {
	if length < longLength {
		return 2 + length
	}
	return 4 + length
}

// fit makes room for a message of length bytes, in the payload or in the next one. seq and
// again are those of a numbered message.
func (p *StreamPacker) fit(length int, numbered bool, seq Seq, again bool) {
	if numbered && (seq != p.next || again != p.again) {
		length += numberLen
	}
	if len(p.buf) > 0 && len(p.buf)+length > p.capacity {
		p.Flush()
	}
	if len(p.buf) > 0 {
		return
	}
	if !numbered || again {
		seq = p.position()
	}
	if p.head != nil {
		p.buf = p.head(p.buf)
	}
	head := len(p.buf)
	p.number(seq, false)
	if head > 0 && len(p.buf)+length > p.capacity {
		p.Flush()
		p.number(seq, false)
	}
}

// number writes a POSITION or an AGAIN.
func (p *StreamPacker) number(seq Seq, again bool) {
	typ := Position
	if again {
		typ = Again
	}
	p.buf = binary.BigEndian.AppendUint32(append(p.buf, byte(typ), 4), uint32(seq))
	p.next, p.again = seq, again
}
