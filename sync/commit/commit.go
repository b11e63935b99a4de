package commit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// Committer writes copies of the peers' flows into the kernel's tables. Its fields are guarded
// by the lock of sched, which the caller of every method holds.
type Committer struct {
	log      daemonlog.Log
	sched    *sched.Scheduler
	failback *Failback
	hooks    Hooks
	conn     *nl.Conn
	restore  restorer // of the configuration in force
	running  bool
	joined   []joiner // of the commit that is under way
	status   Status
	ended    time.Duration // when the last commit ended
}

// Hooks connect a Committer with other rooms. They are called with the lock held.
type Hooks struct {
	// Began and Ended enclose each commit.
	Began func()
	Ended func(tables cache.Tables)
	// PeersMissing returns how many events the peers have lost and not yet made up for.
	PeersMissing func() uint64
}

// Status is about commits.
type Status struct {
	Count   uint64        // commits that ended
	Running bool          // one is under way
	Last    Result        // the last that ended, if Count is not 0
	Age     time.Duration // since Last ended
}

// Result is the outcome of a commit.
type Result struct {
	Tables  cache.Tables // that were committed
	Flows   Count
	Expects Count
	Began   time.Time
	Took    time.Duration
	// Missing is how many events of the peers were lost and not yet made up for, by their
	// own account, when the commit began: what it has committed lacks these.
	Missing uint64
	// Refused names the first entries that failed, MaxRefused at most. It is not changed
	// after the commit.
	Refused []Refusal
	// Taken and Kept are those of the Selection.
	Taken []Taken
	Kept  []string
}

// MaxRefused is how many entries a Result names.
const MaxRefused = 20

// Refusal is an entry that could not be committed.
type Refusal struct {
	Reason string // with the step that failed, as in the log
	Entry  string // in one line
}

// Count counts the entries of one table. What existed already and was replaced counts as
// committed.
type Count struct {
	Committed uint64
	Failed    uint64 // each named in the log
}

// Failed is the number of entries that could not be committed.
func (r *Result) Failed() uint64 { return r.Flows.Failed + r.Expects.Failed }

// ErrUnsupported reports that the mode or configuration lacks what is asked for: here an
// external cache to commit (DisableExternalCache).
var ErrUnsupported = errors.New("not supported in this mode")

// NewCommitter returns a Committer.
func NewCommitter(s *sched.Scheduler, log daemonlog.Log, cfg *conf.Sync, failback *Failback, hooks Hooks) (*Committer, error) {
	c, err := nl.Dial(nl.Config{})
	if err != nil {
		return nil, err
	}
	return &Committer{log: log, sched: s, failback: failback, hooks: hooks, conn: c, restore: newRestorer(cfg)}, nil
}

// Close closes the socket.
func (c *Committer) Close() { c.conn.Close() }

// PortID returns the port id of the socket that changes the kernel's tables.
func (c *Committer) PortID() uint32 { return c.conn.PortID() }

// Reconfigure puts another Sync in force.
func (c *Committer) Reconfigure(cfg *conf.Sync) { c.restore = newRestorer(cfg) }

// Running reports whether a commit is under way.
func (c *Committer) Running() bool { return c.running }

// Status returns the counters of this moment.
func (c *Committer) Status() Status {
	s := c.status
	s.Running = c.running
	if s.Count > 0 {
		s.Age = c.sched.Now() - c.ended
	}
	return s
}

// Start begins a commit of what from selects: the flows that have no master and are assured, the
// others that have no master, those that have one, then expectations. So a table that is too
// small has the flows that matter most, and masters precede what belongs to them. ended is
// called with the lock held and the result. Entries that the kernel refuses are counted and are
// no error; a commit that could not go on to its end is one. asked is what the log names.
//
// While another commit is under way no second one begins: a request for the same Selection
// and tables has the result of that one, any other leads to a commit after it. Start changes
// nothing that from refers to, and the caller does not either.
func (c *Committer) Start(asked, tables cache.Tables, from Selection, ended func(Result, error)) error {
	if c.running {
		c.log.Notice("commit already in progress, skipping")
		c.joined = append(c.joined, joiner{tables, from, ended})
		return nil
	}
	c.log.Notice(commitTexts[asked])
	if from.Sources == nil {
		return ErrUnsupported
	}
	c.running = true
	c.hooks.Began()
	run := &commit{Committer: c, from: from, result: Result{Tables: tables, Began: time.Now(), Missing: c.hooks.PeersMissing(),
		Taken: slices.Clone(from.Taken), Kept: from.Kept}}
	c.sched.Go(sched.KindCommit, "commit", run.run, func(err error) {
		run.result.Took = time.Since(run.result.Began)
		c.running = false
		c.status.Count++
		c.status.Last = run.result
		c.ended = c.sched.Now()
		c.hooks.Ended(run.result.Tables)
		run.report(err)
		if err != nil {
			err = fmt.Errorf("the commit ended early: %w", err)
		}
		ended(run.result, err)
		c.answerJoined(run, err)
	})
	return nil
}

