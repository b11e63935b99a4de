package link

import "net/netip"

// Batch is what one read of a link brought: datagrams, or whole messages of a
// stream.
type Batch struct {
	Link int // number of the link

	from  []netip.Addr
	parts [][]byte
}

// Deliver takes what a link has received. A goroutine of the link calls it, never two
// of one link at a time, and reads on when it returns: whoever processes the batch in
// it saves handing it to another thread, which costs more than a small batch itself.
// Nothing of the batch is good afterwards. Once ended is closed the link waits for
// nothing but Deliver's return.
type Deliver func(b *Batch, ended <-chan struct{})

// Each calls f for every datagram with its sender's address, without port.
func (b *Batch) Each(f func(from netip.Addr, datagram []byte)) {
	for i, part := range b.parts {
		f(b.from[i], part)
	}
}

// Len is the number of datagrams.
func (b *Batch) Len() int { return len(b.parts) }

func (b *Batch) empty() { b.from, b.parts = b.from[:0], b.parts[:0] }

func (b *Batch) add(from netip.Addr, part []byte) {
	b.from = append(b.from, from)
	b.parts = append(b.parts, part)
}
