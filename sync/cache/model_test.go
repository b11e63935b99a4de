package cache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ctbox/internal/seeds"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// model is a simple, slow implementation of the table, with which the real one is compared.
type model struct {
	limit int
	live  map[key]*object
	dead  map[Handle]*object
	stats Stats
	sweep int
}

type object struct {
	h                Handle
	flow             ctnetlink.Flow
	state            State
	created, updated time.Duration
	armed            bool
	due              time.Duration
	sweep            int
	epoch            uint32
}

// canon returns f as the table stores it: absent fields are zero, and unstored ones absent.
func canon(f *ctnetlink.Flow) ctnetlink.Flow {
	var c ctnetlink.Flow
	c.Has = kept(f.Has, f.Orig.Proto)
	c.Orig, c.Reply, c.Master = f.Orig, f.Reply, f.Master
	has := func(a ctnetlink.Attr) bool { return c.Has&a != 0 }
	set := func(a ctnetlink.Attr, d *uint32, v uint32) {
		if has(a) {
			*d = v
		}
	}
	set8 := func(a ctnetlink.Attr, d *uint8, v uint8) {
		if has(a) {
			*d = v
		}
	}
	set(ctnetlink.HasStatus, &c.Status, f.Status)
	set(ctnetlink.HasTimeout, &c.Timeout, f.Timeout)
	set(ctnetlink.HasMark, &c.Mark, f.Mark)
	set(ctnetlink.HasID, &c.ID, f.ID)
	set(ctnetlink.HasSecmark, &c.Secmark, f.Secmark)
	set(ctnetlink.HasSCTPVtagOrig, &c.SCTPVtagOrig, f.SCTPVtagOrig)
	set(ctnetlink.HasSCTPVtagReply, &c.SCTPVtagReply, f.SCTPVtagReply)
	set8(ctnetlink.HasTCPState, &c.TCPState, f.TCPState)
	set8(ctnetlink.HasTCPWScaleOrig, &c.TCPWScaleOrig, f.TCPWScaleOrig)
	set8(ctnetlink.HasTCPWScaleReply, &c.TCPWScaleRepl, f.TCPWScaleRepl)
	set8(ctnetlink.HasSCTPState, &c.SCTPState, f.SCTPState)
	set8(ctnetlink.HasDCCPState, &c.DCCPState, f.DCCPState)
	set8(ctnetlink.HasDCCPRole, &c.DCCPRole, f.DCCPRole)
	if has(ctnetlink.HasZone) {
		c.Zone = f.Zone
	}
	if has(ctnetlink.HasTimestampStart) {
		c.TimestampStart = f.TimestampStart
	}
	if has(ctnetlink.HasTimestampStop) {
		c.TimestampStop = f.TimestampStop
	}
	if has(ctnetlink.HasSeqAdjOrig) {
		c.SeqAdjOrig = f.SeqAdjOrig
	}
	if has(ctnetlink.HasSeqAdjReply) {
		c.SeqAdjReply = f.SeqAdjReply
	}
	if has(ctnetlink.HasSynproxy) {
		c.Synproxy = f.Synproxy
	}
	if has(ctnetlink.HasNATSrc) {
		c.NATSrc = f.NATSrc
	}
	if has(ctnetlink.HasNATDst) {
		c.NATDst = f.NATDst
	}
	if has(ctnetlink.HasLabels) {
		c.LabelsLen = f.LabelsLen
		copy(c.Labels[:], f.Labels[:f.LabelsLen])
	}
	if has(ctnetlink.HasHelper) {
		c.Helper = f.Helper
	}
	if has(ctnetlink.HasSecctx) && len(f.Secctx) > 0 {
		c.Secctx = f.Secctx
	}
	return c
}

// equal reports whether a and b, both canonical, are the same.
func equal(a, b *ctnetlink.Flow) bool {
	if !bytes.Equal(a.Secctx, b.Secctx) {
		return false
	}
	return fmt.Sprintf("%+v", *a) == fmt.Sprintf("%+v", *b)
}