// joiner is a request for a commit that came during another one.
type joiner struct {
	tables cache.Tables
	from   Selection
	ended  func(Result, error)
}

// answerJoined answers the requests that came during a commit with its result. A request
// for a further table or another Selection leads to another commit.
func (c *Committer) answerJoined(run *commit, err error) {
	all := c.joined
	c.joined = nil
	for i := range all {
		j := &all[i]
		if j.tables&^run.result.Tables == 0 && j.from.same(&run.from) {
			j.ended(run.result, err)
		} else if err := c.Start(j.tables, j.tables, j.from, j.ended); err != nil {
			j.ended(Result{}, err)
		}
	}
}

// commitTexts name what is committed, in conntrack-tools' words.
var commitTexts = map[cache.Tables]string{
	cache.FlowTable:                     "committing conntrack cache",
	cache.ExpectTable:                   "committing expectation cache",
	cache.FlowTable | cache.ExpectTable: "committing all external caches",
}

// commit is one commit under way. All of it but reading the caches runs without the lock,
// and uses only what is fixed of its Committer.
type commit struct {
	*Committer
	from   Selection
	task   *sched.Task
	result Result
	pipe   *nl.Pipeline
	batch  *nl.Batch
	said   time.Time // when progress was last logged
	// What the flows took of result.Took.
	flowsTook time.Duration
	// Entries whose place in the kernel's table is taken. lateFlows were tried twice: what
	// they collide with by its translation may itself be replaced later.
	retryFlows   []ctnetlink.Flow
	lateFlows    []ctnetlink.Flow
	last         bool // there is no later attempt
	retryExpects []ctnetlink.Expect
	// orphans are expectations whose master is not in the default zone. The kernel does not
	// say in which zone an expectation is.
	orphans []ctnetlink.Expect
	adopted bool // the orphans have had their second attempt
}

// restored holds the entries behind a batch's requests, for those that the kernel refuses.
// Request i of the batch belongs to entry of[i].
type restored struct {
	flows   []ctnetlink.Flow
	expects []ctnetlink.Expect
	of      []request
}

// request is one request of a batch: which entry it belongs to, and whether it
// removes what stood in the way of the next one.
type request struct {
	entry   int
	expect  bool
	removal bool
	second  bool // the entry was removed before
}

// commitSlice is how many entries are read from a cache at once: more than for other
// tasks, since the loop is busy with the commit's own events and each slice waits for the
// lock.
const commitSlice = 1024

// run commits in passes, each a walk over a cache in slices.
func (c *commit) run(ctx context.Context, t *sched.Task) error {
	c.task = t
	c.pipe = c.conn.NewPipeline(ctx, c.complete)
	var err error
	if c.batch, err = c.fresh(); err == nil {
		err = c.passes(ctx)
	}
	return cmp.Or(err, c.pipe.Close())
}

func (c *commit) passes(ctx context.Context) error {
	if c.result.Tables&cache.FlowTable != 0 {
		err := c.failback.clear(ctx)
		if err == nil {
			err = c.flows(ctx)
		}
		if err == nil {
			err = c.late()
		}
		c.flowsTook = time.Since(c.result.Began)
		if err != nil {
			return err
		}
	}
	if c.result.Tables&cache.ExpectTable != 0 {
		return c.expects(ctx)
	}
	return nil
}

// flows commits the flows in three passes, and waits for the kernel after each: what comes
// next may need the flows before, or their place in the table. The first pass walks over the
// tables and notes which flows are left to the two others, so that none is missed because it
// changes meanwhile.
func (c *commit) flows(ctx context.Context) error {
	left := make([][passCount][]cache.Handle, len(c.from.Sources))
	for pass := assured; pass < passCount; pass++ {
		for i := range c.from.Sources {
			s := &c.from.Sources[i]
			if s.Side.Flows == nil {
				continue
			}
			var cur cache.Cursor
			next := func(handles []cache.Handle) (int, bool) { return s.Side.Flows.Next(&cur, handles) }
			if pass != assured {
				next = func(handles []cache.Handle) (int, bool) {
					of := &left[i][pass]
					got := copy(handles, *of)
					*of = (*of)[got:]
					return got, len(*of) > 0
				}
			}
			if err := c.walk(ctx, s, next, func(h cache.Handle, f *ctnetlink.Flow) bool {
				if of := passOf(f); pass == assured && of != assured {
					left[i][of] = append(left[i][of], h)
					return false
				}
				return true
			}); err != nil {
				return err
			}
			left[i][pass] = nil
		}
		if err := c.settle(); err != nil {
			return err
		}
	}
	return nil
}

