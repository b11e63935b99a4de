package export

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

func addr(s string) (a ctnetlink.Addr) {
	ip := netip.MustParseAddr(s)
	copy(a[:], ip.AsSlice())
	return a
}

// tuple returns a tuple; for ICMP the ports are the id and type<<8|code.
func tuple(proto uint8, src, dst string, a, b uint16) ctnetlink.Tuple {
	t := ctnetlink.Tuple{Src: addr(src), Dst: addr(dst), Proto: proto, Family: nl.FamilyIPv4, Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto}
	if strings.Contains(src, ":") {
		t.Family = nl.FamilyIPv6
	}
	if ctnetlink.IsICMP(proto) {
		t.ICMPID, t.ICMPType, t.ICMPCode = a, uint8(b>>8), uint8(b)
		t.Has |= ctnetlink.TupleICMP
	} else {
		t.SrcPort, t.DstPort = a, b
		t.Has |= ctnetlink.TuplePorts
	}
	return t
}

const second = int64(1e9)

// The flows of the tests.
func tcpSNAT() *ctnetlink.Flow {
	return &ctnetlink.Flow{
		Has:      ctnetlink.HasID | ctnetlink.HasTCPState | ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply | ctnetlink.HasTimestampStart | ctnetlink.HasTimestampStop | ctnetlink.HasMark | ctnetlink.HasStatus,
		Orig:     tuple(6, "10.0.0.1", "198.51.100.2", 40000, 443),
		Reply:    tuple(6, "198.51.100.2", "203.0.113.7", 443, 41234),
		ID:       0xfedcba98,
		TCPState: 7, Mark: 9, Status: 0x19a,
		CountersOrig: ctnetlink.Counters{Packets: 5, Bytes: 1 << 40}, CountersReply: ctnetlink.Counters{Packets: 4, Bytes: 232},
		TimestampStart: uint64(1000 * second), TimestampStop: uint64(1002*second + 3e6),
	}
}

func udpPlain6() *ctnetlink.Flow {
	return &ctnetlink.Flow{
		Has:   ctnetlink.HasID | ctnetlink.HasZone,
		Orig:  tuple(17, "2001:db8::1", "2001:db8::2", 53000, 53),
		Reply: tuple(17, "2001:db8::2", "2001:db8::1", 53, 53000),
		ID:    7, Zone: 3,
	}
}

func udpDNAT6() *ctnetlink.Flow {
	f := udpPlain6()
	f.Reply = tuple(17, "2001:db8::99", "2001:db8::1", 5353, 53000)
	f.Has &^= ctnetlink.HasZone
	f.Orig.Zone, f.Orig.Has = 8, f.Orig.Has|ctnetlink.TupleZone
	return f
}

func icmpSNAT() *ctnetlink.Flow {
	return &ctnetlink.Flow{
		Has:   ctnetlink.HasID,
		Orig:  tuple(1, "10.0.0.1", "198.51.100.2", 77, 8<<8),
		Reply: tuple(1, "198.51.100.2", "203.0.113.7", 1077, 0),
		ID:    8,
	}
}

func (f field) String() string {
	if f.enterprise != 0 {
		return fmt.Sprintf("%d/%d", f.enterprise, f.id)
	}
	return fmt.Sprint(f.id)
}

// decoder decodes IPFIX messages with what they say themselves (RFC 7011, section 3).
type decoder struct {
	sequence  map[uint32]uint32 // by observation domain
	templates map[uint16][]field
	strict    bool // the sequence begins with 0
	seen      int  // template records
}

