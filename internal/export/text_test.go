package export

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
	"ctbox/sync/follow"
)

// A JSON record is the flow object of docs/json.md with what a record has besides.
func TestJSON(t *testing.T) {
	at := 1700000000*second + 5e6
	flow := JSON{Choice{Flow: true}}
	for _, c := range []struct {
		name   string
		x      JSON
		record Record
		want   string
	}{
		{
			"begin", flow, Record{Flow: tcpSNAT(), Kind: Begin, Time: at, Origin: Existing},
			`{"event":"new","time":1700000000.005000000,"family":"ipv4","proto":6,"proto_name":"tcp",` +
				`"original":{"src":"10.0.0.1","dst":"198.51.100.2","sport":40000,"dport":443,"packets":5,"bytes":1099511627776},` +
				`"reply":{"src":"198.51.100.2","dst":"203.0.113.7","sport":443,"dport":41234,"packets":4,"bytes":232},` +
				`"state":"TIME_WAIT","status":["SEEN_REPLY","CONFIRMED","SRC_NAT","SRC_NAT_DONE","DST_NAT_DONE"],"mark":9,"id":4275878552,"start":1000.000000000,"stop":1002.003000000,"delta_time":2,` +
				`"origin":"existing"}` + "\n",
		},
		{
			"the end of one whose begin only the exporter knows", flow, Record{Flow: udpPlain6(), Kind: End, Origin: MadeUp, Time: at, Start: at - 2*second},
			`{"event":"destroy","time":1700000000.005000000,"family":"ipv6","proto":17,"proto_name":"udp",` +
				`"original":{"src":"2001:db8::1","dst":"2001:db8::2","sport":53000,"dport":53},` +
				`"reply":{"src":"2001:db8::2","dst":"2001:db8::1","sport":53,"dport":53000},"zone":3,"id":7,` +
				`"start":1699999998.005000000,"delta_time":2,"reason":"lost","origin":"made_up"}` + "\n",
		},
		{
			"translation without destinations", JSON{Choice{NAT: true, WithoutDestinations: true}}, Record{Flow: icmpSNAT(), Kind: End, Time: at, PortID: 5},
			`{"event":"destroy","time":1700000000.005000000,"portid":5,"family":"ipv4","proto":1,"proto_name":"icmp",` +
				`"original":{"src":"10.0.0.1","icmp_type":8,"icmp_code":0,"icmp_id":77},` +
				`"reply":{"dst":"203.0.113.7","icmp_type":0,"icmp_code":0,"icmp_id":1077},"id":8,"reason":"forced"}` + "\n",
		},
		{"no translation", JSON{Choice{NAT: true}}, Record{Flow: udpPlain6(), Kind: End, Time: at}, ""},
	} {
		before := *c.record.Flow
		got := string(c.x.AppendRecord(nil, &c.record))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if diff := cmp.Diff(before, *c.record.Flow); diff != "" {
			t.Errorf("%s: the flow has changed:\n%s", c.name, diff)
		}
		if got != "" && !json.Valid([]byte(got)) {
			t.Errorf("%s: not JSON", c.name)
		}
	}
	want := `{"event":"lost","time":1700000000.005000000,"messages":12}` + "\n"
	if got := string(AppendLost(nil, at, "messages", 12)); got != want {
		t.Errorf("lost: %s", got)
	}
}

// A JSON record can be read back as the flow that it is about.
func FuzzJSON(f *testing.F) {
	for _, r := range someRecords() {
		f.Add(r.Flow.Append(nil), uint8(r.Kind), uint8(r.Origin), int64(5), int64(4), uint32(0))
	}
	f.Fuzz(func(t *testing.T, event []byte, kind, origin uint8, at, start int64, portID uint32) {
		var flow ctnetlink.Flow
		if flow.Decode(event) != nil {
			return
		}
		x := JSON{Choice{Flow: true}}
		r := Record{Flow: &flow, Kind: Kind(kind % 3), Origin: Origin(origin % 3), Time: at, Start: max(start, 0), PortID: portID}
		line := x.AppendRecord(nil, &r)
		if !json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("%q", line)
		}
	})
}

// A syslog message has the header of RFC 5424, section 6, and over a stream its length.
func TestSyslog(t *testing.T) {
	s := Syslog{host: "fw", pid: "12"}
	at := time.Date(2026, 11, 28, 14, 3, 7, 5000, time.FixedZone("", 3600))
	want := `<30>1 2026-11-28T13:03:07.000005Z fw conntrackd 12 flow - {"a":1}`
	if got := string(s.Append(nil, at, []byte("{\"a\":1}\n"))); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	s.counted = true
	if got := string(s.Append(nil, at, []byte("{\"a\":1}\n"))); got != "65 "+want || len(want) != 65 {
		t.Errorf("%s\nwant 65 %s (%d)", got, want, len(want))
	}
	if h := NewSyslog(false).host; strings.ContainsAny(h, " \n") || h == "" {
		t.Errorf("host %q", h)
	}
}

func TestJSONAllocations(t *testing.T) {
	add := newJSONLoop()
	add()
	if n := testing.AllocsPerRun(1000, add); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func newJSONLoop() func() {
	x := JSON{Choice{Flow: true}}
	r := Record{Flow: tcpSNAT(), Kind: End, Time: 1700000000 * second}
	q := newQueue(64)
	var buf, batch []byte
	into := func(_ uint16, record []byte) bool { batch = append(batch, record...); return true }
	n := 0
	return func() {
		buf = x.AppendRecord(buf[:0], &r)
		q.add(0, buf)
		if n++; n%32 == 0 {
			batch = batch[:0]
			q.take(into)
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	b.Run("record", func(b *testing.B) {
		b.ReportAllocs()
		add := newJSONLoop()
		for b.Loop() {
			add()
		}
	})
	b.Run("format", func(b *testing.B) {
		r := Record{Flow: tcpSNAT(), Kind: End, Time: 1700000000 * second}
		var buf []byte
		for b.Loop() {
			buf = format.AppendFlow(buf[:0], r.Flow, &jsonStyle, nil)
		}
	})
}

// From the follower's report to the queue a record allocates nothing.
func TestRecordAllocations(t *testing.T) {
	for name, out := range map[string]*output{
		"ipfix": {ipfix: &IPFIX{Choice: Choice{NAT: true, Flow: true}}}, "json": {json: &JSON{Choice{Flow: true}}},
	} {
		out.sender = newSender(name, 1000, nil)
		s := source{out: out}
		f, cause := tcpSNAT(), follow.Cause{Event: true, At: time.Unix(1700000000, 0)}
		life := func() {
			s.FlowBegan(f, cause)
			s.FlowEnded(f, cause, true)
		}
		for range 2000 { // until the queue is full
			life()
		}
		if n := testing.AllocsPerRun(1000, life); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
