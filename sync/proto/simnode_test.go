package proto

import (
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/wire"
)

// daemon is a node of ctbox with model caches.
type daemon struct {
	s    *sim
	id   int
	make func(now time.Duration, first wire.Seq) Receiver

	table map[uint16]uint32 // the kernel's
	base  uint16            // its first key

	m        Receiver
	up       bool
	links    int
	slots    [2][]slot // the internal caches
	free     [2][]uint32
	index    map[uint16]uint32
	ext      map[uint16]entry
	round    int
	bulkAt   int // next slot of a bulk in progress, or -1
	packer   *wire.Packer
	counters wire.Counters
	alarmsAt time.Duration
	strange  int // how often a third node was reported
	sweep    Sweep
	agrees   Agreement
	asked    int  // resyncs requested because the numbers of entries differed
	met      bool // the peer's last number was equal
	lastSeen wire.Seq
	delays   [Classes]time.Duration
}

type slot struct {
	key     uint16
	version uint32
	state   wire.Type // FlowNew, FlowUpdate, FlowDelete
	used    bool
	gen     uint32
	refresh time.Duration // ALARM: when to announce it again
	began   time.Duration
	waits   bool // it may not be sent before the delay has passed
	unsaid  bool // it ended while it waited
}

type entry struct {
	version uint32
	round   int
	heard   time.Duration
	life    uint32 // of a flow of version 2
}

func (s *sim) addDaemon(make func(now time.Duration, first wire.Seq) Receiver) *daemon {
	d := &daemon{s: s, id: len(s.nodes), make: make, table: map[uint16]uint32{}, packer: wire.NewPacker(200 + s.rng.IntN(1272))}
	s.nodes = append(s.nodes, d)
	return d
}

// tableOf distributes the keys to both tables.
func tableOf(key uint16) Table { return Table(key & 1) }

func (d *daemon) boot() {
	d.up = true
	d.m = d.make(d.s.now, wire.Seq(d.s.epoch+uint32(d.s.now/time.Second)))
	d.slots, d.free = [2][]slot{}, [2][]uint32{}
	d.index = map[uint16]uint32{}
	d.ext = map[uint16]entry{}
	d.bulkAt, d.met = -1, false
	d.sweep, d.agrees = Sweep{}, Agreement{}
	d.m.SetDelays(d.delays)
	for key := d.base; key < d.base+simKeys; key++ {
		if v, ok := d.table[key]; ok {
			d.insert(key, v)
		}
	}
	d.pump()
}

func (d *daemon) keys() (first, end uint16) { return d.base, d.base + simKeys }
func (d *daemon) crash()                    { d.up = false }
func (d *daemon) running() bool             { return d.up }
func (d *daemon) kernel() map[uint16]uint32 { return d.table }

func (d *daemon) external() map[uint16]uint32 {
	out := map[uint16]uint32{}
	for k, e := range d.ext {
		out[k] = e.version
	}
	return out
}

func (d *daemon) insert(key uint16, version uint32) Object {
	t := tableOf(key)
	var i uint32
	if n := len(d.free[t]); n > 0 {
		i = d.free[t][n-1]
		d.free[t] = d.free[t][:n-1]
	} else {
		i = uint32(len(d.slots[t]))
		d.slots[t] = append(d.slots[t], slot{})
	}
	gen := d.slots[t][i].gen + 1
	d.slots[t][i] = slot{key: key, version: version, state: wire.FlowNew, used: true, gen: gen}
	d.index[key] = i
	d.arm(t, i)
	return Object{t, uint64(gen)<<32 | uint64(i)}
}

func (d *daemon) object(t Table, i uint32) Object {
	return Object{t, uint64(d.slots[t][i].gen)<<32 | uint64(i)}
}