// decode returns the data records of a message as "element=hexadecimal value" texts.
func (d *decoder) decode(b []byte) (records []map[string]string, err error) {
	if d.templates == nil {
		d.templates = map[uint16][]field{}
	}
	if d.sequence == nil {
		d.sequence = map[uint32]uint32{}
	}
	if len(b) < messageHeader || be.Uint16(b) != 10 || int(be.Uint16(b[2:])) != len(b) {
		return nil, fmt.Errorf("bad header % x", b[:min(len(b), messageHeader)])
	}
	domain := be.Uint32(b[12:])
	if got := be.Uint32(b[8:]); d.strict && got != d.sequence[domain] {
		return nil, fmt.Errorf("domain %d: sequence %d, want %d", domain, got, d.sequence[domain])
	}
	for b = b[messageHeader:]; len(b) > 0; {
		if len(b) < 4 || int(be.Uint16(b[2:])) > len(b) || be.Uint16(b[2:]) < 4 {
			return nil, fmt.Errorf("bad set")
		}
		id, set := be.Uint16(b), b[4:be.Uint16(b[2:])]
		b = b[4+len(set):]
		if len(set) == 0 {
			return nil, fmt.Errorf("empty set %d", id)
		}
		if id == setTemplate || id == setOptions {
			for len(set) > 0 {
				if len(set) < 4 {
					return nil, fmt.Errorf("bad template set")
				}
				of, n := be.Uint16(set), int(be.Uint16(set[2:]))
				set = set[4:]
				if id == setOptions {
					set = set[2:]
				}
				var fields []field
				for range n {
					f := field{id: be.Uint16(set) & 0x7fff, size: be.Uint16(set[2:])}
					own := be.Uint16(set)&0x8000 != 0
					set = set[4:]
					if own {
						f.enterprise, set = be.Uint32(set), set[4:]
					}
					fields = append(fields, f)
				}
				d.templates[of] = fields
				d.seen++
			}
			continue
		}
		fields := d.templates[id]
		if fields == nil {
			return nil, fmt.Errorf("no template %d", id)
		}
		for len(set) > 0 {
			r := map[string]string{}
			for _, f := range fields {
				if len(set) < int(f.size) {
					return nil, fmt.Errorf("short record of template %d", id)
				}
				if _, twice := r[f.String()]; twice {
					return nil, fmt.Errorf("template %d has %v twice", id, f)
				}
				r[f.String()] = fmt.Sprintf("%x", set[:f.size])
				set = set[f.size:]
			}
			records = append(records, r)
			d.sequence[domain]++
		}
	}
	return records, nil
}

func hex(size int, v uint64) string { return fmt.Sprintf("%0*x", 2*size, v) }

func hexAddr(s string) string { return fmt.Sprintf("%x", netip.MustParseAddr(s).AsSlice()) }

