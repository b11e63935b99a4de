package wire

// Packer collects messages into datagrams as full as a capacity allows. The
// datagrams lie one after the other in one buffer, so that a batch of them can
// be sent with one system call, and over TCP with one write.
//
// A message that is longer than the capacity gets a datagram of its own, for the
// network layer to fragment.
type Packer struct {
	capacity int
	buf      []byte
	ends     []int // where the closed datagrams end in buf
}

// NewPacker returns a Packer for datagrams of up to capacity bytes: what the
// interface's MTU leaves after the IP and transport headers. It must be positive.
func NewPacker(capacity int) *Packer { return &Packer{capacity: capacity} }

// SetCapacity changes the capacity for the messages to come, as when the link or
// its MTU changes. Datagrams that are already closed stay as they are.
func (p *Packer) SetCapacity(capacity int) { p.capacity = capacity }

// Buffer returns the buffer to which the caller appends exactly one message before it
// passes the buffer to Add.
func (p *Packer) Buffer() []byte { return p.buf }

// Add takes back the buffer that Buffer returned, one message longer, and starts a new
// datagram with that message where the last datagram cannot hold it. A buffer without a
// new message changes nothing.
func (p *Packer) Add(buf []byte) {
	start := len(p.buf)
	p.buf = buf
	if open := p.openStart(); start > open && len(buf)-open > p.capacity {
		p.ends = append(p.ends, start)
	}
}

// AddWhole is Add for a whole datagram of version 2, which shares none with other messages.
func (p *Packer) AddWhole(buf []byte) {
	start := len(p.buf)
	p.buf = buf
	if len(buf) == start {
		return
	}
	if start > p.openStart() {
		p.ends = append(p.ends, start)
	}
	p.ends = append(p.ends, len(buf))
}

// openStart returns the offset of the datagram that is still open.
func (p *Packer) openStart() int {
	if n := len(p.ends); n > 0 {
		return p.ends[n-1]
	}
	return 0
}

// Datagrams returns the number of datagrams, including the last, which is still open.
func (p *Packer) Datagrams() int {
	if len(p.buf) > p.openStart() {
		return len(p.ends) + 1
	}
	return len(p.ends)
}

// Datagram returns datagram i in [0, Datagrams()), valid until Reset.
func (p *Packer) Datagram(i int) []byte {
	start, end := 0, len(p.buf)
	if i > 0 {
		start = p.ends[i-1]
	}
	if i < len(p.ends) {
		end = p.ends[i]
	}
	return p.buf[start:end:end]
}

// Bytes returns all messages as one run of bytes, for a stream, valid until Reset.
func (p *Packer) Bytes() []byte { return p.buf }

// Reset empties the Packer and keeps its memory.
func (p *Packer) Reset() {
	p.buf = p.buf[:0]
	p.ends = p.ends[:0]
}
