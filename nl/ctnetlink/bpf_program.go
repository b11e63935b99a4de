package ctnetlink

import (
	"ctbox/nl"
	"errors"
	"net/netip"

	"golang.org/x/net/bpf"
)

// program is a classic BPF program under construction. Jumps lead to labels
// that are placed later; since conditional jumps reach only 255 instructions,
// each is followed by an unconditional one that reaches anywhere.
type program struct {
	ins    []bpf.Instruction
	labels []int         // offset of each label, -1 until placed
	jumps  map[int]label // unconditional jumps to complete
}

type label int

func (p *program) add(i bpf.Instruction) { p.ins = append(p.ins, i) }

func (p *program) newLabel() label {
	p.labels = append(p.labels, -1)
	return label(len(p.labels) - 1)
}

// place makes l the next instruction.
func (p *program) place(l label) { p.labels[l] = len(p.ins) }

func (p *program) jump(to label) {
	if p.jumps == nil {
		p.jumps = map[int]label{}
	}
	p.jumps[len(p.ins)] = to
	p.add(bpf.Jump{})
}

// jumpIf jumps when the accumulator compares with val.
func (p *program) jumpIf(cond bpf.JumpTest, val uint32, to label) {
	p.add(bpf.JumpIf{Cond: cond, Val: val, SkipFalse: 1})
	p.jump(to)
}

// require rejects the event unless the accumulator is val.
func (p *program) require(val uint32) {
	p.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: val, SkipTrue: 1})
	p.add(bpfReject)
}

// maxProgram is BPF_MAXINSNS of linux/bpf_common.h.
const maxProgram = 4096

// ErrFilterTooLong is the error for an EventFilter with more items than the kernel accepts:
// more than maxProgram instructions, or than fit into net.core.optmem_max.
var ErrFilterTooLong = errors.New("event filter is too long for the kernel")

// link completes the jumps.
func (p *program) link() error {
	if len(p.ins) > maxProgram {
		return ErrFilterTooLong
	}
	for at, to := range p.jumps {
		p.ins[at] = bpf.Jump{Skip: uint32(p.labels[to] - at - 1)}
	}
	return nil
}

// nested loads the offset of a nested attribute into X, or goes to absent.
func (p *program) nested(absent label, path ...uint32) {
	p.add(bpf.LoadConstant{Dst: bpf.RegA, Val: nl.HeadersLen})
	for level, typ := range path {
		ext := bpf.ExtNetlinkAttrNested
		if level == 0 {
			ext = bpf.ExtNetlinkAttr
		}
		p.add(bpf.LoadConstant{Dst: bpf.RegX, Val: typ})
		p.add(bpf.LoadExtension{Num: ext})
		p.jumpIf(bpf.JumpEqual, 0, absent)
	}
	p.add(bpf.TAX{})
}

// prefix goes to match when the address in the attribute at X is in the prefix,
// and on otherwise.
func (p *program) prefix(prefix netip.Prefix, match label) {
	other := p.newLabel()
	addr := prefix.Masked().Addr().AsSlice()
	for word, bits := 0, prefix.Bits(); bits > 0; word, bits = word+1, bits-32 {
		mask := ^uint32(0)
		if bits < 32 {
			mask <<= 32 - bits
		}
		p.add(bpf.LoadIndirect{Off: uint32(nl.AttrHeaderLen + 4*word), Size: 4})
		p.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
		p.jumpIf(bpf.JumpNotEqual, be.Uint32(addr[4*word:]), other)
	}
	p.jump(match)
	p.place(other)
}

// anyIPv4 goes to match when the address in the attribute at X is in an IPv4 prefix of the
// list, and on otherwise. The kernel makes a dozen instructions of a load from the packet,
// and its optmem_max has room for 2,500 of them (20,480 bytes before Linux 6.8): the address
// is loaded once, masked once for each length of prefix, and compared by one instruction.
func (p *program) anyIPv4(list []netip.Prefix, match label) {
	byBits := [33][]uint32{}
	lengths := 0
	for _, prefix := range list {
		if !prefix.Addr().Is4() {
			continue
		}
		if byBits[prefix.Bits()] == nil {
			lengths++
		}
		byBits[prefix.Bits()] = append(byBits[prefix.Bits()], be.Uint32(prefix.Masked().Addr().AsSlice()))
	}
	if lengths == 0 {
		return
	}
	p.add(bpf.LoadIndirect{Off: nl.AttrHeaderLen, Size: 4})
	p.add(bpf.StoreScratch{Src: bpf.RegA})
	for bits, addrs := range byBits {
		if addrs == nil {
			continue
		}
		p.add(bpf.LoadScratch{Dst: bpf.RegA})
		if bits < 32 {
			p.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^(^uint32(0) >> bits)})
		}
		for _, addr := range addrs {
			p.jumpIf(bpf.JumpEqual, addr, match)
		}
	}
}

