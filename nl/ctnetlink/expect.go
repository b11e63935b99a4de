package ctnetlink

// ExpectAttr is a bit of Expect.Has.
type ExpectAttr uint16

// Attributes of an expectation besides its tuples.
const (
	ExpectHasTimeout ExpectAttr = 1 << iota
	ExpectHasID
	ExpectHasZone
	ExpectHasFlags
	ExpectHasClass
	ExpectHasHelper
	ExpectHasNAT
	ExpectHasFn
)

// Bits of Expect.Flags (NF_CT_EXPECT_*).
const (
	ExpectPermanent = 0x1
	ExpectInactive  = 0x2
	ExpectUserspace = 0x4
)

// FnLen is the room for an expectation function's name, NUL included. The
// kernel's longest today is "nat-follow-master".
const FnLen = 32

// Expect is one expectation: a flow that a helper has announced. Like a Flow it
// is a value with presence bits, reused by the decoder; integers are in host
// order.
type Expect struct {
	Has ExpectAttr

	Master Tuple // original tuple of the flow whose helper made it
	Tuple  Tuple // the expected tuple, in the bits that Mask sets
	Mask   Tuple

	Timeout uint32 // seconds left
	ID      uint32
	Flags   uint32
	Class   uint32 // number of the helper's policy
	Zone    uint16
	Helper  Name

	// NATTuple and NATDir are the translation of the expected flow: the original address
	// and port, and their direction (0 original, 1 reply).
	NATTuple Tuple
	NATDir   uint32
	Fn       [FnLen]byte // what the kernel runs on arrival; ends at the first NUL
}

// Reset makes e empty.
func (e *Expect) Reset() { *e = Expect{} }

// FnBytes returns the text of Fn as a part of e itself.
func (e *Expect) FnBytes() []byte {
	for i, c := range e.Fn {
		if c == 0 {
			return e.Fn[:i]
		}
	}
	return e.Fn[:]
}

// SetFn sets Fn to the text s, cut to what it holds.
func (e *Expect) SetFn(s string) {
	e.Fn = [FnLen]byte{}
	copy(e.Fn[:FnLen-1], s)
}
