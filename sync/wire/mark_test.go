package wire

import (
	"bytes"
	"testing"
)

func TestMarksAroundABulk(t *testing.T) {
	for _, c := range []struct {
		hex    string
		header Header
		mark   bool
	}{
		{"1a 11 00 10 00 00 00 01 00 00 00 07 00 00 00 07", Header{Control, Alive | BulkBegin, 1, 7, 7}, true},
		{"1a 90 00 10 00 00 00 02 00 00 00 07 00 00 00 07", Header{Control, Alive | BulkEnd, 2, 7, 7}, true},
		{"1a b0 00 10 00 00 00 02 00 00 00 07 00 00 00 07", Header{Control, Alive | BulkEnd | Hello, 2, 7, 7}, true},
		// Without ALIVE the bits mean nothing.
		{"1a 01 00 08 00 00 00 01", Header{Type: Control, Flags: BulkBegin, Seq: 1}, false},
	} {
		raw := unhex(t, c.hex)
		if got := AppendControl(nil, c.header); !bytes.Equal(got, raw) {
			t.Errorf("%+v:\n got %x\nwant %x", c.header, got, raw)
		}
		var n Counters
		r := ReadDatagram(raw)
		m, ok := r.Next(&n)
		if !ok || m.Header != c.header || m.IsMark() != c.mark || c.mark && m.Kind() != KindAlive {
			t.Errorf("%x: %v, %+v, kind %d, counters %+v", raw, ok, m.Header, m.Kind(), n)
		}
	}
}
