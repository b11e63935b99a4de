package wire

import (
	"encoding/binary"
	"fmt"
)

// StreamReader iterates over the messages of a payload of version 2, without the control
// messages of package seal at its start. It copies nothing and keeps track of the numbers: a
// numbered message gets its Number and Again.
type StreamReader struct {
	rest  []byte
	next  Seq  // the number of the next numbered message
	known bool // a POSITION or AGAIN has given next
	again bool
}

// ReadStream returns a StreamReader over a payload.
func ReadStream(payload []byte) StreamReader { return StreamReader{rest: payload} }

// StreamError is the reason why a payload can't be read further.
type StreamError struct {
	Type   StreamType // 0 where not even the type is there
	Length int        // of the message's body in bytes
	Reason string
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("message of type %#x with %d bytes: %s", uint8(e.Type), e.Length, e.Reason)
}

// streamTables is the number of tables that have a digest: flows and expectations.
const streamTables = 2

// levelIndexes are how many indexes each level has.
var levelIndexes = [...]uint16{LevelDigest: 1, LevelGroups: 1, LevelBuckets: 256, LevelEntries: 1 << 14}

// Next decodes the next message into m, whose slices it reuses. At the end ok is false and err
// is nil. After an error the rest of the payload is unusable, because the positions or the
// numbers of its messages are unknown; err is then a *StreamError.
func (r *StreamReader) Next(m *StreamMessage) (ok bool, err error) {
	for len(r.rest) > 0 {
		typ, body, err := r.cut()
		if err != nil {
			return false, err
		}
		*m = StreamMessage{Type: typ, Ranges: m.Ranges[:0], Sums: m.Sums[:0], Indexes: m.Indexes[:0]}
		known, reason := m.parse(body)
		switch {
		case reason != "":
			return false, r.stop(typ, len(body), reason)
		case !known && typ&0x80 != 0:
			continue
		case !known:
			return false, r.stop(typ, len(body), "the type is unknown")
		case typ == Position:
			r.next, r.known, r.again = m.From, true, false
		case typ == Again:
			r.next, r.known, r.again = m.From, true, true
		case typ.Numbered() && !r.known:
			return false, r.stop(typ, len(body), "no POSITION gives its number")
		case typ.Numbered():
			m.Number, m.Again = r.next, r.again
			r.next++
		}
		return true, nil
	}
	return false, nil
}

// cut takes the next message off the rest.
func (r *StreamReader) cut() (typ StreamType, body []byte, err error) {
	b := r.rest
	typ = StreamType(b[0])
	if len(b) < 2 {
		return 0, nil, r.stop(typ, 0, "its length is cut off")
	}
	length, b := int(b[1]), b[2:]
	if length == longLength {
		if len(b) < 2 {
			return 0, nil, r.stop(typ, 0, "its length is cut off")
		}
		length, b = int(binary.BigEndian.Uint16(b)), b[2:]
		if length < longLength {
			return 0, nil, r.stop(typ, length, "the length has more bytes than it needs")
		}
	}
	if length > len(b) {
		return 0, nil, r.stop(typ, length, "the body is cut off")
	}
	r.rest = b[length:]
	return typ, b[:length:length], nil
}

// stop ends the iteration for good.
func (r *StreamReader) stop(typ StreamType, length int, reason string) error {
	r.rest = nil
	return &StreamError{typ, length, reason}
}

const wrongLength = "the length is wrong"

