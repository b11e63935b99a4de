package proto

import (
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/wire"
)

// cDaemon is a model of the C daemon in FT-FW mode with its faults: one receive state, every
// HELLO empties the resend queue, the window is unsigned, and control messages keep their
// flags when they are resent.
type cDaemon struct {
	s      *sim
	id     int
	window uint32 // ACKWindowSize
	limit  int    // ResendQueueSize

	table map[uint16]uint32
	up    bool

	cache map[uint16]*cObject
	ext   map[uint16]uint32

	tx, rs []*cElement
	seq    wire.Seq
	seqSet bool

	have       bool
	last       wire.Seq
	win        uint32
	ackFrom    wire.Seq
	ackFromSet bool
	hello      int // 0 unsent, 1 sending, 2 answered
	sayBack    bool
	alarm      time.Duration
	packer     *wire.Packer
}

type cObject struct {
	key     uint16
	version uint32
	status  wire.Type
	element *cElement
}

type cElement struct {
	object   *cObject // nil for control
	flags    wire.Flags
	from, to wire.Seq
	seq      wire.Seq
	inTx     bool
	inRs     bool
	sent     bool // a control message that keeps its flags
}

func (s *sim) addCDaemon(window uint32, limit int) *cDaemon {
	d := &cDaemon{s: s, id: len(s.nodes), window: window, limit: limit, table: map[uint16]uint32{}, packer: wire.NewPacker(1471)}
	s.nodes = append(s.nodes, d)
	return d
}

func (d *cDaemon) boot() {
	*d = cDaemon{s: d.s, id: d.id, window: d.window, limit: d.limit, table: d.table, packer: d.packer,
		up: true, win: d.window, alarm: d.s.now + time.Second, cache: map[uint16]*cObject{}, ext: map[uint16]uint32{}}
	for key := range uint16(simKeys) {
		if v, ok := d.table[key]; ok {
			d.insert(key, v)
		}
	}
}

func (d *cDaemon) crash()                      { d.up = false }
func (d *cDaemon) running() bool               { return d.up }
func (d *cDaemon) kernel() map[uint16]uint32   { return d.table }
func (d *cDaemon) external() map[uint16]uint32 { return d.ext }
func (d *cDaemon) deadline() time.Duration     { return d.alarm }
func (d *cDaemon) check()                      {}
func (d *cDaemon) keys() (first, end uint16)   { return 0, simKeys }

func (d *cDaemon) insert(key uint16, version uint32) *cObject {
	o := &cObject{key: key, version: version, status: wire.FlowNew}
	o.element = &cElement{object: o}
	d.cache[key] = o
	return o
}

func (d *cDaemon) changed(key uint16) {
	version, there := d.table[key]
	o := d.cache[key]
	switch {
	case there && o != nil && o.status != wire.FlowDelete:
		o.version, o.status = version, wire.FlowUpdate
	case there && o != nil:
		// A new flow of that tuple takes the dead object's place.
		o.version, o.status = version, wire.FlowNew
	case there:
		o = d.insert(key, version)
	case o != nil:
		o.status = wire.FlowDelete
	default:
		return
	}
	d.queue(o.element)
	d.drain()
}

// queue moves an element to the transmit queue.
func (d *cDaemon) queue(e *cElement) {
	if e.inTx {
		return
	}
	if e.inRs {
		d.rs = without(d.rs, e)
		e.inRs = false
	}
	e.inTx = true
	d.tx = append(d.tx, e)
}