func (d *daemon) changed(key uint16) {
	t := tableOf(key)
	version, there := d.table[key]
	i, known := d.index[key]
	switch {
	case there && known:
		sl := &d.slots[t][i]
		sl.version, sl.state = version, wire.FlowUpdate
		d.arm(t, i)
		if o := d.object(t, i); !d.m.Waits(o) || d.s.chance(20) {
			sl.waits = false // it is assured now
			d.m.Changed(o)
		}
	case there:
		o := d.insert(key, version)
		sl := &d.slots[t][uint32(o.Handle)]
		sl.began = d.s.now
		if sl.waits = d.delays[classOf(key)] > 0 && d.s.chance(90); sl.waits {
			d.m.Wait(d.s.now, o, classOf(key))
		} else {
			d.m.Changed(o)
		}
	case known:
		// The dead object keeps its slot; a new flow of that key gets another.
		d.slots[t][i].state = wire.FlowDelete
		d.slots[t][i].unsaid = d.m.Waits(d.object(t, i))
		delete(d.index, key)
		d.m.Deleted(d.object(t, i))
	}
	// Events at the same time share a transmission.
	d.s.after(0, func() {
		if d.up {
			d.pump()
		}
	})
}

func (d *daemon) timer() {
	if d.s.now >= d.m.Deadline() {
		d.happened(d.m.Tick(d.s.now))
	}
	if _, ok := d.m.(*Alarm); ok {
		d.alarms()
		d.alarmsAt = d.s.now + simAlarms
	}
	for o, ok := d.m.NextWaited(d.s.now); ok; o, ok = d.m.NextWaited(d.s.now) {
		sl := &d.slots[o.Table][uint32(o.Handle)]
		if early := sl.began + d.delays[classOf(sl.key)] - d.s.now; early > 0 {
			d.s.t.Errorf("node %d: the wait of flow %d ends %v before its time", d.id, sl.key, early)
		}
		sl.waits = false
		d.m.Changed(o)
	}
	d.pump()
}

func classOf(key uint16) Class { return Class(key % uint16(Classes)) }

// checkWait checks that an object is not sent while it waits, nor after it has ended unsent.
func (d *daemon) checkWait(sl *slot) {
	if sl.waits || sl.unsaid {
		d.s.t.Errorf("node %d: flow %d is sent, although it waits (%v) or has ended before (%v)", d.id, sl.key, sl.waits, sl.unsaid)
	}
}

// simAlarms is the interval at which the timers of ALARM's objects are checked.
const simAlarms = 200 * time.Millisecond

func (d *daemon) deadline() time.Duration {
	if _, ok := d.m.(*Alarm); ok {
		return min(d.alarmsAt, d.m.Deadline())
	}
	return d.m.Deadline()
}

// simCacheTimeout is how long ALARM keeps an external entry.
const simCacheTimeout = 20 * time.Second

// arm sets the timer after which ALARM announces an object again.
func (d *daemon) arm(t Table, i uint32) {
	if a, ok := d.m.(*Alarm); ok {
		d.slots[t][i].refresh = d.s.now + a.RefreshDelay()
	}
}

// alarms announces and removes the objects whose timers have expired.
func (d *daemon) alarms() {
	for t := range d.slots {
		for i := range d.slots[t] {
			sl := &d.slots[t][i]
			if sl.used && sl.state != wire.FlowDelete && sl.refresh <= d.s.now && !d.m.Waits(d.object(Table(t), uint32(i))) {
				d.m.Changed(d.object(Table(t), uint32(i)))
				d.arm(Table(t), uint32(i))
			}
		}
	}
	for k, e := range d.ext {
		if e.heard+simCacheTimeout <= d.s.now {
			delete(d.ext, k)
		}
	}
}

func (d *daemon) datagram(from int, b []byte) {
	for r := wire.ReadDatagram(b); ; {
		msg, ok := r.Next(&d.counters)
		if !ok {
			break
		}
		verdict, events := d.m.Receive(d.s.now, d.s.rng.IntN(max(d.links, 1)), address(from), msg.Header)
		d.noteOrder(events)
		// BulkBegan takes effect before this message is applied, BulkComplete after the
		// messages before it.
		d.happened(events)
		switch {
		case verdict == Apply:
			d.apply(msg)
		case verdict == Handled && msg.CarriesNotice():
			d.notice(msg.Body)
		}
	}
	d.pump()
}

