package proto

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ctbox/sync/wire"
)

// cluster is a simulation of nodes that speak version 2.
type cluster struct {
	*sim
	all       []*streamNode
	snapshots []simFlows      // what a sender had announced, by the root of its DIGEST
	version   uint32          // the last contents of a flow, ever
	cutOff    map[[2]int]bool // directions in which nothing arrives
	compared  int
	quiet     bool // DIGESTs come only each second
	calm      bool // no object is withheld, for which the peers need another bulk a minute later
}

// simFlows are contents by key, 0 for none.
type simFlows [simKeys]uint32

// streamNode is a node with model caches. A flow is a key with contents, which are a number
// that is never used again.
type streamNode struct {
	c    *cluster
	id   int // its number is id+1
	make func(id uint64, peers []uint8) *Stream

	table map[uint16]uint32 // the kernel's
	up    bool
	m     *Stream
	slots [2][]streamSlot
	free  [2][]uint32
	index map[uint16]uint32 // the living

	announced map[uint16]announcement
	copies    map[int]*streamCopy
	packer    *wire.StreamPacker
	bootID    [16]byte
	lives     [][16]byte // of this process
	counter   uint64
	echoes    uint32 // to the nodes of these bits, with the next datagram
	pumping   bool
	digestAt  time.Duration
	sweeping  bool // a bulk's objects are being handed over
	delays    [Classes]time.Duration
	controls  int // control messages sent
	datagrams int
	received  int
}

type streamSlot struct {
	key       uint16
	version   uint32
	life      uint32 // the first contents
	state     wire.StreamType
	used      bool
	withdrawn bool
	unsaid    bool // it was withheld
	gen       uint32
}

type announcement struct {
	version uint32
	object  Object
}

// streamCopy is what a node has received of another.
type streamCopy struct {
	flows map[uint16]entry
	ended map[uint16]uint32 // the last life that has ended
	round int
	lives [][16]byte
	asked time.Duration
}

const streamHeader = 1 + 16 + 8 + 4 + 1

func newCluster(s *sim, nodes int) *cluster {
	c := &cluster{sim: s, cutOff: map[[2]int]bool{}}
	for range nodes {
		n := &streamNode{c: c, id: len(c.all), table: map[uint16]uint32{}}
		n.packer = wire.NewStreamPacker(120+s.rng.IntN(1300), n.transmit)
		n.packer.Begin(func() wire.Seq { return n.m.Position() }, nil)
		window, resend := []int{1, 3, 10, 300}[s.rng.IntN(4)], []int{8, 16, 60, 131072}[s.rng.IntN(4)]
		n.make = func(id uint64, peers []uint8) *Stream {
			return NewStream(s.now, StreamConfig{
				ID: id, First: wire.Seq(s.epoch + uint32(s.now/time.Second)), Node: uint8(n.id + 1),
				Window: window, Resend: resend, Peers: peers,
			})
		}
		if s.chance(20) {
			n.delays = [Classes]time.Duration{s.randomTime(3 * time.Second), 0, time.Second}
		}
		c.all = append(c.all, n)
		s.nodes = append(s.nodes, n)
	}
	return c
}

func random16(rng *rand.Rand) (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], rng.Uint64())
	binary.BigEndian.PutUint64(b[8:], rng.Uint64())
	return b
}

func (n *streamNode) boot() {
	n.up = true
	var peers []uint8
	for _, other := range n.c.all {
		if other != n {
			peers = append(peers, uint8(other.id+1))
		}
	}
	n.m = n.make(n.c.rng.Uint64(), peers)
	n.m.SetDelays(n.delays)
	n.slots, n.free, n.index = [2][]streamSlot{}, [2][]uint32{}, map[uint16]uint32{}
	n.announced, n.copies = map[uint16]announcement{}, map[int]*streamCopy{}
	n.bootID, n.lives, n.counter, n.echoes, n.sweeping = random16(n.c.rng), nil, 0, 0, false
	n.digestAt = n.c.now
	for key := uint16(0); key < simKeys; key++ {
		if _, ok := n.table[key]; ok {
			n.insert(key)
		}
	}
	n.pump()
}

