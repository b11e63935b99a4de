// Package cache holds the replicated state of a node: the flows and expectations
// of its own kernel (the internal tables) and those its peers told it about (the
// external ones). Every table is the same structure; what goes into it and when is
// sync/node's business.
//
// A flow is known by its original tuple and its zone (and the zone of the original
// direction), never by the kernel's id: an id says nothing on another node, and a
// flow whose end was lost must not hide the one that follows it. Layer-4 identity
// is the two ports (or GRE's keys, where the source knows them) or ICMP's id, type
// and code; other protocols have one flow for each pair of addresses.
//
// The storage is flat: fixed records in segments of slots, linked by index. The
// garbage collector finds no pointer in it, growing it copies no record, and the
// hash index splits one bucket for each insertion, so that no insertion ever pays
// for a million others. Rare attributes live apart from the records in blocks of
// their own size. Memory of segments that became empty is given back.
//
// A table belongs to one goroutine: nothing here takes a lock, and nothing reads a
// clock. Every time is a time.Duration since an epoch of the caller's choice, which
// should be monotonic.
package cache

// Handle names an object of one table until it is released. The zero Handle names
// nothing. A handle that outlives its object is noticed: every method given one
// does nothing and says so, even after the slot was given to another object.
type Handle uint64

func handle(slot, gen uint32) Handle { return Handle(uint64(gen)<<32 | uint64(slot)) }

// State is what a peer has to be told about an object; the message's type follows
// from it at the moment of transmission (NEW, UPD, DEL).
type State uint8

// The states of an object. New: inserted and never updated. Dead: its end is known
// but something still refers to it; it can't be found by tuple and is not listed.
const (
	New State = iota
	Alive
	Dead
)

// Outcome is what became of an insertion or update.
type Outcome uint8

// The outcomes. Only the first four come with a valid Handle.
const (
	Created   Outcome = iota // it was not there
	Updated                  // something besides its timeout changed
	Unchanged                // at most its timeout changed; counted as an update
	Replaced                 // the old object's contents are gone; its handle serves the new one
	Full                     // refused: the table holds its limit of objects
	Malformed                // refused: without addresses and protocol there is no key
)

// Config is how a table starts.
type Config struct {
	// Limit is the largest number of objects, dead ones included (HashLimit);
	// 0 is no limit but that of the slots, which are 32-bit.
	Limit int
	// Buckets is how many hash buckets to begin with (HashSize), within limits. The
	// index grows with the table, but a table that has them all need not.
	Buckets int
	// Timers gives each object a timer (see Arm).
	Timers bool
}

// Stats counts what happened to a table since it was made. Flush does not reset it.
type Stats struct {
	Active  int // objects that are not dead
	Objects int // all objects

	Created      uint64
	Updated      uint64
	Destroyed    uint64
	CreateFailed uint64 // all refused insertions
	NoSpace      uint64 // those refused because the table was full
}
