package conntrack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"ctbox/internal/feature"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// load carries out the commands of a load file, -R. Every line is read and checked
// before the first is carried out. New flows go to the kernel in batches; other commands
// wait for the lines before them.
func (s *session) load(name string) error {
	file, err := OpenLoadFile(name, s.stdin)
	if err != nil {
		return err
	}
	defer file.Close()
	r := &replay{session: s, name: name}
	if r.lines, err = file.Check(s.ctx, s.parser, s.argv[0], newReadJSON); err != nil {
		return err
	}
	s.parser.Warnings = io.Discard // Check has printed them
	r.progress = newProgress(s.stderr, name, r.lines)
	err = r.carryOut(file)
	r.progress.clear()
	if err == nil {
		err = s.out.sync()
	}
	return err
}

// replay carries out a load file.
type replay struct {
	*session
	name     string
	json     jsonCommands
	progress *progress

	lines  int // commands in the file
	done   int // carried out
	denied int // by the kernel, in batches
	failed error
	others []error // refusals of lines after the failed one, at most namedOthers

	// suspects are the first lines of each protocol whose ports the kernel may discard,
	// and the first with labels; see checkStored.
	suspects [len(lossy) + 1]suspect

	pipe  *nl.Pipeline
	batch *nl.Batch

	related  bool // some flows must wait until their master exists
	relating bool // these flows are being created
}

// suspect is a line whose flow the kernel may have stored without a part.
type suspect struct {
	line int // 0: no line yet
	cmd  Command
}

// namedOthers bounds the refused lines that are listed after the first one.
const namedOthers = 9

// sentLine is a line whose request is in a batch. flow is that of an -A, whose request
// is repeated in another form if the flow exists.
type sentLine struct {
	line int
	op   Op
	flow ctnetlink.Flow
}

func (r *replay) carryOut(file *LoadFile) error {
	err := file.Each(r.parser, r.argv[0], r.json.command, r.line)
	if err == nil && r.related {
		r.relating = true
		err = file.Each(r.parser, r.argv[0], r.json.command, r.line)
	}
	if end := r.drain(err != nil); err == nil || errors.Is(err, errStop) {
		err = end
	}
	r.checkSuspects()
	if r.failed != nil {
		r.progress.clear()
		fmt.Fprintf(r.stderr, "%s%v\n", messagePrefix, r.failed)
		for _, other := range r.others {
			fmt.Fprintf(r.stderr, "%s%v\n", messagePrefix, other)
		}
		return fmt.Errorf("%s: %d lines were carried out, %d refused, %d not tried",
			r.name, r.done, r.denied, r.lines-r.done-r.denied)
	}
	if err != nil && r.ctx.Err() != nil {
		// A -D or -U may have been half done when it was interrupted.
		r.progress.clear()
		fmt.Fprintf(r.stderr, "%s%s: interrupted; at least %d of %d lines were carried out\n", messagePrefix, r.name, r.done, r.lines)
	}
	return err
}

// line carries out one line, or puts it into a batch.
func (r *replay) line(line int, c *Command) error {
	if r.failed != nil {
		return errStop
	}
	if err := r.ctx.Err(); err != nil {
		return err
	}
	r.progress.at(r.done)
	// In a listing, flows may precede their master.
	later := c.Flow.Master.Has != 0 && r.json.listing()
	if later != r.relating {
		r.related = r.related || later
		return nil
	}
	switch c.Op {
	case OpCreate, OpAdd:
		if later {
			if err := r.checkMaster(c); err != nil {
				return r.at(line, err)
			}
		}
		return r.send(line, c)
	}
	if err := r.drain(false); err != nil {
		return err
	}
	if r.failed != nil {
		return errStop
	}
	if _, err := r.execute(c); err != nil {
		if errors.Is(err, r.ctx.Err()) {
			return err
		}
		r.denied++
		r.failed = r.at(line, err)
		return errStop
	}
	r.done++
	return nil
}