func (n *streamNode) keys() (first, end uint16)   { return 0, simKeys }
func (n *streamNode) crash()                      { n.up = false }
func (n *streamNode) running() bool               { return n.up }
func (n *streamNode) kernel() map[uint16]uint32   { return n.table }
func (n *streamNode) external() map[uint16]uint32 { return nil }
func (n *streamNode) deadline() time.Duration     { return min(n.m.Deadline(), n.digestAt) }

// renew draws another boot id.
func (n *streamNode) renew() {
	n.lives = append(n.lives, n.bootID)
	n.bootID, n.counter = random16(n.c.rng), 0
}

func (n *streamNode) object(t Table, i uint32) Object {
	return Object{t, uint64(n.slots[t][i].gen)<<32 | uint64(i)}
}

// insert puts a flow of the kernel into the internal cache.
func (n *streamNode) insert(key uint16) {
	t := tableOf(key)
	var i uint32
	if free := len(n.free[t]); free > 0 {
		i = n.free[t][free-1]
		n.free[t] = n.free[t][:free-1]
	} else {
		i = uint32(len(n.slots[t]))
		n.slots[t] = append(n.slots[t], streamSlot{})
	}
	n.c.version++
	sl := streamSlot{key: key, version: n.c.version, life: n.c.version, state: wire.StreamFlowNew, used: true, gen: n.slots[t][i].gen + 1}
	n.slots[t][i], n.index[key], n.table[key] = sl, i, sl.version
	if o := n.object(t, i); n.delays[classOf(key)] > 0 && n.c.chance(80) {
		n.m.Wait(n.c.now, o, classOf(key))
	} else {
		n.m.Changed(o)
	}
}

func (n *streamNode) changed(key uint16) {
	t := tableOf(key)
	_, there := n.table[key]
	i, known := n.index[key]
	switch {
	case there && known:
		sl := &n.slots[t][i]
		n.c.version++
		sl.version, n.table[key] = n.c.version, n.c.version
		sl.state, sl.withdrawn = wire.StreamFlowUpdate, false
		if o := n.object(t, i); !n.m.Waits(o) || n.c.chance(30) {
			n.m.Changed(o)
		}
	case there:
		n.insert(key)
	case known:
		n.end(t, i)
	}
	n.soon()
}

func (n *streamNode) end(t Table, i uint32) {
	sl := &n.slots[t][i]
	sl.state = wire.StreamFlowEnd
	delete(n.index, sl.key)
	n.m.Deleted(n.object(t, i))
}

// withdraw stops announcing a flow that goes on.
func (n *streamNode) withdraw(key uint16) {
	if i, ok := n.index[key]; ok && n.up {
		t := tableOf(key)
		if o := n.object(t, i); !n.m.Waits(o) && !n.slots[t][i].withdrawn {
			n.slots[t][i].withdrawn = true
			n.m.Withdrawn(o)
			n.soon()
		}
	}
}

