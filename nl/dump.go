package nl

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Dump describes which table to read.
type Dump struct {
	Type   Type  // ctnetlink.TypeFlowGet …
	Family uint8 // FamilyUnspec for all

	// Attrs, if not nil, appends the attributes that narrow the dump, as in Request.
	Attrs func(dst []byte) []byte
}

// DumpInfo is the result of a dump that has ended.
type DumpInfo struct {
	// Interrupted is set if the kernel reports that the table changed in a way that
	// may have hidden or doubled entries (NLM_F_DUMP_INTR).
	Interrupted bool
}

const (
	dumpAnswer = 32 << 10
	dumpChunk  = 128 << 10
	dumpChunks = 4
)

// Dump reads a table and calls each for every message, in the caller's goroutine. Another
// goroutine reads ahead, at most a few hundred KiB, so that the kernel's work and that of
// each overlap. An error of each ends the dump and is returned; the Conn must then be closed.
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
		ms := Messages{Rest: chunk}
		for ms.Next() {
			if ms.Seq() != seq || ms.Type() < unix.NLMSG_MIN_TYPE {
				continue
			}
			if err := m.Parse(ms.Raw); err != nil {
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

func (d *Dump) request(seq uint32) []byte {
	r := Request{Type: d.Type, Family: d.Family, Attrs: d.Attrs}
	return r.append(nil, seq, unix.NLM_F_DUMP)
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
			buf = make([]byte, dumpChunk) // small tables need few chunks
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
	ms := Messages{Rest: b}
	for ms.Next() {
		if ms.Seq() != r.seq {
			continue
		}
		if ms.Flags()&unix.NLM_F_DUMP_INTR != 0 {
			r.info.Interrupted = true
		}
		switch ms.Type() {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			r.err = ParseAck(ms.Raw)
			done = true
		}
	}
	if ms.Bad && !done {
		r.err, done = ErrTruncated, true
	}
	return done
}
