package wire

import (
	"bytes"
	"testing"
)

// notices are encoded ALIVEs with a body.
var notices = []struct {
	name, hex string
	notice    Notice
}{
	{"incomplete", "1a 10 00 14 00 00 00 07 63 74 62 78 00 01 00 04 00 00 06 72", Notice{Has: HasIncomplete, Incomplete: 1650}},
	{"complete again", "1a 10 00 14 00 00 00 07 63 74 62 78 00 01 00 04 00 00 00 00", Notice{Has: HasIncomplete}},
	{"held", "1a 10 00 18 00 00 00 07 63 74 62 78 00 02 00 08 00 00 00 c8 00 00 00 03",
		Notice{Has: HasHeld, HeldFlows: 200, HeldExpects: 3}},
	{"committed", "1a 10 00 14 00 00 00 07 63 74 62 78 00 03 00 04 00 00 05 dc", Notice{Has: HasCommitted, Committed: 1500}},
	{"bulk", "1a 10 00 10 00 00 00 07 63 74 62 78 00 09 00 00", Notice{Has: HasBulk}},
	{"heard", "1a 10 00 14 00 00 00 07 63 74 62 78 00 0a 00 04 00 00 1b 58", Notice{Has: HasHeard, Heard: 7000}},
	{"probed", "1a 10 00 18 00 00 00 07 63 74 62 78 00 0b 00 08 00 00 00 05 00 00 05 c0",
		Notice{Has: HasProbed, Probed: 5, ProbedSize: 1472}},
	{"probe", "1a 10 00 1a 00 00 00 07 63 74 62 78 00 0c 00 0a 00 00 00 05 00 00 00 00 00 00", Notice{Has: HasProbe, Probe: 5, Size: 26}},
	{"offer without keys", "1a 10 00 18 00 00 00 07 63 74 62 78 00 0d 00 08 56 f6 d8 3c 01 02 01 00",
		Notice{Has: HasOffer, Offer: Offer{Cluster: 0x56f6d83c, Node: 1, Version: 2, Plain: true}}},
	{"offer with keys", "1a 10 00 20 00 00 00 07 63 74 62 78 00 0d 00 0e 56 f6 d8 3c 02 02 00 07 03 ab cd 07 00 01 00 00",
		Notice{Has: HasOffer, Offer: Offer{Cluster: 0x56f6d83c, Node: 2, Version: 2, Send: 7, Keys: [MaxOfferKeys]OfferKey{{3, 0xabcd}, {7, 1}}}}},
	{"both", "1a 10 00 20 00 00 00 07 63 74 62 78 00 01 00 04 00 00 00 01 00 02 00 08 00 00 00 c8 00 00 00 03",
		Notice{Has: HasIncomplete | HasHeld, Incomplete: 1, HeldFlows: 200, HeldExpects: 3}},
}

func TestNoticeOnTheWire(t *testing.T) {
	h := Header{Type: Control, Flags: Alive, Seq: 7}
	for _, c := range notices {
		want := unhex(t, c.hex)
		if got := AppendNotice(nil, h, &c.notice); !bytes.Equal(got, want) {
			t.Errorf("%s: % x, want % x", c.name, got, want)
		}
		r := ReadDatagram(want)
		var counters Counters
		m, ok := r.Next(&counters)
		var n Notice
		if err := ParseNotice(m.Body, &n); !ok || m.Header != h || err != nil || n != c.notice {
			t.Errorf("%s: %v, %+v: %+v", c.name, err, m, n)
		}
		// Version 2 has the fields alone, and Size is theirs.
		v2, fields := c.notice, want[HeaderLen+4:]
		if v2.Size > 0 {
			v2.Size -= HeaderLen + 4
		}
		if got := v2.AppendBody(nil); !bytes.Equal(got, fields) {
			t.Errorf("%s in version 2: % x, want % x", c.name, got, fields)
		}
		if err := n.ParseBody(fields); err != nil || n != v2 {
			t.Errorf("%s in version 2: %v, %+v", c.name, err, n)
		}
		if err := n.ParseBody(fields[:3]); err == nil || n != (Notice{}) {
			t.Errorf("%s in version 2, cut: %v, %+v", c.name, err, n)
		}
	}
}

