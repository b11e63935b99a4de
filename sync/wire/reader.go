package wire

import "encoding/binary"

// Counters count refused messages by the first check that they failed. The names are
// those of `conntrackd -s network`. This package counts the first three; the users that
// make the later checks count the others.
type Counters struct {
	Truncated  uint64 // Truncated message: fewer bytes than a header
	BadSize    uint64 // Bad message size: the length is impossible
	BadVersion uint64 // Wrong protocol version
	BadHeader  uint64 // Malformed header: type and flags without a meaning in this mode
	BadType    uint64 // Bad message type
	BadPayload uint64 // Malformed payload: ParseFlow or ParseExpect refused it
}

// Malformed returns the sum that `conntrackd -s network` shows as `Malformed messages`.
func (c *Counters) Malformed() uint64 {
	return c.Truncated + c.BadSize + c.BadVersion + c.BadHeader + c.BadType + c.BadPayload
}

// Message is one received message. Body is a part of the buffer that the Reader
// reads: the attributes of data, the notice of an ALIVE (ParseNotice). Other control
// messages have none.
type Message struct {
	Header
	Body []byte
}

// Reader iterates over the messages in received bytes. It copies nothing: its results are
// valid as long as those bytes are.
type Reader struct{ rest []byte }

// ReadDatagram returns a Reader over one datagram, or over a run of whole messages that
// package link has split off a TCP stream.
func ReadDatagram(b []byte) Reader { return Reader{rest: b} }

// Next returns the next message of this version. Messages of another version are counted
// and skipped. At the end, or at a message that can't be read, ok is false; the reason is
// counted in c, once.
func (r *Reader) Next(c *Counters) (m Message, ok bool) {
	for len(r.rest) > 0 {
		b := r.rest
		if len(b) < HeaderLen {
			return r.stop(&c.Truncated)
		}
		length := int(binary.BigEndian.Uint16(b[2:]))
		if length == 0 {
			return r.stop(&c.BadSize)
		}
		if length > len(b) {
			return r.stop(&c.BadSize)
		}
		h := Header{
			Type:  Type(b[0] & 0xf),
			Flags: Flags(b[1]),
			Seq:   Seq(binary.BigEndian.Uint32(b[4:])),
		}
		head := HeaderLen
		if h.Ranged() {
			head = RangedHeaderLen
			if len(b) < head {
				return r.stop(&c.Truncated)
			}
		}
		if length < head {
			return r.stop(&c.BadSize)
		}
		r.rest = b[length:]
		if b[0]>>4 != Version {
			c.BadVersion++
			continue
		}
		if h.Ranged() {
			h.From = Seq(binary.BigEndian.Uint32(b[8:]))
			h.To = Seq(binary.BigEndian.Uint32(b[12:]))
		}
		m.Header = h
		m.Body = nil
		if h.Type != Control || h.CarriesNotice() {
			m.Body = b[head:length:length]
		}
		return m, true
	}
	return Message{}, false
}

// stop ends the iteration for good: the start of the next message is unknown.
func (r *Reader) stop(why *uint64) (Message, bool) {
	*why++
	r.rest = nil
	return Message{}, false
}