// parse decodes a body. known is false for an unknown type; reason is empty for a good body.
func (m *StreamMessage) parse(body []byte) (known bool, reason string) {
	b := compactReader{rest: body}
	switch m.Type {
	case Position, Again:
		m.From = b.seq()
	case Void, LostRange:
		m.From, m.To = b.seq(), b.seq()
		if !b.bad && m.To.Before(m.From) {
			return true, "the range is empty"
		}
	case StreamAck:
		m.Node, m.Stream, m.From = b.u8(), uint64(b.u32()), b.seq()
		if len(b.rest)%8 != 0 || len(b.rest) > 8*MaxAckRanges {
			return true, wrongLength
		}
		for len(b.rest) > 0 {
			missing := Range{b.seq(), b.seq()}
			if missing.To.Before(missing.From) {
				return true, "a range is empty"
			}
			m.Ranges = append(m.Ranges, missing)
		}
	case StreamState:
		m.Stream = b.u64()
		copy(m.Key[:], b.bytes(len(m.Key)))
		m.Flags, m.First = b.u8(), b.seq()
	case StreamNotice:
		m.Body = b.bytes(len(body))
	case Ask:
		m.Node, m.Stream = b.u8(), uint64(b.u32())
	case StreamFlowNew, StreamFlowUpdate, StreamFlowEnd, StreamFlowWithdrawn,
		StreamExpectNew, StreamExpectUpdate, StreamExpectEnd, StreamExpectWithdrawn:
		m.Body = b.bytes(len(body))
	case StreamBulkBegin, StreamBulkEnd:
		m.Bulk = b.u32()
	case Digest:
		m.Table, m.Entries, m.Root = b.u8(), b.u32(), b.u64()
	case Compare:
		return true, m.parseCompare(&b)
	case Sums:
		return true, m.parseSums(&b)
	case Entries:
		m.Table, m.Index, m.Low, m.High = b.u8(), b.u16(), b.u64(), b.u64()
		switch m.Level = LevelEntries; {
		case !b.hashes(m):
			return true, wrongLength
		case m.Index >= levelIndexes[LevelEntries]:
			return true, "there is no such bucket"
		case m.Low > m.High:
			return true, "the range is empty"
		}
	case Want:
		m.Node, m.Stream, m.Table = b.u8(), uint64(b.u32()), b.u8()
		if !b.hashes(m) {
			return true, wrongLength
		}
	case Take:
		m.Question, m.Nodes = b.u32(), b.u16()
	case Mine:
		m.Node, m.Question, m.Flags, m.Nodes = b.u8(), b.u32(), b.u8(), b.u16()
	default:
		return false, ""
	}
	switch {
	case b.bad || len(b.rest) > 0:
		return true, wrongLength
	case m.Table >= streamTables:
		return true, "there is no such table"
	}
	return true, ""
}

func (m *StreamMessage) parseCompare(b *compactReader) (reason string) {
	m.Node, m.Stream, m.Table, m.Level = b.u8(), uint64(b.u32()), b.u8(), b.u8()
	switch {
	case b.bad || len(b.rest)%2 != 0:
		return wrongLength
	case m.Table >= streamTables:
		return "there is no such table"
	case m.Level > LevelEntries:
		return "there is no such level"
	}
	for len(b.rest) > 0 {
		index := b.u16()
		if index >= levelIndexes[m.Level] {
			return "an index is too large"
		}
		m.Indexes = append(m.Indexes, index)
	}
	return ""
}

func (m *StreamMessage) parseSums(b *compactReader) (reason string) {
	m.Table, m.Level, m.Index = b.u8(), b.u8(), b.u16()
	switch {
	case len(b.rest) != 8*SumsLen || !b.hashes(m):
		return wrongLength
	case m.Table >= streamTables:
		return "there is no such table"
	case m.Level != LevelGroups && m.Level != LevelBuckets:
		return "there is no such level"
	case m.Index >= levelIndexes[m.Level]:
		return "the index is too large"
	}
	return ""
}

func (r *compactReader) seq() Seq { return Seq(r.u32()) }

func (r *compactReader) u64() uint64 {
	if b := r.bytes(8); len(b) == 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// hashes reads the rest as numbers of 8 bytes into m.Sums. It returns false if there are
// others.
func (r *compactReader) hashes(m *StreamMessage) bool {
	if r.bad || len(r.rest)%8 != 0 {
		return false
	}
	for len(r.rest) > 0 {
		m.Sums = append(m.Sums, r.u64())
	}
	return true
}