func TestMalformedNotices(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		want      Notice
		err       error
	}{
		{"none", "", Notice{}, nil},
		{"short", "63 74 62", Notice{}, nil},
		{"other magic", "63 74 62 79 00 01 00 04 00 00 00 01", Notice{}, nil},
		{"magic alone", "63 74 62 78", Notice{}, nil},
		{"unknown field", "63 74 62 78 ff ff 00 03 01 02 03 00 00 01 00 04 00 00 00 05", Notice{Has: HasIncomplete, Incomplete: 5}, nil},
		{"unknown field without its padding", "63 74 62 78 00 01 00 04 00 00 00 05 ff ff 00 01 09", Notice{Has: HasIncomplete, Incomplete: 5}, nil},
		{"unknown field without a value", "63 74 62 78 00 7e 00 00 00 01 00 04 00 00 00 05", Notice{Has: HasIncomplete, Incomplete: 5}, nil},
		{"the last of two counts", "63 74 62 78 00 01 00 04 00 00 00 05 00 01 00 04 00 00 00 06", Notice{Has: HasIncomplete, Incomplete: 6}, nil},
		{"cut in a number", "63 74 62 78 00 01 00 04 00 00 00 05 00", Notice{}, ErrNotice},
		{"cut in a value", "63 74 62 78 00 01 00 04 00 00 05", Notice{}, ErrNotice},
		{"longer than the message", "63 74 62 78 00 07 ff ff 00 00 00 00", Notice{}, ErrNotice},
		{"incomplete of two bytes", "63 74 62 78 00 01 00 02 00 05 00 00", Notice{}, ErrNotice},
		{"bulk of four bytes", "63 74 62 78 00 09 00 04 00 00 00 05", Notice{}, ErrNotice},
		{"heard of two bytes", "63 74 62 78 00 0a 00 02 00 05 00 00", Notice{}, ErrNotice},
		{"probed of four bytes", "63 74 62 78 00 0b 00 04 00 00 00 05", Notice{}, ErrNotice},
		{"probe of two bytes", "63 74 62 78 00 0c 00 02 00 05 00 00", Notice{}, ErrNotice},
		{"probe without padding", "63 74 62 78 00 0c 00 04 00 00 00 05", Notice{Has: HasProbe, Probe: 5, Size: 20}, nil},
		{"offer of seven bytes", "63 74 62 78 00 0d 00 07 00 00 00 01 01 02 01", Notice{}, ErrNotice},
		{"offer of node 0", "63 74 62 78 00 0d 00 08 00 00 00 01 00 02 01 00", Notice{}, ErrNotice},
		{"offer of 17 keys", "63 74 62 78 00 0d 00 3b 00 00 00 01 01 02 01 01 01 00 00 02 00 00 03 00 00 04 00 00 05 00 00 06 00 00 07 00 00 08 00 00 09 00 00 0a 00 00 0b 00 00 0c 00 00 0d 00 00 0e 00 00 0f 00 00 10 00 00 11 00 00 00", Notice{}, ErrNotice},
		{"offer with a key twice", "63 74 62 78 00 0d 00 0e 00 00 00 01 01 02 01 03 03 00 00 03 00 00 00 00", Notice{}, ErrNotice},
		{"offer with key 0", "63 74 62 78 00 0d 00 0b 00 00 00 01 01 02 01 00 00 00 00 00", Notice{}, ErrNotice},
		{"offer with a key cut off", "63 74 62 78 00 0d 00 0a 00 00 00 01 01 02 01 03 03 00 00 00", Notice{}, ErrNotice},
		{"offer that sends with a key it cannot open", "63 74 62 78 00 0d 00 0b 00 00 00 01 01 02 01 04 03 00 00 00", Notice{}, ErrNotice},
		{"offer with keys that sends with none", "63 74 62 78 00 0d 00 0b 00 00 00 01 01 02 01 00 03 00 00 00", Notice{}, ErrNotice},
		{"offer with unknown flags", "63 74 62 78 00 0d 00 08 00 00 00 01 01 09 fe 00",
			Notice{Has: HasOffer, Offer: Offer{Cluster: 1, Node: 1, Version: 9}}, nil},
		{"offer of 16 keys", "63 74 62 78 00 0d 00 38 00 00 00 01 01 02 01 01 01 00 00 02 00 00 03 00 00 04 00 00 05 00 00 06 00 00 07 00 00 08 00 00 09 00 00 0a 00 00 0b 00 00 0c 00 00 0d 00 00 0e 00 00 0f 00 00 10 00 00",
			Notice{Has: HasOffer, Offer: Offer{Cluster: 1, Node: 1, Version: 2, Plain: true, Send: 1, Keys: [MaxOfferKeys]OfferKey{{1, 0}, {2, 0},
				{3, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {8, 0}, {9, 0}, {10, 0}, {11, 0}, {12, 0}, {13, 0}, {14, 0}, {15, 0}, {16, 0}}}}, nil},
		{"held of four bytes", "63 74 62 78 00 02 00 04 00 00 00 05", Notice{}, ErrNotice},
	} {
		n := Notice{Has: HasHeld, HeldFlows: 9}
		if err := ParseNotice(unhex(t, c.hex), &n); err != c.err || n != c.want {
			t.Errorf("%s: %v, %+v", c.name, err, n)
		}
	}
}

