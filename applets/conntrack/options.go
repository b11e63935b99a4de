package conntrack

import (
	"math/bits"
	"slices"
	"strings"
	"sync"

	"ctbox/applets/internal/getopt"
	"ctbox/internal/feature"
	"ctbox/internal/version"
)

// The tables of this file declare the command line: commands and generic options.
// Scanning, the rules, the help, the shells' completions and the man page's option
// lists are made from them; protocols.go declares the options of protocols.

// command declares one command.
type command struct {
	op    Op
	short byte
	long  []string // the first is the canonical one
	// Kinds of the two forms. A table word is not an argument of either, but an
	// attached one is read as the table.
	shortKind, longKind getopt.Kind
	column              int  // in an option's rules, for the conntrack tables
	expectColumn        int  // same for the expectation table; noColumn: refused
	anyFamily           bool // the default family on the conntrack tables is both
	args                string
	help                string
}

// Columns of an option's rules, as written in the options table: commands on
// the conntrack tables, then the informative ones, then those on expectations.
const (
	colList = iota
	colCreate
	colAdd
	colUpdate
	colDelete
	colGet
	colFlush
	colEvents
	colInfo // -V, -C, -S
	colHelp
	colExpectList
	colExpectCreate
	colExpectDelete
	colExpectGet
	colExpectEvents
	colExpectInfo // -F, -C, -S
	columnsWritten

	// colTop is made from colList.
	colTop  = columnsWritten
	columns = columnsWritten + 1

	noColumn = -1
)

var commands = [...]command{
	{OpList, 'L', []string{"dump"}, getopt.None, getopt.Optional, colList, colExpectList, true,
		"[TABLE] [OPTIONS]", "list flows or expectations"},
	{OpGet, 'G', []string{"get"}, getopt.None, getopt.Optional, colGet, colExpectGet, true,
		"[TABLE] PARAMETERS", "show one flow or expectation"},
	{OpDelete, 'D', []string{"delete"}, getopt.None, getopt.Optional, colDelete, colExpectDelete, true,
		"[TABLE] PARAMETERS", "delete the flows that match, or one expectation"},
	{OpCreate, 'I', []string{"create"}, getopt.None, getopt.Optional, colCreate, colExpectCreate, false,
		"[TABLE] PARAMETERS", "create a flow or expectation, which must not exist"},
	{OpAdd, 'A', []string{"add"}, getopt.None, getopt.Optional, colAdd, noColumn, false,
		"PARAMETERS", "create a flow, or update it if it exists"},
	{OpUpdate, 'U', []string{"update"}, getopt.None, getopt.Optional, colUpdate, noColumn, true,
		"PARAMETERS", "update the flows that match"},
	{OpEvents, 'E', []string{"event"}, getopt.None, getopt.Optional, colEvents, colExpectEvents, true,
		"[TABLE] [OPTIONS]", "show changes as they happen"},
	{OpFlush, 'F', []string{"flush"}, getopt.None, getopt.Optional, colFlush, colExpectInfo, true,
		"[TABLE]", "empty a table"},
	{OpCount, 'C', []string{"counter"}, getopt.Optional, getopt.Optional, colInfo, colExpectInfo, false,
		"[TABLE]", "show the number of entries"},
	{OpStats, 'S', []string{"stats"}, getopt.None, getopt.None, colInfo, colExpectInfo, false,
		"[TABLE]", "show the counters of each CPU"},
	{OpTop, 0, []string{"top"}, getopt.None, getopt.Optional, colTop, noColumn, true,
		"[OPTIONS]", "show repeatedly which addresses, ports and so on have the most flows: on a terminal as a screen, else as JSON"},
	{OpHelp, 'h', []string{"help"}, getopt.None, getopt.None, colHelp, colHelp, false,
		"[-p PROTO]", "show this help, and that of a protocol's options"},
	{OpVersion, 'V', []string{"version"}, getopt.None, getopt.None, colInfo, colInfo, false,
		"", "show the version"},
}

// The load command is not scanned by getopt: it is recognised as the first
// argument only, spelled in one of these ways.
const (
	loadShort = "-R"
	loadLong  = "--load-file"
	loadHelp  = "carry out the commands in FILE, one per line; - is standard input"
	longNetNS = "netns" // may stand before or after the load command
)

