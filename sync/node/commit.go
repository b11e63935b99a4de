package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/sched"

	"golang.org/x/sys/unix"
)

// Commit writes the external caches into the kernel's tables: flows without a
// master first, then those that have one, then expectations. It returns when the
// commit has ended; if ctx ends before, the commit goes on.
func (n *Node) Commit(ctx context.Context, tables Tables) (CommitResult, error) {
	type outcome struct {
		result CommitResult
		err    error
	}
	done := make(chan outcome, 1)
	var refused error
	err := n.sched.Do(ctx, func() {
		refused = n.startCommit(tables, func(r CommitResult, err error) { done <- outcome{r, err} })
	})
	if err = errors.Join(err, refused); err != nil {
		return CommitResult{}, err
	}
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return CommitResult{}, context.Cause(ctx)
	case <-n.sched.Stopped():
		return CommitResult{}, ErrStopped
	}
}

// startCommit is the part of Commit that needs the lock.
func (n *Node) startCommit(tables Tables, ended func(CommitResult, error)) error {
	asked := tables
	if !n.expectSync {
		tables &^= Expects
	}
	if n.machine == nil || tables == 0 {
		return ErrUnsupported
	}
	// Even with nothing to commit this node takes over, and the purge that was scheduled
	// when it became the backup must not empty its kernel's table now.
	n.cancelPurge()
	if n.committing {
		n.notice("commit already in progress, skipping")
		n.joined = append(n.joined, joiner{tables, ended})
		return nil
	}
	n.notice(commitTexts[asked])
	if n.external.flows == nil {
		return ErrUnsupported
	}
	n.committing = true
	c := &commit{node: n, result: CommitResult{Tables: tables, Began: time.Now(), Missing: n.peersMissing()}}
	n.run(sched.KindCommit, "commit", c.run, func(err error) {
		n.committing = false
		c.result.Took = time.Since(c.result.Began)
		n.commits.Count++
		n.commits.Last = c.result
		n.commitEnded = n.sched.Now()
		if c.result.Tables&Flows != 0 {
			n.tookOver()
		}
		c.report(err)
		if err != nil {
			err = fmt.Errorf("the commit ended early: %w", err)
		}
		ended(c.result, err)
		n.answerJoined(c.result, err)
	})
	return nil
}

// joiner is a request for a commit that came during another one.
type joiner struct {
	tables Tables
	ended  func(CommitResult, error)
}

// answerJoined answers the requests that came during a commit with its result. A request
// for a further table leads to another commit.
func (n *Node) answerJoined(result CommitResult, err error) {
	all := n.joined
	n.joined = nil
	for _, j := range all {
		if j.tables&^result.Tables == 0 {
			j.ended(result, err)
		} else if err := n.startCommit(j.tables, j.ended); err != nil {
			j.ended(CommitResult{}, err)
		}
	}
}

// peersMissing returns how many events the peers have lost and not yet made up, by their
// last notices.
func (n *Node) peersMissing() (events uint64) {
	for _, p := range n.peers {
		events += uint64(p.incomplete)
	}
	return events
}

// commitTexts name what is committed, in conntrack-tools' words.
var commitTexts = map[Tables]string{
	Flows:           "committing conntrack cache",
	Expects:         "committing expectation cache",
	Flows | Expects: "committing all external caches",
}

// commit is one commit under way. All of it but reading the caches runs without the lock.
type commit struct {
	node   *Node
	task   *sched.Task
	result CommitResult
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
	n := c.node
	c.pipe = n.conns.commit.NewPipeline(ctx, c.complete)
	var err error
	if c.batch, err = c.fresh(); err == nil {
		err = c.passes(ctx)
	}
	return cmp.Or(err, c.pipe.Close())
}

func (c *commit) passes(ctx context.Context) error {
	if c.result.Tables&Flows != 0 {
		err := c.node.clearEnded(ctx)
		for _, related := range []bool{false, true} {
			if err == nil {
				err = c.flows(ctx, related)
			}
		}
		if err == nil {
			err = c.late()
		}
		c.flowsTook = time.Since(c.result.Began)
		if err != nil {
			return err
		}
	}
	if c.result.Tables&Expects != 0 {
		return c.expects(ctx)
	}
	return nil
}

