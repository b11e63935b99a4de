// Package cache holds the replicated state of a node: the flows and expectations of
// its own kernel (the internal tables) and those that its peers have announced (the
// external tables). All tables have the same structure; its users decide what goes
// into one and when.
//
// A flow is identified by its original tuple and its zone (and the zone of the
// original direction), never by the kernel's id: an id means nothing on another node,
// and a flow whose end was lost must not hide the flow that follows it. At layer 4 the
// identity is the two ports (or GRE's keys, where the source knows them) or ICMP's id,
// type and code; other protocols have one flow for each pair of addresses.
//
// The storage is flat: fixed records in segments of slots, linked by index. It has no
// pointers for the garbage collector to follow, it grows without copying a record, and
// the hash index splits one bucket at each insertion, so that no insertion ever pays
// for a million others. Rare attributes are stored apart from the records, in blocks
// of suitable sizes. Segments that become empty are freed.
//
// Tables are not safe for concurrent use: the owner serialises access (package sched).
// Nothing here reads a clock: every time is a time.Duration since an epoch of the
// caller's choice, which should be monotonic.
package cache

// Handle refers to an object of one table until the object is released. The zero Handle
// refers to nothing. Stale handles are detected: methods do nothing and return false,
// even after the slot was reused for another object.
type Handle uint64

// Generation returns the generation of the object that h refers to; see the tables' Generation.
func (h Handle) Generation() uint32 { return uint32(h >> 32) }

func handle(slot, gen uint32) Handle { return Handle(uint64(gen)<<32 | uint64(slot)) }

// State selects the message that announces an object at the moment of transmission:
// new, update or delete.
type State uint8

// The states of an object. New: inserted and never updated. Dead: the object has ended
// but something still refers to it; it can't be found by tuple and is not listed.
const (
	New State = iota
	Alive
	Dead
)

// Outcome is the result of an insertion or update.
type Outcome uint8

// The outcomes. Only the first four come with a valid Handle.
const (
	Created   Outcome = iota // the table did not have the object
	Updated                  // something besides its timeout changed
	Unchanged                // at most its timeout changed; counted as an update
	Replaced                 // the contents were replaced; the handle stays
	Full                     // refused: the table is at its limit
	Malformed                // refused: addresses or protocol are missing, and with them the key
)

// Stored reports whether the insertion or update was not refused.
func (o Outcome) Stored() bool { return o < Full }

// Side is the tables of one side: what this node's kernel has, or what its peers have
// announced. A table is nil where the side has none.
type Side struct {
	Flows   *Flows
	Expects *Expects
}

// NewSide returns a Side with two empty tables.
func NewSide(c Config) Side { return Side{NewFlows(c), NewExpects(c)} }

// Tables is a set of the tables of a Side, or one of them.
type Tables uint8

// The tables.
const (
	FlowTable Tables = 1 << iota
	ExpectTable
)

// Config holds the settings of a new table.
type Config struct {
	// Limit is the largest number of objects, dead ones included (HashLimit); 0 sets
	// no limit other than the number of slots.
	Limit int
	// Buckets is the initial number of hash buckets (HashSize), within limits. The
	// index grows with the table; a good initial number saves that work.
	Buckets int
	// Timers gives each object a timer (see Arm).
	Timers bool
}

// Stats counts what has happened to a table since it was made. Flush does not reset it.
type Stats struct {
	Active  int // objects that are not dead
	Objects int // all objects

	Created      uint64
	Updated      uint64
	Destroyed    uint64
	CreateFailed uint64 // all refused insertions
	NoSpace      uint64 // those refused because the table was full
}

// TableStatus counts what happened to a table, or to what takes a table's place: events
// that are forwarded (Created, Updated, Destroyed), or changes that are injected into the
// kernel, of which each kind may fail. Active, Objects, Limit, NoSpace and Bytes are of
// tables only, whose updates and ends do not fail.
type TableStatus struct {
	Active  uint64 // objects that are not dead
	Objects uint64 // all objects
	Limit   uint64 // HashLimit; 0 for none
	Bytes   uint64 // memory of the objects and their index

	Created, CreateFailed    uint64
	NoSpace                  uint64 // the part of CreateFailed that met the limit
	Updated, UpdateFailed    uint64
	Destroyed, DestroyFailed uint64
}

// Add adds the numbers of another table.
func (s *TableStatus) Add(o *TableStatus) {
	s.Active += o.Active
	s.Objects += o.Objects
	s.Limit += o.Limit
	s.Bytes += o.Bytes
	s.Created += o.Created
	s.CreateFailed += o.CreateFailed
	s.NoSpace += o.NoSpace
	s.Updated += o.Updated
	s.UpdateFailed += o.UpdateFailed
	s.Destroyed += o.Destroyed
	s.DestroyFailed += o.DestroyFailed
}
