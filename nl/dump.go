package nl

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Dump says which table to read.
type Dump struct {
	Type   Type  // TypeFlowGet, TypeFlowGetZero, TypeFlowGetDying, TypeExpectGet, TypeFlowStatsCPU …
	Family uint8 // FamilyUnspec for all

	// Filter lets the kernel leave flows out: mark with mask, status with mask,
	// zone, and with FilterTuples the present fields of the tuples. Kernels
	// ignore what they don't know (the zone before 6.8, tuples before 5.8) and
	// IPv6 addresses are not compared, so the receiver must check again.
	// FilterTuples needs a Family.
	Filter       *Flow
	FilterTuples bool
}

// DumpInfo tells about a dump that has ended.
type DumpInfo struct {
	// Interrupted is set when the kernel said that the table changed in a way
	// that may have hidden or doubled entries (NLM_F_DUMP_INTR).
	Interrupted bool
}

const (
	dumpAnswer = 32 << 10
	dumpChunk  = 128 << 10
	dumpChunks = 4
)

// Dump reads a table and hands over message by message. A goroutine of its own
// reads ahead, at most a few hundred KiB, so that the kernel's work and each's
// overlap; each runs in the caller's goroutine. An error of each ends the dump
// and is returned; the Conn must then be closed.
func (c *Conn) Dump(ctx context.Context, d Dump, each func(*Message) error) (DumpInfo, error) {
	seq := c.nextSeq()
	if err := c.send(d.request(seq)); err != nil {
		return DumpInfo{}, fmt.Errorf("send netlink dump request: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := dumpReader{conn: c, seq: seq, free: make(chan []byte, dumpChunks), full: make(chan []byte, dumpChunks)}
	for range dumpChunks {
		r.free <- nil
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		defer close(r.full)
		// Undone before full closes: what follows is the cancel below, whose
		// read deadline would stay and end the Conn's next call.
		defer c.until(ctx)()
		r.run(ctx)
	}()
	// The reader owns the socket: it must be gone before this function is.
	defer func() { cancel(); <-stopped }()

	var m Message
	for chunk := range r.full {
		ms := messages{rest: chunk}
		for ms.next() {
			if ms.seq() != seq || ms.typ() < unix.NLMSG_MIN_TYPE {
				continue
			}
			if err := parseMessage(ms.raw, &m); err != nil {
				return DumpInfo{}, err
			}
			if err := each(&m); err != nil {
				return DumpInfo{}, err // info is the reader's, which may still be at work
			}
		}
		r.free <- chunk[:cap(chunk)]
	}
	return r.info, r.err
}

// DumpFlows is Dump with the flows decoded. The Flow is reused: it is good until
// each returns.
func (c *Conn) DumpFlows(ctx context.Context, d Dump, each func(*Flow) error) (DumpInfo, error) {
	var f Flow
	return c.Dump(ctx, d, func(m *Message) error {
		if err := f.Decode(m.Attrs); err != nil {
			return err
		}
		return each(&f)
	})
}

func (d *Dump) request(seq uint32) []byte {
	r := Request{Type: d.Type, Family: d.Family, Flow: d.Filter}
	b := r.append(nil, seq, unix.NLM_F_DUMP)
	if d.Filter != nil && d.FilterTuples {
		b = d.Filter.appendFilter(b)
		native.PutUint32(b, uint32(len(b)))
	}
	return b
}

// dumpReader fills chunks and passes them on. info and err are the consumer's
// once full is closed.
type dumpReader struct {
	conn       *Conn
	seq        uint32
	free, full chan []byte
	info       DumpInfo
	err        error
}

func (r *dumpReader) run(ctx context.Context) {
	for done := false; !done; {
		var buf []byte
		select {
		case buf = <-r.free:
		case <-ctx.Done():
			r.err = context.Cause(ctx)
			return
		}
		if buf == nil {
			buf = make([]byte, dumpChunk) // small tables need few
		}
		n := 0
		for !done && len(buf)-n >= dumpAnswer {
			b, err := r.conn.recv(buf[n:])
			if err != nil {
				r.err = ctxError(ctx, fmt.Errorf("receive netlink dump: %w", err))
				return
			}
			done = r.scan(b)
			n += len(b)
		}
		b := buf[:n]
		select {
		case r.full <- b:
		case <-ctx.Done():
			r.err = context.Cause(ctx)
			return
		}
	}
}

// scan looks for the end of the dump in b.
func (r *dumpReader) scan(b []byte) (done bool) {
	ms := messages{rest: b}
	for ms.next() {
		if ms.seq() != r.seq {
			continue
		}
		if ms.flags()&unix.NLM_F_DUMP_INTR != 0 {
			r.info.Interrupted = true
		}
		switch ms.typ() {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			r.err = parseAck(ms.raw)
			done = true
		}
	}
	if ms.bad && !done {
		r.err, done = errShort, true
	}
	return done
}
