package conntrack

import (
	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
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
	if u.noRoom > 0 {
		// conntrack-tools passes over such flows without a word; the count and the exit
		// status are as there.
		text := (&refusal{op: c.Op, err: u.noRoomErr}).text()
		u.warn("WARNING: %d flows were not updated: %s (%s).", u.noRoom, text, noRoomForLabels)
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

	change, get, got ctnetlink.Flow

	noRoom    uint64 // flows that the kernel has no room for labels in
	noRoomErr error

	failed error // first reason to stop; what is on its way is still finished
}

// updates is what a batch of updates is about: for each pair of requests, the
// update and the get that follows it, what the flow was.
type updates []updated

type updated struct {
	id      uint32
	hasID   bool
	labels  bool // the update has labels
	fixed   bool // the update has a timeout, and the flow's is fixed
	refused bool
}

// take puts a flow that matches and would change into the batch.
func (u *updater) take(f *ctnetlink.Flow) error {
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
	*pairs = append(*pairs, updated{id: f.ID, hasID: f.Has&ctnetlink.HasID != 0, labels: u.change.Has&ctnetlink.HasLabels != 0,
		fixed: u.change.Has&ctnetlink.HasTimeout != 0 && f.Status&ctnetlink.StatusFixedTimeout != 0})
	setIdentity(&u.get, f)
	u.get.Has &^= ctnetlink.HasID
	family := f.Orig.Family
	u.batch.Add(nl.Request{Type: ctnetlink.TypeFlowNew, Family: family, Attrs: u.change.Append})
	u.batch.Add(nl.Request{Type: ctnetlink.TypeFlowGet, Family: family, Attrs: u.get.Append})
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
		switch {
		case isErrno(f.Err, unix.ENOENT): // the flow has ended
		case pair.labels && isErrno(f.Err, unix.ENOSPC):
			u.noRoom++
			u.noRoomErr = f.Err
		case u.failed == nil && pair.fixed && isErrno(f.Err, unix.EPERM):
			u.failed = &refusal{op: u.cmd.Op, err: f.Err, hint: hintFixedTimeout}
		case u.failed == nil:
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
		if was.hasID && u.got.Has&ctnetlink.HasID != 0 && u.got.ID != was.id {
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

// setChange makes r the request that changes f as c says, and reports whether
// there is anything to change.
func setChange(r, f *ctnetlink.Flow, c *Command) bool {
	want := &c.Flow
	setIdentity(r, f)
	r.Has &^= ctnetlink.HasID
	changed := false

	if want.Has&ctnetlink.HasTimeout != 0 {
		r.Timeout = want.Timeout
		r.Has |= ctnetlink.HasTimeout
		changed = changed || f.Has&ctnetlink.HasTimeout == 0 || f.Timeout != want.Timeout
	}
	if want.Has&ctnetlink.HasStatus != 0 {
		// Bits can be added, not taken away; the kernel insists on the others.
		r.Status = f.Status | want.Status
		r.Has |= ctnetlink.HasStatus
		changed = changed || r.Status != f.Status
	}
	if want.Has&ctnetlink.HasMark != 0 {
		old := present(f.Has&ctnetlink.HasMark != 0, f.Mark)
		mask := ^uint32(0)
		if want.Has&ctnetlink.HasMarkMask != 0 {
			mask = want.MarkMask
		}
		r.Mark = old&^mask ^ want.Mark
		r.Has |= ctnetlink.HasMark
		changed = changed || r.Mark != old
	}
	protocol := setProtocolChange(r, f, want)
	labels := setLabelChange(r, f, c)
	return changed || protocol || labels
}

// setProtocolChange adds the states and tags that are to be set.
func setProtocolChange(r, f, want *ctnetlink.Flow) bool {
	const both = ctnetlink.HasTCPState | ctnetlink.HasSCTPState | ctnetlink.HasDCCPState | ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply |
		ctnetlink.HasDCCPRole | ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
	has := want.Has & both
	r.Has |= has
	r.TCPState, r.SCTPState, r.DCCPState, r.DCCPRole = want.TCPState, want.SCTPState, want.DCCPState, want.DCCPRole
	r.TCPFlagsOrig, r.TCPFlagsReply = want.TCPFlagsOrig, want.TCPFlagsReply
	r.SCTPVtagOrig, r.SCTPVtagReply = want.SCTPVtagOrig, want.SCTPVtagReply
	completeSCTP(r, f)
	return has&ctnetlink.HasTCPState != 0 && (f.Has&ctnetlink.HasTCPState == 0 || f.TCPState != want.TCPState) ||
		has&ctnetlink.HasSCTPState != 0 && (f.Has&ctnetlink.HasSCTPState == 0 || f.SCTPState != want.SCTPState) ||
		has&ctnetlink.HasDCCPState != 0 && (f.Has&ctnetlink.HasDCCPState == 0 || f.DCCPState != want.DCCPState) ||
		has&ctnetlink.HasSCTPVtagOrig != 0 && (f.Has&ctnetlink.HasSCTPVtagOrig == 0 || f.SCTPVtagOrig != want.SCTPVtagOrig) ||
		has&ctnetlink.HasSCTPVtagReply != 0 && (f.Has&ctnetlink.HasSCTPVtagReply == 0 || f.SCTPVtagReply != want.SCTPVtagReply)
}

// completeSCTP takes from f what of state and tags is not to be changed: the
// kernel takes the three together only.
func completeSCTP(r, f *ctnetlink.Flow) {
	const all = ctnetlink.HasSCTPState | ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply
	if r.Has&all == 0 {
		return
	}
	if r.Has&ctnetlink.HasSCTPState == 0 {
		r.SCTPState = f.SCTPState
	}
	if r.Has&ctnetlink.HasSCTPVtagOrig == 0 {
		r.SCTPVtagOrig = f.SCTPVtagOrig
	}
	if r.Has&ctnetlink.HasSCTPVtagReply == 0 {
		r.SCTPVtagReply = f.SCTPVtagReply
	}
	r.Has |= f.Has & all
}

// setLabelChange adds the labels. Bits and mask make the kernel change just the
// labels that were named, whatever else happens to the flow meanwhile. Adding a
// label that is there, and taking away one that is not from a flow with labels,
// count as a change: so conntrack-tools has it.
func setLabelChange(r, f *ctnetlink.Flow, c *Command) bool {
	r.Labels, r.LabelsMask = ctnetlink.Labels{}, ctnetlink.Labels{}
	r.LabelsLen, r.LabelsMaskLen = ctnetlink.LabelWords, ctnetlink.LabelWords
	labelled := f.Has&ctnetlink.HasLabels != 0
	switch {
	case c.Has(OptLabelAdd):
		r.Labels, r.LabelsMask = c.LabelsAdd.Bits, c.LabelsAdd.Bits
		r.Has |= ctnetlink.HasLabels | ctnetlink.HasLabelsMask
		return true
	case c.Has(OptLabelDel) && c.LabelDelAll && labelled:
		r.Has |= ctnetlink.HasLabels
		return true
	case c.Has(OptLabelDel) && labelled:
		r.LabelsMask = c.LabelsDel.Bits
		r.Has |= ctnetlink.HasLabels | ctnetlink.HasLabelsMask
		return true
	}
	return false
}
