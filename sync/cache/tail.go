package cache

import (
	"encoding/binary"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Tails are blocks of 16 to 256 bytes. Each size is a class with its own slots. A
// reference has the class in its upper bits and the slot below; slot 0 is never
// allocated, so that the reference 0 means "no tail".
const (
	tailClasses   = 5
	tailSmallest  = 16
	tailLargest   = tailSmallest << (tailClasses - 1)
	tailSlotBits  = 29
	tailSlotMask  = 1<<tailSlotBits - 1
	maxSecctx     = 4096 // distinct security contexts kept
	tupleTailSize = 10   // a tuple without its addresses
)

type tails [tailClasses]struct {
	slots    slots
	segments [][]byte
}

func (t *tails) at(ref uint32) []byte {
	if ref == 0 {
		return nil
	}
	c, slot := ref>>tailSlotBits, ref&tailSlotMask
	size := uint32(tailSmallest) << c
	at := (slot & segmentMask) * size
	return t[c].segments[slot>>segmentBits][at : at+size : at+size]
}

func (t *tails) free(ref uint32) {
	if ref == 0 {
		return
	}
	c, slot := ref>>tailSlotBits, ref&tailSlotMask
	if t[c].slots.give(slot) {
		t[c].segments[slot>>segmentBits] = nil
	}
}

// put stores b in the block ref, or in a new one of a suitable size, and returns the
// block's reference.
func (t *tails) put(ref uint32, b []byte) uint32 {
	if len(b) == 0 {
		t.free(ref)
		return 0
	}
	c := uint32(0)
	for tailSmallest<<c < len(b) {
		c++
	}
	if ref == 0 || ref>>tailSlotBits != c {
		t.free(ref)
		slot, grow := t[c].slots.take()
		if grow {
			n := int(slot >> segmentBits)
			if n == len(t[c].segments) {
				t[c].segments = append(t[c].segments, nil)
			}
			t[c].segments[n] = make([]byte, segmentSize*tailSmallest<<c)
		}
		ref = c<<tailSlotBits | slot
	}
	copy(t.at(ref), b)
	return ref
}

func (t *tails) bytes() (n int) {
	for c := range t {
		for _, s := range t[c].segments {
			n += len(s)
		}
	}
	return n
}

var le = binary.LittleEndian

func appendTuple(b []byte, t *ctnetlink.Tuple) []byte {
	p, _ := l4Of(t)
	b = le.AppendUint16(b, uint16(t.Has))
	b = append(b, t.Family, t.Proto)
	b = le.AppendUint16(b, p.a)
	b = le.AppendUint16(b, p.b)
	b = le.AppendUint16(b, t.Zone)
	if t.Family == nl.FamilyIPv6 {
		b = append(b, t.Src[:]...)
		return append(b, t.Dst[:]...)
	}
	b = append(b, t.Src[:4]...)
	return append(b, t.Dst[:4]...)
}

func cutTuple(b []byte, t *ctnetlink.Tuple) []byte {
	has := ctnetlink.TupleAttr(le.Uint16(b))
	*t = ctnetlink.Tuple{Family: b[2], Proto: b[3], Zone: le.Uint16(b[8:])}
	setL4(t, l4{le.Uint16(b[4:]), le.Uint16(b[6:])}, 0)
	t.Has = has
	b = b[tupleTailSize:]
	if t.Family == nl.FamilyIPv6 {
		copy(t.Src[:], b)
		copy(t.Dst[:], b[16:])
		return b[32:]
	}
	copy(t.Src[:4], b)
	copy(t.Dst[:4], b[4:])
	return b[8:]
}

func appendNAT(b []byte, n *ctnetlink.NAT) []byte {
	var bits byte
	if n.HasAddr {
		bits |= 1
	}
	if n.HasPort {
		bits |= 2
	}
	b = append(b, bits)
	b = append(b, n.Addr[:]...)
	return le.AppendUint16(b, n.Port)
}

func cutNAT(b []byte, n *ctnetlink.NAT) []byte {
	n.HasAddr, n.HasPort = b[0]&1 != 0, b[0]&2 != 0
	copy(n.Addr[:], b[1:])
	n.Port = le.Uint16(b[17:])
	return b[19:]
}

func appendSeqAdj(b []byte, s *ctnetlink.SeqAdj) []byte {
	b = le.AppendUint32(b, s.CorrectionPos)
	b = le.AppendUint32(b, s.OffsetBefore)
	return le.AppendUint32(b, s.OffsetAfter)
}

func cutSeqAdj(b []byte, s *ctnetlink.SeqAdj) []byte {
	*s = ctnetlink.SeqAdj{CorrectionPos: le.Uint32(b), OffsetBefore: le.Uint32(b[4:]), OffsetAfter: le.Uint32(b[8:])}
	return b[12:]
}

// appendTail appends the parts of f that record r, which is complete, does not store.
func (t *Flows) appendTail(b []byte, r *record, f *ctnetlink.Flow) []byte {
	has := r.has
	if has&recTailReply != 0 {
		b = appendTuple(b, &f.Reply)
	}
	if has&recMaster != 0 {
		b = appendTuple(b, &f.Master)
	}
	if has&recNAT == 0 {
		if has&ctnetlink.HasNATSrc != 0 {
			b = appendNAT(b, &f.NATSrc)
		}
		if has&ctnetlink.HasNATDst != 0 {
			b = appendNAT(b, &f.NATDst)
		}
	}
	if has&ctnetlink.HasSCTPVtagOrig != 0 {
		b = le.AppendUint32(b, f.SCTPVtagOrig)
	}
	if has&ctnetlink.HasSCTPVtagReply != 0 {
		b = le.AppendUint32(b, f.SCTPVtagReply)
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		b = le.AppendUint64(b, f.TimestampStart)
	}
	if has&ctnetlink.HasTimestampStop != 0 {
		b = le.AppendUint64(b, f.TimestampStop)
	}
	if has&ctnetlink.HasSeqAdjOrig != 0 {
		b = appendSeqAdj(b, &f.SeqAdjOrig)
	}
	if has&ctnetlink.HasSeqAdjReply != 0 {
		b = appendSeqAdj(b, &f.SeqAdjReply)
	}
	if has&ctnetlink.HasSynproxy != 0 && has&recNoSynproxy == 0 {
		b = le.AppendUint32(b, f.Synproxy.ISN)
		b = le.AppendUint32(b, f.Synproxy.ITS)
		b = le.AppendUint32(b, f.Synproxy.TSOff)
	}
	if has&ctnetlink.HasLabels != 0 {
		n := min(f.LabelsLen, ctnetlink.LabelWords)
		b = append(b, n)
		for _, w := range f.Labels[:n] {
			b = le.AppendUint32(b, w)
		}
	}
	if has&ctnetlink.HasHelper != 0 {
		name := f.Helper.Bytes()
		b = append(append(b, byte(len(name))), name...)
	}
	if has&ctnetlink.HasSecctx != 0 {
		b = le.AppendUint16(b, t.contexts.number(f.Secctx))
	}
	return b
}

// cutTail is the inverse of appendTail.
func (t *Flows) cutTail(b []byte, r *record, f *ctnetlink.Flow) {
	has := r.has
	if has&recTailReply != 0 {
		b = cutTuple(b, &f.Reply)
	}
	if has&recMaster != 0 {
		b = cutTuple(b, &f.Master)
	}
	if has&recNAT == 0 {
		if has&ctnetlink.HasNATSrc != 0 {
			b = cutNAT(b, &f.NATSrc)
		}
		if has&ctnetlink.HasNATDst != 0 {
			b = cutNAT(b, &f.NATDst)
		}
	}
	if has&ctnetlink.HasSCTPVtagOrig != 0 {
		f.SCTPVtagOrig, b = le.Uint32(b), b[4:]
	}
	if has&ctnetlink.HasSCTPVtagReply != 0 {
		f.SCTPVtagReply, b = le.Uint32(b), b[4:]
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		f.TimestampStart, b = le.Uint64(b), b[8:]
	}
	if has&ctnetlink.HasTimestampStop != 0 {
		f.TimestampStop, b = le.Uint64(b), b[8:]
	}
	if has&ctnetlink.HasSeqAdjOrig != 0 {
		b = cutSeqAdj(b, &f.SeqAdjOrig)
	}
	if has&ctnetlink.HasSeqAdjReply != 0 {
		b = cutSeqAdj(b, &f.SeqAdjReply)
	}
	if has&ctnetlink.HasSynproxy != 0 {
		f.Synproxy = ctnetlink.Synproxy{}
		if has&recNoSynproxy == 0 {
			f.Synproxy = ctnetlink.Synproxy{ISN: le.Uint32(b), ITS: le.Uint32(b[4:]), TSOff: le.Uint32(b[8:])}
			b = b[12:]
		}
	}
	if has&ctnetlink.HasLabels != 0 {
		f.Labels = ctnetlink.Labels{}
		f.LabelsLen, b = b[0], b[1:]
		for i := range f.LabelsLen {
			f.Labels[i], b = le.Uint32(b), b[4:]
		}
	}
	if has&ctnetlink.HasHelper != 0 {
		n := int(b[0])
		f.Helper = ctnetlink.Name{}
		copy(f.Helper[:], b[1:1+n])
		b = b[1+n:]
	}
	if has&ctnetlink.HasSecctx != 0 {
		f.Secctx = append(f.Secctx[:0], t.contexts.text(le.Uint16(b))...)
	}
}

// contexts numbers security contexts. They are few, and only the kernel makes them.
// Number 0 is the empty context.
type contexts struct {
	texts   []string
	numbers map[string]uint16
}

// known reports whether text has a number or can get one.
func (c *contexts) known(text []byte) bool {
	if _, ok := c.numbers[string(text)]; ok || len(text) == 0 {
		return true
	}
	return len(c.texts) < maxSecctx
}

func (c *contexts) number(text []byte) uint16 {
	if len(text) == 0 {
		return 0
	}
	n, ok := c.numbers[string(text)]
	if !ok {
		if c.numbers == nil {
			c.numbers = make(map[string]uint16)
		}
		c.texts = append(c.texts, string(text))
		n = uint16(len(c.texts))
		c.numbers[string(text)] = n
	}
	return n
}

func (c *contexts) text(n uint16) string {
	if n == 0 {
		return ""
	}
	return c.texts[n-1]
}
