package proto

// Handful is how many entries one bulk may remove without being asked for again. More
// are the peer's restart, or marks that are not the peer's.
const Handful = 16

// Sweep decides what becomes of entries that a complete bulk has left out.
type Sweep struct {
	doubted   bool // the last complete bulk left out too much to be believed at once
	announces bool // the peer announces how many entries it has told (wire.Notice)
	waiting   bool // for that number
	left      int  // entries that the bulk left out
}

// SweepVerdict is what is to be done about them.
type SweepVerdict uint8

// The verdicts.
const (
	Keep   SweepVerdict = iota // nothing, for now
	Remove                     // they are gone at the peer
	Ask                        // keep them, and ask the peer for everything again
)

// Begin is called when a bulk begins.
func (s *Sweep) Begin() { s.waiting = false }

// Judge is called when a bulk is complete. left is how many entries it left out, and
// unasked that it came with BulkUnasked: what nobody expected removes nothing.
func (s *Sweep) Judge(left int, unasked bool) SweepVerdict {
	s.left = left
	switch {
	case left == 0:
		s.doubted = false
		return Keep
	case unasked || left > Handful && !s.doubted:
		s.doubted = true
		return Ask
	case left > Handful && s.announces:
		s.waiting = true
		return Keep
	}
	s.doubted = false
	return Remove
}

// Announced is called when the peer says how many entries it has told. here is how many
// there are, with those that the last bulk left out.
func (s *Sweep) Announced(announced, here int) SweepVerdict {
	s.announces = true
	if !s.waiting {
		return Keep
	}
	s.waiting, s.doubted = false, false
	if 2*(here-announced) > s.left { // it is nearer to the number without them
		return Remove
	}
	return Keep
}

// Waiting reports that the next announcement decides.
func (s *Sweep) Waiting() bool { return s.waiting }

// Reset forgets the peer, which has started: its bulks are others.
func (s *Sweep) Reset() { *s = Sweep{} }
