package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"ctbox/nl/ctnetlink"
)

// verdicts are the results of reading some bytes.
type verdicts struct {
	seqs     []Seq // of the messages that Next returned
	counters Counters
}

func walk(r Reader) verdicts {
	var v verdicts
	for {
		m, ok := r.Next(&v.counters)
		if !ok {
			return v
		}
		v.seqs = append(v.seqs, m.Seq)
	}
}

// The vectors for which the verdict of a C daemon was observed.
func TestFramingVerdictsAreTheCDaemons(t *testing.T) {
	const good = "1a 10 00 08 00 00 00 07"
	for _, c := range []struct {
		name string
		hex  string
		want verdicts
	}{
		{"nothing", "", verdicts{}},
		{"5 bytes", "10 00 00 08 00",
			verdicts{counters: Counters{Truncated: 1}}},
		{"length 0", "10 00 00 00 00 00 00 01" + good,
			verdicts{counters: Counters{BadSize: 1}}},
		{"ACK of length 0 in 8 bytes", "1a 08 00 00 00 00 00 01",
			verdicts{counters: Counters{BadSize: 1}}},
		{"length 4", "10 00 00 04 00 00 00 01" + good,
			verdicts{counters: Counters{BadSize: 1}}},
		{"length 100 in 8", "10 00 00 64 00 00 00 01",
			verdicts{counters: Counters{BadSize: 1}}},
		{"version 2", "20 00 00 08 00 00 00 01" + good,
			verdicts{seqs: []Seq{7}, counters: Counters{BadVersion: 1}}},
		{"version 0", "00 00 00 08 00 00 00 01" + good,
			verdicts{seqs: []Seq{7}, counters: Counters{BadVersion: 1}}},
		{"ACK with 8 bytes", "1a 08 00 08 00 00 00 01",
			verdicts{counters: Counters{Truncated: 1}}},
		{"ACK of length 16 in 12 bytes", "1a 08 00 10 00 00 00 01 00 00 00 01",
			verdicts{counters: Counters{BadSize: 1}}},
		{"ACK of length 8 in 16 bytes", "1a 08 00 08 00 00 00 01 00 00 00 01 00 00 00 01",
			verdicts{counters: Counters{BadSize: 1}}},
		{"3 bytes after a message", good + "00 00 00",
			verdicts{seqs: []Seq{7}, counters: Counters{Truncated: 1}}},
		{"two messages", good + good, verdicts{seqs: []Seq{7, 7}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := walk(ReadDatagram(unhex(t, c.hex))); !slices.Equal(got.seqs, c.want.seqs) || got.counters != c.want.counters {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestKindsOfHeaders(t *testing.T) {
	for _, c := range []struct {
		typ   Type
		flags Flags
		want  Kind
	}{
		{FlowNew, 0, KindData}, {ExpectDelete, 0, KindData}, {FlowNew, Hello, KindData}, {FlowUpdate, Hello | HelloBack, KindData},
		{FlowNew, Alive, KindInvalid}, {FlowNew, Ack, KindInvalid}, {FlowNew, 0x01, KindInvalid}, {FlowNew, 0x80, KindInvalid},
		{6, 0, KindInvalid}, {9, 0, KindInvalid}, {15, 0, KindInvalid},
		{Control, 0, KindInvalid}, {Control, Hello, KindInvalid}, {Control, 0x01, KindInvalid},
		{Control, Alive | Hello, KindAlive}, {Control, Ack | Nack, KindAck}, {Control, Nack | Resync, KindNack},
		{Control, Resync | Alive, KindResync},
	} {
		if got := (Header{Type: c.typ, Flags: c.flags}).Kind(); got != c.want {
			t.Errorf("type %d flags %#x: kind %d, want %d", c.typ, c.flags, got, c.want)
		}
	}
}

const (
	someAddrs = "00 0c 00 00 c0 00 02 02 c6 33 64 02"
	someProto = "00 05 00 02 11 00 00 00"
	somePorts = "00 08 00 03 ad 9c 00 35"
	someFlow  = someAddrs + someProto + somePorts
)

func TestRefusedPayloads(t *testing.T) {
	for _, c := range []struct {
		name string
		hex  string
		want error
	}{
		{"whole", someFlow, nil},
		{"last attribute without its padding", someFlow + "00 06 00 20 00 07", nil},
		{"tail of 4 bytes", someFlow + "ff ff ff ff", nil},
		{"tail of 1 byte", someFlow + "ff", nil},
		{"labels of odd size", someFlow + "00 09 00 1c 0000000100 000000", nil},
		{"labels without words", someFlow + "00 04 00 1c 00 08 00 07 00000001", nil},
		{"zero translated ports", someFlow + "00 06 00 0e 0000 0000 00 06 00 0f 0000 0000", nil},
		{"11 characters of helper", someFlow + "00 10 00 1b 6162636465666768696a6b00", nil},
		{"empty helper name", someFlow + "00 05 00 1b 00 000000", nil},
		{"length 3", someFlow + "00 03 00 07 00000001", ErrAttrLength},
		{"length past the end", someFlow + "00 09 00 07 00000001", ErrAttrLength},
		{"attribute 33", someFlow + "00 08 00 21 00000001", ErrAttrNumber},
		{"attribute 0x8007", someFlow + "00 08 80 07 00000001", ErrAttrNumber},
		{"short mark", someFlow + "00 07 00 07 00000100", ErrAttrSize},
		{"long mark", someFlow + "00 0c 00 07 0000000100000001", ErrAttrSize},
		{"12 characters of helper", someFlow + "00 11 00 1b 6162636465666768696a6b6c 00 000000", ErrAttrSize},
		{"helper without NUL", someFlow + "00 10 00 1b 6162636465666768696a6b6c", ErrAttrValue},
		{"TCP state 10", someFlow + "00 05 00 04 0a 000000", ErrAttrValue},
		{"nothing", "", ErrNoAddress},
		{"no addresses", someProto + somePorts, ErrNoAddress},
		{"no protocol", someAddrs + somePorts, ErrNoProto},
		{"no ports", someAddrs + someProto, ErrNoPorts},
		{"half of ICMP", someAddrs + "00 05 00 02 01 00 00 00 | 00 05 00 16 08 00 00 00", ErrNoPorts},
		{"translation to another family", someFlow + "00 14 00 1d 20010db8000200000000000000000001", ErrFamily},
		{"destination of another family", someFlow + "00 14 00 1e 20010db8000200000000000000000001", ErrFamily},
		{"master of another family", someFlow + "00 24 00 09 20010db8000200000000000000000001 20010db8000200000000000000000002", ErrFamily},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f ctnetlink.Flow
			if err := ParseFlow(unhex(t, c.hex), &f); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestRefusedExpectPayloads(t *testing.T) {
	whole := unhex(t, expectHex)[HeaderLen:]
	without := func(num uint16) []byte {
		var out []byte
		for at := 0; at < len(whole); {
			n := align4(int(binary.BigEndian.Uint16(whole[at:])))
			if binary.BigEndian.Uint16(whole[at+2:]) != num {
				out = append(out, whole[at:at+n]...)
			}
			at += n
		}
		return out
	}
	for _, c := range []struct {
		name string
		body []byte
		want error
	}{
		{"whole", whole, nil},
		{"no NAT address", without(expNATIPv4), nil},
		{"no NAT direction", without(expNATDir), nil},
		{"no master address", without(expMasterIPv4), ErrNoAddress},
		{"no expected protocol", without(expTupleProto), ErrNoProto},
		{"no mask", without(expMaskIPv4), ErrNoAddress},
		{"no master ports", without(expMasterPorts), ErrNoPorts},
		{"no mask ports", without(expMaskPorts), ErrNoPorts},
		{"attribute 21", append(slices.Clone(whole), 0, 8, 0, 21, 0, 0, 0, 0), ErrAttrNumber},
		{"direction 2", append(slices.Clone(whole), 0, 8, 0, 18, 0, 0, 0, 2), ErrAttrValue},
		{"empty helper name", append(slices.Clone(whole), 0, 5, 0, 19, 0, 0, 0, 0), nil},
		{"empty function name", append(slices.Clone(whole), 0, 5, 0, 20, 0, 0, 0, 0), nil},
		{"function without NUL", append(slices.Clone(whole), 0, 8, 0, 20, 'a', 'b', 'c', 'd'), ErrAttrValue},
		{"another family", append(slices.Clone(whole), append([]byte{0, 36, 0, 9}, make([]byte, 32)...)...), ErrFamily},
	} {
		t.Run(c.name, func(t *testing.T) {
			var x ctnetlink.Expect
			if err := ParseExpect(c.body, &x); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestForeignAttributesAreDropped(t *testing.T) {
	var f ctnetlink.Flow
	body := unhex(t, someAddrs+"00 05 00 02 01 00 00 00"+ // ICMP with every attribute
		"00 05 00 16 08 000000 00 05 00 17 00 000000 00 06 00 18 34 12 0000"+
		somePorts+"00 05 00 04 03 000000 00 06 00 0e 4400 0000 00 05 00 11 03 000000"+
		"00 08 00 0b 00010002")
	if err := ParseFlow(body, &f); err != nil {
		t.Fatal(err)
	}
	want := icmp(tuple4(ctnetlink.ProtoICMP, client, server), 8, 0, 0x1234)
	if f.Has != 0 || f.Orig != want || f.Master != (ctnetlink.Tuple{}) {
		t.Errorf("has %b, original %+v, master %+v", f.Has, f.Orig, f.Master)
	}
	body = unhex(t, someAddrs+"00 05 00 02 06 00 00 00"+somePorts+ // TCP with other protocols' attributes
		"00 05 00 16 08 000000 00 05 00 17 00 000000 00 06 00 18 34 12 0000"+
		"00 05 00 11 03 000000 00 08 00 12 00000001 00 05 00 14 03 000000 00 05 00 15 01 000000")
	f.Reset()
	if err := ParseFlow(body, &f); err != nil {
		t.Fatal(err)
	}
	want = ports(tuple4(ctnetlink.ProtoTCP, client, server), 0xad9c, 53)
	if f.Has != 0 || f.Orig != want {
		t.Errorf("has %b, original %+v", f.Has, f.Orig)
	}
}

func TestWindowScalesAreLimited(t *testing.T) {
	var f ctnetlink.Flow
	body := unhex(t, someAddrs+"00 05 00 02 06 00 00 00"+somePorts+"00 05 00 19 0f 000000 00 05 00 1a ff 000000")
	if err := ParseFlow(body, &f); err != nil || f.TCPWScaleOrig != 14 || f.TCPWScaleRepl != 14 {
		t.Errorf("%v, scales %d and %d", err, f.TCPWScaleOrig, f.TCPWScaleRepl)
	}
}

func TestNothingIsSentThatACDaemonRefuses(t *testing.T) {
	f := flowDumps[0].flow
	plain, err := Encoder{}.AppendFlow(nil, Header{}, &f)
	if err != nil {
		t.Fatal(err)
	}
	f.Has |= ctnetlink.HasHelper | ctnetlink.HasLabels
	f.Helper.Set("twelve-chars")
	f.LabelsLen = 4
	got, err := Encoder{}.AppendFlow(nil, Header{}, &f)
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("long helper name, empty labels: %v\n got %x\nwant %x", err, got, plain)
	}

	x := expectDump()
	x.Helper.Set("twelve-chars")
	x.SetFn("an-expectation-function-name")
	b, err := Encoder{}.AppendExpect(nil, Header{Type: ExpectNew}, &x)
	if err != nil || ParseExpect(b[HeaderLen:], &x) != nil || x.Has&(ctnetlink.ExpectHasHelper|ctnetlink.ExpectHasFn) != 0 {
		t.Errorf("long names in an expectation: %v, %x", err, b)
	}
}

func TestParseForgetsTheLastTranslation(t *testing.T) {
	var f ctnetlink.Flow
	tcp := someAddrs + "00 05 00 02 06 00 00 00" + somePorts
	for _, c := range []struct{ name, attrs, next string }{
		{"source", "00 08 00 0c c0000263 00 06 00 0e 8813 0000", "00 06 00 0e 8913 0000"},
		{"destination", "00 08 00 0d c0000263 00 06 00 0f 8813 0000", "00 06 00 0f 8913 0000"},
	} {
		if err := ParseFlow(unhex(t, tcp+c.attrs), &f); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := ParseFlow(unhex(t, tcp+c.next), &f); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := f.NATSrc
		if c.name == "destination" {
			got = f.NATDst
		}
		if want := (ctnetlink.NAT{Port: 5001, HasPort: true}); got != want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, want)
		}
	}
}

func TestMessagesAreAppendedToOthers(t *testing.T) {
	before := []byte("another message")
	f, x := flowDumps[0].flow, expectDump()
	for _, c := range []struct {
		name  string
		write func(dst []byte) ([]byte, error)
	}{
		{"flow", func(dst []byte) ([]byte, error) { return Encoder{}.AppendFlow(dst, Header{}, &f) }},
		{"expectation", func(dst []byte) ([]byte, error) {
			return Encoder{}.AppendExpect(dst, Header{Type: ExpectNew}, &x)
		}},
	} {
		alone, err := c.write(nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got, err := c.write(bytes.Clone(before))
		if want := append(bytes.Clone(before), alone...); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\n got %x\nwant %x", c.name, err, got, want)
		}
	}
}

func TestIncompleteObjectsAreNotSent(t *testing.T) {
	dst := []byte("before")
	for _, lack := range []ctnetlink.TupleAttr{ctnetlink.TupleSrc, ctnetlink.TupleDst, ctnetlink.TupleProto, ctnetlink.TupleDstPort} {
		f := flowDumps[0].flow
		f.Orig.Has &^= lack
		if got, err := (Encoder{}).AppendFlow(dst, Header{}, &f); !errors.Is(err, ErrIncompleteTuple) || len(got) != len(dst) {
			t.Errorf("flow without %b: %v", lack, err)
		}
		x := expectDump()
		x.Mask.Has &^= lack
		if got, err := (Encoder{}).AppendExpect(dst, Header{}, &x); !errors.Is(err, ErrIncompleteExpect) || len(got) != len(dst) {
			t.Errorf("expectation without %b: %v", lack, err)
		}
	}
}

func TestSequenceNumbersWrap(t *testing.T) {
	for _, c := range []struct {
		a, b   Seq
		before bool
	}{
		{1, 2, true}, {2, 1, false}, {1, 1, false}, {0xffffffff, 0, true}, {0, 0xffffffff, false}, {0xfffffff0, 10, true},
	} {
		if c.a.Before(c.b) != c.before || c.b.After(c.a) != c.before {
			t.Errorf("%d before %d: want %v", c.a, c.b, c.before)
		}
	}
}