// noteOrder checks that the last sequence number never decreases until the peer restarts.
func (d *daemon) noteOrder(events Events) {
	m, ok := d.m.(*FTFW)
	if !ok {
		return
	}
	last := m.peer.last
	if d.met && d.s.pair() && events&PeerStarted == 0 && last.Before(d.lastSeen) {
		d.s.t.Errorf("node %d: the window went back from %d to %d", d.id, d.lastSeen, last)
	}
	d.met = m.peer.have
	d.lastSeen = m.peer.last
}

// notice compares the number of entries that the peer has announced with those received.
func (d *daemon) notice(body []byte) {
	var n wire.Notice
	if wire.ParseNotice(body, &n) != nil || n.Has == 0 {
		return
	}
	m := d.m.(*FTFW)
	m.Noticed()
	if n.Has&wire.HasHeld == 0 {
		return
	}
	if d.sweep.Announced(int(n.HeldFlows+n.HeldExpects), len(d.ext)) == Remove {
		d.removeGone()
	}
	if !m.Settled() {
		d.agrees.Pause()
		return
	}
	if d.s.trace {
		d.s.logf("%d: the peer has announced %d+%d, %d are here", d.id, n.HeldFlows, n.HeldExpects, len(d.ext))
	}
	if d.agrees.Compare(d.s.now, int(n.HeldFlows+n.HeldExpects), len(d.ext)) {
		d.asked++
		d.s.logf("%d asks for everything", d.id)
		m.RequestResync(d.s.now)
	}
}

func (d *daemon) apply(msg wire.Message) {
	var f ctnetlink.Flow
	if wire.ParseFlow(msg.Body, &f) != nil {
		return
	}
	key := f.Orig.SrcPort
	if d.s.trace {
		d.s.logf("%d applies %s of flow %d", d.id, describeHeader(msg.Header), key)
	}
	if msg.Type == wire.FlowDelete {
		delete(d.ext, key)
		return
	}
	d.ext[key] = entry{version: f.Mark, round: d.round, heard: d.s.now}
}

func (d *daemon) happened(e Events) {
	if e != 0 {
		d.s.logf("%d has events %b", d.id, e)
	}
	if e&BulkWanted != 0 && d.bulkAt < 0 && d.m.BeginBulk(d.s.now) {
		d.bulkAt = 0
		d.bulkSlice()
	}
	if e&BulkBegan != 0 {
		d.sweep.Begin()
		d.round++
	}
	if e&PeerStarted != 0 {
		d.sweep.Reset()
		d.agrees = Agreement{}
	}
	if e&BulkComplete != 0 {
		d.sweepOut(e&BulkUnasked != 0)
	}
	if e&ThirdNode != 0 {
		d.strange++
		d.s.logf("%d notices the third node %v", d.id, d.m.Stats().Third)
	}
}

// sweepOut removes the entries that a complete bulk has left out, if Sweep says so.
func (d *daemon) sweepOut(unasked bool) {
	left := 0
	for _, x := range d.ext {
		if x.round != d.round {
			left++
		}
	}
	switch d.sweep.Judge(left, unasked) {
	case Remove:
		d.removeGone()
	case Ask:
		d.s.logf("%d does not believe that %d flows are gone", d.id, left)
		d.m.RequestResync(d.s.now)
	}
}

func (d *daemon) removeGone() {
	for k, x := range d.ext {
		if x.round != d.round {
			d.checkGone(k, x.version)
			delete(d.ext, k)
		}
	}
}

// checkGone checks that an entry that is removed after a bulk no longer exists at the peer.
func (d *daemon) checkGone(key uint16, version uint32) {
	if peer := d.s.nodes[1-d.id%2]; d.s.pair() && peer.kernel()[key] == version {
		d.s.t.Errorf("node %d: flow %d is taken for gone and is not", d.id, key)
	}
}

