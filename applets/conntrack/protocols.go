package conntrack

import (
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"ctbox/applets/internal/getopt"
	"ctbox/internal/nearest"
	"ctbox/internal/protofile"
	"ctbox/nl/ctnetlink"
)

// protocol declares the options that exist once -p has named it.
type protocol struct {
	name    string
	number  uint8
	options []protoOption
	// pairs are options of which, for -I, -A and -G, the first or the second pair must be
	// complete.
	pairs [2]pair
}

// protoOption declares one option of a protocol.
type protoOption struct {
	long []string // the first is the one in messages
	arg  string
	help string
	// rules has a letter for each of the protoColumns, with the meaning of option.rules.
	rules string
	apply func(p *Parser, o *protoOption, arg string) error
}

// Columns of a protocol option's rules.
const (
	protoColFilter       = iota // -L, -D, -E
	protoColUpdate              // -U
	protoColCreate              // -I, -A
	protoColGet                 // -G
	protoColExpectCreate        // -I expect
	protoColExpectOne           // -D expect, -G expect
	protoColumns
)

// pair is a set of options that must be given together.
type pair struct {
	bits    uint64 // by position in the table
	missing string // the message when the pair is incomplete
}

// protocols are the protocols with options, in the order of conntrack-tools.
var protocols = [...]protocol{
	{name: "tcp", number: ctnetlink.ProtoTCP, pairs: portPairs, options: slices.Concat(ports[:6], []protoOption{
		{[]string{"state"}, "STATE", "TCP state, such as ESTABLISHED", "ooMo..", setTCPState},
	}, ports[6:])},
	{name: "udp", number: ctnetlink.ProtoUDP, pairs: portPairs, options: ports},
	{name: "udplite", number: ctnetlink.ProtoUDPLite, pairs: portPairs, options: ports},
	{name: "sctp", number: ctnetlink.ProtoSCTP, pairs: portPairs, options: slices.Concat(ports[:6], []protoOption{
		{[]string{"state"}, "STATE", "SCTP state, such as ESTABLISHED", "ooMo..", setSCTPState},
	}, ports[6:], []protoOption{
		{[]string{"orig-vtag"}, "TAG", "verification tag of the original direction, its bytes in the machine's order", ".oMoM.", setDecimal(math.MaxUint32, setOrigVtag)},
		{[]string{"reply-vtag"}, "TAG", "verification tag of the reply direction, its bytes in the machine's order", ".oMoM.", setDecimal(math.MaxUint32, setReplyVtag)},
	})},
	{name: "dccp", number: ctnetlink.ProtoDCCP, pairs: dccpPairs, options: slices.Concat(ports[:6], []protoOption{
		{[]string{"state"}, "STATE", "DCCP state, such as OPEN", "ooMo..", setDCCPState},
	}, ports[6:], []protoOption{
		{[]string{"role"}, "ROLE", "role of the originator: client or server", "..M.M.", setDCCPRole},
	})},
	{name: "icmp", number: ctnetlink.ProtoICMP, options: icmpOptions("icmp")},
	{name: "icmpv6", number: ctnetlink.ProtoICMPv6, options: icmpOptions("icmpv6")},
	{name: "gre", number: ctnetlink.ProtoGRE, pairs: keyPairs, options: keys},
}

// unknownProtocol is the name of every protocol without options.
const unknownProtocol = "unknown"

const (
	firstPair  = 1<<0 | 1<<1
	secondPair = 1<<2 | 1<<3
)

// The messages are conntrack-tools', which names options that do not exist.
var (
	portPairs = [2]pair{
		{firstPair, "you have to specify `--sport' and `--dport'"},
		{secondPair, "you have to specify `--reply-src-port' and `--reply-dst-port'"},
	}
	dccpPairs = [2]pair{
		{firstPair, "you have to specify `--sport' and `--dport'"},
		{secondPair, "you have to specify `--reply-port-src' and `--report-port-dst'"},
	}
	keyPairs = [2]pair{
		{firstPair, "you have to specify `--srckey' and `--dstkey'"},
		{secondPair, "you have to specify `--reply-src-key' and `--reply-dst-key'"},
	}
)

var ports = []protoOption{
	{[]string{"sport", "orig-port-src"}, "PORT", "source port of the original direction", "oo33MM", setPort(orig, source)},
	{[]string{"dport", "orig-port-dst"}, "PORT", "destination port of the original direction", "oo33MM", setPort(orig, destination)},
	{[]string{"reply-port-src"}, "PORT", "source port of the reply direction", "oo33.M", setPort(reply, source)},
	{[]string{"reply-port-dst"}, "PORT", "destination port of the reply direction", "oo33.M", setPort(reply, destination)},
	{[]string{"mask-port-src"}, "PORT", "mask for the expected source port", "....M.", setPort(mask, source)},
	{[]string{"mask-port-dst"}, "PORT", "mask for the expected destination port", "....M.", setPort(mask, destination)},
	{[]string{"tuple-port-src"}, "PORT", "source port of the expected flow", "....M.", setPort(expected, source)},
	{[]string{"tuple-port-dst"}, "PORT", "destination port of the expected flow", "....M.", setPort(expected, destination)},
}

