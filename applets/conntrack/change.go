package conntrack

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"ctbox/internal/feature"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// create creates one flow or expectation, or with -A updates a flow that exists.
func (s *session) create(c *Command) (uint64, error) {
	conn, err := s.requestConn()
	if err != nil {
		return 0, err
	}
	r, err := createRequest(c)
	if err != nil {
		return 0, err
	}
	r.Attrs = c.Flow.Append
	if c.Table == TableExpect {
		r.Attrs = c.Expect.Append
	}
	err = conn.Do(s.uncancelled(), r, nil)
	if err != nil && c.Table == TableConntrack {
		err = s.updateExisting(c, &c.Flow, err)
	}
	if err != nil {
		return 0, s.explain(c, err)
	}
	if c.Table == TableConntrack {
		s.checkStored(c, "")
	}
	return 1, nil
}

// createRequest returns the request of -I and -A without its attributes: the caller adds
// c.Flow.Append or c.Expect.Append, since returning a method value allocates.
func createRequest(c *Command) (nl.Request, error) {
	if c.Table == TableExpect {
		return nl.Request{Type: ctnetlink.TypeExpectNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: c.Family}, nil
	}
	if c.LabelsAdd.Beyond {
		return nl.Request{}, errLabelBeyond(c)
	}
	if c.Has(OptLabelAdd) {
		c.Flow.Labels, c.Flow.LabelsLen = c.LabelsAdd.Bits, ctnetlink.LabelWords
		c.Flow.Has |= ctnetlink.HasLabels
	}
	r := nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE, Family: c.Family}
	if c.Op == OpCreate {
		r.Flags |= unix.NLM_F_EXCL
	}
	return r, nil
}

// errLabelBeyond is the kernel's answer to a label that it has no bit for.
func errLabelBeyond(c *Command) error {
	return &refusal{op: c.Op, table: c.Table, err: unix.ERANGE}
}

// hintFixedTimeout explains the EPERM of a change that sets a timeout.
const hintFixedTimeout = "the flow's timeout is fixed, status FIXED_TIMEOUT"

// updateTries bounds how often updateExisting reads a flow again because traffic has
// changed it between the reading and the update.
const updateTries = 3

// updateExisting repeats an -A that the kernel refused because the flow exists and the
// request has attributes that only a new flow can be given: NAT and the master. Where
// the flow has the same NAT and master, as when a saved table is loaded onto the live
// one, the update leaves them out. It keeps status bits that the flow has and the
// request lacks, since the kernel never clears them. want is the request and is changed;
// cause is the refusal. The error is ready to be printed.
func (s *session) updateExisting(c *Command, want *ctnetlink.Flow, cause error) error {
	if want.Has&ctnetlink.HasLabels != 0 && isErrno(cause, unix.ENOSPC) {
		return &refusal{op: c.Op, err: cause, hint: noRoomForLabels}
	}
	if c.Op != OpAdd || !isErrno(cause, unix.EOPNOTSUPP, unix.EBUSY, unix.EPERM) {
		return s.explain(c, cause)
	}
	conn, err := s.requestConn()
	if err != nil {
		return err
	}
	status := want.Status
	for range updateTries {
		var have ctnetlink.Flow
		if err := ctnetlink.Get(s.uncancelled(), conn, lookup(want), &have); err != nil {
			return s.explain(c, cause)
		}
		switch {
		case want.Has&(ctnetlink.HasNATSrc|ctnetlink.HasNATDst) != 0 && !sameReply(want, &have):
			return &refusal{op: c.Op, err: cause, hint: "the flow exists with another NAT, its reply is " + tupleText(&have.Reply) + "; delete it first"}
		case want.Master.Has != 0 && want.Master != have.Master:
			return &refusal{op: c.Op, err: cause, hint: "the flow exists and is not related to the one that the line names; delete it first"}
		}
		update := *want
		update.Has &^= ctnetlink.HasNATSrc | ctnetlink.HasNATDst
		update.Master = ctnetlink.Tuple{}
		if update.Has&ctnetlink.HasStatus != 0 {
			update.Status = status | have.Status
		}
		if have.Status&ctnetlink.StatusFixedTimeout != 0 && status&ctnetlink.StatusFixedTimeout != 0 {
			// The line itself has the timeout fixed.
			update.Has &^= ctnetlink.HasTimeout
		}
		err := conn.Do(s.uncancelled(), nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE, Family: c.Family, Attrs: update.Append}, nil)
		switch {
		case err == nil:
			return nil
		case isErrno(err, unix.EPERM) && have.Status&ctnetlink.StatusFixedTimeout != 0 && update.Has&ctnetlink.HasTimeout != 0:
			return &refusal{op: c.Op, err: err, hint: hintFixedTimeout}
		case !isErrno(err, unix.EBUSY):
			return s.explain(c, err)
		}
		cause = err
	}
	return s.explain(c, cause)
}