// bulkSlice sends a few objects of the bulk, and the rest a little later.
func (d *daemon) bulkSlice() {
	m := d.m
	for range 7 {
		t, i := Flows, d.bulkAt
		if i >= len(d.slots[Flows]) {
			t, i = Expects, i-len(d.slots[Flows])
		}
		if t == Expects && i >= len(d.slots[Expects]) {
			d.bulkAt = -1
			m.EndBulk()
			return
		}
		if sl := d.slots[t][i]; sl.used && sl.state != wire.FlowDelete {
			m.Bulk(d.object(t, uint32(i)))
		}
		d.bulkAt++
	}
	d.s.after(time.Millisecond, func() {
		if d.up && d.m == m {
			d.bulkSlice()
			d.pump()
		}
	})
}

// pump transmits everything that is queued.
func (d *daemon) pump() {
	for d.release(); ; {
		pending := d.m.Pending()
		send, ok := d.m.Next()
		if ok != (pending > 0) {
			d.s.t.Errorf("node %d: %d messages pending, Next says %v", d.id, pending, ok)
		}
		if !ok {
			break
		}
		if send.Control {
			d.packer.Add(wire.AppendNotice(d.packer.Buffer(), send.Header, &send.Notice))
			continue
		}
		sl := &d.slots[send.Object.Table][uint32(send.Object.Handle)]
		if !sl.used || uint32(send.Object.Handle>>32) != sl.gen {
			d.s.t.Errorf("node %d: Next returned %+v, whose slot holds %+v", d.id, send.Object, *sl)
			continue
		}
		d.checkWait(sl)
		send.Header.Type = sl.state
		if i, alive := d.index[sl.key]; alive && sl.state == wire.FlowDelete && !d.m.Waits(d.object(send.Object.Table, i)) {
			// The end of an old flow may be sent after a new flow of its tuple:
			// send the new one again.
			d.m.Changed(d.object(send.Object.Table, i))
		}
		f := flowOf(sl.key, sl.version)
		b, err := wire.Encoder{}.AppendFlow(d.packer.Buffer(), send.Header, &f)
		if err != nil {
			d.s.t.Error(err)
		}
		d.packer.Add(b)
	}
	d.release()
	if d.packer.Datagrams() == 0 {
		return
	}
	for i := range d.packer.Datagrams() {
		d.s.transmit(d.id, d.packer.Datagram(i))
	}
	d.packer.Reset()
	d.m.Sent(d.s.now)
}

func (d *daemon) release() {
	for {
		o, ok := d.m.NextReleased()
		if !ok {
			return
		}
		sl := &d.slots[o.Table][uint32(o.Handle)]
		if !sl.used || sl.state != wire.FlowDelete || uint32(o.Handle>>32) != sl.gen {
			d.s.t.Errorf("node %d: got %+v back, which holds %+v", d.id, o, *sl)
		}
		sl.used = false
		d.free[o.Table] = append(d.free[o.Table], uint32(o.Handle))
	}
}

// check checks the bounds of the queues.
func (d *daemon) check() {
	st := d.m.Stats()
	objects := len(d.slots[Flows]) + len(d.slots[Expects])
	if m, ok := d.m.(*FTFW); ok {
		dead := 0
		for i := m.resend.head; i != none; i = m.at(i).next {
			if m.at(i).dead {
				dead++
			}
		}
		if dead != m.resend.dead {
			d.s.t.Errorf("node %d: %d dead objects in the resend queue, counted %d", d.id, dead, m.resend.dead)
		}
	}
	if st.ResendLimit > 0 && st.Resend > st.ResendLimit {
		d.s.t.Errorf("node %d: %d messages in the resend queue, the limit is %d", d.id, st.Resend, st.ResendLimit)
	}
	if st.Transmit+st.Resend > objects+st.Controls {
		d.s.t.Errorf("node %d: %d+%d messages queued of %d objects and %d controls", d.id, st.Transmit, st.Resend, objects, st.Controls)
	}
	if st.Controls > 200 && d.s.pair() {
		d.s.t.Errorf("node %d: %d control messages are queued", d.id, st.Controls)
	}
}