// merged applies an update, attribute by attribute.
func merged(old, new ctnetlink.Flow) ctnetlink.Flow {
	m := old
	m.Has |= new.Has
	if new.Reply.Has != 0 {
		m.Reply = new.Reply
	}
	if new.Master.Has != 0 {
		m.Master = new.Master
	}
	// The absent fields of new are zero, so its bits describe its fields.
	n := new
	for _, c := range []struct {
		bit  ctnetlink.Attr
		copy func()
	}{
		{ctnetlink.HasStatus, func() { m.Status = n.Status }},
		{ctnetlink.HasTimeout, func() { m.Timeout = n.Timeout }},
		{ctnetlink.HasMark, func() { m.Mark = n.Mark }},
		{ctnetlink.HasID, func() { m.ID = n.ID }},
		{ctnetlink.HasSecmark, func() { m.Secmark = n.Secmark }},
		{ctnetlink.HasTCPState, func() { m.TCPState = n.TCPState }},
		{ctnetlink.HasTCPWScaleOrig, func() { m.TCPWScaleOrig = n.TCPWScaleOrig }},
		{ctnetlink.HasTCPWScaleReply, func() { m.TCPWScaleRepl = n.TCPWScaleRepl }},
		{ctnetlink.HasSCTPState, func() { m.SCTPState = n.SCTPState }},
		{ctnetlink.HasSCTPVtagOrig, func() { m.SCTPVtagOrig = n.SCTPVtagOrig }},
		{ctnetlink.HasSCTPVtagReply, func() { m.SCTPVtagReply = n.SCTPVtagReply }},
		{ctnetlink.HasDCCPState, func() { m.DCCPState = n.DCCPState }},
		{ctnetlink.HasDCCPRole, func() { m.DCCPRole = n.DCCPRole }},
		{ctnetlink.HasTimestampStart, func() { m.TimestampStart = n.TimestampStart }},
		{ctnetlink.HasTimestampStop, func() { m.TimestampStop = n.TimestampStop }},
		{ctnetlink.HasSeqAdjOrig, func() { m.SeqAdjOrig = n.SeqAdjOrig }},
		{ctnetlink.HasSeqAdjReply, func() { m.SeqAdjReply = n.SeqAdjReply }},
		{ctnetlink.HasSynproxy, func() { m.Synproxy = n.Synproxy }},
		{ctnetlink.HasNATSrc, func() { m.NATSrc = n.NATSrc }},
		{ctnetlink.HasNATDst, func() { m.NATDst = n.NATDst }},
		{ctnetlink.HasLabels, func() { m.Labels, m.LabelsLen = n.Labels, n.LabelsLen }},
		{ctnetlink.HasHelper, func() { m.Helper = n.Helper }},
		{ctnetlink.HasSecctx, func() { m.Secctx = n.Secctx }},
	} {
		if n.Has&c.bit != 0 {
			c.copy()
		}
	}
	return m
}

func (m *model) put(f *ctnetlink.Flow, now time.Duration, replace bool) (*object, Outcome) {
	k, ok := keyOfFlow(f)
	if !ok {
		m.stats.CreateFailed++
		return nil, Malformed
	}
	c := canon(f)
	now = now.Truncate(time.Second)
	if o := m.live[k]; o != nil {
		o.sweep = m.sweep
		if replace || o.flow.Has&c.Has&ctnetlink.HasID != 0 && o.flow.ID != c.ID {
			o.flow, o.state, o.created, o.updated, o.armed = c, New, now, now, false
			m.stats.Created++
			m.stats.Destroyed++
			return o, Replaced
		}
		before := o.flow
		o.flow, o.state, o.updated = merged(o.flow, c), Alive, now
		m.stats.Updated++
		after := o.flow
		before.Timeout, after.Timeout = 0, 0
		// An added timeout is a change.
		if equal(&before, &after) {
			return o, Unchanged
		}
		return o, Updated
	}
	if m.limit > 0 && len(m.live)+len(m.dead) >= m.limit {
		m.stats.CreateFailed++
		m.stats.NoSpace++
		return nil, Full
	}
	o := &object{flow: c, created: now, updated: now, sweep: m.sweep}
	m.live[k] = o
	m.stats.Created++
	return o, Created
}

// script derives operations from bytes, so that a fuzzer can generate them.
type script []byte

func (s *script) next() byte {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

func (s *script) bits() uint32 {
	return uint32(s.next())<<24 | uint32(s.next())<<16 | uint32(s.next())<<8 | uint32(s.next())
}

var scriptProtos = [...]uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoICMP, ctnetlink.ProtoICMPv6, ctnetlink.ProtoGRE, ctnetlink.ProtoSCTP, ctnetlink.ProtoDCCP, 89}