// group is a section of the help.
type group uint8

const (
	groupConntrack group = iota
	groupExpect
	groupUpdate
	groupCommon
	groups
)

var groupTitles = [groups]string{
	groupConntrack: "Conntrack parameters and options",
	groupExpect:    "Expectation parameters and options",
	groupUpdate:    "Updating parameters and options",
	groupCommon:    "Common parameters and options",
}

// option declares one generic option.
type option struct {
	bit   Option
	short byte     // 0: no short form
	long  []string // never empty
	name  string   // the name in messages
	kind  getopt.Kind
	// next reports that the following word is the argument, if no argument is attached
	// and the word starts with neither - nor !.
	next  bool
	group group
	arg   string // the argument's name in the help
	help  string
	// rules has a letter for each column: M mandatory, o optional, . refused,
	// ~ not checked, 3 a part of the pairs --src, --dst or --reply-src, --reply-dst,
	// one of which must be complete. Blanks are for the reader.
	rules string
	set   func(p *Parser, o *option, arg string, given bool) error
}

// options are the generic options in the order of their bits, which is the
// order in which violated rules are reported.
//
//	LIAUDGFE Vh LIDGEF (expectations)
var options = [...]option{
	{OptSrc, 's', []string{"orig-src", "src"}, "src", getopt.Required, false, groupCommon, "ADDR[/LEN]",
		"source of the original direction", "o33oo3.o .. .MMM..", (*Parser).setAddr},
	{OptDst, 'd', []string{"orig-dst", "dst"}, "dst", getopt.Required, false, groupCommon, "ADDR[/LEN]",
		"destination of the original direction", "o33oo3.o .. .MMM..", (*Parser).setAddr},
	{OptReplySrc, 'r', []string{"reply-src"}, "reply-src", getopt.Required, false, groupCommon, "ADDR",
		"source of the reply direction", "o33oo3.o .. .ooo..", (*Parser).setAddr},
	{OptReplyDst, 'q', []string{"reply-dst"}, "reply-dst", getopt.Required, false, groupCommon, "ADDR",
		"destination of the reply direction", "o33oo3.o .. .ooo..", (*Parser).setAddr},
	{OptProto, 'p', []string{"protonum"}, "protonum", getopt.Required, false, groupCommon, "PROTO",
		"layer 4 protocol, name or number; goes before the protocol's own options", "oMMooM.o .o .MMM..", (*Parser).setProto},
	{OptTimeout, 't', []string{"timeout"}, "timeout", getopt.Required, false, groupCommon, "SECONDS",
		"timeout", ".MMoo... .. .M....", (*Parser).setTimeout},
	{OptStatus, 'u', []string{"status"}, "status", getopt.Required, false, groupCommon, "STATUS[,...]",
		"status: ASSURED, SEEN_REPLY, FIXED_TIMEOUT, EXPECTED, OFFLOAD, HW_OFFLOAD, UNSET; as a filter also UNREPLIED and !STATUS", "ooooo... .. .o....", (*Parser).setStatus},
	{OptZero, 'z', []string{"zero"}, "zero", getopt.None, false, groupConntrack, "",
		"set the counters to zero while listing", "o....... .. ......", (*Parser).setNothing},
	{OptEventMask, 'e', []string{"event-mask"}, "event-mask", getopt.Required, false, groupConntrack, "EVENT[,...]",
		"events to show: ALL, NEW, UPDATES, DESTROY", ".......o .. ......", (*Parser).setEvents},
	{OptTupleSrc, '[', []string{"tuple-src"}, "tuple-src", getopt.Required, false, groupExpect, "ADDR[/LEN]",
		"source of the expected flow", "........ .. .M....", (*Parser).setAddr},
	{OptTupleDst, ']', []string{"tuple-dst"}, "tuple-dst", getopt.Required, false, groupExpect, "ADDR[/LEN]",
		"destination of the expected flow", "........ .. .M....", (*Parser).setAddr},
	{OptMaskSrc, '{', []string{"mask-src"}, "mask-src", getopt.Required, false, groupCommon, "MASK",
		"mask for the source, written as an address", "o..oo..o .. .M....", (*Parser).setAddr},
	{OptMaskDst, '}', []string{"mask-dst"}, "mask-dst", getopt.Required, false, groupCommon, "MASK",
		"mask for the destination, written as an address", "o..oo..o .. .M....", (*Parser).setAddr},
	{OptNATRange, 'a', []string{"nat-range"}, "nat-range", getopt.Required, false, groupCommon, "RANGE",
		"ignored, for old scripts", "~~~~~~~~ ~~ ~~~~~~", (*Parser).ignoreNATRange},
	{OptMark, 'm', []string{"mark"}, "mark", getopt.Required, false, groupConntrack, "MARK[/MASK]",
		"mark", "ooooo..o .. ......", (*Parser).setMark},
	{OptID, 'i', []string{"id"}, "id", getopt.Required, false, groupConntrack, "ID",
		"the kernel's number of a flow", "...ooo.. .. ......", (*Parser).setNumber},
	{OptFamily, 'f', []string{"family"}, "family", getopt.Required, false, groupCommon, "FAMILY",
		"layer 3 protocol: ipv4 or ipv6", "o..oo.oo .. o.....", (*Parser).setFamily},
	{OptSrcNAT, 'n', []string{"src-nat"}, "src-nat", getopt.Optional, true, groupConntrack, "[ADDR[:PORT]]",
		"source NAT: to set up, or as a filter", "ooooo..o .. ......", (*Parser).setNAT},
	{OptDstNAT, 'g', []string{"dst-nat"}, "dst-nat", getopt.Optional, true, groupConntrack, "[ADDR[:PORT]]",
		"destination NAT: to set up, or as a filter", "ooooo..o .. ......", (*Parser).setNAT},
	{OptOutput, 'o', []string{"output"}, "output", getopt.Required, false, groupConntrack, "TYPE[,...]",
		"output: json, xml, save, or extended, timestamp, id, ktimestamp, labels, userspace", "o..ooo.o .. o...o.", (*Parser).setOutput},
	{OptSecmark, 'c', []string{"secmark"}, "secmark", getopt.Required, false, groupConntrack, "SECMARK",
		"security mark", "o......o .. ......", (*Parser).setNumber},
	{OptBufferSize, 'b', []string{"buffer-size"}, "buffer-size", getopt.Required, false, groupCommon, "BYTES",
		"size of the kernel's buffer for events", ".......o .. ......", (*Parser).setBufferSize},
	{OptAnyNAT, 'j', []string{"any-nat"}, "any-nat", getopt.Optional, true, groupConntrack, "[ADDR[:PORT]]",
		"source or destination NAT", "o......o .. ......", (*Parser).setNAT},
	{OptZone, 'w', []string{"zone"}, "zone", getopt.Required, false, groupCommon, "ZONE",
		"zone of both directions", "ooo.o..o .. ......", (*Parser).setNumber},
	{OptLabel, 'l', []string{"label"}, "label", getopt.Required, false, groupConntrack, "LABEL[,...]",
		"labels, by name", "o..ooo.o .. ......", (*Parser).setLabels},
	{OptLabelAdd, '<', []string{"label-add"}, "label-add", getopt.Required, false, groupUpdate, "LABEL[,...]",
		"labels to add", ".ooo.... .. ......", (*Parser).setLabels},
	{OptLabelDel, '>', []string{"label-del"}, "label-del", getopt.Optional, true, groupUpdate, "[LABEL[,...]]",
		"labels to remove; without an argument all", "...o.... .. ......", (*Parser).setLabels},
	{OptOrigZone, '(', []string{"orig-zone"}, "orig-zone", getopt.Required, false, groupCommon, "ZONE",
		"zone of the original direction", "ooo.o..o .. ......", (*Parser).setNumber},
	{OptReplyZone, ')', []string{"reply-zone"}, "reply-zone", getopt.Required, false, groupCommon, "ZONE",
		"zone of the reply direction", "ooo.o..o .. ......", (*Parser).setNumber},
	{OptLabelMap, 'M', []string{"labelmap"}, "labelmap", getopt.Required, false, groupConntrack, "FILE",
		"file with the names of labels", "o..oo..o .. ......", (*Parser).setLabelMap},
	// conntrack-tools lacks the options from here on; see added.
	{OptQueueSize, 0, []string{"queue-size"}, "queue-size", getopt.Required, false, groupCommon, "BYTES",
		"memory for events that wait to be printed", ".......o .. ....o.", (*Parser).setQueueSize},
	// With --top only.
	{OptRefresh, 0, []string{"refresh"}, "refresh", getopt.Required, false, groupCommon, "SECONDS",
		"how often --top reads the table: 2, or 0.5", "........ .. ......", (*Parser).setRefresh},
	{OptKey, 0, []string{"key"}, "key", getopt.Required, false, groupCommon, "KEY[,SORT]",
		"what --top counts flows by: source, destination, port, protocol, zone, mark, state, family; and sorts by: flows, new, ended, packets, bytes", "........ .. ......", (*Parser).setTopKey},
	{OptOnce, 0, []string{"once"}, "once", getopt.None, false, groupCommon, "",
		"with --top: print one table, with rates over one --refresh, and end", "........ .. ......", (*Parser).setNothing},
	{OptNetNS, 0, []string{longNetNS}, longNetNS, getopt.Required, false, groupCommon, "NETNS",
		"work in this network namespace: a name of ip-netns(8), a path, or a process id", "oooooooo oo oooooo", (*Parser).setNetNS},
	{OptMatch, 0, []string{"match"}, "match", getopt.Required, false, groupCommon, "FILE",
		"the flow also meets a line of FILE, which has options of -D or a JSON object; - is standard input; also with -C", "o..oo... .. ......", (*Parser).setMatch},
	{OptCountEach, 0, []string{"count-each"}, "count-each", getopt.None, false, groupCommon, "",
		"print how many flows each line of --match has met, in place of the flows", "o..oo... .. ......", (*Parser).setNothing},
	{OptDryRun, 0, []string{"dry-run"}, "dry-run", getopt.None, false, groupCommon, "",
		"change nothing, print the flows that would be deleted or updated", "...oo... .. ......", (*Parser).setNothing},
	{OptDistinctStatus, 0, []string{"distinct-status"}, "distinct-status", getopt.None, false, groupCommon, "",
		"exit status 3 if no flow has matched, 4 if the kernel refused some of the changes", "o..oo... .. ......", (*Parser).setNothing},
	{OptAllNetNS, 0, []string{"all-netns"}, "all-netns", getopt.None, false, groupCommon, "",
		"with -E: show the events of all network namespaces that ip-netns(8) lists, of new ones, too", ".......o .. ....o.", (*Parser).setNothing},
	{OptBy, 0, []string{"by"}, "by", getopt.Required, false, groupCommon, "KEY",
		"with -C: show the number of entries of each zone, or of each network namespace that ip-netns(8) lists: zone or netns", "........ o. .....o", (*Parser).setBy},
}