var keys = []protoOption{
	{[]string{"srckey", "orig-key-src"}, "KEY", "source key of the original direction", "oo33MM", setKey(orig, source)},
	{[]string{"dstkey", "orig-key-dst"}, "KEY", "destination key of the original direction", "oo33MM", setKey(orig, destination)},
	{[]string{"reply-key-src"}, "KEY", "source key of the reply direction", "oo33MM", setKey(reply, source)},
	{[]string{"reply-key-dst"}, "KEY", "destination key of the reply direction", "oo33MM", setKey(reply, destination)},
	{[]string{"mask-key-src"}, "KEY", "mask for the expected source key", "....M.", setKey(mask, source)},
	{[]string{"mask-key-dst"}, "KEY", "mask for the expected destination key", "....M.", setKey(mask, destination)},
	{[]string{"tuple-key-src"}, "KEY", "source key of the expected flow", "....M.", setKey(expected, source)},
	{[]string{"tuple-key-dst"}, "KEY", "destination key of the expected flow", "....M.", setKey(expected, destination)},
}

func icmpOptions(name string) []protoOption {
	return []protoOption{
		{[]string{name + "-type"}, "TYPE", "type, a number", "ooMM..", setDecimal(math.MaxUint8, setICMPType)},
		{[]string{name + "-code"}, "CODE", "code, a number", "ooMM..", setDecimal(math.MaxUint8, setICMPCode)},
		{[]string{name + "-id"}, "ID", "identifier", "oooo..", setDecimal(math.MaxUint16, setICMPID)},
	}
}

// protocolSets has the scanner's options of each protocol. They are made on first use,
// since most command lines name no protocol.
var protocolSets = sync.OnceValue(makeProtocolSets)

func makeProtocolSets() *[len(protocols)]*getopt.Set {
	sets := new([len(protocols)]*getopt.Set)
	for i := range protocols {
		var all []getopt.Option
		for j, o := range protocols[i].options {
			for _, long := range o.long {
				all = append(all, getopt.Option{Long: long, Kind: getopt.Required,
					Code: codeProtocol + i*protoStride + j})
			}
		}
		sets[i] = getopt.New(all)
	}
	return sets
}

// tupleRole is the tuple that an option sets.
type tupleRole uint8

const (
	orig tupleRole = iota
	reply
	mask
	expected
)

func (p *Parser) tuple(role tupleRole) *ctnetlink.Tuple {
	switch role {
	case orig:
		return &p.cmd.Flow.Orig
	case reply:
		return &p.cmd.Flow.Reply
	case mask:
		return &p.cmd.Expect.Mask
	default:
		return &p.cmd.Expect.Tuple
	}
}

// side is the end of a tuple that an option sets.
type side uint8

const (
	source side = iota
	destination
)

func setEnd(t *ctnetlink.Tuple, end side, v uint16) {
	if end == source {
		t.SrcPort = v
		t.Has |= ctnetlink.TupleSrcPort
		return
	}
	t.DstPort = v
	t.Has |= ctnetlink.TupleDstPort
}

// setPort reads a port: a decimal number or, except for a mask, the name of a service.
func setPort(role tupleRole, end side) func(*Parser, *protoOption, string) error {
	return func(p *Parser, o *protoOption, arg string) error {
		if line := p.inLine(); line != nil {
			if taken, err := line.setPortRange(role, end, arg); taken {
				return err
			}
		}
		v, ok := wholeDecimal(arg, math.MaxUint16)
		port := uint16(v)
		if !ok && role == mask {
			return badArgument(arg, "--"+o.long[0], "a number up to 65535")
		}
		if !ok {
			port, ok = p.service(arg)
		}
		if !ok {
			return badArgument(arg, "--"+o.long[0], "a port or a service of "+p.cmd.HelpProto)
		}
		setEnd(p.tuple(role), end, port)
		return nil
	}
}

// service looks a name up in services(5) for the protocol of -p.
func (p *Parser) service(name string) (uint16, bool) {
	if name == "" {
		return 0, false
	}
	if p.services == nil {
		text, err := os.ReadFile(p.ServicesFile)
		if err != nil {
			text = []byte(protofile.CommonServices)
		}
		p.services = protofile.ParseServices(string(text))
	}
	return p.services.Port(name, p.cmd.HelpProto)
}

