// Package conntrack is the conntrack applet: conntrack(8)'s command line and
// output over nl. A command line becomes a Command, with all its option rules
// checked, before anything is asked of the kernel.
//
// To follow a command, read in this order: options.go and protocols.go declare what
// can be written, parse.go turns it into a Command (arguments.go and labels.go read
// the options' arguments), run.go picks what carries it out: list.go, change.go (-I,
// -A, -U), delete.go, events.go, load.go (-R) or top.go. filter.go decides which flows
// match, and output.go prints them.
package conntrack

import (
	"time"

	"ctbox/nl/ctnetlink"
)

// Op is the operation that a command line asks for. The zero Op is a line without a
// command, which prints the help.
type Op uint8

// The commands, in the order of conntrack(8).
const (
	OpNone    Op = iota
	OpList       // -L, --dump
	OpCreate     // -I, --create: fails if the flow exists
	OpAdd        // -A, --add: creates, or updates what exists
	OpUpdate     // -U, --update
	OpDelete     // -D, --delete
	OpGet        // -G, --get
	OpFlush      // -F, --flush
	OpEvents     // -E, --event
	OpCount      // -C, --counter
	OpStats      // -S, --stats
	OpHelp       // -h, --help
	OpVersion    // -V, --version
	OpLoad       // -R, --load-file; LoadFile names the file
	OpTop        // --top
)

// Table is the table that a command works on.
type Table uint8

// The tables. TableDying and TableUnconfirmed go with OpList only.
const (
	TableConntrack Table = iota
	TableExpect
	TableDying
	TableUnconfirmed
)

// Option is a set of generic options. Protocol options (--sport …) appear in the
// presence bits of Command.Flow and Command.Expect.
type Option uint64

// The generic options, one bit each, in the order in which the command's option rules
// are checked.
const (
	OptSrc Option = 1 << iota
	OptDst
	OptReplySrc
	OptReplyDst
	OptProto
	OptTimeout
	OptStatus
	OptZero
	OptEventMask
	OptTupleSrc
	OptTupleDst
	OptMaskSrc // --mask-src, or a prefix length shorter than the address
	OptMaskDst
	OptNATRange
	OptMark
	OptID
	OptFamily
	OptSrcNAT
	OptDstNAT
	OptOutput
	OptSecmark
	OptBufferSize
	OptAnyNAT
	OptZone
	OptLabel
	OptLabelAdd
	OptLabelDel
	OptOrigZone
	OptReplyZone
	OptLabelMap
	OptQueueSize
	OptRefresh
	OptKey
	OptOnce
	OptNetNS
	OptMatch
	OptCountEach
	OptDryRun
	OptDistinctStatus
	OptAllNetNS
	OptBy
)

// Compared are the options by which a filter compares the fields of Command.Flow with
// an entry's. NAT and label filters are not among them.
const Compared = OptSrc | OptDst | OptReplySrc | OptReplyDst | OptProto | OptMark |
	OptSecmark | OptStatus | OptID | OptTimeout | OptZone | OptLabel | OptOrigZone | OptReplyZone

// Output is a set of -o words.
type Output uint16

// The -o words. OutSave excludes all others. OutJSON excludes OutXML and OutSave, and
// writes everything regardless of the other words.
const (
	OutXML Output = 1 << iota
	OutExtended
	OutTimestamp
	OutID
	OutKTimestamp
	OutLabels
	OutUserspace
	OutSave
	OutJSON
)

// Events is a set of event kinds, -e.
type Events uint8

// The event kinds of -e.
const (
	EventNew Events = 1 << iota
	EventUpdate
	EventDestroy

	EventAll = EventNew | EventUpdate | EventDestroy
)

// LabelSet is the set of labels that an option names.
type LabelSet struct {
	Bits ctnetlink.Labels
	// Beyond reports that a named label's bit exceeds ctnetlink.MaxLabels: no entry can
	// have it.
	Beyond bool
}

// Command is one parsed command line, or one line of a load file. It does not depend on
// other lines. All option rules have been checked.
//
// Flow is what a command sends (OpCreate, OpAdd, OpGet), what it compares entries with
// (OpList, OpDelete, OpGet, OpEvents), or both (OpUpdate). Only what the line gave has
// its presence bit set. In detail:
//
//   - OpCreate and OpAdd: Flow is ready to be sent. The direction that was not
//     given is derived from the other, Status has ctnetlink.StatusConfirmed if -u was
//     given, NATSrc and NATDst hold -n and -g (ports for TCP and UDP only), and
//     there is no MarkMask or StatusMask.
//   - OpUpdate: Orig is compared if OptSrc, OptDst or OptProto was given, Reply
//     if OptReplySrc or OptReplyDst was; ID is compared; Timeout, Status (bits
//     to add), Mark with MarkMask, protocol states and vtags are to be set.
//   - Filters: an entry matches when (mark & MarkMask) == Mark and
//     (status & StatusMask) == Status. A StatusMask of 0 (-u UNSET) asks for
//     nothing: conntrack-tools has the kernel refuse it as invalid parameters.
//   - TCP: the flags be-liberal and SACK (with -p tcp) are to be sent, never
//     compared.
//
// Expect is what an expectation command sends: Master, Tuple, Mask and Timeout
// for OpCreate; only Tuple, the expected one, for OpDelete and OpGet.
type Command struct {
	Op    Op
	Table Table
	Given Option // options on the line, and masks that prefix lengths imply

	// Family is that of the addresses or of -f, else the command's default, which may be
	// nl.FamilyUnspec: both families.
	Family uint8

	Flow   ctnetlink.Flow
	Expect ctnetlink.Expect

	// SrcMask and DstMask count with OptMaskSrc and OptMaskDst: an entry's
	// original source matches when entry & SrcMask == Flow.Orig.Src & SrcMask.
	SrcMask, DstMask ctnetlink.Addr

	// NAT filters: they count with OptSrcNAT, OptDstNAT and OptAnyNAT. Without
	// address: translated at all. The address is of Family.
	SrcNAT, DstNAT, AnyNAT ctnetlink.NAT

	Labels      LabelSet // -l: entries must have them all
	LabelsAdd   LabelSet // --label-add
	LabelsDel   LabelSet // --label-del with a list
	LabelDelAll bool     // --label-del without one

	Output Output
	Events Events // OpEvents on TableConntrack: 0 without -e means EventAll

	BufferSize int64 // -b, bytes, as given: may be 0 or negative
	QueueSize  int64 // --queue-size, bytes; 0: the default

	Refresh time.Duration // --refresh; 0: the default
	TopKey  uint8         // --key: the index in topKinds
	TopSort topColumn     // --key: what to sort by

	// LabelMap names labels in the output; nil when no option asked for the
	// label file, or it could not be read (the parser has printed a warning).
	LabelMap *LabelMap

	NetNS     string // --netns, as netns.Open takes it: it counts with OptNetNS
	MatchFile string // --match: a path, or "-"

	By countKey // --by; it counts with OptBy

	HelpProto string // OpHelp with -p: the protocol's name, or "unknown"
	LoadFile  string // OpLoad: a path, or "-"
}

// Has reports whether any of opts was given.
func (c *Command) Has(opts Option) bool { return c.Given&opts != 0 }

// Reset makes c an empty command and keeps the memory of its variable parts. Fields of
// absent attributes are zero, too, so that equal lines give equal commands.
func (c *Command) Reset() {
	info, ctx := c.Flow.HelperInfo[:0], c.Flow.Secctx[:0]
	*c = Command{}
	c.Flow.HelperInfo, c.Flow.Secctx = info, ctx
}