// Every kind of record, as a collector decodes it, says what the flow has and nothing else.
func TestIPFIXRecords(t *testing.T) {
	nat := Choice{NAT: true}
	flow := Choice{Flow: true}
	natShort := Choice{NAT: true, WithoutDestinations: true}
	at := 1700000000*second + 5e6
	ms := hex(8, uint64(at/1e6))
	for _, c := range []struct {
		name   string
		x      IPFIX
		record Record
		want   map[string]string
		size   int
	}{
		{
			"NAT44 begins, without destinations", IPFIX{Choice: natShort}, Record{Flow: tcpSNAT(), Kind: Begin, Time: at},
			map[string]string{"323": ms, "230": "04", "4": "06", "8": hexAddr("10.0.0.1"), "225": hexAddr("203.0.113.7"), "7": hex(2, 40000), "227": hex(2, 41234)}, 22,
		},
		{
			"NAT44 ends", IPFIX{Choice: nat}, Record{Flow: tcpSNAT(), Kind: End, Time: at},
			map[string]string{
				"323": ms, "230": "05", "4": "06", "8": hexAddr("10.0.0.1"), "225": hexAddr("203.0.113.7"), "7": hex(2, 40000), "227": hex(2, 41234),
				"12": hexAddr("198.51.100.2"), "226": hexAddr("198.51.100.2"), "11": hex(2, 443), "228": hex(2, 443),
			}, 34,
		},
		{
			"ICMP id", IPFIX{Choice: nat}, Record{Flow: icmpSNAT(), Kind: Begin, Time: at},
			map[string]string{
				"323": ms, "230": "04", "4": "01", "8": hexAddr("10.0.0.1"), "225": hexAddr("203.0.113.7"), "7": hex(2, 77), "227": hex(2, 1077),
				"12": hexAddr("198.51.100.2"), "226": hexAddr("198.51.100.2"), "11": hex(2, 0), "228": hex(2, 0),
			}, 34,
		},
		{
			"NAT66 in a zone", IPFIX{Choice: nat}, Record{Flow: udpDNAT6(), Kind: Begin, Time: at},
			map[string]string{
				"323": ms, "230": "04", "4": "11", "27": hexAddr("2001:db8::1"), "281": hexAddr("2001:db8::1"), "7": hex(2, 53000), "227": hex(2, 53000),
				"28": hexAddr("2001:db8::2"), "282": hexAddr("2001:db8::99"), "11": hex(2, 53), "228": hex(2, 5353), "234": hex(4, 8), "235": hex(4, 0),
			}, 34 + 48 + 8,
		},
		{
			"flow", IPFIX{Choice: flow}, Record{Flow: tcpSNAT(), Kind: End, Time: at},
			map[string]string{
				"152": hex(8, 1000000), "153": hex(8, 1002003), "148": hex(8, 0xfedcba98), "4": "06", "136": "03",
				"8": hexAddr("10.0.0.1"), "12": hexAddr("198.51.100.2"), "7": hex(2, 40000), "11": hex(2, 443),
				"225": hexAddr("203.0.113.7"), "226": hexAddr("198.51.100.2"), "227": hex(2, 41234), "228": hex(2, 443),
				"86": hex(8, 5), "85": hex(8, 1<<40), "29305/86": hex(8, 4), "29305/85": hex(8, 232),
			}, 0,
		},
		{
			"interim", IPFIX{Choice: flow}, Record{Flow: tcpSNAT(), Kind: Interim, Time: at},
			map[string]string{
				"152": hex(8, 1000000), "153": ms, "148": hex(8, 0xfedcba98), "4": "06", "136": "02",
				"8": hexAddr("10.0.0.1"), "12": hexAddr("198.51.100.2"), "7": hex(2, 40000), "11": hex(2, 443),
				"225": hexAddr("203.0.113.7"), "226": hexAddr("198.51.100.2"), "227": hex(2, 41234), "228": hex(2, 443),
				"86": hex(8, 5), "85": hex(8, 1<<40), "29305/86": hex(8, 4), "29305/85": hex(8, 232),
			}, 0,
		},
		{
			"flow over IPv6, made up, of an enterprise", IPFIX{Choice: flow, Enterprise: 32473},
			Record{Flow: udpPlain6(), Kind: End, Origin: MadeUp, Time: at, Start: 5 * second},
			map[string]string{
				"152": hex(8, 5000), "153": ms, "148": hex(8, 7), "4": "11", "136": "05",
				"27": hexAddr("2001:db8::1"), "28": hexAddr("2001:db8::2"), "7": hex(2, 53000), "11": hex(2, 53),
				"234": hex(4, 3), "235": hex(4, 3),
				"32473/1": "02", "32473/2": hex(4, 0), "32473/3": hex(4, 0), "32473/4": "00", "32473/5": strings.Repeat("0", 32),
			}, 0,
		},
		{
			"ICMP flow that a process ended", IPFIX{Choice: flow}, Record{Flow: icmpSNAT(), Kind: End, Time: at, PortID: 99},
			map[string]string{
				"153": ms, "148": hex(8, 8), "4": "01", "136": "04", "8": hexAddr("10.0.0.1"), "12": hexAddr("198.51.100.2"),
				"7": hex(2, 77), "32": hex(2, 8<<8), "225": hexAddr("203.0.113.7"), "226": hexAddr("198.51.100.2"), "227": hex(2, 1077),
			}, 0,
		},
	} {
		s := NewSession(&c.x, 3)
		m := s.NewMessage(1400)
		n := 0
		c.x.AppendRecords(nil, &c.record, func(id uint16, record []byte) {
			n++
			if got := Origin((id - firstTemplate) >> 7); got != c.record.Origin { // docs/flow-logging.md promises this
				t.Errorf("%s: template %d says origin %d, want %d", c.name, id, got, c.record.Origin)
			}
			if c.size != 0 && len(record) != c.size {
				t.Errorf("%s: %d bytes, want %d", c.name, len(record), c.size)
			}
			if !m.Add(id, record) {
				t.Errorf("%s: does not fit", c.name)
			}
		})
		if n != 1 {
			t.Errorf("%s: %d records", c.name, n)
			continue
		}
		got, err := new(decoder).decode(m.Bytes(1))
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %d records, %v", c.name, len(got), err)
			continue
		}
		if diff := cmp.Diff(c.want, got[0]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// What is not chosen gives no record.
func TestIPFIXChoice(t *testing.T) {
	both := Choice{NAT: true, Flow: true}
	short := Choice{NAT: true, WithoutDestinations: true}
	for _, c := range []struct {
		choice Choice
		flow   *ctnetlink.Flow
		kind   Kind
		want   int
	}{
		{both, tcpSNAT(), Begin, 1},
		{both, tcpSNAT(), End, 2},
		{both, tcpSNAT(), Interim, 1},
		{both, udpPlain6(), Begin, 0},
		{both, udpPlain6(), End, 1},
		{Choice{NAT: true}, tcpSNAT(), Interim, 0},
		{Choice{NAT: true}, udpDNAT6(), End, 1},
		{short, udpDNAT6(), End, 0},
		{short, tcpSNAT(), End, 1},
	} {
		n := 0
		x := IPFIX{Choice: c.choice}
		x.AppendRecords(nil, &Record{Flow: c.flow, Kind: c.kind}, func(uint16, []byte) { n++ })
		if n != c.want {
			t.Errorf("%+v, kind %d of %v: %d records, want %d", c.choice, c.kind, c.flow.Orig.Proto, n, c.want)
		}
	}
}

// someRecords are records of many shapes.
func someRecords() (all []Record) {
	for _, f := range []*ctnetlink.Flow{tcpSNAT(), udpPlain6(), udpDNAT6(), icmpSNAT()} {
		for kind := Begin; kind <= End; kind++ {
			for origin := FromEvent; origin <= MadeUp; origin++ {
				all = append(all, Record{Flow: f, Kind: kind, Origin: origin, Time: 9 * second})
			}
		}
	}
	return all
}

// A stream of messages is decoded without a gap, each message is of the allowed size, and its
// templates come before their records. After a restart, and over UDP at each refresh, the
// templates come again.
func TestIPFIXSession(t *testing.T) {
	x := IPFIX{Choice: Choice{NAT: true, Flow: true}}
	for _, size := range []int{200, 512, 1472, 16 << 10} {
		s := NewSession(&x, 7)
		m := s.NewMessage(size)
		d := decoder{strict: true}
		var sent, got int
		flush := func() {
			b := m.Bytes(5)
			if len(b) > size && m.Records() > 1 {
				t.Fatalf("%d bytes, the most is %d", len(b), size)
			}
			records, err := d.decode(b)
			if err != nil {
				t.Fatal(err)
			}
			got += len(records)
			m.Done()
		}
		for i := range 500 {
			r := someRecords()[i%len(someRecords())]
			x.AppendRecords(nil, &r, func(id uint16, record []byte) {
				sent++
				if !m.Add(id, record) {
					flush()
					if !m.Add(id, record) {
						t.Fatal("a record does not fit an empty message")
					}
				}
			})
		}
		flush()
		m.AddStatistics(7, &Statistics{Messages: 1, Records: 2, Thrown: 3, Observed: 4, Lost: 5})
		records, err := d.decode(m.Bytes(6))
		m.Done()
		want := []map[string]string{
			{"149": hex(4, 7), "144": hex(4, 1), "41": hex(8, 1), "42": hex(8, 2), "166": hex(8, 3)},
			{"149": hex(4, 7), "143": hex(4, 1), "163": hex(8, 4), "166": hex(8, 5)},
		}
		if diff := cmp.Diff(want, records); err != nil || diff != "" {
			t.Errorf("statistics: %v (-want +got):\n%s", err, diff)
		}
		if got != sent {
			t.Errorf("%d records of %d", got, sent)
		}

		s.Restart()
		fresh := decoder{strict: true}
		if err := s.Templates(size, func(m *Message) error {
			b := m.Bytes(7)
			if len(b) > size && len(b) > 300 {
				t.Errorf("templates of %d bytes", len(b))
			}
			_, err := fresh.decode(b)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		data := slices.Collect(maps.Keys(d.templates))
		data = slices.DeleteFunc(data, func(id uint16) bool { return id >= exporterStats })
		for _, id := range data {
			if !slices.Equal(d.templates[id], fresh.templates[id]) {
				t.Errorf("template %d is not sent again", id)
			}
		}
		r := Record{Flow: tcpSNAT(), Kind: End}
		x.AppendRecords(nil, &r, func(id uint16, record []byte) { m.Add(id, record) })
		if records, err := fresh.decode(m.Bytes(8)); err != nil || len(records) != 2 {
			t.Errorf("after a restart: %d records, %v", len(records), err)
		}
	}
}

// The templates of most records are sent before the first record.
func TestIPFIXAnnouncedTemplates(t *testing.T) {
	x := IPFIX{Choice: Choice{NAT: true, Flow: true}}
	s := NewSession(&x, 1)
	s.Announce()
	var d decoder
	if err := s.Templates(1400, func(m *Message) error {
		_, err := d.decode(m.Bytes(1))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*ctnetlink.Flow{tcpSNAT(), {Has: tcpSNAT().Has, Orig: tuple(17, "2001:db8::1", "2001:db8::2", 1, 2), Reply: tuple(17, "2001:db8::2", "2001:db8::1", 2, 1), TimestampStart: 1}} {
		m := s.NewMessage(1400)
		x.AppendRecords(nil, &Record{Flow: f, Kind: End, Time: 5}, func(id uint16, record []byte) { m.Add(id, record) })
		if records, err := d.decode(m.Bytes(1)); err != nil || len(records) == 0 || len(m.templates) > 0 {
			t.Errorf("%d records, %d templates with them, %v", len(records), len(m.templates), err)
		}
	}
}

// No two fields of a template are the same, and the sizes are those of the records.
func TestIPFIXTemplates(t *testing.T) {
	for _, x := range []IPFIX{{}, {Enterprise: 1}, {Choice: Choice{WithoutDestinations: true}}} {
		for s := range shapes {
			var size int
			seen := map[string]bool{}
			for _, f := range x.fields(nil, s) {
				size += int(f.size)
				if seen[f.String()] {
					t.Errorf("shape %#x has %v twice", s, f)
				}
				seen[f.String()] = true
			}
			r := Record{Flow: tcpSNAT()}
			b := x.appendNAT(nil, &r, s)
			if s&shapeFlow != 0 {
				b = x.appendFlow(nil, &r, s)
			}
			if len(b) != size {
				t.Errorf("shape %#x: a record has %d bytes, its template %d", s, len(b), size)
			}
		}
	}
}

// FuzzIPFIX makes records of any events; a collector can read them.
func FuzzIPFIX(f *testing.F) {
	for _, r := range someRecords() {
		f.Add(r.Flow.Append(nil), uint8(r.Kind), uint8(r.Origin), int64(5), int64(4), uint32(0), uint8(3), uint16(1400))
	}
	f.Fuzz(func(t *testing.T, event []byte, kind, origin uint8, at, start int64, portID uint32, choice uint8, size uint16) {
		var flow ctnetlink.Flow
		if flow.Decode(event) != nil {
			return
		}
		x := IPFIX{Choice: Choice{NAT: choice&1 != 0, Flow: choice&2 != 0, WithoutDestinations: choice&4 != 0}, Enterprise: uint32(choice >> 3)}
		r := Record{Flow: &flow, Kind: Kind(kind % 3), Origin: Origin(origin % 3), Time: at, Start: start, PortID: portID}
		s := NewSession(&x, 1)
		m := s.NewMessage(int(size))
		n := 0
		x.AppendRecords(nil, &r, func(id uint16, record []byte) {
			if !m.Add(id, record) {
				m.Done()
				if !m.Add(id, record) {
					t.Fatal("a record does not fit an empty message")
				}
				n = 0
			}
			n++
		})
		d := decoder{templates: map[uint16][]field{}}
		_ = s.Templates(100, func(m *Message) error {
			_, err := d.decode(m.Bytes(0))
			if err != nil {
				t.Fatal(err)
			}
			return nil
		})
		got, err := d.decode(m.Bytes(1))
		if err != nil || len(got) != n {
			t.Fatalf("%d records of %d: %v", len(got), n, err)
		}
	})
}

// An event that becomes a record in a message allocates nothing.
func TestIPFIXAllocations(t *testing.T) {
	add := newIPFIXLoop(IPFIX{Choice: Choice{NAT: true, Flow: true}})
	add()
	if n := testing.AllocsPerRun(1000, add); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// newIPFIXLoop returns a function that takes a record through encoder, queue and message.
func newIPFIXLoop(x IPFIX) func() {
	s := NewSession(&x, 1)
	m := s.NewMessage(1472)
	q := newQueue(64)
	r := Record{Flow: tcpSNAT(), Kind: End, Time: 9 * second}
	var buf []byte
	into := func(id uint16, record []byte) bool { return m.Add(id, record) }
	n := 0
	return func() {
		buf = x.AppendRecords(buf, &r, q.add)
		if n++; n%32 == 0 {
			for {
				q.take(into)
				if m.Empty() {
					return
				}
				m.Bytes(1)
				m.Done()
			}
		}
	}
}

func BenchmarkIPFIX(b *testing.B) {
	for _, c := range []struct {
		name   string
		choice Choice
	}{{"nat", Choice{NAT: true, WithoutDestinations: true}}, {"flow", Choice{Flow: true}}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			add := newIPFIXLoop(IPFIX{Choice: c.choice})
			for b.Loop() {
				add()
			}
		})
	}
}

// The queue gives its records back in order; where it is full the oldest give way and are
// counted.
func TestQueue(t *testing.T) {
	q := newQueue(3000)
	record := func(i int) []byte {
		return append(bytes.Repeat([]byte{byte(i)}, i%200), binary.BigEndian.AppendUint32(nil, uint32(i))...)
	}
	const all = 10000
	for i := range all {
		q.add(uint16(i), record(i))
	}
	if n, thrown, added := q.state(); n != 3000 || thrown != all-3000 || added != all {
		t.Fatalf("%d wait, %d thrown away, %d added", n, thrown, added)
	}
	next := all - 3000
	q.take(func(id uint16, b []byte) bool {
		if id != uint16(next) || !bytes.Equal(b, record(next)) {
			t.Fatalf("record %d is %x", next, b)
		}
		next++
		return next < all-1
	})
	if n, _, _ := q.state(); n != 2 { // what was refused stays
		t.Errorf("%d wait", n)
	}
	q.take(func(uint16, []byte) bool { return true })
	if n, _, _ := q.state(); n != 0 || q.chunks != nil {
		t.Errorf("%d wait, %d chunks", n, len(q.chunks))
	}
}
