package ctnetlink

import "ctbox/nl"

// Decode sets e to the expectation in b, as Flow.Decode does for flows.
func (e *Expect) Decode(b []byte) error {
	e.Reset()
	a := nl.Attrs{Rest: b}
	for a.Next() {
		v := a.Value
		var err error
		switch a.Type {
		case ctaExpectMaster:
			err = e.Master.decode(v, "master tuple")
		case ctaExpectTuple:
			err = e.Tuple.decode(v, "expected tuple")
		case ctaExpectMask:
			err = e.Mask.decode(v, "mask tuple")
		case ctaExpectTimeout, ctaExpectID, ctaExpectFlags, ctaExpectClass:
			if len(v) < 4 {
				return a.Short("expectation")
			}
			e.setU32(a.Type, be.Uint32(v))
		case ctaExpectZone:
			if len(v) < 2 {
				return a.Short("expectation")
			}
			e.Zone = be.Uint16(v)
			e.Has |= ExpectHasZone
		case ctaExpectHelpName:
			e.Helper = Name{}
			copy(e.Helper[:NameLen-1], v)
			e.Has |= ExpectHasHelper
		case ctaExpectNAT:
			err = e.decodeNAT(v)
		case ctaExpectFn:
			e.Fn = [FnLen]byte{}
			copy(e.Fn[:FnLen-1], v)
			e.Has |= ExpectHasFn
		}
		if err != nil {
			return err
		}
	}
	return a.End("expectation")
}

func (e *Expect) setU32(typ uint16, v uint32) {
	switch typ {
	case ctaExpectTimeout:
		e.Timeout = v
		e.Has |= ExpectHasTimeout
	case ctaExpectID:
		e.ID = v
		e.Has |= ExpectHasID
	case ctaExpectFlags:
		e.Flags = v
		e.Has |= ExpectHasFlags
	case ctaExpectClass:
		e.Class = v
		e.Has |= ExpectHasClass
	}
}

func (e *Expect) decodeNAT(v []byte) error {
	a := nl.Attrs{Rest: v}
	for a.Next() {
		switch a.Type {
		case ctaExpectNATDir:
			if len(a.Value) < 4 {
				return a.Short("expectation NAT")
			}
			e.NATDir = be.Uint32(a.Value)
		case ctaExpectNATTuple:
			if err := e.NATTuple.decode(a.Value, "expectation NAT"); err != nil {
				return err
			}
		}
	}
	e.Has |= ExpectHasNAT
	return a.End("expectation NAT")
}
