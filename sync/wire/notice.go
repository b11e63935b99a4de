package wire

import "encoding/binary"

// NoticeHas is the set of fields that a Notice has.
type NoticeHas uint8

// The fields of a Notice.
const (
	HasIncomplete NoticeHas = 1 << iota // Incomplete
	HasHeld                             // HeldFlows and HeldExpects
	HasCommitted                        // Committed
	HasBulk                             // a bulk of the sender is under way; it has no value
)

// Notice is the body of an ALIVE: what a ctbox node announces about itself. C daemons
// and older ctbox nodes skip the body by the length field.
type Notice struct {
	Has NoticeHas
	// Incomplete is the number of its kernel's events that the sender has lost and not
	// yet made up for.
	Incomplete uint32
	// HeldFlows and HeldExpects are the numbers of entries that the sender has
	// announced, up to this message, and not ended.
	HeldFlows, HeldExpects uint32
	// Committed is the time in milliseconds since the end of the sender's last commit.
	Committed uint32
}

// noticeMagic begins the body. A body without it has another meaning.
const noticeMagic = 0x63746278 // "ctbx"

// Numbers of a notice's fields. A receiver skips those it does not know.
const (
	noticeIncomplete = 1
	noticeHeld       = 2
	noticeCommitted  = 3
	noticeBulk       = 9
)

// noticeFieldLen is the size of a field's number and length.
const noticeFieldLen = 4

// CarriesNotice reports whether a message with the header may have a body: an ALIVE
// without other flags, with which older receivers would take it for something else.
func (h Header) CarriesNotice() bool { return h.Type == Control && h.Flags == Alive }

// AppendNotice appends the ALIVE that h describes with n as its body, or a plain one
// where n is empty or h has no place for it.
func AppendNotice(dst []byte, h Header, n *Notice) []byte {
	if n.Has == 0 || !h.CarriesNotice() {
		return AppendControl(dst, h)
	}
	start := len(dst)
	dst = appendHeader(dst, h, 0)
	dst = binary.BigEndian.AppendUint32(dst, noticeMagic)
	if n.Has&HasIncomplete != 0 {
		dst = append(dst, 0, noticeIncomplete, 0, 4)
		dst = binary.BigEndian.AppendUint32(dst, n.Incomplete)
	}
	if n.Has&HasHeld != 0 {
		dst = append(dst, 0, noticeHeld, 0, 8)
		dst = binary.BigEndian.AppendUint32(dst, n.HeldFlows)
		dst = binary.BigEndian.AppendUint32(dst, n.HeldExpects)
	}
	if n.Has&HasCommitted != 0 {
		dst = append(dst, 0, noticeCommitted, 0, 4)
		dst = binary.BigEndian.AppendUint32(dst, n.Committed)
	}
	if n.Has&HasBulk != 0 {
		dst = append(dst, 0, noticeBulk, 0, 0)
	}
	setLength(dst, start)
	return dst
}

// ErrNotice reports a notice whose fields are inconsistent.
const ErrNotice PayloadError = "a field of the notice is cut off or has the wrong size"

// ParseNotice decodes the body of an ALIVE. A body without the magic gives an empty
// notice. After an error n is empty.
func ParseNotice(body []byte, n *Notice) error {
	*n = Notice{}
	if len(body) < 4 || binary.BigEndian.Uint32(body) != noticeMagic {
		return nil
	}
	var got Notice
	for b := body[4:]; len(b) > 0; {
		if len(b) < noticeFieldLen {
			return ErrNotice
		}
		number, size := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if size > len(b)-noticeFieldLen {
			return ErrNotice
		}
		value := b[noticeFieldLen : noticeFieldLen+size]
		b = b[min(align4(noticeFieldLen+size), len(b)):]
		switch {
		case number == noticeIncomplete && size == 4:
			got.Has |= HasIncomplete
			got.Incomplete = binary.BigEndian.Uint32(value)
		case number == noticeHeld && size == 8:
			got.Has |= HasHeld
			got.HeldFlows, got.HeldExpects = binary.BigEndian.Uint32(value), binary.BigEndian.Uint32(value[4:])
		case number == noticeCommitted && size == 4:
			got.Has |= HasCommitted
			got.Committed = binary.BigEndian.Uint32(value)
		case number == noticeBulk && size == 0:
			got.Has |= HasBulk
		case number == noticeBulk || number == noticeIncomplete || number == noticeHeld || number == noticeCommitted:
			return ErrNotice
		}
	}
	*n = got
	return nil
}