func without(list []*cElement, e *cElement) []*cElement {
	for i := range list {
		if list[i] == e {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

func (d *cDaemon) control(flags wire.Flags, from, to wire.Seq) {
	d.queue(&cElement{flags: flags, from: from, to: to})
}

// requestResync is `conntrackd -n`.
func (d *cDaemon) requestResync() {
	d.control(wire.Resync, 0, 0)
	d.drain()
}

func (d *cDaemon) timer() {
	if d.ackFromSet && d.have {
		d.control(wire.Ack, d.ackFrom, d.last)
		d.ackFromSet = false
	} else {
		d.control(wire.Alive, 0, 0)
	}
	d.alarm = d.s.now + time.Second
	d.drain()
}

func (d *cDaemon) drain() {
	if len(d.tx) == 0 {
		return
	}
	for len(d.tx) > 0 {
		e := d.tx[0]
		d.tx = d.tx[1:]
		e.inTx = false
		d.transmit(e)
	}
	d.alarm = d.s.now + time.Second
	for i := range d.packer.Datagrams() {
		d.s.transmit(d.id, d.packer.Datagram(i))
	}
	d.packer.Reset()
}

func (d *cDaemon) transmit(e *cElement) {
	if !d.seqSet {
		d.seqSet, d.seq = true, wire.Seq(d.s.epoch+uint32(d.s.now/time.Second))
	}
	var flags wire.Flags
	if d.hello == 0 {
		d.hello = 1
	}
	if d.hello == 1 {
		flags |= wire.Hello
	}
	if d.sayBack {
		flags |= wire.HelloBack
		d.sayBack = false
	}
	e.seq = d.seq
	d.seq++
	if e.object == nil {
		if e.sent {
			flags = 0
		}
		e.sent = true
		e.flags |= flags
		d.packer.Add(wire.AppendControl(d.packer.Buffer(), wire.Header{Type: wire.Control, Flags: e.flags, Seq: e.seq, From: e.from, To: e.to}))
		if e.flags&(wire.Ack|wire.Nack|wire.Resync) == 0 {
			return
		}
	} else {
		f := flowOf(e.object.key, e.object.version)
		b, err := wire.Encoder{}.AppendFlow(d.packer.Buffer(), wire.Header{Type: e.object.status, Flags: flags, Seq: e.seq}, &f)
		if err != nil {
			d.s.t.Error(err)
		}
		d.packer.Add(b)
	}
	if len(d.rs) >= d.limit {
		d.forget(d.rs[0])
	}
	e.inRs = true
	d.rs = append(d.rs, e)
}

// forget drops an element from the resend queue; if its object is dead, it drops that too.
func (d *cDaemon) forget(e *cElement) {
	d.rs = without(d.rs, e)
	e.inRs = false
	if o := e.object; o != nil && o.status == wire.FlowDelete && d.cache[o.key] == o {
		delete(d.cache, o.key)
	}
}

func (d *cDaemon) datagram(_ int, b []byte) {
	var c wire.Counters
	for r := wire.ReadDatagram(b); ; {
		m, ok := r.Next(&c)
		if !ok {
			break
		}
		d.receive(m)
	}
	d.drain()
}

func (d *cDaemon) receive(m wire.Message) {
	h := m.Header
	inSync := func() {
		if !d.digest(h) {
			return
		}
		if !d.ackFromSet {
			d.ackFrom, d.ackFromSet = h.Seq, true
		}
		if d.win--; d.win == 0 {
			d.control(wire.Ack, d.ackFrom, h.Seq)
			d.win, d.ackFromSet = d.window, false
		}
		d.have, d.last = true, h.Seq
		d.apply(m)
	}
	back := h.Flags&wire.HelloBack != 0 && d.hello == 1
	if h.Flags&wire.Hello != 0 {
		d.sayBack = true
		if back {
			d.hello = 2
		}
		if d.ackFromSet && h.Seq.Before(d.ackFrom) {
			d.win, d.ackFrom = d.window-1, h.Seq
		}
		for len(d.rs) > 0 {
			d.forget(d.rs[0])
		}
		inSync()
		return
	}
	if back {
		d.hello = 2
	}
	switch expected := d.last + 1; {
	case !d.have || h.Seq == expected:
		inSync()
	case h.Seq.After(expected):
		if !d.digest(h) {
			return
		}
		if d.ackFromSet {
			d.control(wire.Ack, d.ackFrom, expected-1)
			d.ackFromSet = false
		}
		d.control(wire.Nack, expected, h.Seq-1)
		d.win, d.ackFrom, d.ackFromSet = d.window-1, h.Seq, true
		d.last = h.Seq
		d.apply(m)
	}
}

func (d *cDaemon) digest(h wire.Header) bool {
	switch h.Kind() {
	case wire.KindData, wire.KindAlive:
		return true
	case wire.KindAck, wire.KindNack:
		if h.To.Before(h.From) {
			return false
		}
		for _, e := range append([]*cElement(nil), d.rs...) {
			if e.seq.After(h.To) {
				break
			}
			if e.seq.Before(h.From) {
				continue
			}
			if h.Kind() == wire.KindAck {
				d.forget(e)
			} else {
				d.queue(e)
			}
		}
		return true
	case wire.KindResync:
		for key := range uint16(simKeys) {
			if o := d.cache[key]; o != nil && o.status != wire.FlowDelete {
				d.queue(o.element)
			}
		}
		return true
	}
	return false
}

func (d *cDaemon) apply(m wire.Message) {
	var f ctnetlink.Flow
	if m.Kind() != wire.KindData || wire.ParseFlow(m.Body, &f) != nil {
		return
	}
	if m.Type == wire.FlowDelete {
		delete(d.ext, f.Orig.SrcPort)
		return
	}
	d.ext[f.Orig.SrcPort] = f.Mark
}
