package proto

// Handful is the most entries that one bulk may remove without a second bulk to confirm
// it. More mean that the peer has restarted, or that the marks are forged.
const Handful = 16

// Sweep decides whether entries that a complete bulk has left out are removed.
type Sweep struct {
	doubted   bool // the last complete bulk left out too many entries to be credible at once
	announces bool // the peer announces how many entries it has sent (wire.Notice)
	waiting   bool // the next such number decides
	left      int  // entries that the bulk left out
}

// SweepVerdict is what the owner does with those entries.
type SweepVerdict uint8

// The verdicts.
const (
	Keep   SweepVerdict = iota // keep them for now
	Remove                     // remove them: they are gone at the peer
	Ask                        // keep them, and request a resync
)

// Begin records that a bulk begins.
func (s *Sweep) Begin() { s.waiting = false }

// Judge decides at the end of a bulk. left is how many entries the bulk left out. unasked
// is set if it came with BulkUnasked: an unexpected bulk removes nothing.
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

// Announced decides when the peer announces how many entries it has sent. here is how many
// the external caches hold, including those that the last bulk left out.
func (s *Sweep) Announced(announced, here int) SweepVerdict {
	s.announces = true
	if !s.waiting {
		return Keep
	}
	s.waiting, s.doubted = false, false
	if 2*(here-announced) > s.left { // announced is nearer to the number without them
		return Remove
	}
	return Keep
}

// Waiting reports whether the next announcement decides.
func (s *Sweep) Waiting() bool { return s.waiting }

// Reset discards the state when the peer has started again.
func (s *Sweep) Reset() { *s = Sweep{} }