// Codes of the scanner: options by index, then commands, then protocol options.
const (
	codeOption   = 0
	codeCommand  = 100
	codeProtocol = 200
	protoStride  = 20 // codes of one protocol
)

var genericSet = getopt.New(genericOptions())

// added reports whether conntrack-tools lacks the command: its own commands have a letter.
func (c *command) added() bool { return c.short == 0 }

// added reports whether conntrack-tools lacks the option: its own options have a letter.
func (o *option) added() bool { return o.short == 0 }

func genericOptions() []getopt.Option {
	all := make([]getopt.Option, 0, 2*(len(options)+len(commands)+1))
	for i, o := range options {
		if o.short != 0 {
			all = append(all, getopt.Option{Short: o.short, Kind: o.kind, Code: codeOption + i})
		}
		for _, long := range o.long {
			all = append(all, getopt.Option{Long: long, Kind: o.kind, Code: codeOption + i, Added: o.added()})
		}
	}
	for i, c := range commands {
		if c.short != 0 {
			all = append(all, getopt.Option{Short: c.short, Kind: c.shortKind, Code: codeCommand + i})
		}
		for _, long := range c.long {
			all = append(all, getopt.Option{Long: long, Kind: c.longKind, Code: codeCommand + i, Added: c.added()})
		}
	}
	return all
}

