package format

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

func TestFlowJSON(t *testing.T) {
	names := make([]string, 128)
	names[1], names[40] = "one", "forty"
	nat := flow(ports(tuple(6, "2001:db8::1", "2001:db8::2"), 1, 2), func(f *ctnetlink.Flow) {
		f.Has |= ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply | ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply |
			ctnetlink.HasSeqAdjOrig | ctnetlink.HasSynproxy | ctnetlink.HasHelperInfo
		f.TCPWScaleOrig, f.TCPWScaleRepl = 7, 8
		f.TCPFlagsOrig, f.TCPFlagsReply = ctnetlink.TCPFlags{Value: 35}, ctnetlink.TCPFlags{Value: 10, Mask: 11}
		f.SeqAdjOrig = ctnetlink.SeqAdj{CorrectionPos: 5, OffsetBefore: ^uint32(0), OffsetAfter: 3}
		f.Synproxy = ctnetlink.Synproxy{ISN: 1, ITS: 2, TSOff: 3}
		f.HelperInfo = []byte{0, 0xfe}
		f.Master = ports(tuple(17, "2001:db8::1", "2001:db8::9"), 5060, 5060)
		f.TCPState = 77
		f.Has |= ctnetlink.HasTCPState
	})
	tests := []struct {
		name  string
		f     *ctnetlink.Flow
		style Style
		event *Event
		want  string
	}{
		{"listed", ftpControl(), Style{}, nil,
			`{"family":"ipv4","proto":6,"proto_name":"tcp","original":{"src":"192.0.2.1","dst":"192.0.2.2","sport":34746,"dport":21,"packets":5,"bytes":290},"reply":{"src":"192.0.2.2","dst":"192.0.2.1","sport":21,"dport":34746,"packets":4,"bytes":232},"timeout":431999,"state":"ESTABLISHED","status":["SEEN_REPLY","ASSURED","CONFIRMED"],"mark":0,"use":1,"id":2072818273,"start":1795395626.589432123,"delta_time":1,"helper":"ftp"}`},
		{"event", flow(icmp(tuple(1, "192.0.2.1", "192.0.2.2"), 8, 0, 5), status(0x11008), replyZone(3), zone(4), secmark(1), secctx("a\"\\\x01é\xff")), Style{}, &Event{Type: Destroy, Time: now, PortID: 5, Progname: "x\"y"},
			`{"event":"destroy","time":1795395627.589432123,"portid":5,"progname":"x\"y","family":"ipv4","proto":1,"proto_name":"icmp","original":{"src":"192.0.2.1","dst":"192.0.2.2","icmp_type":8,"icmp_code":0,"icmp_id":5},"reply":{"src":"192.0.2.2","dst":"192.0.2.1","icmp_type":0,"icmp_code":0,"icmp_id":5,"zone":3},"status":["CONFIRMED","0x1000","0x10000"],"secmark":1,"secctx":"a\"\\\u0001é` + "\ufffd" + `","zone":4}`},
		{"labels, other protocol", flow(tuple(200, "192.0.2.1", "192.0.2.2"), labels(1, 3, 40), status(0), stopped(second)), Style{Labels: names}, nil,
			`{"family":"ipv4","proto":200,"original":{"src":"192.0.2.1","dst":"192.0.2.2"},"reply":{"src":"192.0.2.2","dst":"192.0.2.1"},"status":[],"labels":[1,3,40],"label_names":["one","forty"],"stop":1795395626.589432123}`},
		{"the rest", nat, Style{}, nil,
			`{"family":"ipv6","proto":6,"proto_name":"tcp","original":{"src":"2001:db8::1","dst":"2001:db8::2","sport":1,"dport":2},"reply":{"src":"2001:db8::2","dst":"2001:db8::1","sport":2,"dport":1},"master":{"proto":17,"src":"2001:db8::1","dst":"2001:db8::9","sport":5060,"dport":5060},"state":"77","helper_info":"00fe","tcp":{"window_scale_original":7,"window_scale_reply":8,"flags_original":35,"flags_reply":10,"flags_mask_reply":11},"seq_adjust":{"original":{"position":5,"offset_before":-1,"offset_after":3}},"synproxy":{"isn":1,"its":2,"tsoff":3}}`},
	}
	for _, tt := range tests {
		tt.style.Format, tt.style.Now = JSON, now
		check(t, tt.name, string(AppendFlow(nil, tt.f, &tt.style, tt.event)), tt.want)
	}
}