// sameReply reports whether the translation that want asks for results in the reply
// tuple of have.
func sameReply(want, have *ctnetlink.Flow) bool {
	r := want.Reply
	if want.Has&ctnetlink.HasNATSrc != 0 {
		r.Dst = want.NATSrc.Addr
		if want.NATSrc.HasPort && ctnetlink.IsICMP(r.Proto) {
			r.ICMPID = want.NATSrc.Port
		} else if want.NATSrc.HasPort {
			r.DstPort = want.NATSrc.Port
		}
	}
	if want.Has&ctnetlink.HasNATDst != 0 {
		r.Src = want.NATDst.Addr
		if want.NATDst.HasPort {
			r.SrcPort = want.NATDst.Port
		}
	}
	h := &have.Reply
	return r.Src == h.Src && r.Dst == h.Dst && r.SrcPort == h.SrcPort && r.DstPort == h.DstPort && r.ICMPID == h.ICMPID
}

// tupleText is a tuple for a message: "192.0.2.1:80 -> 192.0.2.2:1000".
func tupleText(t *ctnetlink.Tuple) string {
	end := func(a ctnetlink.Addr, port uint16) string {
		addr := netip.AddrFrom16(a)
		if t.Family == nl.FamilyIPv4 {
			addr = netip.AddrFrom4([4]byte(a[:4]))
		}
		if t.Has&ctnetlink.TuplePorts == 0 {
			return addr.String()
		}
		return netip.AddrPortFrom(addr, port).String()
	}
	text := end(t.Src, t.SrcPort) + " -> " + end(t.Dst, t.DstPort)
	if t.Has&ctnetlink.TupleICMPID != 0 {
		text += fmt.Sprintf(" id %d", t.ICMPID)
	}
	return text
}

// lossy are the protocols whose ports or keys a kernel may discard, because it has no
// tracker for them: DCCP since Linux 6.18, UDP-Lite since 7.2, SCTP and GRE without
// their kernel options.
var lossy = [...]uint8{ctnetlink.ProtoUDPLite, ctnetlink.ProtoDCCP, ctnetlink.ProtoSCTP, ctnetlink.ProtoGRE}

// checkStored warns if the kernel has accepted a new flow without its ports or labels,
// for which it returns no error. place precedes the warning.
func (s *session) checkStored(c *Command, place string) {
	ports := hasLossyPorts(&c.Flow.Orig)
	labels := c.Flow.Has&ctnetlink.HasLabels != 0 && c.Flow.Labels != (ctnetlink.Labels{})
	if !ports && !labels {
		return
	}
	conn, err := s.requestConn()
	if err != nil {
		return
	}
	var have ctnetlink.Flow
	if err := ctnetlink.Get(s.uncancelled(), conn, lookup(&c.Flow), &have); err != nil {
		return // it has ended meanwhile
	}
	if ports && (have.Orig.SrcPort != c.Flow.Orig.SrcPort || have.Orig.DstPort != c.Flow.Orig.DstPort) {
		name := protocols[protocolNumbered(c.Flow.Orig.Proto)].name
		what := "ports"
		if c.Flow.Orig.Proto == ctnetlink.ProtoGRE {
			what = "keys"
		}
		s.warn("%sWARNING: this kernel keeps no %s of %s; the flow has none.", place, what, name)
	}
	if labels && have.Has&ctnetlink.HasLabels == 0 {
		s.warn("%sWARNING: the flow has no labels: %s.", place, noRoomForLabels)
	}
}

// noRoomForLabels is why the kernel takes no labels.
const noRoomForLabels = "no rule of this network namespace uses labels, or the flow is older than the rule"

func hasLossyPorts(t *ctnetlink.Tuple) bool {
	if t.Has&ctnetlink.TuplePorts == 0 || t.SrcPort|t.DstPort == 0 {
		return false
	}
	for _, proto := range lossy {
		if t.Proto == proto {
			return true
		}
	}
	return false
}