// An ALIVE has no body if there is nothing to announce, or if it has flags that older receivers
// check.
func TestPlainAliveHasNoBody(t *testing.T) {
	for _, c := range []struct {
		flags  Flags
		notice Notice
	}{
		{Alive, Notice{}},
		{Alive | Hello, Notice{Has: HasIncomplete, Incomplete: 1}},
		{Alive | HelloBack, Notice{Has: HasIncomplete, Incomplete: 1}},
		{Alive | BulkBegin, Notice{Has: HasIncomplete, Incomplete: 1}},
		{Alive | BulkEnd, Notice{Has: HasHeld, HeldFlows: 1}},
		{Ack, Notice{Has: HasIncomplete, Incomplete: 1}},
	} {
		h := Header{Type: Control, Flags: c.flags, Seq: 7, From: 3, To: 4}
		if got, want := AppendNotice(nil, h, &c.notice), AppendControl(nil, h); !bytes.Equal(got, want) {
			t.Errorf("flags %#x: % x, want % x", c.flags, got, want)
		}
	}
}

func TestNoticeAllocations(t *testing.T) {
	n := notices[len(notices)-1].notice
	var buf []byte
	var c Counters
	if allocs := testing.AllocsPerRun(10, func() {
		buf = AppendNotice(buf[:0], Header{Type: Control, Flags: Alive}, &n)
		r := ReadDatagram(buf)
		m, _ := r.Next(&c)
		if err := ParseNotice(m.Body, &n); err != nil {
			t.Fatal(err)
		}
		if ParseNotice(m.Body[:5], &Notice{}) == nil {
			t.Fatal("a notice that is cut was taken")
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// FuzzNotice checks that a notice that parses can be encoded again and parses to the same.
func FuzzNotice(f *testing.F) {
	for _, n := range notices {
		f.Add(unhex(f, n.hex)[HeaderLen:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var n, again Notice
		if len(body) > MaxMessage-HeaderLen {
			return
		}
		if ParseNotice(body, &n) != nil {
			if n != (Notice{}) {
				t.Fatalf("refused, and yet %+v", n)
			}
			return
		}
		h := Header{Type: Control, Flags: Alive}
		b := AppendNotice(nil, h, &n)
		if err := ParseNotice(b[HeaderLen:], &again); err != nil || again != n || len(b)%4 != 0 && n.Has&HasProbe == 0 {
			t.Fatalf("%v: %+v became %+v in % x", err, n, again, b)
		}
	})
}

// A probe has the size that it is asked for, within what the length field can say.
func TestProbeSize(t *testing.T) {
	for size, want := range map[uint32]int{0: 20, 20: 20, 21: 21, 1472: 1472, 8972: 8972, 65535: 65535, 1 << 20: 65535} {
		n := Notice{Has: HasProbe, Probe: 9, Size: size}
		b := AppendNotice(make([]byte, 3), Header{Type: Control, Flags: Alive}, &n)[3:]
		r := ReadDatagram(b)
		var c Counters
		m, ok := r.Next(&c)
		var got Notice
		if err := ParseNotice(m.Body, &got); !ok || err != nil || len(b) != want || got.Probe != 9 || int(got.Size) != want {
			t.Errorf("%d: %d bytes, %+v, %v", size, len(b), got, err)
		}
	}
}

func TestClusterHash(t *testing.T) {
	for name, want := range map[string]uint32{"": 0x811c9dc5, "a": 0xe40c292c, "foobar": 0xbf9cf968, "edge": 0x56f6d83c} { // the first three are FNV's own vectors
		if got := ClusterHash(name); got != want {
			t.Errorf("%q: %#x, want %#x", name, got, want)
		}
	}
}

func TestKeysOfAnOffer(t *testing.T) {
	o := Offer{Send: 7, Keys: [MaxOfferKeys]OfferKey{{3, 5}, {7, 6}}}
	for number, want := range map[uint8]OfferKey{0: {}, 3: {3, 5}, 7: {7, 6}, 4: {}} {
		if got := o.Key(number); got != want {
			t.Errorf("key %d: %v", number, got)
		}
	}
}