func (s *script) addr(ipv6 bool) ctnetlink.Addr {
	b := s.next() & 7
	if ipv6 {
		return ctnetlink.Addr{0x20, 0x01, 0x0d, 0xb8, 15: b}
	}
	return ctnetlink.Addr{192, 0, 2, b}
}

func (s *script) tuple(ipv6 bool, proto uint8) ctnetlink.Tuple {
	t := ctnetlink.Tuple{Family: nl.FamilyIPv4, Proto: proto, Has: whole, Src: s.addr(ipv6), Dst: s.addr(ipv6)}
	if ipv6 {
		t.Family = nl.FamilyIPv6
	}
	b := s.next()
	if ctnetlink.IsICMP(proto) {
		t.Has |= ctnetlink.TupleICMP
		t.ICMPID, t.ICMPType, t.ICMPCode = uint16(b&3)<<8, b>>2&3, b>>4&1
	} else if b&0x80 == 0 && proto != 89 {
		t.Has |= ctnetlink.TuplePorts
		t.SrcPort, t.DstPort = uint16(b&3)<<8|5, uint16(b>>2&3)
	}
	if b&0x60 == 0x60 {
		t.Has |= ctnetlink.TupleZone
		t.Zone = uint16(b & 1)
	}
	return t
}

// flow returns a flow with one of a few addresses and ports, so that keys repeat.
func (s *script) flow() *ctnetlink.Flow {
	var f ctnetlink.Flow
	b := s.next()
	ipv6 := b&1 != 0
	f.Orig = s.tuple(ipv6, scriptProtos[int(b>>1)%len(scriptProtos)])
	switch c := s.next(); {
	case c < 100:
		f.Reply = f.Orig.Inverted()
	case c < 150:
		f.Reply = s.tuple(ipv6, f.Orig.Proto)
	case c < 155:
		f.Reply = s.tuple(!ipv6, ctnetlink.ProtoUDP)
	case c < 158:
		f.Orig.Has &^= ctnetlink.TupleDst
		f.Orig.Dst = ctnetlink.Addr{}
	}
	if b&0xc0 == 0xc0 {
		f.Master = s.tuple(ipv6, ctnetlink.ProtoTCP)
	}
	x := s.bits()
	x &= s.bits()
	for bit := range 32 {
		if x&(1<<bit) != 0 {
			f.Has |= 1 << bit
		}
	}
	f.Has |= ctnetlink.Attr(s.next()) << 30
	f.Has &^= ctnetlink.HasHelperInfo
	v := uint32(s.next() & 3)
	f.Status, f.Timeout, f.Mark, f.Secmark = 0x180|v, v*30, v<<28, v
	f.ID = uint32(s.next() & 1)
	f.Zone = uint16(v & 1)
	f.TCPState, f.TCPWScaleOrig, f.TCPWScaleRepl = uint8(v), 7, 14
	f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = uint8(v), v<<8, 0xffffffff
	f.DCCPState, f.DCCPRole = 1, uint8(v)
	f.TimestampStart, f.TimestampStop = uint64(v)<<40, 9
	f.SeqAdjOrig, f.SeqAdjReply = ctnetlink.SeqAdj{CorrectionPos: v, OffsetBefore: 1, OffsetAfter: 2}, ctnetlink.SeqAdj{OffsetAfter: v}
	if v > 1 {
		f.Synproxy = ctnetlink.Synproxy{ISN: v, ITS: 2, TSOff: 3}
	}
	f.NATSrc = ctnetlink.NAT{HasAddr: v&1 != 0, HasPort: v&2 != 0}
	if f.NATSrc.HasAddr {
		f.NATSrc.Addr = s.addr(ipv6)
	}
	if f.NATSrc.HasPort {
		f.NATSrc.Port = 40001
	}
	f.NATDst = ctnetlink.NAT{HasAddr: true, HasPort: true, Addr: s.addr(ipv6), Port: uint16(v)}
	f.LabelsLen = uint8(v) + 1
	f.Labels = ctnetlink.Labels{1 << v}
	f.Helper.Set([]string{"ftp", "sip-5060", "", "fifteen-bytes-x"}[v])
	f.Secctx = []byte([]string{"", "a:b:c", "system_u:object_r:unlabeled_t:s0", "x"}[v])
	return &f
}