// send adds a new flow to the batch.
func (r *replay) send(line int, c *Command) error {
	request, err := createRequest(c)
	if err != nil {
		r.denied++
		r.failed = r.at(line, err)
		return errStop
	}
	if r.batch == nil {
		if r.batch, err = r.newBatch(); err != nil {
			return err
		}
	}
	sent := r.batch.Tag.(*[]sentLine)
	n := len(*sent)
	if n < cap(*sent) {
		*sent = (*sent)[:n+1]
	} else {
		*sent = append(*sent, sentLine{})
	}
	(*sent)[n].set(line, c)
	r.suspect(line, c)
	request.Attrs = c.Flow.Append
	r.batch.Add(request)
	if !r.batch.Full() {
		return nil
	}
	full := r.batch
	r.batch = nil
	return r.pipe.Submit(full)
}

// set makes l the line of c. It copies the flow, since c's memory is reused.
func (l *sentLine) set(line int, c *Command) {
	l.line, l.op = line, c.Op
	if c.Op == OpAdd {
		info := append(l.flow.HelperInfo[:0], c.Flow.HelperInfo...)
		l.flow = c.Flow
		l.flow.HelperInfo, l.flow.Secctx = info, nil
	}
}

// suspect keeps the line for checkSuspects if it is the first of its kind.
func (r *replay) suspect(line int, c *Command) {
	at := -1
	if hasLossyPorts(&c.Flow.Orig) {
		at = slices.Index(lossy[:], c.Flow.Orig.Proto)
	} else if c.Flow.Has&ctnetlink.HasLabels != 0 {
		at = len(lossy)
	}
	if at >= 0 && r.suspects[at].line == 0 {
		r.suspects[at] = suspect{line, Command{Op: c.Op, Family: c.Family, Flow: c.Flow.Clone()}}
	}
}

// checkSuspects warns about what the kernel has discarded, once for each kind.
func (r *replay) checkSuspects() {
	for i := range r.suspects {
		if u := &r.suspects[i]; u.line != 0 && r.ctx.Err() == nil {
			r.progress.clear()
			r.checkStored(&u.cmd, r.name+":"+strconv.Itoa(u.line)+": ")
		}
	}
}

func (r *replay) newBatch() (*nl.Batch, error) {
	if r.pipe == nil {
		conn, err := r.changeConn()
		if err != nil {
			return nil, err
		}
		r.pipe = conn.NewPipeline(r.ctx, r.complete)
	}
	b, err := r.pipe.Batch()
	if err != nil {
		return nil, err
	}
	if b.Tag == nil {
		b.Tag = new([]sentLine)
	}
	sent := b.Tag.(*[]sentLine)
	*sent = (*sent)[:0]
	return b, nil
}

// complete processes the kernel's answers to a batch. Lines that were sent after a
// refused one, before the refusal was known, are carried out and counted.
func (r *replay) complete(b *nl.Batch) error {
	sent := *b.Tag.(*[]sentLine)
	r.done += b.Len() - len(b.Failures())
	for _, f := range b.Failures() {
		l := &sent[f.Index]
		err := r.updateExisting(&Command{Op: l.op, Family: l.flow.Family()}, &l.flow, f.Err)
		if err == nil {
			r.done++
			continue
		}
		r.denied++
		for i := range r.suspects {
			if r.suspects[i].line == l.line {
				r.suspects[i].line = 0 // the refusal is reported instead
			}
		}
		if err = r.at(l.line, err); r.failed == nil {
			r.failed = err
		} else if len(r.others) < namedOthers {
			r.others = append(r.others, err)
		}
	}
	return nil
}

// drain sends the batch that is being filled, unless the run has failed, and waits for
// all answers.
func (r *replay) drain(failed bool) error {
	if r.pipe == nil {
		return nil
	}
	var err error
	if r.batch != nil && !failed && r.failed == nil {
		err = r.pipe.Submit(r.batch)
	}
	if end := r.pipe.Close(); err == nil {
		err = end
	}
	r.pipe, r.batch = nil, nil
	return err
}

