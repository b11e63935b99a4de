package link

import "net/netip"

// Batch is what one read of a link brought: datagrams, or whole messages of a
// stream. It belongs to the receiver until Release.
type Batch struct {
	Link int // number of the link

	from  []netip.Addr
	parts [][]byte
	spare chan *Batch // where it returns to
}

// Each calls f for every datagram with its sender's address, without port. The
// bytes are good until Release.
func (b *Batch) Each(f func(from netip.Addr, datagram []byte)) {
	for i, part := range b.parts {
		f(b.from[i], part)
	}
}

// Len is the number of datagrams.
func (b *Batch) Len() int { return len(b.parts) }

// Release gives the memory back to the link.
func (b *Batch) Release() {
	b.from, b.parts = b.from[:0], b.parts[:0]
	b.spare <- b
}

func (b *Batch) add(from netip.Addr, part []byte) {
	b.from = append(b.from, from)
	b.parts = append(b.parts, part)
}