// ruleMasks are the rules of an option table for one column, as sets of positions.
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
		case OptMatch, OptCountEach, OptDistinctStatus, OptZero, OptOutput: // checkRules accepts -o json before
			rules[colTop].refused |= 1 << i
		case OptRefresh, OptKey, OptOnce:
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
	return errUsage("Illegal option `--" + name + "' with this command")
}

func violation(name string, missing bool) error {
	if missing {
		return errUsage("You need to supply the `--" + name + "' option for this command")
	}
	return illegal(name)
}

// genericPairs is the rule for -I, -A and -G on the conntrack table.
var genericPairs = [2]pair{
	{uint64(OptSrc | OptDst), "you have to specify `--src' and `--dst'"},
	{uint64(OptReplySrc | OptReplyDst), "you have to specify `--reply-src' and `--reply-dst'"},
}

// checkPairs checks that given contains the first or the second pair.
func checkPairs(pairs *[2]pair, given uint64) error {
	first, second := pairs[0].bits&given, pairs[1].bits&given
	switch {
	case first == pairs[0].bits || second == pairs[1].bits:
		return nil
	case first == 0 && second != 0:
		return errUsage(pairs[1].missing)
	default:
		return errUsage(pairs[0].missing)
	}
}

// checkRules returns the error of the first rule that the line violates, in the order
// of conntrack-tools.
func (p *Parser) checkRules() error {
	c := p.cmd
	if c.Has(OptAnyNAT) && c.Has(OptSrcNAT|OptDstNAT) {
		return errUsage("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'")
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
	if c.Op == OpCount && c.Table == TableConntrack && c.Has(OptMatch) {
		given &^= countOptions
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
	if err := p.checkMatch(); err != nil {
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
		return nil // -o save writes such a line where the kernel keeps no ports of the protocol
	}
	if i, missing, bad := protocolRules()[p.proto][protoCol].firstViolation(p.protoOpts); bad {
		return violation(proto.options[i].long[0], missing)
	}
	if wantsPairs(col) && proto.pairs[0].bits != 0 {
		return checkPairs(&proto.pairs, p.protoOpts)
	}
	return nil
}

// countOptions are those that -C takes as well.
const countOptions = OptMatch | OptCountEach | OptDistinctStatus

// checkMatch checks the options that go with --match.
func (p *Parser) checkMatch() error {
	c := p.cmd
	if !feature.Match {
		if c.Has(OptMatch | OptCountEach | OptDryRun | OptDistinctStatus) {
			return errRefused("this ctbox was built without --match, --count-each, --dry-run and --distinct-status")
		}
		return nil
	}
	switch {
	case c.Has(OptCountEach) && !c.Has(OptMatch):
		return errUsage("Can't use --count-each without --match")
	case p.loading && c.Has(OptMatch):
		return errUsage("Can't use --match in a file of --load-file")
	case p.loading && c.Has(OptDryRun|OptDistinctStatus):
		return errUsage("Can't use --dry-run and --distinct-status in a file of --load-file")
	case c.Has(OptCountEach) && c.Output&^OutJSON != 0:
		return errUsage("--count-each has no output but text and json")
	case c.Table == TableExpect && c.Has(OptMatch|OptDryRun|OptDistinctStatus):
		return errUsage("Can't use --match, --dry-run and --distinct-status with expectations")
	}
	return nil
}

// zeroConflicts are the options that -z cannot be combined with, because the
// kernel zeroes the counters of every flow that it lists.
const zeroConflicts = OptSrc | OptDst | OptReplySrc | OptReplyDst | OptProto | OptMark |
	OptSecmark | OptStatus | OptZone | OptLabel | OptOrigZone | OptReplyZone | OptMatch

// checkConflicts checks options that exclude or need each other.
func (p *Parser) checkConflicts() error {
	c := p.cmd
	switch {
	case !feature.AllNetNS && c.Has(OptAllNetNS|OptBy):
		return errRefused("this ctbox was built without --all-netns and --by")
	case c.Has(OptBy) && c.Op != OpCount:
		return illegal("by") // in a column with other commands
	case c.Has(OptBy) && c.Has(OptCountEach):
		return errUsage("Can't use --by with --count-each")
	case c.Has(OptNetNS) && (c.Has(OptAllNetNS) || c.Has(OptBy) && c.By == byNetNS):
		return errUsage("Can't use --netns with all network namespaces")
	case c.Has(OptAllNetNS) && c.Output&(OutXML|OutSave) != 0:
		return errUsage("Can't use --all-netns with -o xml or -o save, which have no place for the namespace")
	}
	if c.Table == TableExpect {
		return nil
	}
	// Without a filter that is dropped with a warning, the command would change more
	// flows than the user wants.
	if c.Op == OpDelete && p.ignoredFilter != "" || c.Op == OpUpdate && p.ignoredFilter == "--nat-range" {
		return errUsage("`" + p.ignoredFilter + "' is no filter: use --src-nat or --dst-nat")
	}
	if c.Table == TableConntrack && c.Has(OptZero) && c.Has(zeroConflicts) {
		return errUsage("Can't use -z with filtering parameters")
	}
	switch c.Op {
	case OpList, OpDelete, OpUpdate, OpEvents, OpTop:
		if c.Has(OptMaskSrc) && !c.Has(OptSrc) {
			return errUsage("Can't use --mask-src without --src")
		}
		if c.Has(OptMaskDst) && !c.Has(OptDst) {
			return errUsage("Can't use --mask-dst without --dst")
		}
	}
	return nil
}

// helpColumn is where the texts of options begin.
const helpColumn = 34

// AppendVersion appends what -V prints: conntrack-tools' own text, then ctbox's
// version.
func AppendVersion(dst []byte) []byte {
	return append(dst, "conntrack v"+version.ConntrackTools+" (conntrack-tools), ctbox v"+version.Number+"\n"...)
}

// AppendHelp appends what -h prints. program is argv[0]; proto is
// Command.HelpProto, or "" without -p.
func AppendHelp(dst []byte, program, proto string) []byte {
	dst = append(dst, "Command line interface for the connection tracking system. Version "+version.ConntrackTools+"\n"...)
	dst = append(dst, "Usage: "+program+" [commands] [options]\n\nCommands:\n"...)
	for _, c := range commands {
		dst = appendEntry(dst, spellings(c.short, c.long), c.args, c.help)
	}
	dst = appendEntry(dst, loadShort+", "+loadLong, "FILE", loadHelp)
	dst = append(dst, "\nTables: conntrack, expect, dying, unconfirmed\n"...)
	for g, title := range groupTitles {
		dst = append(dst, "\n"+title+":\n"...)
		for _, o := range options {
			if o.group == group(g) {
				dst = appendEntry(dst, spellings(o.short, o.long), o.arg, o.help)
			}
		}
	}
	if feature.Match {
		dst = append(dst, "\n"+matchTitle+":\n"...)
		for _, o := range lineOptions {
			dst = appendEntry(dst, spellings(o.short, o.long), o.arg, o.help)
		}
	}
	if proto != "" {
		dst = appendProtocolHelp(dst, proto)
	}
	return append(dst, '\n')
}

func appendProtocolHelp(dst []byte, proto string) []byte {
	dst = append(dst, "\nProto `"+proto+"' help:\n"...)
	for i := range protocols {
		if protocols[i].name != proto {
			continue
		}
		for _, o := range protocols[i].options {
			dst = appendEntry(dst, spellings(0, o.long), o.arg, o.help)
		}
		return dst
	}
	return append(dst, "  no options (unsupported)\n"...)
}

// spellings lists how an option can be written. It omits short forms that are
// punctuation: they work, but need quotes in a shell.
func spellings(short byte, long []string) string {
	text := ""
	if isAlnum(short) {
		text = "-" + string(rune(short)) + ", "
	}
	return text + "--" + strings.Join(long, ", --")
}

func appendEntry(dst []byte, names, arg, help string) []byte {
	start := len(dst)
	dst = append(dst, "  "+names...)
	if arg != "" {
		dst = append(dst, " "+arg...)
	}
	if len(dst)-start > helpColumn-2 {
		dst = append(dst, '\n')
		start = len(dst)
	}
	for len(dst)-start < helpColumn {
		dst = append(dst, ' ')
	}
	dst = append(dst, help...)
	return append(dst, '\n')
}
