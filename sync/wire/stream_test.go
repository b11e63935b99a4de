package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// streamExamples are messages of each type, and their bytes.
var streamExamples = []struct {
	name string
	m    StreamMessage
	hex  string
}{
	{"POSITION", StreamMessage{Type: Position, From: 0x655f1a00}, "08 04 655f1a00"},
	{"AGAIN", StreamMessage{Type: Again, From: 0xfffffffe}, "09 04 fffffffe"},
	{"VOID", StreamMessage{Type: Void, From: 0xfffffffe, To: 2}, "0a 08 fffffffe 00000002"},
	{"LOST", StreamMessage{Type: LostRange, From: 7, To: 7}, "0b 08 00000007 00000007"},
	{"ACK", StreamMessage{Type: StreamAck, Node: 2, Stream: 0x01020304, From: 9}, "0c 09 02 01020304 00000009"},
	{"ACK with missing ranges", StreamMessage{Type: StreamAck, Node: 2, Stream: 1, From: 9, Ranges: []Range{{9, 9}, {12, 14}}},
		"0c 19 02 00000001 00000009 00000009 00000009 0000000c 0000000e"},
	{"STATE", StreamMessage{Type: StreamState, Stream: 0x1122334455667788, Key: [16]byte{1, 15: 2}, Flags: 3, First: 5},
		"0d 1d 1122334455667788 01000000000000000000000000000002 03 00000005"},
	{"NOTICE", StreamMessage{Type: StreamNotice, Body: []byte{0, 9, 0, 0}}, "8e 04 00090000"},
	{"ASK", StreamMessage{Type: Ask, Node: 16, Stream: 4}, "0f 05 10 00000004"},
	{"FLOW NEW", StreamMessage{Type: StreamFlowNew, Body: []byte{1, 2}, Number: 100}, "10 02 0102"},
	{"FLOW UPDATE", StreamMessage{Type: StreamFlowUpdate, Body: []byte{1, 2}, Number: 100}, "11 02 0102"},
	{"FLOW END", StreamMessage{Type: StreamFlowEnd, Body: []byte{1, 2}, Number: 100}, "12 02 0102"},
	{"FLOW WITHDRAWN", StreamMessage{Type: StreamFlowWithdrawn, Number: 100}, "13 00"},
	{"EXPECT NEW", StreamMessage{Type: StreamExpectNew, Body: []byte{1}, Number: 100}, "14 01 01"},
	{"EXPECT UPDATE", StreamMessage{Type: StreamExpectUpdate, Body: []byte{1}, Number: 100}, "15 01 01"},
	{"EXPECT END", StreamMessage{Type: StreamExpectEnd, Body: []byte{1}, Number: 100}, "16 01 01"},
	{"EXPECT WITHDRAWN", StreamMessage{Type: StreamExpectWithdrawn, Body: []byte{1}, Number: 100}, "17 01 01"},
	{"254 bytes", StreamMessage{Type: StreamFlowNew, Body: make([]byte, 254), Number: 100}, "10 fe" + strings.Repeat("00", 254)},
	{"255 bytes", StreamMessage{Type: StreamFlowNew, Body: make([]byte, 255), Number: 100}, "10 ff 00ff" + strings.Repeat("00", 255)},
	{"BULK BEGIN", StreamMessage{Type: StreamBulkBegin, Bulk: 6, Number: 100}, "18 04 00000006"},
	{"BULK END", StreamMessage{Type: StreamBulkEnd, Bulk: 6, Number: 100}, "19 04 00000006"},
	{"DIGEST", StreamMessage{Type: Digest, Table: 1, Entries: 3, Root: 0xff}, "20 0d 01 00000003 00000000000000ff"},
	{"COMPARE", StreamMessage{Type: Compare, Node: 1, Stream: 8, Level: LevelGroups}, "21 07 01 00000008 00 01"},
	{"COMPARE with indexes", StreamMessage{Type: Compare, Node: 1, Stream: 8, Table: 1, Level: LevelEntries, Indexes: []uint16{1, 0x3fff}},
		"21 0b 01 00000008 01 03 0001 3fff"},
	{"SUMS", StreamMessage{Type: Sums, Level: LevelBuckets, Index: 255, Sums: append(make([]uint64, 63), 1)},
		"22 ff 0204 00 02 00ff" + strings.Repeat("00", 63*8+7) + "01"},
	{"ENTRIES", StreamMessage{Type: Entries, Index: 0x3fff, Level: LevelEntries, Low: 1, High: 2, Sums: []uint64{1, 2}},
		"23 23 00 3fff 0000000000000001 0000000000000002 0000000000000001 0000000000000002"},
	{"no ENTRIES", StreamMessage{Type: Entries, Level: LevelEntries, High: 1<<64 - 1}, "23 13 00 0000 0000000000000000 ffffffffffffffff"},
	{"WANT", StreamMessage{Type: Want, Node: 1, Stream: 8, Sums: []uint64{5}}, "24 0e 01 00000008 00 0000000000000005"},
	{"TAKE", StreamMessage{Type: Take, Question: 0x01020304, Nodes: 0x8005}, "25 06 01020304 8005"},
	{"MINE", StreamMessage{Type: Mine, Node: 16, Question: 9, Flags: MineOwn, Nodes: 0x0102}, "26 08 10 00000009 01 0102"},
}

