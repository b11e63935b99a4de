package format

import (
	"testing"

	"ctbox/nl/ctnetlink"
)

var styles = []struct {
	name  string
	style Style
}{
	{"text", Style{}},
	{"everything", Style{Extended: true, ID: true, KTimestamp: true, Timestamp: true, Labels: make([]string, 128)}},
	{"save", Style{Format: Save}},
	{"xml", Style{Format: XML, KTimestamp: true, Timestamp: true}},
	{"json", Style{Format: JSON}},
}

func TestAllocations(t *testing.T) {
	f, x := ftpControl(), ftpData()
	e := &Event{Type: New, Time: now, PortID: 3, Progname: "conntrack"}
	buf := make([]byte, 0, 4096)
	for _, s := range styles {
		s.style.Now = now
		if n := testing.AllocsPerRun(100, func() { buf = AppendFlow(buf[:0], f, &s.style, e) }); n > 0 {
			t.Errorf("%s: %v allocations a flow", s.name, n)
		}
		if n := testing.AllocsPerRun(100, func() { buf = AppendExpect(buf[:0], x, &s.style, e) }); n > 0 {
			t.Errorf("%s: %v allocations an expectation", s.name, n)
		}
	}

	full := flow(ports(tuple(6, "2001:db8::1", "2001:db8::2"), 1, 2), status(0x10f), labels(3, 4),
		secctx("system_u:object_r:\x01"), tcpState(3), helper("ftp"), started(0))
	line := AppendFlow(nil, full, &Style{Format: JSON, Now: now}, e)
	var reader FlowReader
	var got ctnetlink.Flow
	var ev Event
	read := func() {
		if err := reader.Flow(line, &got, &ev); err != nil {
			t.Fatal(err)
		}
	}
	read() // the first line brings the memory
	if n := testing.AllocsPerRun(100, read); n > 0 {
		t.Errorf("%v allocations a line read", n)
	}
}

func BenchmarkAppendFlow(b *testing.B) {
	f := ftpControl()
	for _, s := range styles {
		b.Run(s.name, func(b *testing.B) {
			s.style.Now = now
			e := &Event{Time: now}
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendFlow(buf[:0], f, &s.style, e)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

func BenchmarkFlowReader(b *testing.B) {
	line := AppendFlow(nil, ftpControl(), &Style{Format: JSON, Now: now}, nil)
	var r FlowReader
	var f ctnetlink.Flow
	var e Event
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if err := r.Flow(line, &f, &e); err != nil {
			b.Fatal(err)
		}
	}
}