// flows commits the flows that have a master, or those that have none, and waits
// for the kernel: what comes next may need them.
func (c *commit) flows(ctx context.Context, related bool) error {
	n := c.node
	handles := make([]cache.Handle, commitSlice)
	slice := make([]ctnetlink.Flow, 0, commitSlice)
	var cur cache.Cursor
	var f ctnetlink.Flow
	for more := true; more; {
		slice = slice[:0]
		if err := n.sched.Do(ctx, func() {
			var got int
			table := n.external.flows
			got, more = table.Next(&cur, handles)
			for _, h := range handles[:got] {
				if !table.Load(h, &f) || hasMaster(&f) != related {
					continue
				}
				_, updated, _ := table.Times(h)
				slice = slice[:len(slice)+1]
				n.restore.flow(&slice[len(slice)-1], &f, n.sched.Now()-updated)
				detach(&slice[len(slice)-1])
			}
			c.task.Done += uint64(got)
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
	return c.settle()
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
	n := c.node
	handles := make([]cache.Handle, commitSlice)
	slice := make([]ctnetlink.Expect, 0, commitSlice)
	var cur cache.Cursor
	var e ctnetlink.Expect
	for more := true; more; {
		slice = slice[:0]
		if err := n.sched.Do(ctx, func() {
			var got int
			table := n.external.expects
			got, more = table.Next(&cur, handles)
			for _, h := range handles[:got] {
				if table.Load(h, &e) {
					_, updated, _ := table.Times(h)
					slice = slice[:len(slice)+1]
					n.restore.expect(&slice[len(slice)-1], &e, n.sched.Now()-updated)
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
	return c.settle()
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
	c.node.notice(fmt.Sprintf("committing: %d entries so far, %d failed, after %d seconds",
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
		case errors.Is(err, unix.EEXIST) && !c.last && !r.expect:
			c.lateFlows = append(c.lateFlows, tag.flows[r.entry])
		default:
			c.count(r).Failed++
			c.fail("commit-create", tag, r, err)
		}
	}
	return nil
}

func (c *commit) count(r request) *CommitCount {
	if r.expect {
		return &c.result.Expects
	}
	return &c.result.Flows
}

// fail names an entry that the kernel refused.
func (c *commit) fail(step string, tag *restored, r request, err error) {
	var line []byte
	if r.expect {
		line = appendExpectLine(nil, &tag.expects[r.entry])
	} else {
		line = appendFlowLine(nil, &tag.flows[r.entry])
	}
	reason := step + ": " + errnoText(err)
	c.node.log.Error(reason, EntryKey, string(line))
	if !r.removal && len(c.result.Refused) < MaxRefused {
		c.result.Refused = append(c.result.Refused, Refusal{Reason: reason, Entry: strings.TrimSpace(string(line))})
	}
}

// report logs the outcome in conntrack-tools' words.
func (c *commit) report(err error) {
	n := c.node
	if err != nil {
		n.log.Error("commit ended early: " + err.Error())
	}
	r := &c.result
	for _, t := range []struct {
		table Tables
		count CommitCount
		what  string
		took  time.Duration
	}{{Flows, r.Flows, "entries", c.flowsTook}, {Expects, r.Expects, "expectations", r.Took - c.flowsTook}} {
		if r.Tables&t.table == 0 {
			continue
		}
		n.notice(fmt.Sprintf("Committed %d new %s", t.count.Committed, t.what))
		if t.count.Failed > 0 {
			n.notice(fmt.Sprintf("%d %s can't be committed", t.count.Failed, t.what))
		}
		n.notice(fmt.Sprintf("commit has taken %d.%06d seconds", t.took/time.Second, t.took%time.Second/time.Microsecond))
	}
	if r.Missing > 0 {
		n.log.Warn(fmt.Sprintf("%d events of the peer were lost and not yet made up: flows that it had may be missing", r.Missing))
	}
}
