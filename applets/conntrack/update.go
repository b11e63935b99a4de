package conntrack

import (
	"golang.org/x/sys/unix"

	"ctbox/nl"
)

// update changes the flows that match and prints each as it then is. Dump and
// updates run side by side. Flows that would not change are left alone.
func (s *session) update(c *Command) (uint64, error) {
	conn, err := s.change()
	if err != nil {
		return 0, err
	}
	u := &updater{session: s, cmd: c, printer: newPrinter(s.out, c), filter: newFilter(c)}
	u.pipe = conn.NewPipeline(s.ctx, u.complete)
	err = s.dump(c, u.take)
	if u.batch != nil && err == nil && u.failed == nil {
		err = u.pipe.Submit(u.batch)
	}
	if end := u.pipe.Close(); err == nil {
		err = end
	}
	if u.failed != nil {
		err = u.failed
	}
	if end := u.printer.finish(); err == nil {
		err = end
	}
	return u.printer.entries, err
}

// updater is an update under way.
type updater struct {
	*session
	cmd     *Command
	printer *printer
	filter  *filter
	pipe    *nl.Pipeline
	batch   *nl.Batch // being filled; nil before the first flow

	change, get, got nl.Flow

	failed error // first reason to stop; what is on its way is still finished
}

// updates is what a batch of updates is about: for each pair of requests, the
// update and the get that follows it, what the flow was.
type updates []updated

type updated struct {
	id      uint32
	hasID   bool
	labels  bool // the update has labels
	refused bool
}

// take puts a flow that matches and would change into the batch.
func (u *updater) take(f *nl.Flow) error {
	if u.failed != nil {
		return errStop
	}
	if !u.filter.match(f) || !setChange(&u.change, f, u.cmd) {
		return nil
	}
	if u.cmd.LabelsAdd.Beyond {
		u.failed = errLabelBeyond(u.cmd)
		return errStop
	}
	if u.batch == nil {
		if err := u.nextBatch(); err != nil {
			return err
		}
	}
	pairs := u.batch.Tag.(*updates)
	*pairs = append(*pairs, updated{id: f.ID, hasID: f.Has&nl.HasID != 0, labels: u.change.Has&nl.HasLabels != 0})
	setIdentity(&u.get, f)
	u.get.Has &^= nl.HasID
	family := f.Orig.Family
	u.batch.Add(nl.Request{Type: nl.TypeFlowNew, Family: family, Flow: &u.change})
	u.batch.Add(nl.Request{Type: nl.TypeFlowGet, Family: family, Flow: &u.get})
	if !u.batch.Full() {
		return nil
	}
	full := u.batch
	u.batch = nil
	return u.pipe.Submit(full)
}

func (u *updater) nextBatch() error {
	b, err := u.pipe.Batch()
	if err != nil {
		return err
	}
	if b.Tag == nil {
		b.Tag = new(updates)
	}
	pairs := b.Tag.(*updates)
	*pairs = (*pairs)[:0]
	u.batch = b
	return nil
}

// complete takes what the kernel said to a batch, and prints the flows that it
// answered with.
func (u *updater) complete(b *nl.Batch) error {
	pairs := *b.Tag.(*updates)
	for _, f := range b.Failures() {
		pair := &pairs[f.Index/2]
		pair.refused = true
		if u.failed == nil && !forgivable(f.Err, pair.labels) {
			u.failed = u.refused(u.cmd, f.Err)
		}
	}
	err := b.Answers(func(index int, m *nl.Message) error {
		was := pairs[index/2]
		if was.refused {
			return nil
		}
		if err := u.got.Decode(m.Attrs); err != nil {
			return err
		}
		if was.hasID && u.got.Has&nl.HasID != 0 && u.got.ID != was.id {
			// The kernel has no way to tie an update to an id.
			u.warn("WARNING: flow %d ended and its successor %d was updated in its place.", was.id, u.got.ID)
		}
		u.printer.clock()
		return u.printer.flow(&u.got, nil)
	})
	if err != nil && u.failed == nil {
		u.failed = err
	}
	return nil
}

// forgivable reports whether a refused update is passed over: the flow has
// ended, or the namespace has no rule that makes room for labels.
func forgivable(err error, labels bool) bool {
	return isErrno(err, unix.ENOENT) || labels && isErrno(err, unix.ENOSPC)
}