// pass is a pass of a commit over the flows, in the order in which they are committed.
type pass uint8

const (
	assured pass = iota // without a master
	others              // without a master
	related             // with a master
	passCount
)

// passOf returns the pass that f belongs to.
func passOf(f *ctnetlink.Flow) pass {
	switch {
	case hasMaster(f):
		return related
	case f.Has&ctnetlink.HasStatus != 0 && f.Status&ctnetlink.StatusAssured != 0:
		return assured
	}
	return others
}

// walk commits those of the flows that next returns which belong to the pass (now) and are
// selected, in slices.
func (c *commit) walk(ctx context.Context, from *Source, next func([]cache.Handle) (got int, more bool), now func(cache.Handle, *ctnetlink.Flow) bool) error {
	handles := make([]cache.Handle, commitSlice)
	slice := make([]ctnetlink.Flow, 0, commitSlice)
	table := from.Side.Flows
	var f ctnetlink.Flow
	for more := true; more; {
		slice = slice[:0]
		if err := c.sched.Do(ctx, func() {
			var got int
			got, more = next(handles)
			for _, h := range handles[:got] {
				if state, ok := table.State(h); !ok || state == cache.Dead || !table.Load(h, &f) || !now(h, &f) {
					continue
				}
				c.task.Done++
				if !c.wants(from, h, &f) {
					continue
				}
				c.take(from.Node)
				_, updated, _ := table.Times(h)
				slice = slice[:len(slice)+1]
				c.restore.flow(&slice[len(slice)-1], &f, c.sched.Now()-updated)
				detach(&slice[len(slice)-1])
			}
		}); err != nil {
			return err
		}
		for i := range slice {
			if err := c.createFlow(&slice[i], false); err != nil {
				return err
			}
		}
		if err := c.clear(); err != nil {
			return err
		}
	}
	return nil
}

// wants reports whether flow h of a source is selected.
func (c *commit) wants(from *Source, h cache.Handle, f *ctnetlink.Flow) bool {
	return c.from.Wants == nil || c.from.Wants(from.Node, h, f)
}

// take counts a flow of a node's copy that is committed.
func (c *commit) take(node uint8) {
	for i := range c.result.Taken {
		if t := &c.result.Taken[i]; t.Node == node {
			t.Flows++
		}
	}
}

// hasMaster reports whether f's master is complete enough to be looked up.
func hasMaster(f *ctnetlink.Flow) bool {
	const needed = ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts
	return f.Master.Has&needed == needed
}

// detach drops the variable parts that f shares with the reused flow it was loaded into.
func detach(f *ctnetlink.Flow) {
	f.HelperInfo, f.Secctx = nil, nil
	if !hasMaster(f) {
		f.Master = ctnetlink.Tuple{}
	}
}

func (c *commit) expects(ctx context.Context) error {
	for i := range c.from.Sources {
		if s := &c.from.Sources[i]; s.Side.Expects != nil {
			if err := c.expectsOf(ctx, s); err != nil {
				return err
			}
		}
	}
	if err := c.settle(); err != nil || len(c.orphans) == 0 {
		return err
	}
	return c.adopt(ctx)
}

// expectsOf commits the selected expectations of one source.
func (c *commit) expectsOf(ctx context.Context, from *Source) error {
	handles := make([]cache.Handle, commitSlice)
	slice := make([]ctnetlink.Expect, 0, commitSlice)
	table := from.Side.Expects
	var cur cache.Cursor
	var e ctnetlink.Expect
	for more := true; more; {
		slice = slice[:0]
		if err := c.sched.Do(ctx, func() {
			var got int
			got, more = table.Next(&cur, handles)
			for _, h := range handles[:got] {
				if table.Load(h, &e) && (c.from.WantsExpect == nil || c.from.WantsExpect(from.Node, &e)) {
					_, updated, _ := table.Times(h)
					slice = slice[:len(slice)+1]
					c.restore.expect(&slice[len(slice)-1], &e, c.sched.Now()-updated)
				}
			}
			c.task.Done += uint64(got)
		}); err != nil {
			return err
		}
		for i := range slice {
			if err := c.createExpect(&slice[i], false); err != nil {
				return err
			}
		}
		if err := c.clear(); err != nil {
			return err
		}
	}
	return nil
}