func TestOtherJSON(t *testing.T) {
	x := ftpData()
	x.Flags, x.ID, x.Zone = 5, 3, 4
	x.NATTuple, x.NATDir = ports(tuple(6, "198.51.100.1", "0.0.0.0"), 7, 0), 1
	x.SetFn("nat-follow-master")
	x.Has |= ctnetlink.ExpectHasFlags | ctnetlink.ExpectHasID | ctnetlink.ExpectHasZone | ctnetlink.ExpectHasNAT | ctnetlink.ExpectHasFn
	check(t, "expectation", string(AppendExpect(nil, x, &Style{Format: JSON}, &Event{Type: New, Time: 1e9})),
		`{"event":"new","time":1.000000000,"family":"ipv4","proto":6,"proto_name":"tcp","expected":{"src":"192.0.2.2","dst":"192.0.2.1","sport":0,"dport":5142},"mask":{"src":"255.255.255.255","dst":"255.255.255.255","sport":0,"dport":65535},"master":{"src":"192.0.2.1","dst":"192.0.2.2","sport":41840,"dport":21},"timeout":298,"zone":4,"flags":["PERMANENT","USERSPACE"],"class":0,"helper":"ftp","id":3,"nat":{"direction":"reply","src":"198.51.100.1","dst":"0.0.0.0","sport":7,"dport":0},"function":"nat-follow-master"}`)
	x = ftpData()
	x.Has, x.NATTuple = ctnetlink.ExpectHasNAT, ports(tuple(6, "198.51.100.1", "0.0.0.0"), 7, 0)
	got := string(AppendExpect(nil, x, &Style{Format: JSON}, nil))
	check(t, "expectation translated in the original direction", got[strings.Index(got, `,"nat"`):],
		`,"nat":{"direction":"original","src":"198.51.100.1","dst":"0.0.0.0","sport":7,"dport":0}}`)
	check(t, "bare expectation", string(AppendExpect(nil, &ctnetlink.Expect{}, &Style{Format: JSON}, nil)), `{}`)
	check(t, "count", string(AppendCountJSON(nil, "conntrack", 7)), `{"table":"conntrack","count":7}`)
	check(t, "count of a zone", string(AppendZoneCountJSON(nil, "expect", 0, 7)), `{"table":"expect","zone":0,"count":7}`)
	check(t, "count of a namespace", string(AppendNetNSCountJSON(nil, "conntrack", "a\"b", 7)), `{"table":"conntrack","netns":"a\"b","count":7}`)
	check(t, "count of the own namespace", string(AppendNetNSCountJSON(nil, "conntrack", "", 7)), `{"table":"conntrack","count":7}`)
	check(t, "lost in a namespace", string(AppendLostJSON(nil, 12, &Event{NetNS: "blue"})), `{"event":"lost","messages":12,"netns":"blue"}`)
	check(t, "lost", string(AppendLostJSON(nil, 12, &Event{Time: 1e9 + 1})), `{"event":"lost","time":1.000000001,"messages":12}`)
	check(t, "lost at an unknown time", string(AppendLostJSON(nil, 12, &Event{})), `{"event":"lost","messages":12}`)
	check(t, "statistics", string(AppendStatsJSON(nil, 3, []Counter{{"found", 1}, {"error", 2}})), `{"cpu":3,"found":1,"error":2}`)
}