// streamDiff compares messages; slices may be nil or empty.
func streamDiff(a, b *StreamMessage) string { return cmp.Diff(a, b, cmpopts.EquateEmpty()) }

// clone returns a copy of a message, which the reader reuses.
func clone(m *StreamMessage) StreamMessage {
	c := *m
	c.Body, c.Ranges, c.Sums, c.Indexes = bytes.Clone(m.Body), append([]Range(nil), m.Ranges...), append([]uint64(nil), m.Sums...), append([]uint16(nil), m.Indexes...)
	return c
}

// position100 is the POSITION before an example.
var position100 = (&StreamMessage{Type: Position, From: 100}).Append(nil)

// readOne reads the only message after position100.
func readOne(b []byte) (m StreamMessage, err error) {
	r := ReadStream(append(bytes.Clone(position100), b...))
	if ok, err := r.Next(&m); !ok || err != nil {
		return m, fmt.Errorf("POSITION: %v", err)
	}
	ok, err := r.Next(&m)
	if err != nil {
		return m, err
	}
	if !ok {
		return m, errors.New("no message")
	}
	got := clone(&m)
	if ok, err := r.Next(&m); ok || err != nil {
		return m, fmt.Errorf("a second message, %+v, %v", m, err)
	}
	return got, nil
}

func TestStreamMessages(t *testing.T) {
	types := map[StreamType]bool{}
	for _, x := range streamExamples {
		want := unhex(t, x.hex)
		types[x.m.Type] = true
		if got := x.m.Append([]byte{7}); !bytes.Equal(got[1:], want) || got[0] != 7 {
			t.Errorf("%s: % x, want % x", x.name, got[1:], want)
		}
		got, err := readOne(want)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		if diff := streamDiff(&x.m, &got); diff != "" {
			t.Errorf("%s:\n%s", x.name, diff)
		}
	}
	// The reader knows no type that has no example.
	for typ := range 256 {
		m := StreamMessage{Type: StreamType(typ)}
		if known, _ := m.parse(nil); known != types[m.Type] {
			t.Errorf("type %d: known %v, example %v", typ, known, types[m.Type])
		}
	}
}

