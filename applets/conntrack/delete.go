package conntrack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ctbox/internal/feature"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// delete deletes the flows that match and prints each that it deleted.
func (s *session) delete(c *Command) (uint64, error) {
	p := newPrinter(s.out, c)
	n, err := s.deleteMatching(c, p)
	if end := p.finish(); err == nil {
		err = end
	}
	return n, err
}

// errStop ends a dump whose remaining flows must not be changed.
var errStop = errors.New("stop")

// deleteMatching deletes the flows that match and returns their number. Dump and
// deletions run concurrently. p may be nil.
func (s *session) deleteMatching(c *Command, p *printer) (uint64, error) {
	conn, err := s.changeConn()
	if err != nil {
		return 0, err
	}
	d := &deleter{session: s, cmd: c, printer: p, filter: s.newFilter(c), refused: newRefusals(c)}
	d.pipe = conn.NewPipeline(s.ctx, d.complete)
	err = s.eachCandidate(c, d.take)
	if d.batch != nil && err == nil && d.failed == nil {
		err = d.pipe.Submit(d.batch)
	}
	if end := d.pipe.Close(); err == nil {
		err = end
	}
	if d.failed != nil {
		err = d.failed
	}
	if err == nil {
		err = d.refused.err()
	}
	return d.deleted, err
}

// deleter is the state of a deletion. A flow that ends before its deletion is neither
// counted nor printed. The id in each request protects a new flow with the same tuple.
type deleter struct {
	*session
	cmd     *Command
	printer *printer // may be nil
	filter  *filter
	pipe    *nl.Pipeline
	batch   *nl.Batch // being filled; nil before the first flow
	request ctnetlink.Flow
	begun   bool

	deleted uint64
	refused refusals
	failed  error // first reason to stop; batches already sent are still completed
}

// deletions are the lines to print for a batch, each up to the offset in ends, in the
// order of the requests.
type deletions struct {
	lines []byte
	ends  []int
	ahead bool // the first line is already printed

	met     []int32 // lines of --match, each request's up to the offset in metEnds
	metEnds []int
}

// refusals are the changes that the kernel has refused where a command goes on after one:
// with --match, where a flow that can't be deleted must not keep the others, and where the
// exit status says so.
type refusals struct {
	goOn   bool
	number uint64
	first  error
}

func newRefusals(c *Command) refusals { return refusals{goOn: c.Has(OptMatch | OptDistinctStatus)} }

// add notes a refusal, and reports whether to go on.
func (r *refusals) add(err error) bool {
	if !feature.Match || !r.goOn {
		return false
	}
	if r.number++; r.first == nil {
		r.first = err
	}
	return true
}

func (r *refusals) err() error {
	if !feature.Match || r.number == 0 {
		return nil
	}
	return &partlyRefused{r.number, r.first}
}

// take adds a flow that matches to the batch.
func (d *deleter) take(f *ctnetlink.Flow) error {
	if d.failed != nil {
		return errStop
	}
	if !d.filter.match(f) {
		return nil
	}
	if d.batch == nil {
		if err := d.nextBatch(); err != nil {
			return err
		}
	}
	t := d.batch.Tag.(*deletions)
	if feature.Match && d.filter.file != nil {
		t.met = d.filter.file.appendHits(t.met, f)
		t.metEnds = append(t.metEnds, len(t.met))
	}
	if d.printer != nil && !d.printer.silent {
		d.printer.updateTime()
		t.lines = append(format.AppendFlow(t.lines, f, &d.printer.style, nil), '\n')
		if !d.begun {
			// The first line is written before anything is deleted, to detect an
			// output that is full or closed.
			d.begun, t.ahead = true, true
			if err := d.printer.ahead(t.lines); err != nil {
				return err
			}
		}
	}
	t.ends = append(t.ends, len(t.lines))
	setIdentity(&d.request, f)
	d.batch.Add(nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Orig.Family, Attrs: d.request.Append})
	if !d.batch.Full() {
		return nil
	}
	full := d.batch
	d.batch = nil
	return d.pipe.Submit(full)
}

func (d *deleter) nextBatch() error {
	b, err := d.pipe.Batch()
	if err != nil {
		return err
	}
	t, ok := b.Tag.(*deletions)
	if !ok {
		t = &deletions{}
		b.Tag = t
	}
	t.lines, t.ends, t.ahead = t.lines[:0], t.ends[:0], false
	t.met, t.metEnds = t.met[:0], t.metEnds[:0]
	d.batch = b
	return nil
}

