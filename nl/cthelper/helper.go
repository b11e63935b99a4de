package cthelper

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
)

// Attribute numbers (enum nfnl_cthelper_type and its nests).
const (
	attrName        = 1
	attrTuple       = 2
	attrQueueNum    = 3
	attrPolicy      = 4
	attrPrivDataLen = 5
	attrStatus      = 6

	tupleL3Proto = 1
	tupleL4Proto = 2

	policySetNum = 1
	policySet1   = 2 // up to policySet1+PoliciesMax-1

	policyName          = 1
	policyExpectMax     = 2
	policyExpectTimeout = 3
)

const (
	// NameMax is the longest name of a helper in bytes, without its final NUL.
	NameMax = 15
	// PoliciesMax is the number of policies that a helper can have.
	PoliciesMax = 4
)

// Values of Helper.Status (NFCT_HELPER_STATUS_*).
const (
	Disabled = 0 // packets are accepted without being queued
	Enabled  = 1
)

// Attr is a bit of Helper.Has.
type Attr uint8

// The attributes of a Helper.
const (
	HasName Attr = 1 << iota
	HasTuple
	HasQueue
	HasPolicies
	HasPrivDataLen
	HasStatus
)

// Helper is one user-space helper. Every attribute may be absent. All numbers
// are big-endian on the wire and in host order here.
type Helper struct {
	Has         Attr
	Name        string // at most NameMax bytes
	Family      uint16 // nl.FamilyIPv4 or nl.FamilyIPv6; with Proto it is HasTuple
	Proto       uint8  // layer-4 protocol number
	Queue       uint32 // number of the NFQUEUE, looked up in the packet's network namespace
	Policies    []Policy
	PrivDataLen uint32 // bytes that the kernel keeps for the helper with every flow
	Status      uint32 // Disabled or Enabled
}

// Policy limits the expectations of one class, by its place in
// Helper.Policies.
type Policy struct {
	Name          string // at most NameMax bytes
	ExpectMax     uint32 // of one flow at a time, at most 255; 0 is no limit of the policy
	ExpectTimeout uint32 // seconds
}

// Key names a helper. Without a Family it means all helpers of that name.
type Key struct {
	Name   string
	Family uint16 // 0: any, and Proto is not looked at
	Proto  uint8
}

func (k Key) helper() Helper {
	h := Helper{Has: HasName, Name: k.Name}
	if k.Family != 0 {
		h.Has |= HasTuple
		h.Family, h.Proto = k.Family, k.Proto
	}
	return h
}

var errTooManyPolicies = errors.New("more than 4 policies")

// Append appends h's attributes in the order that conntrack-tools sends them,
// only those present.
func (h *Helper) Append(dst []byte) ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	if h.Has&HasName != 0 {
		e.String(attrName, h.Name)
	}
	if h.Has&HasQueue != 0 {
		e.Uint32(attrQueueNum, h.Queue)
	}
	if h.Has&HasPrivDataLen != 0 {
		e.Uint32(attrPrivDataLen, h.PrivDataLen)
	}
	if h.Has&HasTuple != 0 {
		e.Nested(attrTuple, func(e *netlink.AttributeEncoder) error {
			e.Uint16(tupleL3Proto, h.Family)
			e.Uint8(tupleL4Proto, h.Proto)
			return nil
		})
	}
	if h.Has&HasPolicies != 0 {
		e.Nested(attrPolicy, func(e *netlink.AttributeEncoder) error {
			if len(h.Policies) > PoliciesMax {
				return errTooManyPolicies
			}
			for i, p := range h.Policies {
				e.Nested(policySet1+uint16(i), p.encode)
			}
			e.Uint32(policySetNum, uint32(len(h.Policies)))
			return nil
		})
	}
	if h.Has&HasStatus != 0 {
		e.Uint32(attrStatus, h.Status)
	}
	b, err := e.Encode()
	if err != nil {
		return dst, fmt.Errorf("encode helper: %w", err)
	}
	return append(dst, b...), nil
}

func (p *Policy) encode(e *netlink.AttributeEncoder) error {
	e.String(policyName, p.Name)
	e.Uint32(policyExpectMax, p.ExpectMax)
	e.Uint32(policyExpectTimeout, p.ExpectTimeout)
	return nil
}

// Decode sets h to the helper in the attributes b. Attributes it
// does not know are skipped. The policies are in the order of their classes.
func (h *Helper) Decode(b []byte) error {
	*h = Helper{}
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return fmt.Errorf("decode helper: %w", err)
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch d.Type() {
		case attrName:
			h.Name, h.Has = d.String(), h.Has|HasName
		case attrTuple:
			d.Nested(h.decodeTuple)
		case attrQueueNum:
			h.Queue, h.Has = d.Uint32(), h.Has|HasQueue
		case attrPolicy:
			d.Nested(h.decodePolicies)
		case attrPrivDataLen:
			h.PrivDataLen, h.Has = d.Uint32(), h.Has|HasPrivDataLen
		case attrStatus:
			h.Status, h.Has = d.Uint32(), h.Has|HasStatus
		}
	}
	if err := d.Err(); err != nil {
		return fmt.Errorf("decode helper: %w", err)
	}
	return nil
}

func (h *Helper) decodeTuple(d *netlink.AttributeDecoder) error {
	h.Has |= HasTuple
	for d.Next() {
		switch d.Type() {
		case tupleL3Proto:
			h.Family = d.Uint16()
		case tupleL4Proto:
			h.Proto = d.Uint8()
		}
	}
	return nil
}

// decodePolicies takes as many sets as there are; their number, which the
// kernel sends too, says nothing more.
func (h *Helper) decodePolicies(d *netlink.AttributeDecoder) error {
	h.Has |= HasPolicies
	var sets [PoliciesMax]Policy
	n := 0
	for d.Next() {
		class := int(d.Type()) - policySet1
		if class < 0 || class >= PoliciesMax {
			continue
		}
		d.Nested(sets[class].decode)
		n = max(n, class+1)
	}
	h.Policies = append([]Policy(nil), sets[:n]...)
	return nil
}

func (p *Policy) decode(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case policyName:
			p.Name = d.String()
		case policyExpectMax:
			p.ExpectMax = d.Uint32()
		case policyExpectTimeout:
			p.ExpectTimeout = d.Uint32()
		}
	}
	return nil
}
