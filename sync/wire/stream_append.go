package wire

import (
	"encoding/binary"
	"slices"
)

// longLength in the byte of the length says that two bytes with the length follow. Shorter
// bodies have no such bytes.
const longLength = 255

// MaxStreamBody is the longest body of a message of version 2 in bytes.
const MaxStreamBody = 1<<16 - 1

// Append appends the message. Number and Again are not part of it: StreamPacker writes the
// POSITION and AGAIN that give them. A message that the reader would refuse, as one with more
// than MaxAckRanges ranges, is written as it is.
func (m *StreamMessage) Append(dst []byte) []byte {
	dst = append(dst, byte(m.Type), 0)
	start := len(dst)
	dst = m.appendBody(dst)
	length := len(dst) - start
	if length < longLength {
		dst[start-1] = byte(length)
		return dst
	}
	dst[start-1] = longLength
	return slices.Insert(dst, start, byte(length>>8), byte(length))
}

func (m *StreamMessage) appendBody(dst []byte) []byte {
	u32, u64 := binary.BigEndian.AppendUint32, binary.BigEndian.AppendUint64
	switch m.Type {
	case Position, Again:
		dst = u32(dst, uint32(m.From))
	case Void, LostRange:
		dst = u32(u32(dst, uint32(m.From)), uint32(m.To))
	case StreamAck:
		dst = u32(u32(append(dst, m.Node), uint32(m.Stream)), uint32(m.From))
		for _, r := range m.Ranges {
			dst = u32(u32(dst, uint32(r.From)), uint32(r.To))
		}
	case StreamState:
		dst = append(u64(dst, m.Stream), m.Key[:]...)
		dst = u32(append(dst, m.Flags), uint32(m.First))
	case Ask:
		dst = u32(append(dst, m.Node), uint32(m.Stream))
	case StreamBulkBegin, StreamBulkEnd:
		dst = u32(dst, m.Bulk)
	case Digest:
		dst = u64(u32(append(dst, m.Table), m.Entries), m.Root)
	case Compare:
		dst = append(u32(append(dst, m.Node), uint32(m.Stream)), m.Table, m.Level)
		for _, index := range m.Indexes {
			dst = binary.BigEndian.AppendUint16(dst, index)
		}
	case Sums:
		dst = binary.BigEndian.AppendUint16(append(dst, m.Table, m.Level), m.Index)
		dst = appendHashes(dst, m.Sums)
	case Entries:
		dst = binary.BigEndian.AppendUint16(append(dst, m.Table), m.Index)
		dst = appendHashes(u64(u64(dst, m.Low), m.High), m.Sums)
	case Want:
		dst = append(u32(append(dst, m.Node), uint32(m.Stream)), m.Table)
		dst = appendHashes(dst, m.Sums)
	case Take:
		dst = binary.BigEndian.AppendUint16(u32(dst, m.Question), m.Nodes)
	case Mine:
		dst = append(u32(append(dst, m.Node), m.Question), m.Flags)
		dst = binary.BigEndian.AppendUint16(dst, m.Nodes)
	default:
		dst = append(dst, m.Body...)
	}
	return dst
}

func appendHashes(dst []byte, hashes []uint64) []byte {
	for _, h := range hashes {
		dst = binary.BigEndian.AppendUint64(dst, h)
	}
	return dst
}