// checkMaster drops the master of a related flow if it has ended: the flow does not
// need it.
func (r *replay) checkMaster(c *Command) error {
	if err := r.drain(false); err != nil {
		return err
	}
	conn, err := r.requestConn()
	if err != nil {
		return err
	}
	want := ctnetlink.Flow{Orig: c.Flow.Master, Zone: c.Flow.Zone, Has: c.Flow.Has & ctnetlink.HasZone}
	var master ctnetlink.Flow
	err = ctnetlink.Get(r.ctx, conn, &want, &master)
	if isErrno(err, unix.ENOENT) {
		c.Flow.Master = ctnetlink.Tuple{}
		return nil
	}
	return err
}

// at names the line that err is about.
func (r *replay) at(line int, err error) error {
	return fmt.Errorf("%s:%d: %w", r.name, line, err)
}

// jsonCommands turns flows and events in the form of -o json into commands.
type jsonCommands struct {
	reader format.FlowReader
	flow   ctnetlink.Flow
	event  format.Event
}

func newReadJSON() ReadJSON { return new(jsonCommands).command }

// listing reports whether the last flow came from a listing rather than an event.
func (j *jsonCommands) listing() bool { return j.event.Type == format.None }

// command is the ReadJSON of a load file. A flow that was listed, created or updated is
// added, or updated if it exists; one that was destroyed is deleted if it exists.
func (j *jsonCommands) command(line []byte, c *Command) error {
	c.Reset()
	if !feature.JSON {
		return errRefused(withoutJSON)
	}
	if err := j.reader.Flow(line, &j.flow, &j.event); err != nil {
		return err
	}
	c.Family = j.flow.Family()
	if j.event.Type == format.Destroy {
		c.Op = OpDelete
		c.Given = OptSrc | OptDst | OptProto | OptZone
		c.Flow.Orig = originalTuple(&j.flow)
		c.Flow.Zone = orZero(j.flow.Has&ctnetlink.HasZone != 0, j.flow.Zone)
		c.Flow.Has = ctnetlink.HasZone
		c.Output = OutJSON
		if t := &c.Flow.Orig; !wholeTuple(t) && !(t.Has&ctnetlink.TupleAddrs == ctnetlink.TupleAddrs && slices.Contains(lossy[:], t.Proto)) {
			// A filter with fewer fields would delete other flows, too. Flows of the lossy
			// protocols may have no ports.
			return errors.New("not one flow: addresses, protocol, and its ports, keys or ICMP members are needed to delete it")
		}
		return nil
	}
	c.Op = OpAdd
	restore(&c.Flow, &j.flow)
	return nil
}

// original is the original tuple of a flow that may have only the reply.
func originalTuple(f *ctnetlink.Flow) ctnetlink.Tuple {
	if f.Orig.Has != 0 {
		return f.Orig
	}
	return f.Reply.Inverted()
}

// progress is a line on a terminal that shows how many lines of a long file are done.
type progress struct {
	w     io.Writer // nil: no terminal
	name  string
	total int
	next  time.Time
	shown bool
}

const (
	progressLines = 10000 // a shorter file needs no progress line
	progressEvery = 100 * time.Millisecond
)

func newProgress(w io.Writer, name string, total int) *progress {
	p := &progress{name: name, total: total, next: time.Now().Add(progressEvery)}
	if f, ok := w.(*os.File); ok && total >= progressLines {
		if term.IsTerminal(int(f.Fd())) {
			p.w = w
		}
	}
	return p
}

func (p *progress) at(done int) {
	if p.w == nil || done%256 != 0 || time.Now().Before(p.next) {
		return
	}
	p.next, p.shown = time.Now().Add(progressEvery), true
	fmt.Fprintf(p.w, "\r%s: %d of %d lines", p.name, done, p.total)
}