// randomFlow makes a flow such as the kernel could send: every attribute may be
// there or not.
func randomFlow(r *rand.Rand) *ctnetlink.Flow {
	protos := [...]uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoUDPLite, ctnetlink.ProtoSCTP, ctnetlink.ProtoDCCP, ctnetlink.ProtoGRE, ctnetlink.ProtoICMP, ctnetlink.ProtoICMPv6, 0, 89, 255}
	f := &ctnetlink.Flow{}
	proto := protos[r.IntN(len(protos))]
	family := uint8(nl.FamilyIPv4)
	if r.IntN(2) == 0 {
		family = nl.FamilyIPv6
	}
	maybe := func() bool { return r.IntN(3) > 0 }
	randomTuple := func(proto uint8) (t ctnetlink.Tuple) {
		addr := func(a *ctnetlink.Addr, bit ctnetlink.TupleAttr) {
			if r.IntN(20) == 0 {
				return
			}
			n := 4
			if family == nl.FamilyIPv6 {
				n = 16
			}
			for i := range n {
				if r.IntN(2) == 0 {
					a[i] = byte(r.Uint32())
				}
			}
			t.Family = family
			t.Has |= bit
		}
		addr(&t.Src, ctnetlink.TupleSrc)
		addr(&t.Dst, ctnetlink.TupleDst)
		if r.IntN(20) > 0 {
			t.Proto = proto
			t.Has |= ctnetlink.TupleProto
		}
		u16 := func(v *uint16, bit ctnetlink.TupleAttr) {
			if maybe() {
				*v = uint16(r.Uint32())
				t.Has |= bit
			}
		}
		if ctnetlink.IsICMP(proto) {
			u16(&t.ICMPID, ctnetlink.TupleICMPID)
			t.ICMPType, t.ICMPCode = uint8(r.Uint32()), uint8(r.Uint32())
			t.Has |= ctnetlink.TupleICMPType | ctnetlink.TupleICMPCode
		} else {
			u16(&t.SrcPort, ctnetlink.TupleSrcPort)
			u16(&t.DstPort, ctnetlink.TupleDstPort)
		}
		u16(&t.Zone, ctnetlink.TupleZone)
		return t
	}
	f.Orig = randomTuple(proto)
	if r.IntN(10) > 0 {
		f.Reply = randomTuple(proto)
	}
	if f.Orig.Has|f.Reply.Has == 0 {
		f.Orig = tuple(proto, "192.0.2.1", "192.0.2.2")
		f.Reply = ctnetlink.Tuple{}
	}
	if r.IntN(3) == 0 {
		f.Master = randomTuple(protos[r.IntN(len(protos))])
	}
	u32 := func(bit ctnetlink.Attr, fields ...*uint32) {
		if maybe() {
			for _, v := range fields {
				*v = r.Uint32() >> r.IntN(32)
			}
			f.Has |= bit
		}
	}
	u64 := func(bit ctnetlink.Attr, fields ...*uint64) {
		if maybe() {
			for _, v := range fields {
				*v = r.Uint64() >> (1 + r.IntN(62))
			}
			f.Has |= bit
		}
	}
	u8 := func(bit ctnetlink.Attr, limit int, fields ...*uint8) {
		if maybe() {
			for _, v := range fields {
				*v = uint8(r.IntN(limit))
			}
			f.Has |= bit
		}
	}
	u32(ctnetlink.HasStatus, &f.Status)
	u32(ctnetlink.HasTimeout, &f.Timeout)
	u32(ctnetlink.HasMark, &f.Mark)
	u32(ctnetlink.HasUse, &f.Use)
	u32(ctnetlink.HasID, &f.ID)
	u32(ctnetlink.HasSecmark, &f.Secmark)
	u32(ctnetlink.HasSynproxy, &f.Synproxy.ISN, &f.Synproxy.ITS, &f.Synproxy.TSOff)
	if f.Synproxy == (ctnetlink.Synproxy{}) {
		f.Has &^= ctnetlink.HasSynproxy
	}
	u32(ctnetlink.HasSeqAdjOrig, &f.SeqAdjOrig.CorrectionPos, &f.SeqAdjOrig.OffsetBefore, &f.SeqAdjOrig.OffsetAfter)
	u32(ctnetlink.HasSeqAdjReply, &f.SeqAdjReply.CorrectionPos, &f.SeqAdjReply.OffsetBefore, &f.SeqAdjReply.OffsetAfter)
	u64(ctnetlink.HasCountersOrig, &f.CountersOrig.Packets, &f.CountersOrig.Bytes)
	u64(ctnetlink.HasCountersReply, &f.CountersReply.Packets, &f.CountersReply.Bytes)
	u64(ctnetlink.HasTimestampStart, &f.TimestampStart)
	u64(ctnetlink.HasTimestampStop, &f.TimestampStop)
	if maybe() {
		f.Zone = uint16(r.Uint32())
		f.Has |= ctnetlink.HasZone
	}
	switch p, _ := f.Proto(); p {
	case ctnetlink.ProtoTCP:
		u8(ctnetlink.HasTCPState, 256, &f.TCPState)
		u8(ctnetlink.HasTCPWScaleOrig, ctnetlink.MaxWindowScale+1, &f.TCPWScaleOrig)
		u8(ctnetlink.HasTCPWScaleReply, ctnetlink.MaxWindowScale+1, &f.TCPWScaleRepl)
		u8(ctnetlink.HasTCPFlagsOrig, 256, &f.TCPFlagsOrig.Value, &f.TCPFlagsOrig.Mask)
		u8(ctnetlink.HasTCPFlagsReply, 256, &f.TCPFlagsReply.Value, &f.TCPFlagsReply.Mask)
	case ctnetlink.ProtoSCTP:
		u8(ctnetlink.HasSCTPState, 20, &f.SCTPState)
		u32(ctnetlink.HasSCTPVtagOrig, &f.SCTPVtagOrig)
		u32(ctnetlink.HasSCTPVtagReply, &f.SCTPVtagReply)
	case ctnetlink.ProtoDCCP:
		u8(ctnetlink.HasDCCPState, 20, &f.DCCPState)
		u8(ctnetlink.HasDCCPRole, 2, &f.DCCPRole)
		u64(ctnetlink.HasDCCPHandshakeSeq, &f.DCCPHandshakeSeq)
	}
	if maybe() {
		for range r.IntN(5) {
			f.Labels.SetBit(r.IntN(ctnetlink.MaxLabels))
		}
		f.LabelsLen = ctnetlink.LabelWords
		f.Has |= ctnetlink.HasLabels
	}
	if maybe() {
		f.Helper.Set(randomText(r, 4))
		f.Has |= ctnetlink.HasHelper
	}
	if maybe() {
		f.HelperInfo = []byte(randomText(r, 30))
		f.Has |= ctnetlink.HasHelperInfo
	}
	if maybe() {
		f.Secctx = []byte(randomText(r, 30))
		f.Has |= ctnetlink.HasSecctx
	}
	return f
}