// adopt creates the expectations whose masters are in other zones than the default one. Of
// masters with equal tuples in several zones nobody knows which one expects: such an
// expectation is tried without a zone once more, and the kernel refuses it.
func (c *commit) adopt(ctx context.Context) error {
	zones := make(map[ctnetlink.Tuple][]uint16, len(c.orphans))
	for i := range c.orphans {
		zones[c.orphans[i].Master] = nil
	}
	for i := range c.from.Sources {
		if s := &c.from.Sources[i]; s.Side.Flows != nil {
			if err := c.zonesOf(ctx, s, zones); err != nil {
				return err
			}
		}
	}
	orphans := c.orphans
	c.orphans, c.adopted = nil, true
	for i := range orphans {
		e := &orphans[i]
		if of := zones[e.Master]; len(of) == 1 {
			e.Zone = of[0]
			e.Has |= ctnetlink.ExpectHasZone
		}
		if err := c.createExpect(e, false); err != nil {
			return err
		}
	}
	return c.settle()
}

// zonesOf adds the zones of the selected flows of one source that have a helper to those of
// their tuples, if zones has these.
func (c *commit) zonesOf(ctx context.Context, from *Source, zones map[ctnetlink.Tuple][]uint16) error {
	handles := make([]cache.Handle, commitSlice)
	table := from.Side.Flows
	var cur cache.Cursor
	var f ctnetlink.Flow
	for more := true; more; {
		if err := c.sched.Do(ctx, func() {
			var got int
			got, more = table.Next(&cur, handles)
			for _, h := range handles[:got] {
				if !table.Load(h, &f) || f.Has&ctnetlink.HasHelper == 0 || !c.wants(from, h, &f) {
					continue
				}
				zone := f.Orig.Zone
				if f.Has&ctnetlink.HasZone != 0 {
					zone = f.Zone
				}
				f.Orig.Zone, f.Orig.Has = 0, f.Orig.Has&^ctnetlink.TupleZone
				if of, wanted := zones[f.Orig]; wanted {
					zones[f.Orig] = append(of, zone)
				}
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// createFlow adds the request that creates f; second says that what stood in its
// way was removed, or is to be removed by the same batch.
func (c *commit) createFlow(f *ctnetlink.Flow, second bool) error {
	tag := c.batch.Tag.(*restored)
	tag.flows = append(tag.flows, *f)
	entry := len(tag.flows) - 1
	if second {
		var gone ctnetlink.Flow
		key(&gone, f)
		c.batch.Add(nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Orig.Family, Attrs: gone.Append})
		tag.of = append(tag.of, request{entry: entry, removal: true})
	}
	c.batch.Add(nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.Orig.Family, Attrs: f.Append})
	tag.of = append(tag.of, request{entry: entry, second: second})
	return c.added()
}

func (c *commit) createExpect(e *ctnetlink.Expect, second bool) error {
	tag := c.batch.Tag.(*restored)
	tag.expects = append(tag.expects, *e)
	entry := len(tag.expects) - 1
	if second {
		gone := ctnetlink.Expect{Tuple: e.Tuple, Has: e.Has & ctnetlink.ExpectHasZone, Zone: e.Zone}
		c.batch.Add(nl.Request{Type: ctnetlink.TypeExpectDelete, Family: e.Tuple.Family, Attrs: gone.Append})
		tag.of = append(tag.of, request{entry: entry, expect: true, removal: true})
	}
	c.batch.Add(nl.Request{Type: ctnetlink.TypeExpectNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: e.Tuple.Family, Attrs: e.Append})
	tag.of = append(tag.of, request{entry: entry, expect: true, second: second})
	return c.added()
}

// added sends the batch when it is full.
func (c *commit) added() error {
	if !c.batch.Full() {
		return nil
	}
	return c.submit()
}

func (c *commit) submit() (err error) {
	if err = c.pipe.Submit(c.batch); err == nil {
		c.batch, err = c.fresh()
	}
	return err
}

func (c *commit) fresh() (*nl.Batch, error) {
	b, err := c.pipe.Batch()
	if err != nil {
		return nil, err
	}
	tag, ok := b.Tag.(*restored)
	if !ok {
		tag = &restored{}
		b.Tag = tag
	}
	tag.flows, tag.expects, tag.of = tag.flows[:0], tag.expects[:0], tag.of[:0]
	return b, nil
}

// clear removes flows and expectations that blocked entries, and creates the entries again.
func (c *commit) clear() error {
	flows, expects := c.retryFlows, c.retryExpects
	c.retryFlows, c.retryExpects = nil, nil
	for i := range flows {
		if err := c.createFlow(&flows[i], true); err != nil {
			return err
		}
	}
	for i := range expects {
		if err := c.createExpect(&expects[i], true); err != nil {
			return err
		}
	}
	return nil
}

// late retries flows that collided with others once more, when all have been replaced.
func (c *commit) late() error {
	c.last = true
	for i := range c.lateFlows {
		if err := c.createFlow(&c.lateFlows[i], true); err != nil {
			return err
		}
	}
	c.lateFlows = nil
	return c.settle()
}

// settle waits until the kernel has answered for everything so far.
func (c *commit) settle() error {
	for {
		if err := c.submit(); err != nil {
			return err
		}
		if err := c.pipe.Drain(); err != nil {
			return err
		}
		if len(c.retryFlows)+len(c.retryExpects) == 0 {
			return nil
		}
		if err := c.clear(); err != nil {
			return err
		}
	}
}

// progressPeriod is the period of a long commit's progress lines.
const progressPeriod = 2 * time.Second

// progress logs the progress of a long commit.
func (c *commit) progress() {
	now := time.Now()
	if c.said.IsZero() {
		c.said = c.result.Began
	}
	if now.Sub(c.said) < progressPeriod {
		return
	}
	c.said = now
	r := &c.result
	c.log.Notice(fmt.Sprintf("committing: %d entries so far, %d failed, after %d seconds",
		r.Flows.Committed+r.Expects.Committed, r.Failed(), now.Sub(r.Began)/time.Second))
}

// complete counts the results of a batch.
func (c *commit) complete(b *nl.Batch) error {
	c.progress()
	tag := b.Tag.(*restored)
	failures := b.Failures()
	for i, r := range tag.of {
		var err error
		if len(failures) > 0 && failures[0].Index == i {
			err = failures[0].Err
			failures = failures[1:]
		}
		switch {
		case r.removal:
			if err != nil && !errors.Is(err, unix.ENOENT) {
				c.fail("commit-destroy", tag, r, err)
			}
		case err == nil:
			c.count(r).Committed++
		case errors.Is(err, unix.EEXIST) && !r.second && r.expect:
			c.retryExpects = append(c.retryExpects, tag.expects[r.entry])
		case errors.Is(err, unix.EEXIST) && !r.second:
			c.retryFlows = append(c.retryFlows, tag.flows[r.entry])
		case errors.Is(err, unix.ENOENT) && r.expect && !c.adopted && tag.expects[r.entry].Zone == 0:
			c.orphans = append(c.orphans, tag.expects[r.entry])
		case errors.Is(err, unix.EEXIST) && !c.last && !r.expect:
			c.lateFlows = append(c.lateFlows, tag.flows[r.entry])
		default:
			c.count(r).Failed++
			c.fail("commit-create", tag, r, err)
		}
	}
	return nil
}

func (c *commit) count(r request) *Count {
	if r.expect {
		return &c.result.Expects
	}
	return &c.result.Flows
}

// fail names an entry that the kernel refused.
func (c *commit) fail(step string, tag *restored, r request, err error) {
	var line string
	if r.expect {
		line = daemonlog.ExpectLine(&tag.expects[r.entry])
	} else {
		line = daemonlog.FlowLine(&tag.flows[r.entry])
	}
	reason := step + ": " + nl.Strerror(err)
	c.log.Error(reason, daemonlog.EntryKey, line)
	if !r.removal && len(c.result.Refused) < MaxRefused {
		c.result.Refused = append(c.result.Refused, Refusal{Reason: reason, Entry: strings.TrimSpace(line)})
	}
}

// report logs the outcome in conntrack-tools' words.
func (c *commit) report(err error) {
	if err != nil {
		c.log.Error("commit ended early: " + err.Error())
	}
	r := &c.result
	for _, t := range []struct {
		table cache.Tables
		count Count
		what  string
		took  time.Duration
	}{{cache.FlowTable, r.Flows, "entries", c.flowsTook}, {cache.ExpectTable, r.Expects, "expectations", r.Took - c.flowsTook}} {
		if r.Tables&t.table == 0 {
			continue
		}
		c.log.Notice(fmt.Sprintf("Committed %d new %s", t.count.Committed, t.what))
		if t.count.Failed > 0 {
			c.log.Notice(fmt.Sprintf("%d %s can't be committed", t.count.Failed, t.what))
		}
		c.log.Notice(fmt.Sprintf("commit has taken %d.%06d seconds", t.took/time.Second, t.took%time.Second/time.Microsecond))
	}
	if r.Missing > 0 {
		c.log.Warn(fmt.Sprintf("%d events of the peer were lost and not yet made up: flows that it had may be missing", r.Missing))
	}
}
