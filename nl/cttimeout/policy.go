package cttimeout

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
)

// Attribute numbers (enum ctattr_timeout).
const (
	attrName    = 1
	attrL3Proto = 2
	attrL4Proto = 3
	attrData    = 4
	attrUse     = 5
)

// NameMax is the longest name of a policy in bytes (CTNL_TIMEOUT_NAME_MAX
// without its final NUL).
const NameMax = 31

// Attr is a bit of Policy.Has.
type Attr uint8

// The attributes of a Policy besides its timeouts.
const (
	HasName Attr = 1 << iota
	HasFamily
	HasProto
	HasUse
)

// Policy is one timeout policy. Every attribute may be absent: defaults have no
// name, requests no use count.
type Policy struct {
	Has      Attr
	Name     string // at most NameMax bytes; may be empty
	Family   uint16 // nl.FamilyIPv4 or nl.FamilyIPv6; 16 bits on the wire, big-endian
	Proto    uint8  // layer-4 protocol number; Generic for all others
	Use      uint32 // references: 1 for the table and one for every rule; the kernel's own
	Timeouts Timeouts
}

// Timeouts are seconds by State. The zero value is empty.
type Timeouts struct {
	set     uint32 // bit n: state n is given
	seconds [stateMax + 1]uint32
}

// Set gives the timeout of a state in seconds. The kernel keeps it in clock
// ticks of 32 bits and does not notice an overflow. State 0 is none, and a state
// beyond the 31 that the type has room for (the kernel's protocols have at most
// 11) is ignored.
func (t *Timeouts) Set(s State, seconds uint32) {
	if s > 0 && s <= stateMax {
		t.set |= 1 << s
		t.seconds[s] = seconds
	}
}

// Get returns the timeout of a state in seconds and whether it is given.
func (t *Timeouts) Get(s State) (seconds uint32, ok bool) {
	if s > stateMax || t.set&(1<<s) == 0 {
		return 0, false
	}
	return t.seconds[s], true
}

// Append appends p's attributes in the order that conntrack-tools sends them.
// Only those present are written, and never the use count, which requests do
// not have.
func (p *Policy) Append(dst []byte) ([]byte, error) {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	if p.Has&HasName != 0 {
		e.String(attrName, p.Name)
	}
	if p.Has&HasFamily != 0 {
		e.Uint16(attrL3Proto, p.Family)
	}
	if p.Has&HasProto != 0 {
		e.Uint8(attrL4Proto, p.Proto)
	}
	if p.Timeouts.set != 0 {
		e.Nested(attrData, func(e *netlink.AttributeEncoder) error {
			for s := State(1); s <= stateMax; s++ {
				if v, ok := p.Timeouts.Get(s); ok {
					e.Uint32(uint16(s), v)
				}
			}
			return nil
		})
	}
	b, err := e.Encode()
	if err != nil {
		return dst, fmt.Errorf("encode timeout policy: %w", err)
	}
	return append(dst, b...), nil
}

// Decode sets p to the policy in the attributes b. Attributes it
// does not know are skipped.
func (p *Policy) Decode(b []byte) error {
	*p = Policy{}
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return fmt.Errorf("decode timeout policy: %w", err)
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch d.Type() {
		case attrName:
			p.Name, p.Has = d.String(), p.Has|HasName
		case attrL3Proto:
			p.Family, p.Has = d.Uint16(), p.Has|HasFamily
		case attrL4Proto:
			p.Proto, p.Has = d.Uint8(), p.Has|HasProto
		case attrUse:
			p.Use, p.Has = d.Uint32(), p.Has|HasUse
		case attrData:
			d.Nested(p.Timeouts.decode)
		}
	}
	if err := d.Err(); err != nil {
		return fmt.Errorf("decode timeout policy: %w", err)
	}
	return nil
}

func (t *Timeouts) decode(d *netlink.AttributeDecoder) error {
	for d.Next() {
		if d.Type() <= stateMax {
			t.Set(State(d.Type()), d.Uint32())
		}
	}
	return nil
}
