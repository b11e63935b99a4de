package conntrack

import (
	"math/bits"
	"slices"
	"sync"
)

// ruleMasks are an option table's rules for one column as sets of positions.
type ruleMasks struct{ mandatory, refused uint64 }

// genericRules and protocolRules are the tables' rules by column.
var (
	genericRules  = makeGenericRules()
	protocolRules = sync.OnceValue(makeProtocolRules) // most command lines name no protocol
)

func makeGenericRules() (rules [columns]ruleMasks) {
	for i, o := range options {
		col := 0
		for _, c := range []byte(o.rules) {
			if c == ' ' {
				continue
			}
			rules[col].add(i, c)
			col++
		}
	}
	rules[colTop] = rules[colList]
	for i, o := range options {
		switch o.bit {
		case OptZero, OptOutput: // -o json is let through before
			rules[colTop].refused |= 1 << i
		case OptRefresh, OptKey:
			rules[colTop].refused &^= 1 << i
		}
	}
	return rules
}

func makeProtocolRules() *[len(protocols)][protoColumns]ruleMasks {
	rules := new([len(protocols)][protoColumns]ruleMasks)
	for n := range protocols {
		for i, o := range protocols[n].options {
			for col, c := range []byte(o.rules) {
				rules[n][col].add(i, c)
			}
		}
	}
	return rules
}

func (r *ruleMasks) add(position int, rule byte) {
	switch rule {
	case 'M':
		r.mandatory |= 1 << position
	case '.':
		r.refused |= 1 << position
	}
}

// firstViolation returns the position of the first option whose rule given
// violates, and whether it is missing rather than refused.
func (r *ruleMasks) firstViolation(given uint64) (position int, missing, violated bool) {
	bad := r.mandatory&^given | r.refused&given
	if bad == 0 {
		return 0, false, false
	}
	position = bits.TrailingZeros64(bad)
	return position, r.mandatory&(1<<position) != 0, true
}

func illegal(name string) error {
	return usage("Illegal option `--" + name + "' with this command")
}

func violation(name string, missing bool) error {
	if missing {
		return usage("You need to supply the `--" + name + "' option for this command")
	}
	return illegal(name)
}

// genericPairs is the rule for -I, -A and -G on the conntrack table.
var genericPairs = [2]pair{
	{uint64(OptSrc | OptDst), "you have to specify `--src' and `--dst'"},
	{uint64(OptReplySrc | OptReplyDst), "you have to specify `--reply-src' and `--reply-dst'"},
}

// checkPairs checks that given has all of the first or all of the second pair.
func checkPairs(pairs *[2]pair, given uint64) error {
	first, second := pairs[0].bits&given, pairs[1].bits&given
	switch {
	case first == pairs[0].bits || second == pairs[1].bits:
		return nil
	case first == 0 && second != 0:
		return usage(pairs[1].missing)
	default:
		return usage(pairs[0].missing)
	}
}

// checkRules looks for the first rule that the line violates, in the order of
// conntrack-tools.
func (p *Parser) checkRules() error {
	c := p.cmd
	if c.Has(OptAnyNAT) && c.Has(OptSrcNAT|OptDstNAT) {
		return usage("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'")
	}
	if p.command == nil {
		if c.Given != 0 {
			return illegal(options[bits.TrailingZeros64(uint64(c.Given))].name)
		}
		return nil
	}
	col := p.command.column
	if c.Table == TableExpect {
		col = p.command.expectColumn
	}
	given := c.Given
	if c.Output == OutJSON && (c.Op == OpCount || c.Op == OpStats || c.Op == OpTop) {
		// Our own; the other outputs have no form for numbers.
		given &^= OptOutput
	}
	if i, missing, bad := genericRules[col].firstViolation(uint64(given)); bad {
		return violation(options[i].name, missing)
	}
	if wantsPairs(col) {
		if err := checkPairs(&genericPairs, uint64(c.Given)); err != nil {
			return err
		}
	}
	if err := p.checkProtocol(col); err != nil {
		return err
	}
	return p.checkConflicts()
}

func wantsPairs(col int) bool { return col == colCreate || col == colAdd || col == colGet }

// protoColumn maps the columns of commands that can have -p to those of the
// protocols' rules; -h takes any option.
func protoColumn(col int) (int, bool) {
	switch col {
	case colList, colDelete, colEvents, colTop:
		return protoColFilter, true
	case colUpdate:
		return protoColUpdate, true
	case colCreate, colAdd:
		return protoColCreate, true
	case colGet:
		return protoColGet, true
	case colExpectCreate:
		return protoColExpectCreate, true
	case colExpectDelete, colExpectGet:
		return protoColExpectOne, true
	}
	return 0, false
}

func (p *Parser) checkProtocol(col int) error {
	protoCol, ok := protoColumn(col)
	if !ok || p.proto == noProtocol {
		return nil
	}
	proto := &protocols[p.proto]
	if p.loading && protoCol == protoColCreate && p.protoOpts == 0 && slices.Contains(lossy[:], proto.number) {
		return nil // so -o save writes a flow of a kernel that keeps no ports of it
	}
	if i, missing, bad := protocolRules()[p.proto][protoCol].firstViolation(p.protoOpts); bad {
		return violation(proto.options[i].long[0], missing)
	}
	if wantsPairs(col) && proto.pairs[0].bits != 0 {
		return checkPairs(&proto.pairs, p.protoOpts)
	}
	return nil
}

// zeroConflicts are the options that -z cannot be combined with, because the
// kernel zeroes the counters of every flow that it lists.
const zeroConflicts = OptSrc | OptDst | OptReplySrc | OptReplyDst | OptProto | OptMark |
	OptSecmark | OptStatus | OptZone | OptLabel | OptOrigZone | OptReplyZone

// checkConflicts checks what options say about each other.
func (p *Parser) checkConflicts() error {
	c := p.cmd
	if c.Table == TableExpect {
		return nil
	}
	// A filter that is dropped with a warning leaves more flows to a command that
	// changes them than the user meant.
	if c.Op == OpDelete && p.dropped != "" || c.Op == OpUpdate && p.dropped == "--nat-range" {
		return usage("`" + p.dropped + "' is no filter: use --src-nat or --dst-nat")
	}
	if c.Table == TableConntrack && c.Has(OptZero) && c.Has(zeroConflicts) {
		return usage("Can't use -z with filtering parameters")
	}
	switch c.Op {
	case OpList, OpDelete, OpUpdate, OpEvents, OpTop:
		if c.Has(OptMaskSrc) && !c.Has(OptSrc) {
			return usage("Can't use --mask-src without --src")
		}
		if c.Has(OptMaskDst) && !c.Has(OptDst) {
			return usage("Can't use --mask-dst without --dst")
		}
	}
	return nil
}
