package nl

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// batchBytes keeps a batch well below the default send buffer, which limits
	// what one system call may carry.
	batchBytes = 64 << 10
	batchMax   = 512

	// The charge of an acknowledgement and of an answer against the receive buffer: the
	// kernel charges a message's whole allocation.
	ackCharge    = 2 << 10
	answerCharge = 8 << 10

	// messageGet is the message of all subsystems used here that asks for one object
	// (IPCTNL_MSG_CT_GET, IPCTNL_MSG_EXP_GET, IPCTNL_MSG_TIMEOUT_GET …).
	messageGet = 1
)

// Failure is a request of a Batch that the kernel refused.
type Failure struct {
	Index int // as Add returned it
	Err   error
}

// Batch is a number of requests that go to the kernel in one system call. The
// kernel carries them out in order; a refused one does not stop the rest.
type Batch struct {
	// Tag is for the caller's use, kept until the batch is reused.
	Tag any

	buf      []byte
	last     int // offset of the last request in buf
	n        int
	charge   int // estimate of what the replies need
	limit    int
	firstSeq uint32
	failures []Failure
	answers  []byte
	answerAt []answer
	err      error
}

type answer struct{ index, at int }

// Len returns the number of requests in the batch.
func (b *Batch) Len() int { return b.n }

// Full reports whether the batch should be submitted before more is added.
func (b *Batch) Full() bool {
	return b.n >= batchMax || len(b.buf) >= batchBytes-4096 || b.charge+answerCharge > b.limit
}

// Add appends a request and returns its index. If the kernel answers the request, as every
// subsystem answers its get message, Answers has the answer once the batch is complete.
func (b *Batch) Add(r Request) int {
	b.last = len(b.buf)
	b.buf = r.append(b.buf, 0, 0)
	b.charge += ackCharge
	if r.Type&0xff == messageGet {
		b.charge += answerCharge
	}
	b.n++
	return b.n - 1
}

// Failures lists the refused requests of a complete batch, in order.
func (b *Batch) Failures() []Failure { return b.failures }

// Answers calls each for every answer of a complete batch with the index of its
// request. The Message is valid until each returns.
func (b *Batch) Answers(each func(index int, m *Message) error) error {
	var m Message
	for _, a := range b.answerAt {
		n := int(native.Uint32(b.answers[a.at:]))
		if err := m.Parse(b.answers[a.at : a.at+n]); err != nil {
			return err
		}
		if err := each(a.index, &m); err != nil {
			return err
		}
	}
	return nil
}

func (b *Batch) reset() {
	b.buf, b.last, b.n, b.charge, b.err = b.buf[:0], 0, 0, 0, nil
	b.failures, b.answers, b.answerAt = b.failures[:0], b.answers[:0], b.answerAt[:0]
}

// Pipeline sends batches of requests to the kernel while the caller prepares the next ones.
// It is the only user of its Conn until Close has returned. Its methods are for one
// goroutine.
type Pipeline struct {
	conn     *Conn
	complete func(*Batch) error
	submit   chan *Batch
	done     chan *Batch
	free     []*Batch
	inFlight int
	err      error
}

// pipelineDepth batches exist: one being filled, one with the kernel, one or two
// waiting or complete.
const pipelineDepth = 4

// NewPipeline starts a pipeline. complete is called for each batch that the
// kernel has carried out, in the order of submission and in the goroutine that
// calls the Pipeline's methods; its error ends the pipeline.
//
// Once ctx has ended nothing more is sent, and the Pipeline's error is ctx's. complete is
// still called for batches that were sent before: the kernel carries out a batch during the
// send, so its replies are available.
func (c *Conn) NewPipeline(ctx context.Context, complete func(*Batch) error) *Pipeline {
	p := &Pipeline{
		conn:     c,
		complete: complete,
		submit:   make(chan *Batch, pipelineDepth),
		done:     make(chan *Batch, pipelineDepth),
	}
	for range pipelineDepth {
		p.free = append(p.free, &Batch{limit: c.rcvbuf})
	}
	if c.reply == nil {
		c.reply = make([]byte, replySize)
	}
	go func() {
		defer close(p.done)
		failed := false
		for b := range p.submit {
			if failed || ctx.Err() != nil {
				b.err = ctxError(ctx, errNotSent)
			} else if b.err = c.execute(b); b.err != nil {
				failed = true
				b.err = ctxError(ctx, b.err)
			}
			p.done <- b
		}
	}()
	return p
}

var errNotSent = errors.New("request not sent after an earlier failure")

// Batch returns an empty batch to fill, waiting for one if need be.
func (p *Pipeline) Batch() (*Batch, error) {
	for p.err == nil && len(p.free) == 0 {
		p.finish(<-p.done)
	}
	for p.err == nil && p.inFlight > 0 {
		select {
		case b := <-p.done:
			p.finish(b)
			continue
		default:
		}
		break
	}
	if p.err != nil {
		return nil, p.err
	}
	b := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	b.reset()
	return b, nil
}

// Submit passes b on to be sent. The caller must not use it again until complete is called
// with it.
func (p *Pipeline) Submit(b *Batch) error {
	if p.err != nil {
		return p.err
	}
	p.inFlight++
	p.submit <- b
	return nil
}

func (p *Pipeline) finish(b *Batch) {
	p.inFlight--
	err := b.err
	if err == nil && p.err == nil {
		err = p.complete(b)
	}
	if p.err == nil {
		p.err = err
	}
	p.free = append(p.free, b)
}

// Drain waits until every submitted batch is complete.
func (p *Pipeline) Drain() error {
	for p.inFlight > 0 {
		p.finish(<-p.done)
	}
	return p.err
}

// Close waits for all submitted batches and returns the first error of sending,
// receiving or complete. Refusals of single requests are no such error.
func (p *Pipeline) Close() error {
	close(p.submit)
	for b := range p.done {
		p.finish(b)
	}
	return p.err
}

// execute sends b and reads its replies. Only the last request asks for an
// acknowledgement: the kernel reports every failure anyway, and carries the
// requests out within the send.
func (c *Conn) execute(b *Batch) error {
	if b.n == 0 {
		return nil
	}
	b.firstSeq = c.seq + 1
	for at := 0; at < len(b.buf); {
		native.PutUint32(b.buf[at+seqOffset:], c.nextSeq())
		at += int(native.Uint32(b.buf[at:]))
	}
	flags := b.buf[b.last+flagsOffset:]
	native.PutUint16(flags, native.Uint16(flags)|unix.NLM_F_ACK)
	if err := c.send(b.buf); err != nil {
		return fmt.Errorf("send netlink batch: %w", err)
	}
	for done := false; !done; {
		in, err := c.recv(c.reply)
		if err != nil {
			return fmt.Errorf("receive netlink acknowledgements: %w", err)
		}
		if done, err = b.take(in); err != nil {
			return err
		}
	}
	return nil
}

// take files the replies in b and reports whether the last one is among them.
func (b *Batch) take(in []byte) (done bool, err error) {
	ms := Messages{Rest: in}
	for ms.Next() {
		index := int(int32(ms.Seq() - b.firstSeq))
		if index < 0 || index >= b.n {
			continue
		}
		if ms.Type() != unix.NLMSG_ERROR {
			b.answerAt = append(b.answerAt, answer{index, len(b.answers)})
			b.answers = append(b.answers, ms.Raw...)
			continue
		}
		if err := ParseAck(ms.Raw); err != nil {
			b.failures = append(b.failures, Failure{index, err})
		}
		done = done || index == b.n-1
	}
	if ms.Bad {
		return done, ErrTruncated
	}
	return done, nil
}
