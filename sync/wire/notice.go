package wire

import "encoding/binary"

// NoticeHas is the set of fields that a Notice has.
type NoticeHas uint16

// The fields of a Notice.
const (
	HasIncomplete NoticeHas = 1 << iota // Incomplete
	HasHeld                             // HeldFlows and HeldExpects
	HasCommitted                        // Committed
	HasBulk                             // a bulk of the sender is under way; it has no value
	HasHeard                            // Heard
	HasProbe                            // Probe and Size
	HasProbed                           // Probed and ProbedSize
	HasOffer                            // Offer
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
	// Heard is for how many milliseconds the sender has heard nothing from its peer: since its
	// start, if that was never.
	Heard uint32
	// Probe numbers a message that tests whether datagrams as large as it arrive. Size is the
	// length in bytes that it is padded to, header included.
	Probe, Size uint32
	// Probed is the number of the last such message that the sender has received, and
	// ProbedSize its length.
	Probed, ProbedSize uint32
	// Offer is what the sender offers for version 2 of the protocol.
	Offer Offer
}

// noticeMagic begins the body. A body without it has another meaning.
const noticeMagic = 0x63746278 // "ctbx"

// Numbers of a notice's fields. A receiver skips those it does not know.
const (
	noticeIncomplete = 1
	noticeHeld       = 2
	noticeCommitted  = 3
	noticeBulk       = 9
	noticeHeard      = 10
	noticeProbed     = 11
	noticeProbe      = 12
	noticeOffer      = 13
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
	dst = n.appendFields(dst, int(min(n.Size, MaxMessage))-HeaderLen-4)
	setLength(dst, start)
	return dst
}

// AppendBody appends the body of a NOTICE of version 2: the fields without what precedes them
// in an ALIVE. Size is that of the body there.
func (n *Notice) AppendBody(dst []byte) []byte {
	return n.appendFields(dst, int(min(n.Size, MaxMessage)))
}

// appendFields appends the fields. A probe is padded so that all of them have size bytes.
func (n *Notice) appendFields(dst []byte, size int) []byte {
	start := len(dst)
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
	if n.Has&HasHeard != 0 {
		dst = append(dst, 0, noticeHeard, 0, 4)
		dst = binary.BigEndian.AppendUint32(dst, n.Heard)
	}
	if n.Has&HasProbed != 0 {
		dst = append(dst, 0, noticeProbed, 0, 8)
		dst = binary.BigEndian.AppendUint32(dst, n.Probed)
		dst = binary.BigEndian.AppendUint32(dst, n.ProbedSize)
	}
	if n.Has&HasOffer != 0 {
		dst = append(dst, 0, noticeOffer, 0, byte(n.Offer.size()))
		dst = n.Offer.append(dst)
		dst = append(dst, make([]byte, align4(n.Offer.size())-n.Offer.size())...)
	}
	if n.Has&HasProbe != 0 { // the last, for its padding
		pad := max(0, size-(len(dst)-start)-noticeFieldLen-4)
		dst = append(dst, 0, noticeProbe)
		dst = binary.BigEndian.AppendUint16(dst, uint16(4+pad))
		dst = binary.BigEndian.AppendUint32(dst, n.Probe)
		dst = append(dst, make([]byte, pad)...)
	}
	return dst
}

// MaxMessage is the length in bytes of the longest message that the length field has room for.
const MaxMessage = 1<<16 - 1

// ErrNotice reports a notice whose fields are inconsistent.
const ErrNotice PayloadError = "a field of the notice is cut off or has the wrong size"

// ParseNotice decodes the body of an ALIVE. A body without the magic gives an empty
// notice. After an error n is empty.
func ParseNotice(body []byte, n *Notice) error {
	*n = Notice{}
	if len(body) < 4 || binary.BigEndian.Uint32(body) != noticeMagic {
		return nil
	}
	return n.parseFields(body[4:], HeaderLen+len(body))
}

// ParseBody decodes the body of a NOTICE of version 2. After an error n is empty.
func (n *Notice) ParseBody(body []byte) error {
	*n = Notice{}
	return n.parseFields(body, len(body))
}

// parseFields decodes fields into n, which is empty. whole is the Size of a probe.
func (n *Notice) parseFields(b []byte, whole int) error {
	var got Notice
	for len(b) > 0 {
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
		case number == noticeHeard && size == 4:
			got.Has |= HasHeard
			got.Heard = binary.BigEndian.Uint32(value)
		case number == noticeProbed && size == 8:
			got.Has |= HasProbed
			got.Probed, got.ProbedSize = binary.BigEndian.Uint32(value), binary.BigEndian.Uint32(value[4:])
		case number == noticeProbe && size >= 4:
			got.Has |= HasProbe
			got.Probe, got.Size = binary.BigEndian.Uint32(value), uint32(whole)
		case number == noticeOffer && got.Offer.parse(value):
			got.Has |= HasOffer
		case number == noticeIncomplete || number == noticeHeld || number == noticeCommitted ||
			number == noticeBulk || number == noticeHeard || number == noticeProbed || number == noticeProbe ||
			number == noticeOffer:
			return ErrNotice
		}
	}
	*n = got
	return nil
}