// setKey reads a GRE key: decimal, octal or hexadecimal.
func setKey(role tupleRole, end side) func(*Parser, *protoOption, string) error {
	return func(p *Parser, o *protoOption, arg string) error {
		v, ok := wholeNumber(arg, math.MaxUint16)
		if !ok {
			return badArgument(arg, "--"+o.long[0], "a number up to 65535")
		}
		setEnd(p.tuple(role), end, uint16(v))
		return nil
	}
}

// setDecimal reads a decimal number up to most and hands it to set.
func setDecimal(most int64, set func(*ctnetlink.Flow, uint32)) func(*Parser, *protoOption, string) error {
	return func(p *Parser, o *protoOption, arg string) error {
		v, ok := wholeDecimal(arg, most)
		if !ok {
			return badArgument(arg, "--"+o.long[0], "a number up to "+strconv.FormatInt(most, 10))
		}
		set(&p.cmd.Flow, uint32(v))
		return nil
	}
}

func setICMPType(f *ctnetlink.Flow, v uint32) {
	f.Orig.ICMPType = uint8(v)
	f.Orig.Has |= ctnetlink.TupleICMPType
}

func setICMPCode(f *ctnetlink.Flow, v uint32) {
	f.Orig.ICMPCode = uint8(v)
	f.Orig.Has |= ctnetlink.TupleICMPCode
}

func setICMPID(f *ctnetlink.Flow, v uint32) {
	f.Orig.ICMPID = uint16(v)
	f.Orig.Has |= ctnetlink.TupleICMPID
}

func setTCPState(p *Parser, _ *protoOption, arg string) error {
	state, ok := ctnetlink.TCPStateNumber(arg)
	if !ok {
		return errUsage("unknown TCP state `"+arg+"'").meant(arg, ctnetlink.StateNames(ctnetlink.ProtoTCP), "states of tcp")
	}
	p.cmd.Flow.TCPState = state
	p.cmd.Flow.Has |= ctnetlink.HasTCPState
	return nil
}

// SCTP's HEARTBEAT states are printed but not accepted: the kernel no longer has them.
const lastSCTPState = 7

func setSCTPState(p *Parser, _ *protoOption, arg string) error {
	state, ok := ctnetlink.SCTPStateNumber(arg)
	if !ok || state > lastSCTPState {
		return errUsage("unknown SCTP state `"+arg+"'").meant(arg, ctnetlink.StateNames(ctnetlink.ProtoSCTP)[:lastSCTPState+1], "states of sctp")
	}
	p.cmd.Flow.SCTPState = state
	p.cmd.Flow.Has |= ctnetlink.HasSCTPState
	return nil
}

func setOrigVtag(f *ctnetlink.Flow, v uint32) {
	f.SCTPVtagOrig = ctnetlink.CommandVtag(v)
	f.Has |= ctnetlink.HasSCTPVtagOrig
}

func setReplyVtag(f *ctnetlink.Flow, v uint32) {
	f.SCTPVtagReply = ctnetlink.CommandVtag(v)
	f.Has |= ctnetlink.HasSCTPVtagReply
}

func setDCCPState(p *Parser, _ *protoOption, arg string) error {
	state, ok := ctnetlink.DCCPStateNumber(arg)
	if !ok {
		return errUsage("Unknown DCCP state `"+arg+"'").meant(arg, ctnetlink.StateNames(ctnetlink.ProtoDCCP), "states of dccp")
	}
	p.cmd.Flow.DCCPState = state
	p.cmd.Flow.Has |= ctnetlink.HasDCCPState
	return nil
}

var dccpRoles = [...]string{"client", "server"}

func setDCCPRole(p *Parser, _ *protoOption, arg string) error {
	for i, role := range dccpRoles {
		if abbreviates(arg, role) {
			p.cmd.Flow.DCCPRole = uint8(i)
			p.cmd.Flow.Has |= ctnetlink.HasDCCPRole
			return nil
		}
	}
	return errUsage("Unknown DCCP role `"+arg+"'").meant(arg, dccpRoles[:], "roles")
}

// setProto resolves a protocol: one with options by its name in either case, another by
// its name in protocols(5), or any by its number.
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
		return p.unknownProtocol(arg)
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

// unknownProtocol is the error for a protocol that does not exist. Names that only
// protocols(5) has are too many to list.
func (p *Parser) unknownProtocol(arg string) error {
	names := namesOf(protocols[:], func(proto *protocol) string { return proto.name })
	err := errUsage("`"+arg+"' unsupported protocol").meant(arg, names, "protocols")
	if near := nearest.Word(arg, sortedKeys(p.protocolNames)); nearest.Word(arg, names) == "" && near != "" {
		err.Hint = "did you mean " + near + "? " + err.Hint
	}
	err.Hint = strings.TrimSuffix(err.Hint, ".") + "; a name of " + p.ProtocolsFile + ", or a number."
	return err
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
	// Load files are full of numbers, which are no names of protocols; but "3pc" is one.
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
