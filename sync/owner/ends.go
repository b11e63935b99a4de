package owner

import (
	"encoding/binary"

	"ctbox/nl/ctnetlink"
)

// ends are the ranks with which flows have ended lately. The next connection with the same addresses
// may begin at another node, and a third node may hear of this before it hears of the end. So its
// announcement has to outrank the end. Each place has one flow: a newer one overwrites it.
type ends [endsLen]struct {
	flow uint32 // a hash
	rank rank
}

const endsLen = 1 << 12

// add records the end of f.
func (e *ends) add(f *ctnetlink.Flow, by rank) {
	hash := hashOf(f)
	at := &e[hash%endsLen]
	at.flow, at.rank = uint32(hash>>32), by
}

// find returns the rank of the end of f, the zero rank if it is not known.
func (e *ends) find(f *ctnetlink.Flow) rank {
	hash := hashOf(f)
	if at := &e[hash%endsLen]; at.flow == uint32(hash>>32) {
		return at.rank
	}
	return rank{}
}

// hashOf returns a hash of what identifies f. Two flows with the same hash do no harm: a flow gets a
// higher epoch than it needs.
func hashOf(f *ctnetlink.Flow) uint64 {
	o, be := &f.Orig, binary.BigEndian
	h := uint64(o.SrcPort)<<48 | uint64(o.DstPort)<<32 | uint64(o.Proto)<<16 | uint64(zone(f))
	for _, a := range [...]uint64{be.Uint64(o.Src[:]), be.Uint64(o.Src[8:]), be.Uint64(o.Dst[:]), be.Uint64(o.Dst[8:])} {
		h = (h ^ h>>32) * 0x9e3779b97f4a7c15
		h ^= a
	}
	h = (h ^ h>>29) * 0xbf58476d1ce4e5b9
	return h ^ h>>32
}