// Every shorter and longer body of a message with a fixed length is refused, and a cut message
// as well.
func TestStreamRefusals(t *testing.T) {
	fixed := map[StreamType]bool{Position: true, Again: true, Void: true, LostRange: true, StreamState: true, Ask: true,
		StreamBulkBegin: true, StreamBulkEnd: true, Digest: true, Sums: true, Take: true, Mine: true}
	refused := func(name string, b []byte, why string) {
		t.Helper()
		_, err := readOne(b)
		var e *StreamError
		if !errors.As(err, &e) || !strings.Contains(e.Error(), why) {
			t.Errorf("%s: % x: %v, want %q", name, b[:min(len(b), 40)], err, why)
		}
	}
	for _, x := range streamExamples {
		whole := x.m.Append(nil)
		for n := 1; n < len(whole); n++ {
			refused(x.name, whole[:n], "cut off")
		}
		if !fixed[x.m.Type] {
			continue
		}
		body := x.m.appendBody(nil)
		for n := range len(body) + 2 {
			if n == len(body) {
				continue
			}
			other := StreamMessage{Type: StreamFlowNew, Body: append(bytes.Clone(body), 0)[:n]}
			b := other.Append(nil)
			b[0] = byte(x.m.Type)
			refused(x.name, b, "the length is wrong")
		}
	}
	for _, c := range []struct{ name, hex, why string }{
		{"unknown type", "7f 00", "type is unknown"},
		{"type 0", "00 00", "type is unknown"},
		{"a control message of package seal", "01 09 02 0102030405060708", "type is unknown"},
		{"long form of a short body", "10 ff 0002 0102", "more bytes than it needs"},
		{"VOID backwards", "0a 08 00000002 00000001", "empty"},
		{"LOST backwards", "0b 08 00000000 ffffffff", "empty"},
		{"short ACK", "0c 08 02 00000001 000000", "length is wrong"},
		{"ACK with half a range", "0c 0d 02 00000001 00000009 00000009", "length is wrong"},
		{"ACK with a range backwards", "0c 11 02 00000001 00000009 00000009 00000008", "empty"},
		{"ACK with 21 ranges", "0c b1 02 00000001 00000009" + strings.Repeat("0000000900000009", 21), "length is wrong"},
		{"DIGEST of an unknown table", "20 0d 02 00000003 00000000000000ff", "no such table"},
		{"short COMPARE", "21 06 01 00000008 00", "length is wrong"},
		{"COMPARE with half an index", "21 08 01 00000008 00 02 01", "length is wrong"},
		{"COMPARE of an unknown table", "21 07 01 00000008 02 01", "no such table"},
		{"COMPARE of an unknown level", "21 07 01 00000008 00 04", "no such level"},
		{"COMPARE of an unknown quarter", "21 09 01 00000008 00 02 0100", "too large"},
		{"COMPARE of an unknown bucket", "21 09 01 00000008 00 03 4000", "too large"},
		{"SUMS of entries", "22 ff 0204 00 03 0000" + strings.Repeat("00", 512), "no such level"},
		{"SUMS of an unknown group", "22 ff 0204 00 01 0001" + strings.Repeat("00", 512), "too large"},
		{"SUMS of an unknown table", "22 ff 0204 05 01 0000" + strings.Repeat("00", 512), "no such table"},
		{"ENTRIES of an unknown bucket", "23 13 00 4000 0000000000000000 ffffffffffffffff", "no such bucket"},
		{"ENTRIES backwards", "23 13 00 0000 0000000000000001 0000000000000000", "empty"},
		{"ENTRIES with half a hash", "23 17 00 0000 0000000000000000 0000000000000001 00000000", "length is wrong"},
		{"ENTRIES of an unknown table", "23 13 02 0000 0000000000000000 ffffffffffffffff", "no such table"},
		{"short WANT", "24 05 01 00000008", "length is wrong"},
		{"WANT with half a hash", "24 0a 01 00000008 00 00000000", "length is wrong"},
		{"WANT of an unknown table", "24 06 01 00000008 02", "no such table"},
	} {
		refused(c.name, unhex(t, c.hex), c.why)
	}

	var m StreamMessage
	r := ReadStream(unhex(t, "10 01 01"))
	if ok, err := r.Next(&m); ok || err == nil || !strings.Contains(err.Error(), "POSITION") {
		t.Errorf("a numbered message without a number: %v, %v", ok, err)
	}
	if ok, err := r.Next(&m); ok || err != nil {
		t.Errorf("the payload goes on after an error: %v, %v", ok, err)
	}
}

// An unknown type with the top bit is skipped, whatever its length.
func TestStreamSkips(t *testing.T) {
	m, err := readOne(unhex(t, "ff 02 0102 fe ff 0100"+strings.Repeat("00", 256)+"80 00 10 01 05"))
	if err != nil || m.Type != StreamFlowNew || m.Number != 100 {
		t.Errorf("%+v, %v", m, err)
	}
}