// flush empties the internal cache without a word, and reads the kernel's table again.
func (n *streamNode) flush() {
	if !n.up {
		return
	}
	n.c.logf("%d flushes", n.id)
	for t := range n.slots {
		for i := range n.slots[t] {
			if sl := &n.slots[t][i]; sl.used {
				o := n.object(Table(t), uint32(i))
				n.m.Dropped(o)
				if n.announced[sl.key].object == o {
					delete(n.announced, sl.key)
				}
				sl.used = false
				n.free[t] = append(n.free[t], uint32(i))
			}
		}
	}
	clear(n.index)
	for _, key := range slices.Sorted(maps.Keys(n.table)) {
		if n.c.chance(20) {
			delete(n.table, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(n.table)) {
		n.insert(key)
	}
	n.soon()
}

func (n *streamNode) soon() {
	n.c.after(0, func() {
		if n.up {
			n.pump()
		}
	})
}

func (n *streamNode) timer() {
	if n.c.now >= n.m.Deadline() {
		n.happened(n.id, n.m.Tick(n.c.now))
	}
	for o, ok := n.m.NextWaited(n.c.now); ok; o, ok = n.m.NextWaited(n.c.now) {
		n.m.Changed(o)
	}
	n.pump()
}

// pump sends what is due, and a DIGEST now and then.
func (n *streamNode) pump() {
	n.pumping = true
	if n.echoes != 0 {
		n.m.StateDue()
	}
	for {
		s, ok := n.m.Next()
		if !ok {
			break
		}
		n.pack(&s)
	}
	if n.c.now >= n.digestAt || !n.c.quiet && n.c.rng.IntN(8*len(n.c.all)) == 0 {
		var now simFlows
		for k, a := range n.announced {
			now[k] = a.version
		}
		n.packer.Message(&wire.StreamMessage{Type: wire.Digest, Root: uint64(len(n.c.snapshots))})
		n.c.snapshots = append(n.c.snapshots, now)
		n.digestAt = n.c.now + time.Second
	}
	n.packer.Flush()
	n.m.Sent(n.c.now)
	for o, ok := n.m.NextReleased(); ok; o, ok = n.m.NextReleased() {
		sl := &n.slots[o.Table][uint32(o.Handle)]
		switch {
		case !sl.used || sl.gen != uint32(o.Handle>>32):
			n.c.t.Errorf("node %d: %+v is released, which is another's by now", n.id, o)
		case sl.state == wire.StreamFlowEnd:
			sl.used = false
			n.free[o.Table] = append(n.free[o.Table], uint32(o.Handle))
			if n.announced[sl.key].object == o {
				n.c.t.Errorf("node %d: flow %d is released, and is not ended at the peers", n.id, sl.key)
			}
		case !sl.withdrawn:
			n.c.t.Errorf("node %d: flow %d is released, and is announced", n.id, sl.key)
		}
	}
	n.pumping = false
}

func (n *streamNode) pack(s *Send) {
	if s.Control {
		if !s.Message.Type.Numbered() && s.Message.Type != wire.StreamState {
			n.controls++
		}
		if s.Message.Type == wire.StreamNotice {
			s.Message.Body = s.Notice.AppendBody(nil)
		}
		n.packer.Message(&s.Message)
		return
	}
	o := s.Object
	sl := &n.slots[o.Table][uint32(o.Handle)]
	if !sl.used || sl.gen != uint32(o.Handle>>32) {
		n.c.t.Errorf("node %d sends %+v, whose slot is another's by now", n.id, o)
		return
	}
	typ := sl.state
	switch {
	case s.Withdrawn != (sl.withdrawn && sl.state != wire.StreamFlowEnd):
		n.c.t.Errorf("node %d: flow %d is said to be withdrawn: %v", n.id, sl.key, s.Withdrawn)
	case s.Withdrawn:
		typ = wire.StreamFlowWithdrawn
	case typ == wire.StreamFlowEnd:
		if i, ok := n.index[sl.key]; ok && !n.m.Waits(n.object(o.Table, i)) && !n.slots[o.Table][i].withdrawn {
			by := n.object(o.Table, i)
			if !n.m.Holds(by) {
				n.m.Changed(by)
			}
			n.m.Superseded(o, by)
			if n.announced[sl.key].object == o {
				n.announced[sl.key] = announcement{n.announced[sl.key].version, by}
			}
			return
		}
	case !n.c.calm && n.c.chance(1):
		n.m.Withheld(o)
		sl.unsaid = true
		if n.announced[sl.key].object == o {
			delete(n.announced, sl.key)
		}
		return
	}
	body := binary.BigEndian.AppendUint16(nil, sl.key)
	body = binary.BigEndian.AppendUint32(body, sl.version)
	body = binary.BigEndian.AppendUint32(body, sl.life)
	n.packer.Numbered(s.Header.Seq, s.Again, typ, body)
	if s.Withdrawn || typ == wire.StreamFlowEnd {
		delete(n.announced, sl.key)
	} else {
		n.announced[sl.key] = announcement{sl.version, o}
		sl.unsaid = false
	}
	if n.c.trace {
		n.c.logf("  %d packs %d (again %v) type %d of flow %d, version %d", n.id, s.Header.Seq, s.Again, typ, sl.key, sl.version)
	}
}

// transmit sends a payload to all others.
func (n *streamNode) transmit(payload []byte) {
	n.counter++
	n.datagrams++
	b := append([]byte{byte(n.id)}, n.bootID[:]...)
	b = binary.BigEndian.AppendUint64(b, n.counter)
	b = binary.BigEndian.AppendUint32(b, n.echoes)
	n.echoes = 0
	b = append(b, byte(len(n.lives)))
	n.c.transmitCluster(n.id, append(b, payload...))
}

// transmitCluster is transmit with partitions.
func (c *cluster) transmitCluster(from int, b []byte) {
	for to, n := range c.all {
		if to == from || c.cutOff[[2]int{from, to}] {
			continue
		}
		copies := 1
		if c.chance(c.faults.duplicate) {
			copies = 2
		}
		for range copies {
			if c.chance(c.faults.loss) {
				c.logf("  lost on the way from %d to %d", from, to)
				continue
			}
			c.after(100*time.Microsecond+c.randomTime(c.faults.delay), func() {
				if n.up {
					n.datagram(from, b)
				}
			})
		}
	}
}

// datagram is what package seal does, and the owner: a life of the sender that is unknown is
// accepted only with an echo, or if it follows a known one.
func (n *streamNode) datagram(from int, b []byte) {
	n.received++
	c := n.copies[from]
	if c == nil {
		c = &streamCopy{flows: map[uint16]entry{}, ended: map[uint16]uint32{}, asked: -time.Hour}
		n.copies[from] = c
	}
	boot, sender := [16]byte(b[1:17]), n.c.all[from]
	if !slices.Contains(c.lives, boot) {
		echo := binary.BigEndian.Uint32(b[25:])&(1<<n.id) != 0
		follows := len(c.lives) > 0 && slices.Contains(sender.lives, c.lives[len(c.lives)-1]) && (boot == sender.bootID || slices.Contains(sender.lives, boot)) &&
			slices.Index(sender.lives, c.lives[len(c.lives)-1])+1 == int(b[29])
		if !echo && !follows {
			if n.c.now-c.asked >= time.Second {
				c.asked = n.c.now
				if !n.c.chance(n.c.faults.loss) && !n.c.cutOff[[2]int{n.id, from}] {
					n.c.after(n.c.randomTime(n.c.faults.delay), func() {
						if sender.up {
							sender.echoes |= 1 << n.id
							sender.pump()
						}
					})
				}
			}
			return
		}
		c.lives = append(c.lives, boot)
	}
	if !n.m.Arrived(n.c.now, uint8(from+1), boot, binary.BigEndian.Uint64(b[17:])) {
		return
	}
	n.c.logf("%d gets counter %d of %d", n.id, binary.BigEndian.Uint64(b[17:]), from)
	if boot != c.lives[len(c.lives)-1] {
		n.c.t.Errorf("node %d takes a datagram of a former life of %d", n.id, from)
	}
	var msg wire.StreamMessage
	for r := wire.ReadStream(b[streamHeader:]); ; {
		ok, err := r.Next(&msg)
		if err != nil {
			n.c.t.Fatal(err)
		}
		if !ok {
			break
		}
		verdict, events := n.m.Receive(n.c.now, uint8(from+1), &msg)
		if n.c.trace {
			n.c.logf("  %d takes %d.. type %d from %d number %d again %v, range %d..%d %v: verdict %d events %b", n.id, msg.Stream&0xffff, msg.Type, from, msg.Number, msg.Again, msg.From, msg.To, msg.Ranges, verdict, events)
		}
		n.happened(from, events)
		switch {
		case verdict == Apply:
			n.apply(from, c, &msg)
		case msg.Type == wire.Digest:
			n.compare(from, c, &msg)
		}
	}
	n.pump()
}

func (n *streamNode) apply(from int, c *streamCopy, msg *wire.StreamMessage) {
	key, version, life := binary.BigEndian.Uint16(msg.Body), binary.BigEndian.Uint32(msg.Body[2:]), binary.BigEndian.Uint32(msg.Body[6:])
	if has, ok := c.flows[key]; ok && version < has.version && life >= has.life {
		n.c.t.Errorf("node %d: flow %d of %d goes back from %d to %d", n.id, key, from, has.version, version)
	}
	switch msg.Type {
	case wire.StreamFlowEnd:
		c.ended[key] = max(c.ended[key], life)
		delete(c.flows, key)
	case wire.StreamFlowWithdrawn:
		delete(c.flows, key)
	default:
		if life <= c.ended[key] {
			n.c.t.Errorf("node %d: flow %d of %d comes back", n.id, key, from)
		}
		c.flows[key] = entry{version: version, round: c.round, life: life}
	}
}

// compare checks that the copy is what the sender had announced, unless it is known not to be.
func (n *streamNode) compare(from int, c *streamCopy, msg *wire.StreamMessage) {
	node := uint8(from + 1)
	if !n.m.Whole(node) || n.m.Incomplete(node) {
		return
	}
	n.c.compared++
	var has simFlows
	for k, e := range c.flows {
		has[k] = e.version
	}
	if want := n.c.snapshots[msg.Root]; want != has {
		n.c.t.Errorf("%v: at a DIGEST of node %d node %d has %v, want %v", n.c.now, from, n.id, has, want)
	}
}

func (n *streamNode) happened(from int, e Events) {
	c := n.copies[from]
	if e&BulkWanted != 0 {
		n.bulk()
	}
	if e&BulkBegan != 0 {
		c.round++
	}
	if e&BulkComplete != 0 {
		maps.DeleteFunc(c.flows, func(_ uint16, e entry) bool { return e.round != c.round })
	}
}

// bulk sends everything, in slices.
func (n *streamNode) bulk() {
	if n.sweeping || !n.m.BeginBulk(n.c.now) {
		return
	}
	n.sweeping = true
	m, t, i := n.m, 0, 0
	var slice func()
	slice = func() {
		if n.m != m {
			return
		}
		for range 8 {
			for t < 2 && i == len(n.slots[t]) {
				t, i = t+1, 0
			}
			if t == 2 {
				n.sweeping = false
				m.EndBulk()
				n.pump()
				return
			}
			if sl := &n.slots[t][i]; sl.used && sl.state != wire.StreamFlowEnd && !sl.withdrawn {
				m.Bulk(n.object(Table(t), uint32(i)))
			}
			i++
		}
		n.c.after(n.c.randomTime(20*time.Millisecond), slice)
	}
	n.c.after(0, slice)
}

func (n *streamNode) check() {
	st := n.m.Stats()
	if st.Resend > st.ResendLimit || st.Transmit+st.Resend > len(n.slots[0])+len(n.slots[1])+st.Controls || st.Controls > maxControls+4 {
		n.c.t.Errorf("node %d: queues out of bounds: %+v", n.id, st)
	}
}

func (n *streamNode) checkAll() {
	checkLists(n.c.t, &n.m.queues, n.m.bulk.left)
	for _, p := range n.m.peers {
		if len(p.gaps) > maxGaps {
			n.c.t.Errorf("node %d: %d gaps", n.id, len(p.gaps))
		}
	}
}

// disturb makes one kind of trouble at a random time.
func (c *cluster) disturb(end time.Duration) {
	n := c.all[c.rng.IntN(len(c.all))]
	other := c.all[c.rng.IntN(len(c.all))]
	switch what := c.rng.IntN(12); what {
	case 0:
		down := c.randomTime(20 * time.Second)
		c.after(c.randomTime(end), func() {
			if n.up {
				c.logf("%d crashes", n.id)
				n.crash()
				c.after(down, func() { c.logf("%d starts", n.id); n.boot() })
			}
		})
	case 1, 2:
		for range 3 {
			c.after(c.randomTime(end), func() {
				if n.up {
					c.logf("%d renews its boot id", n.id)
					n.renew()
				}
			})
		}
	case 3, 4:
		long, both := c.randomTime(25*time.Second), c.chance(50)
		c.after(c.randomTime(end), func() {
			set := func(cut bool) {
				c.cutOff[[2]int{n.id, other.id}] = cut
				if both {
					c.cutOff[[2]int{other.id, n.id}] = cut
				}
			}
			c.logf("%d to %d is cut, both ways: %v", n.id, other.id, both)
			set(true)
			c.after(long, func() { c.logf("%d to %d is whole", n.id, other.id); set(false) })
		})
	case 5:
		c.after(c.randomTime(end), n.flush)
	case 6:
		c.after(c.randomTime(end), func() {
			if n.up {
				n.bulk()
			}
		})
	case 7:
		c.after(c.randomTime(end), func() {
			if n.up {
				n.m.RequestResync(c.now)
				n.pump()
			}
		})
	case 8:
		c.after(c.randomTime(end), func() {
			if n.up {
				n.m.MakeRoom()
				n.soon()
			}
		})
	default:
		key := uint16(c.rng.IntN(simKeys))
		c.after(c.randomTime(end), func() { n.withdraw(key) })
	}
}

// settled checks that each node holds what each other one announces, which is what its kernel
// has, but for what was withdrawn.
func (c *cluster) settled() {
	for _, n := range c.all {
		want := maps.Clone(n.table)
		for t := range n.slots {
			for _, sl := range n.slots[t] {
				if sl.used && (sl.withdrawn || sl.unsaid) && sl.state != wire.StreamFlowEnd {
					delete(want, sl.key)
				}
			}
		}
		for _, other := range c.all {
			if other == n {
				continue
			}
			has := map[uint16]uint32{}
			for k, e := range other.copies[n.id].flows {
				has[k] = e.version
			}
			c.same("after quiet", want, has)
			if r := other.m.Receipt(uint8(n.id+1), c.now); r.Copy != CopyArrived || r.Gaps > 0 || !other.m.Complete(uint8(n.id+1)) {
				c.t.Errorf("the receipt is %+v, complete %v", r, other.m.Complete(uint8(n.id+1)))
			}
			if !n.m.Follows(uint8(other.id + 1)) {
				c.t.Errorf("it is not followed")
			}
			if c.t.Failed() {
				c.t.Errorf("at node %d of what %d has", other.id, n.id)
				return
			}
		}
		if st := n.m.Stats(); st.Resend > 0 || st.Transmit > 0 {
			c.t.Errorf("node %d: after quiet %+v", n.id, st)
		}
	}
}

// TestStreamConverges checks with every DIGEST that arrives in order that the receiver holds
// what the sender had announced, and after quiet that everything has arrived.
func TestStreamConverges(t *testing.T) {
	forSomeSeeds(t, 20, func(s *sim) {
		nodes := 2 + s.rng.IntN(4)
		if s.chance(2) {
			nodes = 16
		}
		c := newCluster(s, nodes)
		for _, n := range c.all {
			for range s.rng.IntN(20) {
				s.change(n)
			}
			s.after(s.randomTime(3*time.Second), n.boot)
		}
		if s.chance(90) {
			s.faults.loss = s.rng.IntN(31)
		}
		s.faults.duplicate = s.rng.IntN(20)
		s.faults.delay = []time.Duration{0, 5 * time.Millisecond, 200 * time.Millisecond}[s.rng.IntN(3)]
		end := 15*time.Second + s.randomTime(45*time.Second)
		s.trouble(end, 30*nodes, 0)
		for range s.rng.IntN(20) {
			c.disturb(end)
		}
		for s.now < end && !t.Failed() {
			s.run(s.now + time.Second)
			for _, n := range c.all {
				if n.up {
					n.checkAll()
				}
			}
		}
		s.run(end + 26*time.Second)
		busy := 0
		for _, n := range c.all {
			busy += n.datagrams
		}
		s.logf("quiet, after %d datagrams", busy)
		s.faults, c.calm = faults{}, true
		s.run(s.now + 2*time.Minute)
		if t.Failed() {
			return
		}
		c.settled()
		for _, n := range c.all {
			n.datagrams, n.controls = 0, 0
			c.quiet = true
		}
		s.run(s.now + 10*time.Second)
		for _, n := range c.all {
			// The acknowledgements for more than 8 peers may not fit into one small datagram.
			if n.datagrams > 35+10*(len(c.all)/8) || n.controls > 11*len(c.all) {
				t.Errorf("%d datagrams and %d control messages in 10 s of quiet", n.datagrams, n.controls)
			}
		}
		if c.compared < 20 {
			t.Errorf("only %d comparisons", c.compared)
		}
	})
}
