package conntrack

import (
	"errors"

	"golang.org/x/sys/unix"

	"ctbox/nl"
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

// deletions is what a batch of deletions is about: lines to print, each up to
// the offset in ends, in the order of the requests.
type deletions struct {
	lines []byte
	ends  []int
	ahead bool // the first line is printed already
}

// errStop ends a dump when there is a reason not to change anything more.
var errStop = errors.New("stop")

// deleteMatching deletes the flows that match and returns their number. Dump
// and deletions run side by side. A flow that has gone by itself is neither
// counted nor printed; the id in each request keeps a new flow with the tuple of
// one that has gone from being hit. p may be nil.
func (s *session) deleteMatching(c *Command, p *printer) (uint64, error) {
	conn, err := s.change()
	if err != nil {
		return 0, err
	}
	var deleted uint64
	var failed error // first reason to stop; what is on its way is still finished
	pipe := conn.NewPipeline(s.ctx, func(b *nl.Batch) error {
		d := b.Tag.(*deletions)
		refused := b.Failures()
		start := 0
		for i := range b.Len() {
			line := d.lines[start:d.ends[i]]
			start = d.ends[i]
			if len(refused) > 0 && refused[0].Index == i {
				if err := refused[0].Err; failed == nil && !isErrno(err, unix.ENOENT) {
					failed = s.refused(c, err)
				}
				refused = refused[1:]
				continue
			}
			deleted++
			if p == nil || d.ahead && i == 0 {
				continue
			}
			if err := p.text(line, 1); err != nil && failed == nil {
				failed = err
			}
		}
		return nil
	})

	filter := newFilter(c)
	var batch *nl.Batch
	var request nl.Flow
	first := true
	err = s.eachCandidate(c, func(f *nl.Flow) error {
		if failed != nil {
			return errStop
		}
		if !filter.match(f) {
			return nil
		}
		if batch == nil {
			next, err := pipe.Batch()
			if err != nil {
				return err
			}
			batch = next
			reuse(batch)
		}
		d := batch.Tag.(*deletions)
		if p != nil {
			d.lines = append(format.AppendFlow(d.lines, f, &p.style, nil), '\n')
			if first {
				// The first line is written before anything is deleted: an
				// output that is full or closed shows itself here.
				first, d.ahead = false, true
				if err := p.ahead(d.lines); err != nil {
					return err
				}
			}
		}
		d.ends = append(d.ends, len(d.lines))
		setIdentity(&request, f)
		batch.Add(nl.Request{Type: nl.TypeFlowDelete, Family: f.Orig.Family, Flow: &request})
		if !batch.Full() {
			return nil
		}
		full := batch
		batch = nil
		return pipe.Submit(full)
	})
	if batch != nil && err == nil && failed == nil {
		err = pipe.Submit(batch)
	}
	if end := pipe.Close(); err == nil {
		err = end
	}
	if failed != nil {
		err = failed
	}
	return deleted, err
}

// reuse readies a batch's deletions.
func reuse(b *nl.Batch) {
	d, ok := b.Tag.(*deletions)
	if !ok {
		d = &deletions{}
		b.Tag = d
	}
	d.lines, d.ends, d.ahead = d.lines[:0], d.ends[:0], false
}

// setIdentity makes r the request that names f and no other flow. The kernel
// compares the id, which is new for every flow.
func setIdentity(r, f *nl.Flow) {
	r.Orig = f.Orig
	r.Has = f.Has & (nl.HasZone | nl.HasID)
	r.Zone, r.ID = f.Zone, f.ID
}

// eachCandidate hands over at least the flows that match a -D or -F: the one
// that the tuple and zone name, if they name one, else what a dump has.
func (s *session) eachCandidate(c *Command, each func(*nl.Flow) error) error {
	if !namesOne(c) {
		return s.dump(c, each)
	}
	conn, err := s.ask()
	if err != nil {
		return err
	}
	var got nl.Flow
	err = conn.Get(s.ctx, wanted(&c.Flow), &got)
	switch {
	case isErrno(err, unix.ENOENT):
		return nil
	case err != nil:
		return s.refused(c, err)
	}
	return each(&got)
}

// namesOne reports whether the command's original tuple and zone are those of
// one flow at most.
func namesOne(c *Command) bool {
	t := &c.Flow.Orig
	need := nl.TupleAddrs | nl.TupleProto
	switch {
	case nl.IsICMP(t.Proto):
		need |= nl.TupleICMP
	case nl.HasPorts(t.Proto) || t.Proto == nl.ProtoGRE:
		need |= nl.TuplePorts
	}
	return t.Has&need == need && t.Has&nl.TupleZone == 0 && c.Flow.Reply.Has&nl.TupleZone == 0 &&
		c.Flow.Has&nl.HasZone != 0 && !c.Has(OptMaskSrc|OptMaskDst)
}

// deleteExpect deletes the expectation of the expected tuple.
func (s *session) deleteExpect(c *Command) (uint64, error) {
	conn, err := s.ask()
	if err != nil {
		return 0, err
	}
	r := nl.Request{Type: nl.TypeExpectDelete, Family: c.Family, Expect: &nl.Expect{Tuple: c.Expect.Tuple}}
	if err := conn.Do(s.ctx, r, nil); err != nil {
		return 0, s.refused(c, err)
	}
	return 1, nil
}