// play runs a script against the table and the model and compares them after each operation.
func play(t *testing.T, s script, limit int) {
	m := &model{limit: limit, live: map[key]*object{}, dead: map[Handle]*object{}}
	c := NewFlows(Config{Limit: limit, Timers: true})
	now := 1000 * time.Second
	var handles []Handle // all that were ever returned
	pick := func() Handle {
		if len(handles) == 0 {
			return 0
		}
		return handles[(int(s.next())<<8|int(s.next()))%len(handles)]
	}
	find := func(h Handle) (*object, bool) {
		if o := m.dead[h]; o != nil {
			return o, true
		}
		for _, o := range m.live {
			if o.h == h {
				return o, false
			}
		}
		return nil, false
	}
	for step := 0; len(s) > 0; step++ {
		switch op := s.next() % 16; op {
		case 0, 1, 2, 3, 4, 5, 6:
			f := s.flow()
			if op == 6 {
				h, o := c.Find(f), m.live[must(keyOfFlow(f))]
				if (h != 0) != (o != nil) || o != nil && o.h != h {
					t.Fatalf("step %d: Find = %x, model has %v", step, h, o)
				}
				if o != nil {
					o.epoch = f.Mark >> 28
				}
				c.SetEpoch(h, f.Mark>>28)
				continue
			}
			put := c.Put
			if op < 2 {
				put = c.Replace
			}
			h, got := put(f, now)
			o, want := m.put(f, now, op < 2)
			if got != want {
				t.Fatalf("step %d: outcome %d, want %d", step, got, want)
			}
			if o == nil {
				if h != 0 {
					t.Fatalf("step %d: a handle for a refused flow", step)
				}
				continue
			}
			if want == Created {
				o.h = h
				handles = append(handles, h)
			}
			if o.h != h {
				t.Fatalf("step %d: handle %x, want %x", step, h, o.h)
			}
			check(t, c, o)
		case 7, 8:
			h := pick()
			o, dead := find(h)
			if got, want := c.Kill(h), o != nil && !dead; got != want {
				t.Fatalf("step %d: Kill = %v, want %v", step, got, want)
			} else if want {
				k, _ := keyOfFlow(&o.flow)
				delete(m.live, k)
				o.state, o.armed = Dead, false
				m.dead[h] = o
				m.stats.Destroyed++
			}
		case 9, 10, 11:
			h := pick()
			_, dead := find(h)
			if got := c.Release(h); got != dead {
				t.Fatalf("step %d: Release = %v, want %v", step, got, dead)
			}
			delete(m.dead, h)
		case 12:
			h, after := pick(), time.Duration(s.next())*time.Duration(s.next())*time.Duration(s.next())*100*time.Millisecond
			o, dead := find(h)
			if got := c.Arm(h, now, after); got != (o != nil && !dead) {
				t.Fatalf("step %d: Arm = %v", step, got)
			} else if got {
				o.armed, o.due = true, (now + after + tick - 1).Truncate(tick)
			}
		case 13:
			now += time.Duration(s.next()) * time.Duration(s.next()) * 10 * time.Millisecond
			expire(t, c, m, now)
		case 14:
			if s.next() < 16 {
				c.BeginSweep()
				m.sweep++
			}
			unseen := collect(c.NextUnseen)
			n := 0
			for _, o := range m.live {
				if o.sweep != m.sweep {
					if n++; !unseen[o.h] {
						t.Fatalf("step %d: the sweep missed %x", step, o.h)
					}
				}
			}
			if n != len(unseen) {
				t.Fatalf("step %d: the sweep found %d, want %d", step, len(unseen), n)
			}
		case 15:
			if s.next() == 0 {
				c.Flush()
				m.stats.Destroyed += uint64(len(m.live))
				clear(m.live)
				clear(m.dead)
			}
		}
	}
	all := collect(c.Next)
	if len(all) != len(m.live) || c.Len() != len(m.live) {
		t.Fatalf("%d objects listed, %d counted, want %d", len(all), c.Len(), len(m.live))
	}
	for _, o := range m.live {
		if !all[o.h] {
			t.Fatalf("%x is not listed", o.h)
		}
		check(t, c, o)
	}
	for _, o := range m.dead {
		check(t, c, o)
	}
	for _, h := range handles {
		_, there := c.State(h)
		if o, _ := find(h); there != (o != nil) {
			t.Fatalf("%x is there: %v", h, there)
		}
	}
	m.stats.Active, m.stats.Objects = len(m.live), len(m.live)+len(m.dead)
	if got := c.Stats(); got != m.stats {
		t.Fatalf("Stats = %+v, want %+v", got, m.stats)
	}
	expire(t, c, m, now+30*24*time.Hour)
	for _, o := range m.live {
		c.Delete(o.h)
	}
	for _, o := range m.dead {
		c.Release(o.h)
	}
	for i, s := range []*slots{&c.slots, &c.pairSlots, &c.tails[0].slots, &c.tails[1].slots, &c.tails[2].slots, &c.tails[3].slots, &c.tails[4].slots} {
		if got := s.next(0, ^uint32(0)); got != 0 {
			t.Fatalf("store %d: slot %d leaked", i, got)
		}
	}
}

