package wire

// StreamType is the type of a message of version 2 (docs/sync-protocol.md). A receiver skips
// messages of an unknown type that has the top bit set; another unknown type makes the rest of
// the datagram unusable.
type StreamType uint8

// The types of messages and the fields of StreamMessage that each uses. Package seal has the
// types 1 to 3. Numbers are never reused.
const (
	Position     StreamType = 8    // From: the number of the next numbered message of this datagram
	Again        StreamType = 9    // From: the numbered messages that follow repeat From, From+1, ...
	Void         StreamType = 10   // From, To: these numbers have no content any more
	LostRange    StreamType = 11   // From, To: the sender cannot repeat these numbers
	StreamAck    StreamType = 12   // Node, Stream, From: all before From has arrived; Ranges: missing
	StreamState  StreamType = 13   // Stream, Key, Flags, First
	StreamNotice StreamType = 0x8e // Body: a Notice (Notice.ParseBody)
	Ask          StreamType = 15   // Node, Stream: announce everything

	StreamFlowNew         StreamType = 16 // Body: a flow (ParseCompactFlow)
	StreamFlowUpdate      StreamType = 17
	StreamFlowEnd         StreamType = 18 // Body: what identifies the flow
	StreamFlowWithdrawn   StreamType = 19 // Body: likewise
	StreamExpectNew       StreamType = 20 // Body: an expectation (ParseCompactExpect)
	StreamExpectUpdate    StreamType = 21
	StreamExpectEnd       StreamType = 22 // Body: what identifies the expectation
	StreamExpectWithdrawn StreamType = 23 // Body: likewise
	StreamBulkBegin       StreamType = 24 // Bulk
	StreamBulkEnd         StreamType = 25 // Bulk

	Digest  StreamType = 32 // Table, Entries, Root
	Compare StreamType = 33 // Node, Stream, Table, Level, Indexes
	Sums    StreamType = 34 // Table, Level, Index, Sums
	Entries StreamType = 35 // Table, Index, Low, High, Sums
	Want    StreamType = 36 // Node, Stream, Table, Sums

	Take StreamType = 37 // Question, Nodes: the sender is about to take the flows of these nodes
	Mine StreamType = 38 // Node, Question, Flags, Nodes: the answer to a TAKE of Node
)

// Numbered reports whether messages of type t have a number: objects and the marks of a bulk.
func (t StreamType) Numbered() bool { return t >= StreamFlowNew && t <= StreamBulkEnd }

// IsFlow reports whether messages of type t carry a flow.
func (t StreamType) IsFlow() bool { return t >= StreamFlowNew && t <= StreamFlowWithdrawn }

// IsExpect reports whether messages of type t carry an expectation.
func (t StreamType) IsExpect() bool { return t >= StreamExpectNew && t <= StreamExpectWithdrawn }

// The bits of a STATE's Flags.
const (
	StateComplete = 1 << 0 // all that the sender has is announced since its stream began or was flushed last
	StateBulk     = 1 << 1 // a bulk is under way
)

// MineOwn is the bit of a MINE's Flags that says that the sender keeps its own flows.
const MineOwn = 1 << 0

// MaxAckRanges is the largest number of missing ranges in an ACK.
const MaxAckRanges = 20

// SumsLen is the number of sums in a SUMS.
const SumsLen = 64

// The levels of COMPARE and SUMS.
const (
	LevelDigest  = 0 // only of COMPARE: a DIGEST is wanted at once
	LevelGroups  = 1 // SUMS: of the 64 groups, index 0
	LevelBuckets = 2 // SUMS: of 64 buckets, index 4 times the group plus the quarter
	LevelEntries = 3 // only of COMPARE: the indexes are those of buckets
)

// Range is a range of numbers, both included.
type Range struct{ From, To Seq }

// StreamMessage is a message of version 2. Its Type says which fields mean something; the
// others are zero in a message that StreamReader has read.
type StreamMessage struct {
	Type StreamType
	Body []byte // of an object or a NOTICE; a part of the datagram

	From, To Seq
	// Node is the number of the node that the message is for, and Stream the id of that node's
	// stream, of which all messages but STATE carry only the lower half. MINE has no Stream.
	Node   uint8
	Stream uint64
	Key    [16]byte // of the digests
	Flags  uint8    // StateComplete, StateBulk; MineOwn
	First  Seq      // the number of the stream's first message
	Ranges []Range  // in order; at most MaxAckRanges
	Bulk   uint32   // the bulk's number

	Question uint32 // the TAKE's number, which its sender chooses
	// Nodes is a set of nodes, of which bit n-1 is node n: those whose flows the sender of a TAKE
	// is about to take, or the sender of a MINE has taken or is taking.
	Nodes uint16

	Table   uint8 // 0 flows, 1 expectations
	Level   uint8
	Index   uint16   // of SUMS, see Level...; the bucket of ENTRIES
	Indexes []uint16 // of COMPARE: what is to be compared
	// Low and High bound the hashes that an ENTRIES is about: it has all those of the bucket
	// from Low to High, both included.
	Low, High uint64
	Entries   uint32   // the number of entries in the table
	Root      uint64   // the sum of the table
	Sums      []uint64 // SumsLen sums of SUMS; the hashes of ENTRIES and WANT

	// Number and Again are of numbered messages and follow from the POSITION or AGAIN before.
	Number Seq
	Again  bool
}
