package conntrack

import (
	"math"
	"os"
	"strings"

	"ctbox/internal/protofile"
	"ctbox/nl/ctnetlink"
)

// setProto resolves a protocol: one with options by its name, whatever the
// case; any that protocols(5) names, then without options; a number.
func (p *Parser) setProto(_ *option, arg string, _ bool) error {
	index := noProtocol
	number, ok := uint8(0), false
	for i := range protocols {
		if strings.EqualFold(arg, protocols[i].name) {
			index, number, ok = i, protocols[i].number, true
		}
	}
	if !ok {
		number, ok = p.protocolNamed(arg)
	}
	if !ok {
		var v uint64
		if v, ok = wholeNumber(arg, math.MaxUint8); ok {
			number = uint8(v)
			index = protocolNumbered(number)
		}
	}
	if !ok {
		return usage("`" + arg + "' unsupported protocol")
	}
	if err := p.switchProtocol(index); err != nil {
		return err
	}
	p.cmd.HelpProto = unknownProtocol
	if index != noProtocol {
		p.cmd.HelpProto = protocols[index].name
		p.scan.Add(protocolSets()[index])
	}
	p.cmd.Flow.Orig.Proto = number
	p.cmd.Flow.Orig.Has |= ctnetlink.TupleProto
	return nil
}

func protocolNumbered(number uint8) int {
	for i := range protocols {
		if protocols[i].number == number {
			return i
		}
	}
	return noProtocol
}

// protocolNamed looks a name or alias up in protocols(5).
func (p *Parser) protocolNamed(name string) (uint8, bool) {
	// Load files are full of numbers, and none is a protocol's name; but "3pc" is.
	if _, number := wholeNumber(name, math.MaxUint64); number || name == "" {
		return 0, false
	}
	if p.protocolNames == nil {
		// Without the file there are no names, as for getprotobyname(3).
		text, _ := os.ReadFile(p.ProtocolsFile)
		p.protocolNames = protofile.Parse(string(text))
	}
	number, ok := p.protocolNames[name]
	return number, ok
}