func must(k key, _ bool) key { return k }

func collect(next func(*Cursor, []Handle) (int, bool)) map[Handle]bool {
	all := map[Handle]bool{}
	var c Cursor
	var batch [3]Handle
	for more := true; more; {
		var n int
		n, more = next(&c, batch[:])
		for _, h := range batch[:n] {
			all[h] = true
		}
	}
	return all
}

func expire(t *testing.T, c *Flows, m *model, now time.Duration) {
	t.Helper()
	var batch [2]Handle
	got := map[Handle]bool{}
	for more := true; more; {
		var n int
		n, more = c.Expired(now, batch[:])
		for _, h := range batch[:n] {
			got[h] = true
		}
	}
	next, armed := c.NextExpiry()
	n := 0
	for _, o := range m.live {
		switch {
		case o.armed && o.due <= now.Truncate(tick):
			if n++; !got[o.h] {
				t.Fatalf("%x, due at %v, did not expire by %v", o.h, o.due, now)
			}
			o.armed = false
		case o.armed && (!armed || next > o.due):
			t.Fatalf("NextExpiry = %v, %v, but %x is due at %v", next, armed, o.h, o.due)
		}
	}
	if n != len(got) {
		t.Fatalf("%d expired by %v, want %d", len(got), now, n)
	}
}

func check(t *testing.T, c *Flows, o *object) {
	t.Helper()
	var f ctnetlink.Flow
	if !c.Load(o.h, &f) {
		t.Fatalf("%x is gone", o.h)
	}
	if got := canon(&f); !equal(&got, &o.flow) {
		t.Fatalf("%x holds\n%+v\nwant\n%+v", o.h, got, o.flow)
	}
	if f.Has != o.flow.Has {
		t.Fatalf("%x has %x, want %x", o.h, f.Has, o.flow.Has)
	}
	if s, ok := c.State(o.h); !ok || s != o.state {
		t.Fatalf("%x is in state %d, want %d", o.h, s, o.state)
	}
	if created, updated, ok := c.Times(o.h); !ok || created != o.created || updated != o.updated {
		t.Fatalf("%x: times %v, %v, want %v, %v", o.h, created, updated, o.created, o.updated)
	}
	if got := c.Epoch(o.h); got != o.epoch {
		t.Fatalf("%x has epoch %d, want %d", o.h, got, o.epoch)
	}
	if due, armed := c.Deadline(o.h); armed != o.armed || armed && due != o.due {
		t.Fatalf("%x: deadline %v, %v, want %v, %v", o.h, due, armed, o.due, o.armed)
	}
}

func randomScript(seed uint64, n int) script {
	r := rand.New(rand.NewPCG(seed, 1))
	s := make(script, n)
	for i := range s {
		s[i] = byte(r.Uint32())
	}
	return s
}

// TestModel plays random scripts. A failure names its seed, which repeats it.
func TestModel(t *testing.T) {
	for seed := range seeds.Count(60) {
		limit := []int{0, 5, 300}[seed%3]
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { play(t, randomScript(seed, 20000), limit) })
	}
}

func FuzzOperations(f *testing.F) {
	for seed := range uint64(4) {
		f.Add([]byte(randomScript(seed, 50)), uint8(seed*3))
	}
	f.Fuzz(func(t *testing.T, s []byte, limit uint8) { play(t, s, int(limit)) })
}
