// Package control implements the socket through which commands reach a running conntrackd:
// a stream socket at the configuration's UNIX Path. A client sends one number, a 32-bit
// integer in the machine's byte order, and reads text until the daemon closes the
// connection. There is no length, no status and no version. conntrack-tools' daemon and
// client speak the same protocol, so either can be replaced by ours.
//
// Requests that conntrack-tools does not have, and those whose outcome the client wants to
// know, have WithOutcome set in their number. The answer is the text, then a zero byte, which
// no text contains, then the outcome: empty for success, otherwise the reason. If the request
// was carried out except for single entries, the outcome is empty and another zero byte and
// lines that name the entries follow. An answer that ends without the zero byte was cut short.
// A daemon that closes the connection without an answer does not know the number.
//
// A request for a part of the peers' flows begins with the number Selected; Selection has the
// rest. A daemon that does not know it closes the connection without having done anything.
package control

import (
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/node"
)

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
	FlushFlowCaches    Request = 19 // sent by no option of conntrack-tools 1.4
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

// Our own requests. WithOutcome in one of conntrack-tools' numbers asks for the same text and
// the outcome; AsJSON, in addition to it, asks for JSON.
const (
	WithOutcome Request = 1 << 16
	AsJSON      Request = 1 << 17

	firstOfOurs Request = 64

	Metrics = WithOutcome | 64
	Reload  = WithOutcome | 65

	// StatsHelpers and StatsExport can have AsJSON, like the statistics above.
	StatsHelpers = WithOutcome | 66
	StatsExport  = WithOutcome | 67
	StatsPeers   = WithOutcome | 68

	// ready asks whether the node is in sync; the outcome is what it lacks. The number of
	// seconds of another MaxLag than the configuration's is in the bits from lagShift on.
	ready    = WithOutcome | 69
	lagShift = 18

	// Selected comes before another request and its Selection. The answer ends with an outcome,
	// whatever the other request is.
	Selected = WithOutcome | 70

	// MaxLag is the largest number of seconds for Ready.
	MaxLag = 1<<(32-lagShift) - 1
)

// Ready returns the request that fails if the node is not in sync. A maxLag other than 0, up
// to MaxLag, counts in the place of that of the configuration.
func Ready(maxLag uint32) Request { return ready | Request(maxLag)<<lagShift }

// lag returns the maxLag of a Ready; ok is false for another request.
func (r Request) lag() (_ time.Duration, ok bool) {
	const low = 1<<lagShift - 1
	return time.Duration(r>>lagShift) * time.Second, r&low == ready
}

// Form is the format of a cache's entries.
type Form uint8

// Forms of a dump.
const (
	Text Form = iota
	XML
	JSON
)

// DumpOf is the meaning of a request for the entries of a cache.
type DumpOf struct {
	Cache node.Cache
	Table cache.Tables
	Form  Form
}

// dumps are all requests for the entries of a cache.
var dumps = map[Request]DumpOf{
	DumpInternal:       {node.Internal, cache.FlowTable, Text},
	DumpExternal:       {node.External, cache.FlowTable, Text},
	DumpInternalExp:    {node.Internal, cache.ExpectTable, Text},
	DumpExternalExp:    {node.External, cache.ExpectTable, Text},
	DumpInternalXML:    {node.Internal, cache.FlowTable, XML},
	DumpExternalXML:    {node.External, cache.FlowTable, XML},
	DumpInternalExpXML: {node.Internal, cache.ExpectTable, XML},
	DumpExternalExpXML: {node.External, cache.ExpectTable, XML},

	DumpInternal | WithOutcome | AsJSON:    {node.Internal, cache.FlowTable, JSON},
	DumpExternal | WithOutcome | AsJSON:    {node.External, cache.FlowTable, JSON},
	DumpInternalExp | WithOutcome | AsJSON: {node.Internal, cache.ExpectTable, JSON},
	DumpExternalExp | WithOutcome | AsJSON: {node.External, cache.ExpectTable, JSON},
}

// commits are the requests for a commit. With AsJSON the answer is its result.
var commits = map[Request]cache.Tables{
	CommitFlows: cache.FlowTable, CommitExpects: cache.ExpectTable, CommitAll: cache.FlowTable | cache.ExpectTable,
}

// IsCommit reports whether the request is a commit.
func (r Request) IsCommit() bool { return commits[r&^(WithOutcome|AsJSON)] != 0 }

// TakesOwner reports whether a Selection of an owner can come with the request: whether it is a
// dump of the external cache or a commit.
func (r Request) TakesOwner() bool {
	return r.IsCommit() || dumps[r].Cache == node.External
}

// long reports whether the length of the answer has no bound.
func (r Request) long() bool {
	_, dump := dumps[r]
	return dump || r&^(WithOutcome|AsJSON) == StatsResendQueue
}

// Dump returns the request for the same dump in another form. ok is false if r is not a
// dump.
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

// JSON returns the request for the same answer as JSON. ok is false if it has no JSON
// form.
func (r Request) JSON() (_ Request, ok bool) {
	if dump, ok := r.Dump(JSON); ok {
		return dump, true
	}
	if _, ok := statistics[r&^WithOutcome]; ok || r == StatsResendQueue || r.IsCommit() {
		return r | WithOutcome | AsJSON, true
	}
	return r, false
}
