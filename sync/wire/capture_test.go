package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/nl/ctnetlink"
)

// capturedMessage is one message that Debian's conntrackd sent.
type capturedMessage struct {
	step string // the test step that caused it
	raw  []byte
}

// captureFile has messages that TestDebianDaemons captured, one per line, after "# " and the
// step that caused them.
var captureFile = filepath.Join("testdata", "conntrackd-1.4.7.hex")

func capturedMessages(t testing.TB) []capturedMessage {
	t.Helper()
	text, err := os.ReadFile(captureFile)
	if err != nil {
		t.Fatal(err)
	}
	var out []capturedMessage
	step := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if s, ok := strings.CutPrefix(line, "# "); ok {
			step = s
			continue
		}
		raw, err := hex.DecodeString(line)
		if err != nil {
			t.Fatalf("%s: %v", captureFile, err)
		}
		out = append(out, capturedMessage{step, raw})
	}
	return out
}

// checkRoundTrip parses a message of a C daemon and encodes it again. The bytes must be equal,
// except for the zero ports that the C daemon sends with translated ICMP flows.
func checkRoundTrip(t *testing.T, m capturedMessage) Header {
	t.Helper()
	var c Counters
	r := ReadDatagram(m.raw)
	msg, ok := r.Next(&c)
	if !ok || len(r.rest) != 0 {
		t.Errorf("%s: %x is not one message: %+v", m.step, m.raw, c)
		return msg.Header
	}
	var got []byte
	var err error
	enc := Encoder{WindowTracking: true}
	switch {
	case msg.Type.IsFlow():
		var f ctnetlink.Flow
		if err = ParseFlow(msg.Body, &f); err == nil {
			got, err = enc.AppendFlow(nil, msg.Header, &f)
		}
	case msg.Type.IsExpect():
		var x ctnetlink.Expect
		if err = ParseExpect(msg.Body, &x); err == nil {
			got, err = enc.AppendExpect(nil, msg.Header, &x)
		}
	default:
		got = AppendControl(nil, msg.Header)
	}
	if want := withoutZeroPorts(m.raw); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %v\n got %x\nwant %x", m.step, err, got, want)
	}
	return msg.Header
}

// withoutZeroPorts returns msg without translated ports of 0.
func withoutZeroPorts(msg []byte) []byte {
	if !Type(msg[0] & 0xf).IsFlow() {
		return msg
	}
	out := bytes.Clone(msg[:HeaderLen])
	for at := HeaderLen; at < len(msg); {
		n := int(binary.BigEndian.Uint16(msg[at:]))
		num := binary.BigEndian.Uint16(msg[at+2:])
		if port := num == flowSNATPort || num == flowDNATPort; !port || binary.BigEndian.Uint16(msg[at+4:]) != 0 {
			out = append(out, msg[at:at+align4(n)]...)
		}
		at += align4(n)
	}
	setLength(out, 0)
	return out
}

func TestCapturedMessagesRoundTrip(t *testing.T) {
	seen := map[Type]int{}
	flags := Flags(0)
	for _, m := range capturedMessages(t) {
		h := checkRoundTrip(t, m)
		seen[h.Type]++
		flags |= h.Flags
	}
	for _, typ := range []Type{FlowNew, FlowUpdate, FlowDelete, ExpectNew, ExpectUpdate, ExpectDelete, Control} {
		if seen[typ] == 0 {
			t.Errorf("no message of type %d in %s", typ, captureFile)
		}
	}
	if all := Resync | Nack | Ack | Alive | Hello | HelloBack; flags != all {
		t.Errorf("flags %#x in %s, want all of %#x", flags, captureFile, all)
	}
}