// Numbers follow POSITION and AGAIN, and only numbered messages count.
func TestStreamNumbers(t *testing.T) {
	r := ReadStream(unhex(t, "08 04 ffffffff 10 00 20 0d 00 00000000 0000000000000000 11 00 09 04 00000005 12 00 0a 08 00000001 00000002 13 00 08 04 00000001 18 04 00000001"))
	var got []string
	for m := (StreamMessage{}); ; {
		ok, err := r.Next(&m)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if m.Type.Numbered() {
			got = append(got, fmt.Sprint(m.Type, " ", uint32(m.Number), " ", m.Again))
		}
	}
	want := []string{"16 4294967295 false", "17 0 false", "18 5 true", "19 6 true", "24 1 false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// streamRandom makes random messages as a sender has them.
type streamRandom struct {
	*rand.Rand
	next Seq // of the next new message
}

func (r *streamRandom) bytes(most int) []byte {
	b := make([]byte, r.IntN(most+1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (r *streamRandom) message() (m StreamMessage) {
	examples := streamExamples[2:] // not POSITION and AGAIN
	m.Type = examples[r.IntN(len(examples))].m.Type
	if r.IntN(2) == 0 {
		m.Type = StreamFlowNew + StreamType(r.IntN(8))
	}
	hashes := func(n int) {
		for range n {
			m.Sums = append(m.Sums, r.Uint64())
		}
	}
	switch m.Type {
	case Void, LostRange:
		m.From = Seq(r.Uint32())
		m.To = m.From + Seq(r.Uint32N(1<<31))
	case StreamAck:
		m.Node, m.Stream, m.From = uint8(r.Uint32()), uint64(r.Uint32()), Seq(r.Uint32())
		for range r.IntN(MaxAckRanges + 1) {
			from := Seq(r.Uint32())
			m.Ranges = append(m.Ranges, Range{from, from + Seq(r.Uint32N(100))})
		}
	case StreamState:
		m.Stream, m.Flags, m.First = r.Uint64(), uint8(r.Uint32()), Seq(r.Uint32())
		copy(m.Key[:], r.bytes(16))
	case Ask:
		m.Node, m.Stream = uint8(r.Uint32()), uint64(r.Uint32())
	case StreamBulkBegin, StreamBulkEnd:
		m.Bulk = r.Uint32()
	case Digest:
		m.Table, m.Entries, m.Root = uint8(r.IntN(2)), r.Uint32(), r.Uint64()
	case Compare:
		m.Node, m.Stream, m.Table, m.Level = uint8(r.Uint32()), uint64(r.Uint32()), uint8(r.IntN(2)), uint8(r.IntN(4))
		for range r.IntN(200) {
			m.Indexes = append(m.Indexes, uint16(r.IntN(int(levelIndexes[m.Level]))))
		}
	case Sums:
		m.Table, m.Level = uint8(r.IntN(2)), uint8(1+r.IntN(2))
		m.Index = uint16(r.IntN(int(levelIndexes[m.Level])))
		hashes(SumsLen)
	case Entries:
		m.Table, m.Level, m.Index, m.Low, m.High = uint8(r.IntN(2)), LevelEntries, uint16(r.IntN(1<<14)), r.Uint64()>>1, 1<<63|r.Uint64()
		hashes(r.IntN(100))
	case Want:
		m.Node, m.Stream, m.Table = uint8(r.Uint32()), uint64(r.Uint32()), uint8(r.IntN(2))
		hashes(r.IntN(100))
	case Take:
		m.Question, m.Nodes = r.Uint32(), uint16(r.Uint32())
	case Mine:
		m.Node, m.Question, m.Flags, m.Nodes = uint8(r.Uint32()), r.Uint32(), uint8(r.Uint32()), uint16(r.Uint32())
	default:
		m.Body = r.bytes([]int{40, 40, 40, 300}[r.IntN(4)])
	}
	if m.Type.Numbered() {
		if r.IntN(5) == 0 {
			m.Number, m.Again = r.next-1-Seq(r.IntN(3)), true
		} else {
			m.Number = r.next
			r.next++
		}
	}
	return m
}

// packRandom packs random messages into payloads of a capacity and reads them back.
func packRandom(t *testing.T, seed uint64, capacity, messages int) {
	r := &streamRandom{Rand: rand.New(rand.NewPCG(seed, 9))}
	r.next = Seq(r.Uint32())
	var sent, got []StreamMessage
	payloads := 0
	head := func(dst []byte) []byte {
		if r.IntN(4) == 0 {
			return append(dst, 1, 9, 2, 1, 2, 3, 4, 5, 6, 7, 8)
		}
		return dst
	}
	p := NewStreamPacker(capacity, func(payload []byte) {
		payloads++
		payload = bytes.TrimPrefix(payload, []byte{1, 9, 2, 1, 2, 3, 4, 5, 6, 7, 8})
		if len(payload) == 0 {
			return
		}
		var m StreamMessage
		first, before := true, len(got)
		for s := ReadStream(payload); ; {
			ok, err := s.Next(&m)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if !ok {
				break
			}
			if first != (m.Type == Position) && first {
				t.Fatalf("seed %d: a payload begins with type %d", seed, m.Type)
			}
			first = false
			if m.Type != Position && m.Type != Again {
				got = append(got, clone(&m))
			}
		}
		if len(payload) > capacity && len(got) != before+1 {
			t.Fatalf("seed %d: a payload of %d bytes with %d messages, capacity %d", seed, len(payload), len(got)-before, capacity)
		}
	})
	p.Begin(func() Seq { return r.next }, head)
	for range messages {
		switch r.IntN(20) {
		case 0:
			p.Flush()
		case 1: // the link's MTU changes
			p.Flush()
			capacity = max(50, capacity+r.IntN(41)-20)
			p.SetCapacity(capacity)
		}
		m, begun, at := r.message(), len(p.buf) > 0, payloads
		fits := p.Room() >= numberLen+len(m.Append(nil))
		if p.Message(&m); begun && fits && payloads != at {
			t.Fatalf("seed %d: a message of type %d did not fit", seed, m.Type)
		}
		sent = append(sent, m)
	}
	p.Flush()
	at := payloads
	if p.Flush(); payloads != at {
		t.Fatalf("seed %d: an empty payload", seed)
	}
	p.Open()
	if p.Flush(); payloads != at+1 {
		t.Fatalf("seed %d: no payload after Open", seed)
	}
	if len(sent) != len(got) {
		t.Fatalf("seed %d: %d messages sent, %d received", seed, len(sent), len(got))
	}
	for i := range sent {
		a, b := &sent[i], &got[i]
		if a.Number != b.Number || a.Again != b.Again || !bytes.Equal(a.Append(nil), b.Append(nil)) {
			t.Fatalf("seed %d: message %d:\n%s", seed, i, streamDiff(a, b))
		}
	}
}

func TestStreamPacker(t *testing.T) {
	for seed := range uint64(300) {
		packRandom(t, seed, 50+int(seed)*5, 100)
	}
}

// FuzzStreamPacker packs random messages into payloads and reads them back.
func FuzzStreamPacker(f *testing.F) {
	f.Add(uint64(1), uint16(1428))
	f.Add(uint64(2), uint16(100))
	f.Add(uint64(3), uint16(0))
	f.Fuzz(func(t *testing.T, seed uint64, capacity uint16) { packRandom(t, seed, max(50, int(capacity)), 50) })
}

// FuzzStreamReader reads any payload: what is read is written so that the same is read again.
func FuzzStreamReader(f *testing.F) {
	all := bytes.Clone(position100)
	for _, x := range streamExamples {
		f.Add(append(bytes.Clone(position100), unhex(f, x.hex)...))
		all = append(all, unhex(f, x.hex)...)
	}
	f.Add(all)
	f.Add(unhex(f, "ff 00 08 04 00000001 10 02 0000"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		var m, again StreamMessage
		var written []byte
		var first []StreamMessage
		var failed error
		for r := ReadStream(payload); ; {
			ok, err := r.Next(&m)
			failed = err
			if !ok {
				break
			}
			first = append(first, clone(&m))
			written = m.Append(written)
		}
		if len(written) > len(payload) || failed == nil && len(first) == 0 && len(payload) > 0 && payload[0] < 0x80 {
			t.Fatalf("%d bytes are read as %d", len(payload), len(written))
		}
		r := ReadStream(written)
		for i := range first {
			ok, err := r.Next(&again)
			if !ok || err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			if diff := streamDiff(&first[i], &again); diff != "" {
				t.Fatalf("message %d:\n%s", i, diff)
			}
		}
		if ok, err := r.Next(&again); ok || err != nil {
			t.Fatalf("a message too much, %v", err)
		}
	})
}

// typicalTCP is the flow of TestStreamDensity: an established TCP flow over IPv4 with state,
// timeout, mark and window scales, as most of a firewall's table with marks is.
func typicalTCP() *ctnetlink.Flow {
	f := flowDumps[0].flow
	f.Has = ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasTCPState | ctnetlink.HasMark | ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply
	f.Status = ctnetlink.StatusSeenReply | ctnetlink.StatusAssured | ctnetlink.StatusConfirmed
	f.TCPState, f.Timeout, f.Mark, f.TCPWScaleOrig, f.TCPWScaleRepl = 3, 432000, 0x10, 7, 9
	f.Reply = f.Orig.Inverted()
	return &f
}

// payload1500 is what a sealed datagram over IPv4 carries with an MTU of 1500.
const payload1500 = 1500 - 28 - 28 - 16

// A sealed datagram holds at least 39 TCP flows over IPv4.
func TestStreamDensity(t *testing.T) {
	e := Encoder{WindowTracking: true}
	snat := typicalTCP()
	snat.Status |= ctnetlink.StatusSrcNAT | ctnetlink.StatusSrcNATDone
	snat.Reply.Dst, snat.Reply.DstPort = ctnetlink.Addr{203, 0, 113, 1}, 4000
	plain := typicalTCP()
	plain.Has &^= ctnetlink.HasMark
	for _, c := range []struct {
		name  string
		flow  *ctnetlink.Flow
		end   bool
		least int
	}{{"with mark", typicalTCP(), false, 39}, {"without mark", plain, false, 45}, {"with mark and SNAT", snat, false, 32}, {"end", snat, true, 90}} {
		body, err := e.AppendCompactFlow(nil, c.flow, c.end)
		if err != nil {
			t.Fatal(err)
		}
		v1, err := e.AppendFlow(nil, Header{}, c.flow)
		if err != nil {
			t.Fatal(err)
		}
		full := false
		p := NewStreamPacker(payload1500, func([]byte) { full = true })
		n := 0
		for p.Numbered(Seq(n), false, StreamFlowUpdate, body); !full; p.Numbered(Seq(n), false, StreamFlowUpdate, body) {
			n++
		}
		t.Logf("TCP over IPv4, %s: %d bytes, %d in a sealed datagram of 1500; version 1: %d bytes, %.1f", c.name, streamLen(len(body)), n, len(v1), 1472/float64(len(v1)))
		if n < c.least {
			t.Errorf("%s: %d flows in a datagram, want at least %d", c.name, n, c.least)
		}
	}
}

func TestStreamAllocations(t *testing.T) {
	f, e := typicalTCP(), Encoder{WindowTracking: true}
	var got ctnetlink.Flow
	var m StreamMessage
	read := 0
	p := NewStreamPacker(payload1500, func(payload []byte) {
		for r := ReadStream(payload); ; read++ {
			ok, err := r.Next(&m)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if m.Type != StreamFlowUpdate {
				continue
			}
			if _, err := ParseCompactFlow(m.Body, &got, false); err != nil {
				t.Fatal("a flow is refused")
			}
		}
	})
	seq := Seq(100)
	p.Begin(func() Seq { return seq }, nil)
	body := make([]byte, 0, MaxCompactBody)
	if n := testing.AllocsPerRun(20, func() {
		for i := range streamExamples {
			if m := &streamExamples[i].m; m.Type != Position && m.Type != Again && !m.Type.Numbered() {
				p.Message(m)
			}
		}
		for range 100 {
			body, _ = e.AppendCompactFlow(body[:0], f, false)
			p.Numbered(seq, false, StreamFlowUpdate, body)
			seq++
		}
		p.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if read < 100 {
		t.Errorf("%d messages", read)
	}
}

// BenchmarkStreamAppend encodes a flow and adds it to a payload.
func BenchmarkStreamAppend(b *testing.B) {
	f, e := typicalTCP(), Encoder{WindowTracking: true}
	p := NewStreamPacker(payload1500, func([]byte) {})
	body := make([]byte, 0, MaxCompactBody)
	seq := Seq(0)
	b.ReportAllocs()
	for b.Loop() {
		body, _ = e.AppendCompactFlow(body[:0], f, false)
		p.Numbered(seq, false, StreamFlowUpdate, body)
		seq++
	}
}

// BenchmarkStreamRead reads the flows of a full payload; an operation is one flow.
func BenchmarkStreamRead(b *testing.B) {
	body, err := Encoder{WindowTracking: true}.AppendCompactFlow(nil, typicalTCP(), false)
	if err != nil {
		b.Fatal(err)
	}
	var payload []byte
	p := NewStreamPacker(payload1500, func(full []byte) {
		if payload == nil {
			payload = bytes.Clone(full)
		}
	})
	for seq := Seq(0); payload == nil; seq++ {
		p.Numbered(seq, false, StreamFlowUpdate, body)
	}
	var f ctnetlink.Flow
	var m StreamMessage
	r := ReadStream(payload)
	b.ReportAllocs()
	for b.Loop() {
		for {
			ok, err := r.Next(&m)
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				r = ReadStream(payload)
			} else if m.Type.Numbered() {
				break
			}
		}
		if _, err := ParseCompactFlow(m.Body, &f, false); err != nil {
			b.Fatal(err)
		}
	}
}

// Each form of a flow, with status, timeout, mark and a TCP state, takes at most so many bytes,
// type and length included.
func TestCompactForms(t *testing.T) {
	for _, c := range []struct {
		name  string
		proto uint8
		v4    int
		v6    int
	}{{"TCP", ctnetlink.ProtoTCP, 28, 52}, {"UDP", ctnetlink.ProtoUDP, 21, 45}, {"ICMP", 0, 21, 45}, {"SCTP", ctnetlink.ProtoSCTP, 33, 57},
		{"GRE", ctnetlink.ProtoGRE, 22, 46}, {"ESP", 50, 18, 42}} {
		for _, family := range []uint8{nl.FamilyIPv4, nl.FamilyIPv6} {
			f, proto, most := *typicalTCP(), c.proto, c.v4
			if family == nl.FamilyIPv6 {
				most = c.v6
			}
			switch {
			case proto == 0 && family == nl.FamilyIPv4:
				proto = ctnetlink.ProtoICMP
			case proto == 0:
				proto = ctnetlink.ProtoICMPv6
			}
			f.Orig = randomTuple(rand.New(rand.NewPCG(1, 1)), family, proto)
			if ctnetlink.IsICMP(proto) {
				f.Orig.ICMPType = map[uint8]uint8{ctnetlink.ProtoICMP: 8, ctnetlink.ProtoICMPv6: 128}[proto]
			}
			f.Reply = f.Orig.Inverted()
			if f.Timeout = 120; proto == ctnetlink.ProtoTCP {
				f.Timeout = 432000
			}
			if proto == ctnetlink.ProtoSCTP {
				f.Has |= ctnetlink.SCTPAttrs
			}
			e := Encoder{WindowTracking: true}
			body, err := e.AppendCompactFlow(nil, &f, false)
			if err != nil {
				t.Fatal(err)
			}
			end, _ := e.AppendCompactFlow(nil, &f, true)
			v1, _ := e.AppendFlow(nil, Header{}, &f)
			t.Logf("%s over %s: %d bytes, its end %d; version 1: %d", c.name, ctnetlink.FamilyName(family), streamLen(len(body)), streamLen(len(end)), len(v1))
			if n := streamLen(len(body)); n > most {
				t.Errorf("%s over %s: %d bytes, want at most %d", c.name, ctnetlink.FamilyName(family), n, most)
			}
		}
	}
}
