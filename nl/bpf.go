package nl

import (
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
)

// EventFilter is what the kernel can decide about an event before it is queued:
// a classic BPF program on the socket. Zero fields don't filter. An event that
// lacks the attribute in question passes, so the receiver must check again; what
// the filter drops could not have matched. Expectation events always pass.
type EventFilter struct {
	Family uint8
	Proto  uint8 // 0 does not filter; protocol 0 is no flow's
	// Src and Dst are prefixes of the original direction's addresses. A flow of
	// the other family is dropped.
	Src, Dst netip.Prefix
}

// Empty reports whether the filter lets everything pass.
func (f *EventFilter) Empty() bool {
	return f.Family == FamilyUnspec && f.Proto == 0 && !f.Src.IsValid() && !f.Dst.IsValid()
}

// assemble returns the program. Offsets are those of the datagram: netlink
// header, nfgenmsg, attributes.
func (f *EventFilter) assemble() ([]bpf.RawInstruction, error) {
	family := f.Family
	for _, p := range [...]netip.Prefix{f.Src, f.Dst} {
		if p.IsValid() && p.Addr().Is4() {
			family = FamilyIPv4
		} else if p.IsValid() {
			family = FamilyIPv6
		}
	}
	p := program{}
	// The type's high byte is the subsystem; the type is in the machine's order
	// and loads are big-endian.
	subsystem := uint32(5)
	if !littleEndian {
		subsystem = 4
	}
	p.add(bpf.LoadAbsolute{Off: subsystem, Size: 1})
	p.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: subsysConntrack, SkipTrue: 1})
	p.add(bpfAccept)
	if family != FamilyUnspec {
		p.add(bpf.LoadAbsolute{Off: nlmsgHeader, Size: 1})
		p.require(uint32(family))
	}
	if f.Proto != 0 {
		p.nested(ctaTupleOrig, ctaTupleProto, ctaProtoNum)
		p.add(bpf.LoadIndirect{Off: attrHeader, Size: 1})
		p.require(uint32(f.Proto))
		p.endNested()
	}
	v4 := family == FamilyIPv4
	for _, side := range [...]struct {
		prefix netip.Prefix
		attr   uint32
	}{{f.Src, choose(v4, ctaIPv4Src, ctaIPv6Src)}, {f.Dst, choose(v4, ctaIPv4Dst, ctaIPv6Dst)}} {
		if !side.prefix.IsValid() || side.prefix.Bits() == 0 {
			continue
		}
		p.nested(ctaTupleOrig, ctaTupleIP, side.attr)
		addr := side.prefix.Masked().Addr().AsSlice()
		for word, bits := 0, side.prefix.Bits(); bits > 0; word, bits = word+1, bits-32 {
			mask := ^uint32(0)
			if bits < 32 {
				mask <<= 32 - bits
			}
			p.add(bpf.LoadIndirect{Off: uint32(attrHeader + 4*word), Size: 4})
			p.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
			p.require(be.Uint32(addr[4*word:]))
		}
		p.endNested()
	}
	p.add(bpfAccept)
	raw, err := bpf.Assemble(p.ins)
	if err != nil {
		return nil, fmt.Errorf("assemble event filter: %w", err)
	}
	return raw, nil
}

func choose(v4 bool, a, b uint32) uint32 {
	if v4 {
		return a
	}
	return b
}

var (
	bpfAccept = bpf.RetConstant{Val: 0xffffffff}
	bpfReject = bpf.RetConstant{Val: 0}
)

// program is a BPF program under construction. Every test that fails returns on
// the spot; only "attribute absent" jumps, to the end of its block.
type program struct {
	ins    []bpf.Instruction
	absent []int // jumps that endNested completes
}

func (p *program) add(i bpf.Instruction) { p.ins = append(p.ins, i) }

// require rejects the event unless the accumulator is val.
func (p *program) require(val uint32) {
	p.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: val, SkipTrue: 1})
	p.add(bpfReject)
}

// nested loads the offset of an attribute three levels deep into X. When a
// level is absent the program goes on behind the next endNested.
func (p *program) nested(path ...uint32) {
	p.add(bpf.LoadConstant{Dst: bpf.RegA, Val: headers})
	for level, typ := range path {
		ext := bpf.ExtNetlinkAttrNested
		if level == 0 {
			ext = bpf.ExtNetlinkAttr
		}
		p.add(bpf.LoadConstant{Dst: bpf.RegX, Val: typ})
		p.add(bpf.LoadExtension{Num: ext})
		p.absent = append(p.absent, len(p.ins))
		p.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0})
	}
	p.add(bpf.TAX{})
}

func (p *program) endNested() {
	for _, at := range p.absent {
		j := p.ins[at].(bpf.JumpIf)
		j.SkipTrue = uint8(len(p.ins) - at - 1)
		p.ins[at] = j
	}
	p.absent = p.absent[:0]
}
