package conntrack

import (
	"errors"
	"io"
	"math/bits"
	"strings"

	"ctbox/applets/internal/getopt"
	"ctbox/internal/feature"
	"ctbox/internal/nearest"
	"ctbox/internal/protofile"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Parser turns command lines into Commands. It reuses memory between lines: parsing a
// load file allocates nothing for a line without labels. A Parser is for one goroutine.
type Parser struct {
	// Warnings receives the lines that conntrack-tools prints while it parses: about
	// options that are ignored and a label file that cannot be read.
	Warnings io.Writer
	// Posix is POSIXLY_CORRECT: the first word ends the options.
	Posix bool
	// ProtocolsFile is the file with names of protocols, protocols(5).
	ProtocolsFile string
	// LabelFile is the default of --labelmap.
	LabelFile string
	// ServicesFile is the file with names of ports, services(5).
	ServicesFile string

	scan          getopt.Scanner
	protocolNames map[string]uint8   // read when first needed
	services      protofile.Services // read when first needed
	labelMaps     map[string]*LabelMap

	// The line being parsed.
	cmd           *Command
	command       *command // nil before the command
	proto         int      // index in protocols, or noProtocol
	protoOpts     uint64   // its options given, by position in its table
	notStatus     uint32   // -u bits that must be clear
	ignoredFilter string   // the last filter that was ignored with a warning
	loading       bool     // the line is one of a load file
	labelFile     string   // --labelmap, if hasLabelFile
	hasLabelFile  bool
	labelArgs     []labelArg

	// line is the *linePredicate of a line of --match, and nil outside of one. As any it
	// keeps its types out of a binary without --match.
	line any
}

// labelArg is the argument of a label option. Names are looked up after all options are
// parsed, when the label file is known.
type labelArg struct {
	opt Option
	arg string
}

// NewParser returns a Parser with the system's files. posix is whether the
// environment has POSIXLY_CORRECT.
func NewParser(warnings io.Writer, posix bool) *Parser {
	return &Parser{
		Warnings:      warnings,
		Posix:         posix,
		ProtocolsFile: protofile.File,
		LabelFile:     DefaultLabelFile,
		ServicesFile:  protofile.ServicesFile,
	}
}

// Parse parses argv, whose first element is the program's name, and checks all
// rules of the command line. It resets cmd first; cmd keeps no part of argv but
// file names. The error is a *UsageError.
func (p *Parser) Parse(argv []string, cmd *Command) error {
	cmd.Reset()
	p.loading = false
	if netns, given, rest := cutNetNS(argv[min(1, len(argv)):]); len(rest) > 1 && (rest[0] == loadShort || rest[0] == loadLong) {
		cmd.Op = OpLoad
		cmd.LoadFile = rest[1]
		after, again, rest := cutNetNS(rest[2:])
		if again {
			netns = after
		}
		if len(rest) > 0 {
			return surplus(rest[0])
		}
		if given || again {
			cmd.Given, cmd.NetNS = OptNetNS, netns
		}
		return nil
	}
	if err := p.parse(argv, cmd); err != nil {
		return err
	}
	if words := p.scan.Words(); len(words) > 0 {
		if p.command == nil {
			return errUsage("unknown command `" + words[0] + "'")
		}
		return surplus(words[0])
	}
	return nil
}

// cutNetNS removes --netns NETNS from the front of args.
func cutNetNS(args []string) (netns string, given bool, rest []string) {
	if len(args) == 0 {
		return "", false, args
	}
	switch name, value, attached := strings.Cut(args[0], "="); {
	case name != "--"+longNetNS:
	case attached:
		return value, true, args[1:]
	case len(args) > 1:
		return args[1], true, args[2:]
	}
	return "", false, args
}

// surplus is the error for a word that belongs to no option. conntrack-tools ignores
// such words, so that "-D conntrack tcp" deletes every flow.
func surplus(word string) error { return errUsage("unexpected word `" + word + "'") }

func (p *Parser) parse(argv []string, cmd *Command) error {
	p.begin(cmd)
	p.line = nil
	p.scan.Start(genericSet, argv, p.Posix)
	if err := p.scanOptions(); err != nil {
		return err
	}
	return p.finish()
}

// begin forgets the line before.
func (p *Parser) begin(cmd *Command) {
	p.cmd = cmd
	p.command, p.proto = nil, noProtocol
	p.protoOpts, p.notStatus, p.ignoredFilter = 0, 0, ""
	p.labelFile, p.hasLabelFile = "", false
	p.labelArgs = p.labelArgs[:0]
}

// badOption is the error for an option that is unknown or lacks its argument.
func (p *Parser) badOption(bad *getopt.Error) error {
	err := errUsage(bad.Error())
	name, long := strings.CutPrefix(bad.Word, "--")
	if bad.Missing || !long {
		return err
	}
	name, _, _ = strings.Cut(name, "=")
	var known []string
	for i := range options {
		o := &options[i]
		known = append(known, o.long...)
	}
	for _, c := range commands {
		known = append(known, c.long...)
	}
	if p.proto != noProtocol {
		for _, o := range protocols[p.proto].options {
			known = append(known, o.long...)
		}
	}
	if near := nearest.Word(name, known); near != "" {
		err.Hint = "did you mean --" + near + "?"
	}
	return err
}

// scanOptions sets everything up to the end of the line.
func (p *Parser) scanOptions() error {
	for {
		m, err := p.scan.Next()
		if err != nil {
			var bad *getopt.Error
			if errors.As(err, &bad) {
				return p.badOption(bad)
			}
			return err
		}
		switch {
		case m.Code == getopt.End:
			return nil
		case m.Code >= codeProtocol:
			err = p.protocolOption(m)
		case m.Code >= codeCommand:
			err = p.setCommand(&commands[m.Code-codeCommand], m)
		default:
			if line := p.inLine(); line != nil {
				err = line.setOption(p, m)
			} else {
				err = p.setOption(&options[m.Code-codeOption], m)
			}
		}
		if err != nil {
			return err
		}
	}
}

func (p *Parser) setOption(o *option, m getopt.Match) error {
	arg, given := m.Arg, m.HasArg
	if o.next && !given {
		arg, given = p.nextWord()
	}
	if o.bit != OptNATRange {
		p.cmd.Given |= o.bit
	}
	return o.set(p, o, arg, given)
}

// nextWord takes the next element if it can be an optional argument.
func (p *Parser) nextWord() (string, bool) {
	word, ok := p.scan.Operand()
	if !ok || word != "" && (word[0] == '-' || word[0] == '!') {
		return "", false
	}
	p.scan.Take()
	return word, true
}

type tableName struct {
	name  string
	table Table
}

var tableNames = [...]tableName{
	{"expect", TableExpect},
	{"conntrack", TableConntrack},
	{"dying", TableDying},
	{"unconfirmed", TableUnconfirmed},
}

func (p *Parser) setCommand(c *command, m getopt.Match) error {
	word, given := m.Arg, m.HasArg
	if !given {
		word, given = p.nextWord()
	}
	table := TableConntrack
	if given {
		// A wrong table is reported even for a second command.
		var err error
		if table, err = tableOf(c, word); err != nil {
			return err
		}
	}
	if p.command != nil {
		return errUsage("Invalid commands combination")
	}
	if c.op == OpTop && !feature.Top {
		return errRefused(withoutTop)
	}
	p.command = c
	p.cmd.Op, p.cmd.Table = c.op, table
	return nil
}

// tableOf returns the table that a command's word names, if the command can be
// carried out on it.
func tableOf(c *command, word string) (Table, error) {
	table, ok := tableNamed(word)
	switch {
	case !ok:
		return 0, errUsage("unknown type `"+word+"'").meant(word, namesOf(tableNames[:], func(t *tableName) string { return t.name }), "tables")
	case table == TableExpect && c.expectColumn == noColumn:
		return 0, errUsage("Can't do --" + c.long[0] + " on expectations")
	case (table == TableDying || table == TableUnconfirmed) && c.op != OpList:
		return 0, errUsage("Can't do that command with tables `dying' and `unconfirmed'")
	}
	return table, nil
}

// tableNamed returns the first table whose name begins with word. The empty word, of a
// script whose variable is not set, names no table.
func tableNamed(word string) (Table, bool) {
	for _, t := range tableNames {
		if word != "" && strings.HasPrefix(t.name, word) {
			return t.table, true
		}
	}
	return 0, false
}

// noProtocol is Parser.proto without -p, and for protocols without options.
const noProtocol = -1

// protocolOption handles an option of the protocol that -p names. After a second -p the
// options of both protocols are known, and the rules of the last one apply.
func (p *Parser) protocolOption(m getopt.Match) error {
	from, i := (m.Code-codeProtocol)/protoStride, (m.Code-codeProtocol)%protoStride
	if from != p.proto {
		name := protocols[from].options[i].long[0]
		if i = protoOptionNamed(p.proto, name); i < 0 {
			return illegal(name)
		}
	}
	if p.inLine() != nil && p.protoOpts&(1<<i) != 0 {
		return twice(protocols[p.proto].options[i].long[0])
	}
	p.protoOpts |= 1 << i
	o := &protocols[p.proto].options[i]
	return o.apply(p, o, m.Arg)
}

// protoOptionNamed returns the position of a protocol's option by its first
// name, or -1.
func protoOptionNamed(proto int, name string) int {
	if proto == noProtocol {
		return -1
	}
	for i, o := range protocols[proto].options {
		if o.long[0] == name {
			return i
		}
	}
	return -1
}

// switchProtocol makes proto the protocol whose options and rules apply. Options given
// before must exist for proto, too.
func (p *Parser) switchProtocol(proto int) error {
	if p.proto == proto {
		return nil
	}
	var moved uint64
	for set := p.protoOpts; set != 0; set &= set - 1 {
		name := protocols[p.proto].options[bits.TrailingZeros64(set)].long[0]
		i := protoOptionNamed(proto, name)
		if i < 0 {
			return illegal(name)
		}
		moved |= 1 << i
	}
	p.proto, p.protoOpts = proto, moved
	return nil
}

// finish checks the rules of the whole line and completes the command.
func (p *Parser) finish() error {
	if err := p.resolveLabels(); err != nil {
		return err
	}
	if err := p.checkRules(); err != nil {
		return err
	}
	c := p.cmd
	if c.Family == nl.FamilyUnspec {
		c.Family = p.defaultFamily()
	}
	p.completeStatus()
	p.completeTuples()
	return nil
}

func (p *Parser) defaultFamily() uint8 {
	if p.command != nil && (p.command.anyFamily || p.cmd.MatchFile != "") && p.cmd.Table != TableExpect {
		return nl.FamilyUnspec
	}
	return nl.FamilyIPv4
}

// completeStatus derives the status to compare or to send from the bits of -u.
func (p *Parser) completeStatus() {
	f := &p.cmd.Flow
	switch p.cmd.Op {
	case OpCreate, OpAdd:
		f.Has &^= ctnetlink.HasMarkMask
		if f.Has&ctnetlink.HasStatus != 0 {
			f.Status |= ctnetlink.StatusConfirmed
		}
	case OpUpdate:
	default:
		if f.Has&ctnetlink.HasStatus != 0 {
			f.StatusMask = f.Status | p.notStatus
			f.Has |= ctnetlink.HasStatusMask
		}
	}
}

// completeTuples derives what a command sends from the options of the line.
func (p *Parser) completeTuples() {
	c := p.cmd
	if c.Table == TableExpect {
		p.completeExpect()
		return
	}
	switch c.Op {
	case OpCreate, OpAdd:
		p.completeCreated()
	case OpUpdate:
		p.addTCPFlags()
	case OpGet:
		p.completeWanted()
	}
}

// completeCreated fills in a new flow's two tuples: addresses, ports and zone that were
// not given for one direction are those of the other, inverted. With -n or -g the kernel
// translates the reply tuple.
func (p *Parser) completeCreated() {
	c := p.cmd
	f := &c.Flow
	addProto(&f.Orig, f.Orig.Proto, c.Family)
	addProto(&f.Reply, f.Orig.Proto, c.Family)
	fill(&f.Orig, &f.Reply)
	fill(&f.Reply, &f.Orig)
	if ctnetlink.IsICMP(f.Orig.Proto) {
		// The kernel requires an id; without --icmp-id it is 0.
		f.Orig.Has |= ctnetlink.TupleICMPID
		f.Reply.Has |= ctnetlink.TupleICMPID
		if (f.Orig.Proto == ctnetlink.ProtoICMPv6) != (c.Family == nl.FamilyIPv6) {
			// The kernel tracks neither ICMP over IPv6 nor ICMPv6 over IPv4 and shall refuse.
			f.Reply.ICMPType = ctnetlink.NoICMPAnswer
		}
	}
	p.addTCPFlags()
	c.setUpNAT(ctnetlink.HasNATSrc, &f.NATSrc, c.SrcNAT)
	c.setUpNAT(ctnetlink.HasNATDst, &f.NATDst, c.DstNAT)
}

// completeWanted fills in the tuple by which a flow is looked up: the original one if it
// has addresses, else the reply.
func (p *Parser) completeWanted() {
	c := p.cmd
	f := &c.Flow
	proto := f.Orig.Proto
	if f.Orig.Has&ctnetlink.TupleAddrs == ctnetlink.TupleAddrs {
		fill(&f.Orig, &f.Reply)
		return
	}
	addProto(&f.Reply, proto, c.Family)
	fill(&f.Reply, &f.Orig)
}

func addProto(t *ctnetlink.Tuple, proto, family uint8) {
	t.Family = family
	t.Proto = proto
	t.Has |= ctnetlink.TupleProto
}

// fill copies to t each field that t lacks from the opposite tuple, inverted.
func fill(t, opposite *ctnetlink.Tuple) {
	const portTuple = ctnetlink.TupleAddrs | ctnetlink.TuplePorts
	if t.Has&portTuple == portTuple {
		return
	}
	inv := opposite.Inverted()
	lacks := inv.Has &^ t.Has
	if lacks&ctnetlink.TupleSrc != 0 {
		t.Src = inv.Src
	}
	if lacks&ctnetlink.TupleDst != 0 {
		t.Dst = inv.Dst
	}
	if lacks&ctnetlink.TupleSrcPort != 0 {
		t.SrcPort = inv.SrcPort
	}
	if lacks&ctnetlink.TupleDstPort != 0 {
		t.DstPort = inv.DstPort
	}
	if lacks&ctnetlink.TupleICMPID != 0 {
		t.ICMPID = inv.ICMPID
	}
	if lacks&ctnetlink.TupleICMPType != 0 {
		t.ICMPType = inv.ICMPType
	}
	if lacks&ctnetlink.TupleICMPCode != 0 {
		t.ICMPCode = inv.ICMPCode
	}
	t.Has |= lacks & (ctnetlink.TupleAddrs | ctnetlink.TuplePorts | ctnetlink.TupleICMP)
}

// The TCP tracker has not seen the start of a flow made by hand, so it must not check
// windows. A flow that is closing has seen a FIN or RST.
const (
	tcpFlagsOpen    = ctnetlink.TCPFlagBeLiberal | ctnetlink.TCPFlagSACK
	tcpFlagsClosing = tcpFlagsOpen | ctnetlink.TCPFlagCloseInit
)

func (p *Parser) addTCPFlags() {
	f := &p.cmd.Flow
	if p.proto == noProtocol || protocols[p.proto].number != ctnetlink.ProtoTCP {
		return
	}
	flags := ctnetlink.TCPFlags{Value: tcpFlagsOpen, Mask: tcpFlagsOpen}
	if f.Has&ctnetlink.HasTCPState != 0 && f.TCPState >= ctnetlink.TCPStateTimeWait {
		flags = ctnetlink.TCPFlags{Value: tcpFlagsClosing, Mask: tcpFlagsClosing}
	}
	f.TCPFlagsOrig, f.TCPFlagsReply = flags, flags
	f.Has |= ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
}

// setUpNAT adds a NAT option to a new flow. Without an address the option has no effect;
// the kernel accepts ports for TCP and UDP.
func (c *Command) setUpNAT(has ctnetlink.Attr, to *ctnetlink.NAT, nat ctnetlink.NAT) {
	if !nat.HasAddr {
		return
	}
	if proto := c.Flow.Orig.Proto; proto != ctnetlink.ProtoTCP && proto != ctnetlink.ProtoUDP {
		nat.HasPort, nat.Port = false, 0
	}
	*to = nat
	c.Flow.Has |= has
}

// completeExpect derives the expectation from the options of the line.
func (p *Parser) completeExpect() {
	c := p.cmd
	x := &c.Expect
	if ctnetlink.IsICMP(c.Flow.Orig.Proto) {
		// The options of ICMP are refused, but the kernel requires the fields.
		c.Flow.Orig.Has |= ctnetlink.TupleICMP
	}
	switch c.Op {
	case OpCreate:
		x.Master = c.Flow.Orig
		proto := c.Flow.Orig.Proto
		addProto(&x.Tuple, proto, c.Family)
		addProto(&x.Mask, proto, c.Family)
		setSrc(&x.Mask, c.SrcMask, c.Family)
		setDst(&x.Mask, c.DstMask, c.Family)
		x.Timeout = c.Flow.Timeout
		x.Has |= ctnetlink.ExpectHasTimeout
	case OpDelete, OpGet:
		x.Tuple = c.Flow.Orig
	}
}