// update changes the flows that match and prints each as it is afterwards. Dump and
// updates run concurrently. Flows that would not change are left alone.
func (s *session) update(c *Command) (uint64, error) {
	conn, err := s.changeConn()
	if err != nil {
		return 0, err
	}
	u := &updater{session: s, cmd: c, printer: newPrinter(s.out, c), filter: s.newFilter(c), denied: newRefusals(c)}
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
	if feature.Match && u.noRoom > 0 && c.Has(OptDistinctStatus) {
		u.denied.number += u.noRoom - 1
		u.denied.add(&refusal{op: c.Op, err: u.noRoomErr, hint: noRoomForLabels})
	} else if u.noRoom > 0 {
		// conntrack-tools skips such flows without a message; count and exit status are
		// its own.
		text := (&refusal{op: c.Op, err: u.noRoomErr}).text()
		u.warn("WARNING: %d flows were not updated: %s (%s).", u.noRoom, text, noRoomForLabels)
	}
	if err == nil {
		err = u.denied.err()
	}
	if end := u.printer.finish(); err == nil {
		err = end
	}
	return u.printer.entries, err
}

// updater is the state of an update.
type updater struct {
	*session
	cmd     *Command
	printer *printer
	filter  *filter
	pipe    *nl.Pipeline
	batch   *nl.Batch // being filled; nil before the first flow

	change, get, got ctnetlink.Flow

	noRoom    uint64 // flows in which the kernel has no room for labels
	noRoomErr error

	denied refusals
	failed error // first reason to stop; batches already sent are still completed
}

// updates describes a batch of updates: for each pair of requests, the update and the
// get that follows it, the flow before.
type updates struct {
	pairs []updated
	met   []int32 // lines of --match
}

type updated struct {
	id      uint32
	hasID   bool
	labels  bool // the update has labels
	fixed   bool // the update has a timeout, and the flow's is fixed
	refused bool
	metEnd  int // of its lines in updates.met
}

// take adds a flow that matches and would change to the batch.
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
	t := u.batch.Tag.(*updates)
	t.met = u.filter.file.appendHits(t.met, f)
	t.pairs = append(t.pairs, updated{metEnd: len(t.met), id: f.ID, hasID: f.Has&ctnetlink.HasID != 0, labels: u.change.Has&ctnetlink.HasLabels != 0,
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
	t := b.Tag.(*updates)
	t.pairs, t.met = t.pairs[:0], t.met[:0]
	u.batch = b
	return nil
}

// complete processes the kernel's answers to a batch and prints the flows in them.
func (u *updater) complete(b *nl.Batch) error {
	t := b.Tag.(*updates)
	pairs := t.pairs
	for _, f := range b.Failures() {
		pair := &pairs[f.Index/2]
		pair.refused = true
		switch {
		case isErrno(f.Err, unix.ENOENT): // the flow has ended
		case pair.labels && isErrno(f.Err, unix.ENOSPC):
			u.noRoom++
			u.noRoomErr = f.Err
		case u.failed == nil:
			err := u.explain(u.cmd, f.Err)
			if pair.fixed && isErrno(f.Err, unix.EPERM) {
				err = &refusal{op: u.cmd.Op, err: f.Err, hint: hintFixedTimeout}
			}
			if !u.denied.add(err) {
				u.failed = err
			}
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
			// The kernel does not compare the id of an update.
			u.warn("WARNING: flow %d ended and its successor %d was updated in its place.", was.id, u.got.ID)
		}
		if feature.Match && u.filter.file != nil {
			start := 0
			if n := index / 2; n > 0 {
				start = pairs[n-1].metEnd
			}
			u.filter.file.count(t.met[start:was.metEnd])
		}
		u.printer.updateTime()
		return u.printer.flow(&u.got, nil)
	})
	if err != nil && u.failed == nil {
		u.failed = err
	}
	return nil
}

// setChange makes r the request that changes f as c asks, and reports whether anything
// changes.
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
		// Bits can be set, not cleared; the kernel requires the flow's own in the request.
		r.Status = f.Status | want.Status
		r.Has |= ctnetlink.HasStatus
		changed = changed || r.Status != f.Status
	}
	if want.Has&ctnetlink.HasMark != 0 {
		old := orZero(f.Has&ctnetlink.HasMark != 0, f.Mark)
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

// setProtocolChange adds the protocol states and tags of the command to r.
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

// completeSCTP copies from f the state and tags that are not changed: the kernel accepts
// the three only together.
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

// setLabelChange adds the labels to r. Bits and mask restrict the change to the named
// labels, so that concurrent changes of others survive. As in conntrack-tools, adding a
// label that is set counts as a change, and so does removing one that is not set from a
// flow with labels.
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