func randomText(r *rand.Rand, runes int) string {
	var b strings.Builder
	for range 1 + r.IntN(runes) {
		c := rune(1 + r.IntN(126))
		switch r.IntN(8) {
		case 0:
			c = 'é'
		case 1:
			c = rune(0x10000 + r.IntN(0x1000))
		}
		if b.Len()+utf8.RuneLen(c) < ctnetlink.NameLen {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// TestJSONRoundTrip writes random flows and reads them back, once directly and
// once through encoding/json, which moves members, spaces and escapes.
func TestJSONRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var reader FlowReader
	for range 3000 {
		f := randomFlow(r)
		e := Event{Type: EventType(r.IntN(4)), Time: r.Int64(), PortID: r.Uint32() & 1}
		line := AppendFlow(nil, f, &Style{Format: JSON, Now: now}, &e)

		var generic map[string]any
		d := json.NewDecoder(strings.NewReader(string(line)))
		d.UseNumber()
		if err := d.Decode(&generic); err != nil {
			t.Fatalf("encoding/json: %v\n%s", err, line)
		}
		indented, err := json.MarshalIndent(generic, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{line, indented, append(line, "\r\n"...)} {
			var got ctnetlink.Flow
			var gotEvent Event
			if err := reader.Flow(text, &got, &gotEvent); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if gotEvent != e {
				t.Fatalf("event %+v became %+v\n%s", e, gotEvent, text)
			}
			if !reflect.DeepEqual(&got, f) {
				t.Fatalf("flow changed:\n got %+v\nwant %+v\n%s", &got, f, text)
			}
		}
	}
}

// TestJSONForms are lines as people and programs write them by hand.
func TestJSONForms(t *testing.T) {
	tests := []struct {
		line string
		want *ctnetlink.Flow
	}{
		{` { "proto_name" : "udp", "original": {"src":"192.0.2.1","dst":"192.0.2.2","sport":1,"dport":2}, "extra": [1, -2.5e+3, {"a": null, "b": [true,false,"\u00e9"]}, {}, []] } `,
			&ctnetlink.Flow{Orig: ports(tuple(17, "192.0.2.1", "192.0.2.2"), 1, 2)}},
		{`{"proto":17,"proto_name":"tcp","reply":{"src":"2001:db8::1"}}`,
			&ctnetlink.Flow{Reply: ctnetlink.Tuple{Family: 10, Proto: 17, Has: ctnetlink.TupleSrc | ctnetlink.TupleProto, Src: ctnetlink.Addr{0x20, 0x01, 0x0d, 0xb8, 15: 1}}}},
		{`{"original":{"proto":null,"zone":3},"proto":17}`,
			&ctnetlink.Flow{Orig: ctnetlink.Tuple{Zone: 3, Has: ctnetlink.TupleZone}}},
		{`{"state":"LISTEN","original":{"src":"192.0.2.\u0031","packets":3},"proto":6,"\u0073tart":1.5,"stop":2}`,
			&ctnetlink.Flow{Has: ctnetlink.HasTCPState | ctnetlink.HasCountersOrig | ctnetlink.HasTimestampStart | ctnetlink.HasTimestampStop, TCPState: 9,
				CountersOrig: ctnetlink.Counters{Packets: 3}, TimestampStart: 15e8, TimestampStop: 2e9,
				Orig: ctnetlink.Tuple{Family: 2, Proto: 6, Has: ctnetlink.TupleSrc | ctnetlink.TupleProto, Src: ctnetlink.Addr{192, 0, 2, 1}}}},
		{`{"original":{"sport":1},"seq_adjust":{"proto_name":"udp","reply":{"position":5}}}`, // a name that means nothing there
			&ctnetlink.Flow{Orig: ctnetlink.Tuple{SrcPort: 1, Has: ctnetlink.TupleSrcPort}, Has: ctnetlink.HasSeqAdjReply, SeqAdjReply: ctnetlink.SeqAdj{CorrectionPos: 5}}},
		{`{"original":{"sport":1},"seq_adjust":{"original":{"offset_before": -5, "offset_after" : 7 }}}`, // as jq writes it
			&ctnetlink.Flow{Orig: ctnetlink.Tuple{SrcPort: 1, Has: ctnetlink.TupleSrcPort}, Has: ctnetlink.HasSeqAdjOrig, SeqAdjOrig: ctnetlink.SeqAdj{OffsetBefore: ^uint32(4), OffsetAfter: 7}}},
		{`{"original":{"sport":1},"status":["ASSURED","0x9ac00000","0x3FB0000"]}`,
			&ctnetlink.Flow{Orig: ctnetlink.Tuple{SrcPort: 1, Has: ctnetlink.TupleSrcPort}, Has: ctnetlink.HasStatus, Status: 0x9bfb0004}},
	}
	for _, tt := range tests {
		var r FlowReader
		var got ctnetlink.Flow
		var e Event
		if err := r.Flow([]byte(tt.line), &got, &e); err != nil {
			t.Errorf("%s: %v", tt.line, err)
		} else if !reflect.DeepEqual(&got, tt.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.line, &got, tt.want)
		}
	}
}

func TestJSONErrors(t *testing.T) {
	tests := []struct{ line, want string }{
		{``, "column 1: expected an object"},
		{`[]`, "column 1: expected an object"},
		{`{`, "column 2: expected a string"},
		{`{"mark"`, "column 8: expected : after a name"},
		{`{"mark":`, "column 9: expected a whole number that is not negative"},
		{`{"mark":1`, "column 10: expected , or } in an object"},
		{`{"mark":"1"}`, "column 9: expected a whole number that is not negative"},
		{`{"mark":-1}`, "column 9: expected a whole number that is not negative"},
		{`{"mark":01}`, "column 9: expected a whole number that is not negative"},
		{`{"mark":1.0}`, "column 9: expected a whole number"},
		{`{"mark":1e3}`, "column 9: expected a whole number"},
		{`{"mark":4294967296}`, "column 9: number too large"},
		{`{"mark":99999999999999999999999}`, "column 9: number too large"},
		{`{"mark":1,"mark":1}`, "column 11: member mark twice"},
		{`{"zone":65536}`, "column 9: number too large"},
		{`{"time":-1}`, "column 9: expected seconds since the epoch"},
		{`{"time":1.}`, "column 9: expected one to nine decimals"},
		{`{"time":1.0123456789}`, "column 9: expected one to nine decimals"},
		{`{"time":1e3}`, "column 9: expected seconds without an exponent"},
		{`{"time":99999999999}`, "column 9: time too late"},
		{`{"event":"lost","messages":3}`, "column 10: events were lost here"},
		{`{"event":"born"}`, "column 10: unknown event"},
		{`{"family":"ipx"}`, "column 11: unknown family"},
		{`{"original":{"src":"192.0.2"}}`, "column 20: not an IP address"},
		{`{"original":{"src":""}}`, "column 20: not an IP address"},
		{`{"original":{"src":"fe80::1%lo"}}`, "column 20: not an IP address"},
		{`{"original":{"src":"192.0.2.1","dst":"::1"}}`, "column 38: src and dst differ in their family"},
		{`{"family":"ipv6","original":{"src":"192.0.2.1"}}`, "column 1: addresses are not of the family"},
		{`{"reply":{"src":"::1"},"original":{"src":"192.0.2.1"}}`, "column 1: original and reply differ in their family"},
		{`{"mark":1}`, "column 1: no flow: original and reply are missing"},
		{`{"original":{"sport":1},"state":"ESTABLISHED"}`, "column 33: state of a protocol without states"},
		{`{"proto":6,"original":{"sport":1},"state":"established"}`, "column 43: unknown state"},
		{`{"state":""}`, "column 10: unknown state"},
		{`{"status":["ASSURED","X"]}`, "column 22: unknown status"},
		{`{"status":["0x"]}`, "column 12: unknown status"},
		{`{"status":["0x1g"]}`, "column 12: unknown status"},
		{`{"status":["0x123456789"]}`, "column 12: unknown status"},
		{`{"status":["ASSURED" "X"]}`, "column 22: expected , or ] in an array"},
		{`{"status":"ASSURED"}`, "column 11: expected an array"},
		{`{"labels":[128]}`, "column 12: number too large"},
		{`{"helper":"sixteen-bytes-xx"}`, "column 11: helper name longer than 15 bytes or with a NUL"},
		{`{"helper_info":"abc"}`, "column 16: expected an even number of hexadecimal digits"},
		{`{"tcp":{"window_scale_reply":15}}`, "column 30: number too large"},
		{`{"seq_adjust":{"reply":{"offset_after":2147483648}}}`, "column 40: number too large"},
		{`{"seq_adjust":{"reply":{"offset_after":--1}}}`, "column 40: expected a whole number"},
		{`{"secctx":"a` + "\n" + `"}`, "column 13: control character in a string"},
		{`{"secctx":"a\x"}`, "column 13: unknown escape in a string"},
		{`{"secctx":"a\u12g4"}`, "column 13: expected four hexadecimal digits after \\u"},
		{`{"secctx":"\ud800\u0041"}`, "column 12: half of a surrogate pair"},
		{`{"secctx":"\ud800"}`, "column 12: half of a surrogate pair"},
		{`{"secctx":"` + "\xff" + `"}`, "column 12: string is not UTF-8"},
		{`{"secctx":"a`, "column 13: string without end"},
		{`{"secctx":"a\`, "column 14: string without end"},
		{`{"x":nul}`, "column 6: not a JSON value"},
		{`{"x":-}`, "column 6: not a JSON value"},
		{`{"x":1.}`, "column 6: not a JSON value"},
		{`{"x":{"a":}}`, "column 11: not a JSON value"},
		{`{"x":` + strings.Repeat("[", 200), "column 107: nested too deeply"},
		{`{"original":{"sport":1}} x`, "column 26: text after the object"},
	}
	for _, tt := range tests {
		var r FlowReader
		var f ctnetlink.Flow
		var e Event
		err := r.Flow([]byte(tt.line), &f, &e)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%s: no error", tt.line)
		} else if err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.line, err, tt.want)
		}
	}
}

// FuzzFlowReader holds that what is accepted is JSON, and that writing it makes
// a line that reads as the same flow.
func FuzzFlowReader(f *testing.F) {
	f.Add(AppendFlow(nil, ftpControl(), &Style{Format: JSON, Now: now}, &Event{Type: Update, Time: now, PortID: 3}))
	r := rand.New(rand.NewPCG(3, 4))
	for range 5 {
		f.Add(AppendFlow(nil, randomFlow(r), &Style{Format: JSON, Now: now}, nil))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var reader FlowReader
		var flow, again ctnetlink.Flow
		var e, eAgain Event
		if reader.Flow(line, &flow, &e) != nil {
			return
		}
		if !json.Valid(line) {
			t.Fatalf("accepted what is no JSON")
		}
		text := AppendFlow(nil, &flow, &Style{Format: JSON}, &e)
		if err := reader.Flow(text, &again, &eAgain); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if second := AppendFlow(nil, &again, &Style{Format: JSON}, &eAgain); string(second) != string(text) {
			t.Fatalf("became\n%s\nand then\n%s", text, second)
		}
	})
}

// derived are the members that are written for readers and skipped when a flow is read
// back, because they follow from others.
var derived = []string{"progname", "delta_time", "label_names"}

// Every member of a flow is in docs/json.md, and what is written can be read back.
func TestMembersAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	readable := make(map[string]bool)
	for _, ms := range []members{flowMembers, tupleMembers, tcpMembers, sctpMembers, dccpMembers, seqAdjustMembers, seqAdjMembers, synproxyMembers} {
		for _, m := range ms {
			readable[m.name] = true
		}
	}
	written := make(map[string]bool)
	var collect func(object map[string]any)
	collect = func(object map[string]any) {
		for name, value := range object {
			written[name] = true
			if inner, ok := value.(map[string]any); ok {
				collect(inner)
			}
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		var object map[string]any
		event := Event{Type: EventType(r.IntN(4)), Time: r.Int64(), PortID: r.Uint32() & 1, Progname: "x"}
		if err := json.Unmarshal(AppendFlow(nil, randomFlow(r), &Style{Format: JSON, Now: now, Labels: []string{"a"}}, &event), &object); err != nil {
			t.Fatal(err)
		}
		collect(object)
	}
	for name := range written {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/json.md lacks the member %s", name)
		}
		if readable[name] == slices.Contains(derived, name) {
			t.Errorf("%s: readable %v", name, readable[name])
		}
	}
	for name := range readable {
		if !written[name] && name != "master" {
			t.Errorf("no flow has the member %s", name)
		}
	}
}

// FuzzPredicate reads predicates: an error is at a column of the line, and the same line
// gives the same predicate whatever the reader has read before.
func FuzzPredicate(f *testing.F) {
	for _, line := range []string{
		`{"family":"ipv4","proto_name":"tcp","original":{"dst":"192.0.2.0/24","dport":"80-90"},"mark":"0x10/0xf0","status":["ASSURED","!SEEN_REPLY"],"delta_time":"3600-"}`,
		`{"any":{"addr":"2001:db8::1","port":53},"dst_nat":"[2001:db8::2]:1-2","src_nat":true,"labels":[1,127]}`,
		`{"proto":132,"state":"CLOSED","sctp":{"vtag_original":1}}`, `{"proto":33,"dccp":{"role":1},"reply":{"packets":"-5"}}`,
		`{"original":{"icmp_id":5},"proto":1}`, `{"mark":"1/"}`, `{}`, `{"zone":1}}`,
	} {
		f.Add(line)
	}
	var used PredicateReader
	f.Fuzz(func(t *testing.T, line string) {
		var fresh PredicateReader
		one, err := fresh.Read([]byte(line))
		two, again := used.Read([]byte(line))
		if one != two || (err == nil) != (again == nil) {
			t.Fatalf("%s: %+v, %v; then %+v, %v", line, one, err, two, again)
		}
		var bad *SyntaxError
		if err != nil && (!errors.As(err, &bad) || bad.Column < 1 || bad.Column > len(line)+1) {
			t.Fatalf("%s: %v", line, err)
		}
	})
}