// complete processes the kernel's answers to a batch and prints what was deleted.
func (d *deleter) complete(b *nl.Batch) error {
	t := b.Tag.(*deletions)
	refused := b.Failures()
	start, met := 0, 0
	for i, end := range t.ends {
		line := t.lines[start:end]
		start = end
		var lines []int32
		if feature.Match && len(t.metEnds) > 0 {
			lines, met = t.met[met:t.metEnds[i]], t.metEnds[i]
		}
		if len(refused) > 0 && refused[0].Index == i {
			if err := refused[0].Err; d.failed == nil && !isErrno(err, unix.ENOENT) {
				if err = d.explain(d.cmd, err); !d.refused.add(err) {
					d.failed = err
				}
			}
			refused = refused[1:]
			continue
		}
		d.deleted++
		if lines != nil {
			d.filter.file.count(lines)
		}
		if d.printer == nil || t.ahead && i == 0 {
			continue
		}
		if err := d.printer.text(line, 1); err != nil && d.failed == nil {
			d.failed = err
		}
	}
	return nil
}

// setIdentity makes r the request that identifies f and no other flow. The kernel
// compares the id, which is different for every flow.
func setIdentity(r, f *ctnetlink.Flow) {
	r.Orig = f.Orig
	r.Has = f.Has & (ctnetlink.HasZone | ctnetlink.HasID)
	r.Zone, r.ID = f.Zone, f.ID
}

// eachCandidate calls each for at least the flows that match a -D or -F: the one flow
// that tuple and zone identify, if they do, else those of a dump.
func (s *session) eachCandidate(c *Command, each func(*ctnetlink.Flow) error) error {
	if !namesOne(c) {
		return s.dump(c, each)
	}
	conn, err := s.requestConn()
	if err != nil {
		return err
	}
	var got ctnetlink.Flow
	err = ctnetlink.Get(s.ctx, conn, lookup(&c.Flow), &got)
	switch {
	case isErrno(err, unix.ENOENT):
		return nil
	case err != nil:
		return s.explain(c, err)
	}
	return each(&got)
}

// namesOne reports whether the command's original tuple and zone identify at most one
// flow.
func namesOne(c *Command) bool {
	t := &c.Flow.Orig
	return wholeTuple(t) && t.Has&ctnetlink.TupleZone == 0 && c.Flow.Reply.Has&ctnetlink.TupleZone == 0 &&
		c.Flow.Has&ctnetlink.HasZone != 0 && !c.Has(OptMaskSrc|OptMaskDst)
}

// wholeTuple reports whether t has all fields of its protocol.
func wholeTuple(t *ctnetlink.Tuple) bool {
	need := ctnetlink.TupleAddrs | ctnetlink.TupleProto
	switch {
	case ctnetlink.IsICMP(t.Proto):
		need |= ctnetlink.TupleICMP
	case ctnetlink.HasPorts(t.Proto) || t.Proto == ctnetlink.ProtoGRE:
		need |= ctnetlink.TuplePorts
	}
	return t.Has&need == need
}

// deleteExpect deletes the expectation of the expected tuple.
func (s *session) deleteExpect(c *Command) (uint64, error) {
	conn, err := s.requestConn()
	if err != nil {
		return 0, err
	}
	r := nl.Request{Type: ctnetlink.TypeExpectDelete, Family: c.Family, Attrs: (&ctnetlink.Expect{Tuple: c.Expect.Tuple}).Append}
	if err := conn.Do(s.ctx, r, nil); err != nil {
		return 0, s.explain(c, err)
	}
	return 1, nil
}

// flush empties a table, or with -f one family's part of the conntrack table.
func (s *session) flush(c *Command) error {
	what, r := "connection tracking table", nl.Request{Type: ctnetlink.TypeFlowDelete}
	if c.Table == TableExpect {
		what, r.Type = "expectation table", ctnetlink.TypeExpectDelete
	}
	if c.Table == TableConntrack && c.Has(OptFamily) {
		// Some kernel versions ignore the family of a flush and empty everything.
		if _, err := s.deleteMatching(c, nil); err != nil {
			return err
		}
	} else {
		conn, err := s.requestConn()
		if err != nil {
			return err
		}
		if err := conn.Do(s.ctx, r, nil); err != nil {
			return s.explain(c, err)
		}
	}
	_, err := fmt.Fprintf(s.stderr, "%s%s has been emptied.\n", messagePrefix, what)
	return err
}