// anyIPv6 is anyIPv4 for IPv6 prefixes.
func (p *program) anyIPv6(list []netip.Prefix, match label) {
	loaded := false
	for _, prefix := range list {
		if prefix.Addr().Is4() {
			continue
		}
		if !loaded {
			for word := range 4 {
				p.add(bpf.LoadIndirect{Off: uint32(nl.AttrHeaderLen + 4*word), Size: 4})
				p.add(bpf.StoreScratch{Src: bpf.RegA, N: word})
			}
			loaded = true
		}
		addr := prefix.Masked().Addr().AsSlice()
		var test []bpf.Instruction
		for word, bits := 0, prefix.Bits(); bits > 0; word, bits = word+1, bits-32 {
			test = append(test, bpf.LoadScratch{Dst: bpf.RegA, N: word})
			if bits < 32 {
				test = append(test, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^(^uint32(0) >> bits)})
			}
			test = append(test, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: be.Uint32(addr[4*word:])})
		}
		for i, ins := range test {
			if jump, ok := ins.(bpf.JumpIf); ok {
				jump.SkipTrue = uint8(len(test) - i) // past the jump to match
				ins = jump
			}
			p.add(ins)
		}
		p.jump(match)
	}
}

// lists appends the tests of the filter's lists.
func (p *program) lists(f *EventFilter) {
	if f.Protos.Action != NoList {
		next, found := p.newLabel(), p.newLabel()
		p.nested(next, ctaTupleOrig, ctaTupleProto, ctaProtoNum)
		p.add(bpf.LoadIndirect{Off: nl.AttrHeaderLen, Size: 1})
		for _, proto := range f.Protos.Items {
			p.jumpIf(bpf.JumpEqual, uint32(proto), found)
		}
		p.decide(f.Protos.Action, found, next)
	}
	if f.Prefixes.Action != NoList {
		p.prefixes(&f.Prefixes)
	}
	if f.States.Action != NoList {
		next, found := p.newLabel(), p.newLabel()
		// The message's low byte: destroy events pass with any state.
		p.add(bpf.LoadAbsolute{Off: messageByte(), Size: 1})
		p.jumpIf(bpf.JumpEqual, uint32(TypeFlowDelete)&0xff, next)
		p.nested(next, ctaProtoinfo, ctaProtoinfoTCP, ctaTCPState)
		p.add(bpf.LoadIndirect{Off: nl.AttrHeaderLen, Size: 1})
		for _, state := range f.States.Items {
			p.jumpIf(bpf.JumpEqual, uint32(state), found)
		}
		p.decide(f.States.Action, found, next)
	}
}

// decide ends a list: an event that did not jump to found is not on it.
func (p *program) decide(action ListAction, found, next label) {
	if action == Accept {
		p.add(bpfReject)
		p.place(found)
	} else {
		p.jump(next)
		p.place(found)
		p.add(bpfReject)
	}
	p.place(next)
}

// prefixes tests the sources of both directions against the list. An event with
// neither source passes.
func (p *program) prefixes(l *List[netip.Prefix]) {
	next, found := p.newLabel(), p.newLabel()
	for _, tuple := range [...]uint32{ctaTupleOrig, ctaTupleReply} {
		notV4, done := p.newLabel(), p.newLabel()
		p.nested(notV4, tuple, ctaTupleIP, ctaIPv4Src)
		p.anyIPv4(l.Items, found)
		p.jump(done)
		p.place(notV4)
		absent := next
		if tuple == ctaTupleReply {
			absent = done
		}
		p.nested(absent, tuple, ctaTupleIP, ctaIPv6Src)
		p.anyIPv6(l.Items, found)
		p.place(done)
	}
	p.decide(l.Action, found, next)
}

// messageByte returns the offset of the byte of nlmsg_type that has the message; the other
// byte has the subsystem.
func messageByte() uint32 {
	if littleEndian {
		return 4
	}
	return 5
}