// setChange makes r the request that changes f as c says, and reports whether
// there is anything to change.
func setChange(r, f *nl.Flow, c *Command) bool {
	want := &c.Flow
	setIdentity(r, f)
	r.Has &^= nl.HasID
	changed := false

	if want.Has&nl.HasTimeout != 0 {
		r.Timeout = want.Timeout
		r.Has |= nl.HasTimeout
		changed = changed || f.Has&nl.HasTimeout == 0 || f.Timeout != want.Timeout
	}
	if want.Has&nl.HasStatus != 0 {
		// Bits can be added, not taken away; the kernel insists on the others.
		r.Status = f.Status | want.Status
		r.Has |= nl.HasStatus
		changed = changed || r.Status != f.Status
	}
	if want.Has&nl.HasMark != 0 {
		old := present(f.Has&nl.HasMark != 0, f.Mark)
		mask := ^uint32(0)
		if want.Has&nl.HasMarkMask != 0 {
			mask = want.MarkMask
		}
		r.Mark = old&^mask ^ want.Mark
		r.Has |= nl.HasMark
		changed = changed || r.Mark != old
	}
	protocol := setProtocolChange(r, f, want)
	labels := setLabelChange(r, f, c)
	return changed || protocol || labels
}

// setProtocolChange adds the states and tags that are to be set.
func setProtocolChange(r, f, want *nl.Flow) bool {
	const both = nl.HasTCPState | nl.HasSCTPState | nl.HasDCCPState | nl.HasSCTPVtagOrig | nl.HasSCTPVtagReply |
		nl.HasDCCPRole | nl.HasTCPFlagsOrig | nl.HasTCPFlagsReply
	has := want.Has & both
	r.Has |= has
	r.TCPState, r.SCTPState, r.DCCPState, r.DCCPRole = want.TCPState, want.SCTPState, want.DCCPState, want.DCCPRole
	r.TCPFlagsOrig, r.TCPFlagsReply = want.TCPFlagsOrig, want.TCPFlagsReply
	r.SCTPVtagOrig, r.SCTPVtagReply = want.SCTPVtagOrig, want.SCTPVtagReply
	completeSCTP(r, f)
	return has&nl.HasTCPState != 0 && (f.Has&nl.HasTCPState == 0 || f.TCPState != want.TCPState) ||
		has&nl.HasSCTPState != 0 && (f.Has&nl.HasSCTPState == 0 || f.SCTPState != want.SCTPState) ||
		has&nl.HasDCCPState != 0 && (f.Has&nl.HasDCCPState == 0 || f.DCCPState != want.DCCPState) ||
		has&nl.HasSCTPVtagOrig != 0 && (f.Has&nl.HasSCTPVtagOrig == 0 || f.SCTPVtagOrig != want.SCTPVtagOrig) ||
		has&nl.HasSCTPVtagReply != 0 && (f.Has&nl.HasSCTPVtagReply == 0 || f.SCTPVtagReply != want.SCTPVtagReply)
}

// completeSCTP takes from f what of state and tags is not to be changed: the
// kernel takes the three together only.
func completeSCTP(r, f *nl.Flow) {
	const all = nl.HasSCTPState | nl.HasSCTPVtagOrig | nl.HasSCTPVtagReply
	if r.Has&all == 0 {
		return
	}
	if r.Has&nl.HasSCTPState == 0 {
		r.SCTPState = f.SCTPState
	}
	if r.Has&nl.HasSCTPVtagOrig == 0 {
		r.SCTPVtagOrig = f.SCTPVtagOrig
	}
	if r.Has&nl.HasSCTPVtagReply == 0 {
		r.SCTPVtagReply = f.SCTPVtagReply
	}
	r.Has |= f.Has & all
}

// setLabelChange adds the labels. Bits and mask make the kernel change just the
// labels that were named, whatever else happens to the flow meanwhile. Adding a
// label that is there, and taking away one that is not from a flow with labels,
// count as a change: so conntrack-tools has it.
func setLabelChange(r, f *nl.Flow, c *Command) bool {
	r.Labels, r.LabelsMask = nl.Labels{}, nl.Labels{}
	r.LabelsLen, r.LabelsMaskLen = nl.LabelWords, nl.LabelWords
	labelled := f.Has&nl.HasLabels != 0
	switch {
	case c.Has(OptLabelAdd):
		r.Labels, r.LabelsMask = c.LabelsAdd.Bits, c.LabelsAdd.Bits
		r.Has |= nl.HasLabels | nl.HasLabelsMask
		return true
	case c.Has(OptLabelDel) && c.LabelDelAll && labelled:
		r.Has |= nl.HasLabels
		return true
	case c.Has(OptLabelDel) && labelled:
		r.LabelsMask = c.LabelsDel.Bits
		r.Has |= nl.HasLabels | nl.HasLabelsMask
		return true
	}
	return false
}
