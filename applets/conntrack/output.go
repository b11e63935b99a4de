package conntrack

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// output writes standard output from a separate goroutine, so that a slow terminal or
// disk does not delay the reading of a table. Its memory is bounded: when all chunks are
// full, the producer waits. Methods are for one goroutine.
type output struct {
	w    io.Writer
	buf  []byte // the chunk being filled
	free chan []byte
	full chan []byte
	done chan struct{}
	err  error // of the writer; the producer's once done is closed, or from failed
	fail chan error
	// broken is closed when a write has failed, for a producer that has nothing to write
	// and would not notice.
	broken chan struct{}
}

const (
	outputChunk  = 64 << 10
	outputChunks = 4
)

// newOutput starts the writer. close must be called.
func newOutput(w io.Writer) *output {
	o := &output{
		w:      w,
		free:   make(chan []byte, outputChunks),
		full:   make(chan []byte, outputChunks),
		done:   make(chan struct{}),
		fail:   make(chan error, 1),
		broken: make(chan struct{}),
	}
	for range outputChunks - 1 {
		o.free <- nil // allocated when first needed
	}
	go o.run()
	return o
}

func (o *output) run() {
	defer close(o.done)
	failed := false
	for b := range o.full {
		if !failed {
			if _, err := o.w.Write(b); err != nil {
				failed = true
				o.fail <- err
				close(o.broken)
			}
		}
		o.free <- b[:0]
	}
}

// next is called after a line was appended to buf: a full chunk goes to the writer. The
// error is that of an earlier write; nothing more can be written then.
func (o *output) next() error {
	if len(o.buf) < outputChunk {
		return o.err
	}
	return o.flush()
}

// flush sends the chunk to the writer and does not wait for it.
func (o *output) flush() error {
	o.check()
	if len(o.buf) == 0 || o.err != nil {
		o.buf = o.buf[:0]
		return o.err
	}
	o.full <- o.buf
	if o.buf = <-o.free; o.buf == nil {
		o.buf = make([]byte, 0, outputChunk+4096)
	}
	o.check()
	return o.err
}

// sync is flush, and waits until everything is written.
func (o *output) sync() error {
	if err := o.flush(); err != nil {
		return err
	}
	// When every chunk but the producer's own has come back, all is written.
	var held [outputChunks - 1][]byte
	for i := range held {
		held[i] = <-o.free
	}
	for _, b := range held {
		o.free <- b
	}
	o.check()
	return o.err
}

func (o *output) check() {
	select {
	case err := <-o.fail:
		o.err = &writeError{err}
	default:
	}
}

// close writes the rest and ends the writer. It may be called twice.
func (o *output) close() error {
	if o.full == nil {
		return o.err
	}
	_ = o.flush()
	close(o.full)
	<-o.done
	o.full = nil
	o.check()
	return o.err
}

// writeError is a failure to write standard output.
type writeError struct{ err error }

func (e *writeError) Error() string {
	var path *os.PathError
	if errors.As(e.err, &path) {
		return "can't write to standard output: " + path.Err.Error()
	}
	return "can't write to standard output: " + e.err.Error()
}

func (e *writeError) Unwrap() error { return e.err }

// quiet reports whether the reader of the pipe has closed it, which needs no message.
func (e *writeError) quiet() bool { return errors.Is(e.err, syscall.EPIPE) }

// printer writes the flows or expectations of one command.
type printer struct {
	out     *output
	style   format.Style
	header  string // of XML, before the first entry
	footer  string
	begun   bool
	entries uint64 // printed so far
	ticks   uint   // calls of updateTime
	silent  bool   // entries are counted, not printed
}

// newPrinter makes the printer for a command's -o. The XML of -D and -U is no whole
// document and has neither header nor footer.
func newPrinter(out *output, c *Command) *printer {
	p := &printer{out: out, silent: c.Has(OptCountEach), style: format.Style{
		Extended:   c.Output&OutExtended != 0,
		ID:         c.Output&OutID != 0,
		KTimestamp: c.Output&OutKTimestamp != 0,
		Delete:     c.Op == OpDelete,
		Now:        time.Now().UnixNano(),
		Location:   time.Local,
	}}
	switch {
	case c.Output&OutJSON != 0:
		p.style.Format = format.JSON
	case c.Output&OutXML != 0:
		p.style.Format = format.XML
	case c.Output&OutSave != 0:
		p.style.Format = format.Save
	}
	if c.LabelMap != nil && c.Op != OpDelete {
		// Any option about labels shows them, not just -o labels.
		p.style.Labels = c.LabelMap.names[:]
	}
	// These commands show times in conntrack-tools.
	p.style.Timestamp = c.Output&OutTimestamp != 0 && (c.Op == OpEvents || c.Table == TableExpect)
	switch c.Op {
	case OpList, OpGet, OpEvents:
		p.setDocument(c)
	default:
		p.style.KTimestamp = false
	}
	return p
}

func (p *printer) setDocument(c *Command) {
	switch {
	case p.style.Format != format.XML:
	case c.Table == TableExpect:
		p.header, p.footer = format.XMLExpectHeader, format.XMLExpectFooter
	default:
		p.header, p.footer = format.XMLHeader, format.XMLFooter
	}
}

// flow prints a flow; e may be nil.
func (p *printer) flow(f *ctnetlink.Flow, e *format.Event) error {
	if p.silent {
		p.entries++
		return nil
	}
	p.begin()
	p.out.buf = append(format.AppendFlow(p.out.buf, f, &p.style, e), '\n')
	p.entries++
	return p.out.next()
}

// expect prints an expectation; e may be nil.
func (p *printer) expect(x *ctnetlink.Expect, e *format.Event) error {
	p.begin()
	p.out.buf = append(format.AppendExpect(p.out.buf, x, &p.style, e), '\n')
	p.entries++
	return p.out.next()
}

// text prints lines that were formatted before, n of them.
func (p *printer) text(lines []byte, n int) error {
	if p.silent {
		p.entries += uint64(n)
		return nil
	}
	p.begin()
	p.out.buf = append(p.out.buf, lines...)
	p.entries += uint64(n)
	return p.out.next()
}

// ahead writes a line at once, before the change that it reports.
func (p *printer) ahead(line []byte) error {
	if err := p.text(line, 1); err != nil {
		return err
	}
	return p.out.sync()
}

func (p *printer) begin() {
	if !p.begun {
		p.begun = true
		p.out.buf = append(p.out.buf, p.header...)
	}
}

// finish ends the document, if it has begun, and waits for the writer.
func (p *printer) finish() error {
	if p.begun {
		p.out.buf = append(p.out.buf, p.footer...)
	}
	return p.out.sync()
}

// updateTime keeps the style's Now close to the time without a system call per flow.
func (p *printer) updateTime() {
	if p.ticks%64 == 0 {
		p.style.Now = time.Now().UnixNano()
	}
	p.ticks++
}
