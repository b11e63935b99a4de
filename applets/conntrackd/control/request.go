// Package control is the socket through which commands reach a running
// conntrackd: a stream socket at the configuration's UNIX Path. A client sends
// one number, a 32-bit integer in the machine's order, and reads text until the
// daemon closes. There is no length, no status and no version; daemon and client
// of conntrack-tools speak the same, so either may be replaced by ours (sheet
// section 1.5).
//
// What conntrack-tools has no number for, or where the client is to know the
// outcome, has a number with WithOutcome set. The answer to it is the text, then
// a byte of zero, which no text has, then the outcome: nothing if all is well, else the
// reason. A request that was carried out but for single entries has no outcome, another
// zero, and lines that name these. An answer that ends without the zero was cut short,
// and a daemon that answers nothing at all does not know the number.
package control

import "ctbox/sync/node"

// Request is the number that a client sends.
type Request uint32

// The requests of conntrack-tools. Its `-c`, `-f`, `-F` and `-R` without an
// argument have numbers of their own.
const (
	FlushKernelFlows   Request = 0
	RefillFlows        Request = 1
	DumpInternal       Request = 16
	DumpExternal       Request = 17
	CommitFlows        Request = 18
	FlushFlowCaches    Request = 19 // no option of today sends it
	Kill               Request = 20
	StatsFlows         Request = 21
	Bulk               Request = 22
	Resync             Request = 23
	DumpInternalXML    Request = 24
	DumpExternalXML    Request = 25
	SchedulePurge      Request = 26
	StatsNetwork       Request = 28
	StatsCache         Request = 29
	StatsRuntime       Request = 30
	StatsLink          Request = 31
	StatsResendQueue   Request = 32
	FlushInternal      Request = 33
	FlushExternal      Request = 34
	StatsProcess       Request = 35
	StatsQueue         Request = 36
	StatsExpects       Request = 37
	FlushKernelExpects Request = 38
	RefillExpects      Request = 39
	DumpInternalExp    Request = 40
	DumpExternalExp    Request = 41
	CommitExpects      Request = 42
	FlushKernelAll     Request = 43
	RefillAll          Request = 44
	FlushCaches        Request = 45
	CommitAll          Request = 46
	DumpInternalExpXML Request = 47
	DumpExternalExpXML Request = 48
)

// The requests of ours. A number of conntrack-tools with WithOutcome set asks
// for the same text and its outcome; with AsJSON too, for JSON.
const (
	WithOutcome Request = 1 << 16
	AsJSON      Request = 1 << 17

	firstOfOurs Request = 64

	Metrics = WithOutcome | 64
	Reload  = WithOutcome | 65

	// StatsHelpers has a form as JSON, too, as the statistics above.
	StatsHelpers = WithOutcome | 66
)

// Form is how the entries of a cache are printed.
type Form uint8

// The forms.
const (
	Text Form = iota
	XML
	JSON
)

// DumpOf is what a request for the entries of a cache asks for.
type DumpOf struct {
	Cache node.Cache
	Table node.Tables
	Form  Form
}

// dumps are the numbers of all dumps.
var dumps = map[Request]DumpOf{
	DumpInternal:       {node.Internal, node.Flows, Text},
	DumpExternal:       {node.External, node.Flows, Text},
	DumpInternalExp:    {node.Internal, node.Expects, Text},
	DumpExternalExp:    {node.External, node.Expects, Text},
	DumpInternalXML:    {node.Internal, node.Flows, XML},
	DumpExternalXML:    {node.External, node.Flows, XML},
	DumpInternalExpXML: {node.Internal, node.Expects, XML},
	DumpExternalExpXML: {node.External, node.Expects, XML},

	DumpInternal | WithOutcome | AsJSON:    {node.Internal, node.Flows, JSON},
	DumpExternal | WithOutcome | AsJSON:    {node.External, node.Flows, JSON},
	DumpInternalExp | WithOutcome | AsJSON: {node.Internal, node.Expects, JSON},
	DumpExternalExp | WithOutcome | AsJSON: {node.External, node.Expects, JSON},
}

// IsCommit reports whether the request is one for a commit.
func (r Request) IsCommit() bool {
	switch r &^ WithOutcome {
	case CommitFlows, CommitExpects, CommitAll:
		return true
	}
	return false
}

// long reports whether the answer may be of any length.
func (r Request) long() bool {
	_, dump := dumps[r]
	return dump || r&^(WithOutcome|AsJSON) == StatsResendQueue
}

// Dump returns the request for the entries of a cache in another form; r is a
// dump itself. ok is false if it is not.
func (r Request) Dump(form Form) (_ Request, ok bool) {
	want, ok := dumps[r]
	if !ok {
		return r, false
	}
	want.Form = form
	for other, d := range dumps {
		if d == want {
			return other, true
		}
	}
	return r, false
}

// JSON returns the request for the same as JSON; ok is false where there is no
// such form.
func (r Request) JSON() (_ Request, ok bool) {
	if dump, ok := r.Dump(JSON); ok {
		return dump, true
	}
	if _, ok := statistics[r&^WithOutcome]; ok || r == StatsResendQueue {
		return r | WithOutcome | AsJSON, true
	}
	return r, false
}