// clear removes the line.
func (p *progress) clear() {
	if p.shown {
		p.shown = false
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// restoredStatus are the status bits that a new flow can be given. The kernel refuses
// those for expected and dying flows, and sets those of NAT and offloading itself.
const restoredStatus = ctnetlink.StatusSeenReply | ctnetlink.StatusAssured | ctnetlink.StatusFixedTimeout

// restore makes r the request that creates a flow like f, which this or another kernel
// has listed. It omits what only a kernel can set: counters, id, references, times.
func restore(r, f *ctnetlink.Flow) {
	const same = ctnetlink.HasTimeout | ctnetlink.HasMark | ctnetlink.HasZone | ctnetlink.HasTCPState | ctnetlink.HasTCPWScaleOrig |
		ctnetlink.HasTCPWScaleReply | ctnetlink.HasSCTPState | ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply |
		ctnetlink.HasDCCPState | ctnetlink.HasDCCPRole | ctnetlink.HasDCCPHandshakeSeq | ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply |
		ctnetlink.HasSynproxy | ctnetlink.HasLabels | ctnetlink.HasHelper | ctnetlink.HasHelperInfo
	info := append(r.HelperInfo[:0], f.HelperInfo...)
	*r = *f
	r.HelperInfo, r.Secctx = info, nil
	r.Has = f.Has & same
	r.Orig = originalTuple(f)

	r.Status = f.Status&restoredStatus | ctnetlink.StatusConfirmed
	if f.Has&ctnetlink.HasStatus != 0 {
		r.Has |= ctnetlink.HasStatus
	}
	restoreNAT(r, f)
	if proto, _ := r.Proto(); proto == ctnetlink.ProtoTCP {
		restoreTCPFlags(r, f)
	}
}

// restoreNAT adds the translation that leads to f's two tuples. The request has the
// inverted original tuple as its reply, which the kernel then translates.
func restoreNAT(r, f *ctnetlink.Flow) {
	plain := r.Orig.Inverted()
	if f.Reply.Has&ctnetlink.TupleZone != 0 {
		plain.Zone = f.Reply.Zone
		plain.Has |= ctnetlink.TupleZone
	}
	if f.Reply.Has == 0 {
		r.Reply = plain
		return
	}
	status := ^uint32(0)
	if f.Has&ctnetlink.HasStatus != 0 {
		status = f.Status
	}
	reply := f.Reply
	translated := false
	if status&ctnetlink.StatusSrcNATDone != 0 && (reply.Dst != plain.Dst || reply.DstPort != plain.DstPort || reply.ICMPID != plain.ICMPID) {
		r.NATSrc = ctnetlink.NAT{Addr: reply.Dst, HasAddr: true}
		switch {
		case ctnetlink.HasPorts(reply.Proto):
			r.NATSrc.Port, r.NATSrc.HasPort = reply.DstPort, true
		case ctnetlink.IsICMP(reply.Proto):
			r.NATSrc.Port, r.NATSrc.HasPort = reply.ICMPID, true
		}
		r.Has |= ctnetlink.HasNATSrc
		translated = true
	}
	if status&ctnetlink.StatusDstNATDone != 0 && (reply.Src != plain.Src || reply.SrcPort != plain.SrcPort) {
		r.NATDst = ctnetlink.NAT{Addr: reply.Src, HasAddr: true}
		if ctnetlink.HasPorts(reply.Proto) {
			r.NATDst.Port, r.NATDst.HasPort = reply.SrcPort, true
		}
		r.Has |= ctnetlink.HasNATDst
		translated = true
	}
	if translated {
		r.Reply = plain
	}
}

// restoreTCPFlags keeps the negotiated window scaling and selective acknowledgements.
// The kernel does not know the windows of a flow whose packets it did not see, so it
// must be liberal about them. Flags with a mask were written by hand and are kept.
func restoreTCPFlags(r, f *ctnetlink.Flow) {
	const kept = ctnetlink.TCPFlagWindowScale | ctnetlink.TCPFlagSACK | ctnetlink.TCPFlagCloseInit
	flags := func(f ctnetlink.TCPFlags, has bool) ctnetlink.TCPFlags {
		switch {
		case !has:
			return ctnetlink.TCPFlags{Value: tcpFlagsOpen, Mask: tcpFlagsOpen}
		case f.Mask != 0:
			return f
		}
		return ctnetlink.TCPFlags{Value: f.Value&kept | ctnetlink.TCPFlagBeLiberal, Mask: kept | ctnetlink.TCPFlagBeLiberal}
	}
	r.TCPFlagsOrig = flags(f.TCPFlagsOrig, f.Has&ctnetlink.HasTCPFlagsOrig != 0)
	r.TCPFlagsReply = flags(f.TCPFlagsReply, f.Has&ctnetlink.HasTCPFlagsReply != 0)
	r.Has |= ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
}
