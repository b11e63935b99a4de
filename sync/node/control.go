// Package node is a conntrackd node: the one place where the kernel's events, the
// caches, the replication protocol and the links meet.
//
// What an operator may ask of a running node, and what it answers, is in
// control.go and status.go. Every such method may be called by any goroutine,
// many at once; each hands its question to the node's own goroutine and waits
// there for its turn, and none holds up replication for longer than a slice of
// work takes. A method returns ctx's error as soon as ctx ends, whatever the node
// was about to do; once begun, a change of the kernel's table is finished all the
// same. After the node has stopped every method returns ErrStopped.
package node

import (
	"errors"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/sched"
)

// Errors of the control methods. The texts are for the person who typed the command.
var (
	// ErrStopped reports that the node has stopped or is about to.
	ErrStopped = sched.ErrStopped
	// ErrUnsupported reports that this mode or configuration lacks the function: a
	// commit in statistics mode, expectations without ExpectationSync. conntrack-tools
	// does nothing in such a case and does not tell the client.
	ErrUnsupported = errors.New("not supported in this mode")
	// ErrCommitRunning reports that a commit is under way, beside which the request (a
	// flush of the external cache) cannot be carried out.
	ErrCommitRunning = errors.New("a commit is in progress")
)

// Cache is a set of caches, or one of them.
type Cache uint8

// The caches of a node. Statistics mode has one, which is Internal.
const (
	Internal Cache = 1 << iota
	External
)

// Tables is a set of tables, or one of them.
type Tables uint8

// The tables. Expects needs ExpectationSync: without, a method that is asked for
// both does its work for Flows, and ErrUnsupported is its answer to Expects alone.
const (
	Flows Tables = 1 << iota
	Expects
)

// Entry is one object of a cache, as Dump hands it out. Either Flow or Expect is
// set; both point to memory that the next entry reuses.
type Entry struct {
	Flow   *ctnetlink.Flow
	Expect *ctnetlink.Expect

	// Live says that there is no cache (DisableInternalCache) and the entry
	// comes from the kernel's table itself: counters, timeout and use are true,
	// ActiveSince and ExpiresIn mean nothing.
	Live bool

	ActiveSince time.Duration // since it was inserted
	// ExpiresIn is what is left until the cache forgets it, which only ALARM's
	// external entries have.
	ExpiresIn time.Duration
	Expires   bool
}

// CommitResult is the outcome of a commit.
type CommitResult struct {
	Tables  Tables // that were committed
	Flows   CommitCount
	Expects CommitCount
	Began   time.Time
	Took    time.Duration
	// Missing is how many events of the peers were lost and not yet made up, by their own
	// account, when the commit began: what it has committed lacks these.
	Missing uint64
	// Refused names the first entries that failed, MaxRefused at most. It is not changed
	// after the commit.
	Refused []Refusal
}

// MaxRefused is how many entries a CommitResult names.
const MaxRefused = 20

// Refusal is an entry that could not be committed.
type Refusal struct {
	Reason string // with the step that failed, as in the log
	Entry  string // in one line
}

// CommitCount counts the entries of one table. What existed already and was
// replaced counts as committed.
type CommitCount struct {
	Committed uint64
	Failed    uint64 // each named in the log
}

// Failed is the number of entries that could not be committed.
func (r *CommitResult) Failed() uint64 { return r.Flows.Failed + r.Expects.Failed }

// The control methods of a Node; they are implemented beside what they work on.
//
//	Status(ctx) (Status, error)
//	ResendQueue(ctx) ([]Resend, error)
//		FT-FW's queue in its order; ErrUnsupported in other modes.
//	Dump(ctx, cache Cache, table Tables, each func(*Entry) error) error
//		Calls each for every object of one table of one cache, from the
//		caller's goroutine, reading the cache in slices. An object that is
//		there from beginning to end is handed out exactly once; one that
//		comes or goes meanwhile may be or not. each may block for as long as
//		it likes, and nothing waits for it. An error from each ends the dump
//		and is returned.
//	Commit(ctx, Tables) (CommitResult, error)
//		Returns when the commit has ended. Entries that fail are counted and
//		are no error; a commit that could not go on to its end is one. If ctx
//		ends before, the commit goes on. Whatever there is to
//		commit, a purge that was scheduled is cancelled. While another commit is
//		under way there is no second one: both return its result.
//	Flush(ctx, Cache) error
//		Empties caches, flows and expectations; the kernel's table stays, except
//		that there is no internal cache with DisableInternalCache: then its
//		flows are deleted from the kernel, as conntrack-tools does.
//	FlushKernel(ctx, Tables) error
//		Deletes what passes the filter from the kernel; returns when it is done.
//	Refill(ctx, Tables) error
//		-R: merges the kernel's tables into the internal cache.
//	RequestResync(ctx) error
//		-n: asks the peer for all it has.
//	Bulk(ctx) error
//		-B: sends all of the internal cache to the peers.
//	SchedulePurge(ctx) error
//		-t: flushes the kernel's table after PurgeTimeout, unless a commit or a
//		flush comes first. No error if that was scheduled already.
//
//	Reconfigure(ctx, *conf.Config) error
//		Changes what can be changed while the node runs.
//
// The node itself logs what conntrack-tools logs about these ("committing
// conntrack cache", "flushing caches" …), see log.go for the levels.
