package wire

import (
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"ctbox/nl/ctnetlink"
)

const description = "../../docs/sync-protocol.md"

func readDescription(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(description)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var attributeRow = regexp.MustCompile(`(?m)^\| (\d+) \| [A-Z0-9_]+ \| ((?:up to )?\d+) \|`)

// The attribute tables in docs/sync-protocol.md match the receiver's.
func TestDescriptionHasTheAttributes(t *testing.T) {
	text := readDescription(t)
	for _, tt := range []struct {
		heading string
		sizes   []attrSize
	}{{"\n### Attributes of flows\n", flowSizes[:]}, {"\n### Attributes of expectations\n", expectSizes[:]}} {
		_, section, found := strings.Cut(text, tt.heading)
		if !found {
			t.Fatalf("no section %q", tt.heading)
		}
		section, _, _ = strings.Cut(section, "\n##")
		rows := attributeRow.FindAllStringSubmatch(section, -1)
		if len(rows) != len(tt.sizes) {
			t.Errorf("%q: %d rows, %d attributes", tt.heading, len(rows), len(tt.sizes))
		}
		for i, row := range rows {
			if i >= len(tt.sizes) {
				break
			}
			size := fmt.Sprint(tt.sizes[i].size)
			if tt.sizes[i].atMost {
				size = "up to " + size
			}
			if row[1] != fmt.Sprint(i) || row[2] != size {
				t.Errorf("%q: row %q, want number %d and size %s", tt.heading, row[0], i, size)
			}
		}
	}
}

var exampleBytes = regexp.MustCompile(`^(?:[0-9a-f]{2} )*[0-9a-f]{2}(?:$|  )`)

// examples returns the bytes of the blocks of a language in docs/sync-protocol.md.
func examples(t *testing.T, language string) (all [][]byte) {
	t.Helper()
	blocks := strings.Split(readDescription(t), "```"+language+"\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("no examples")
	}
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		var example []byte
		for line := range strings.Lines(block) {
			digits := strings.ReplaceAll(exampleBytes.FindString(strings.TrimRight(line, "\n")), " ", "")
			b, err := hex.DecodeString(digits)
			if err != nil || len(b) == 0 {
				t.Errorf("no bytes in %q", line)
			}
			example = append(example, b...)
		}
		all = append(all, example)
	}
	return all
}

// Every example in docs/sync-protocol.md is one message, and this package writes the same data messages.
func TestDescriptionHasGoodExamples(t *testing.T) {
	for _, message := range examples(t, "message") {
		r := ReadDatagram(message)
		var c Counters
		m, ok := r.Next(&c)
		if _, more := r.Next(&c); !ok || more || c != (Counters{}) || m.Kind() == KindInvalid {
			t.Errorf("not one good message, %+v:\n% x", c, message)
			continue
		}
		var again []byte
		var err error
		switch {
		case m.Type.IsFlow():
			var f ctnetlink.Flow
			if err = ParseFlow(m.Body, &f); err == nil {
				again, err = Encoder{}.AppendFlow(nil, m.Header, &f)
			}
		case m.Type.IsExpect():
			var x ctnetlink.Expect
			if err = ParseExpect(m.Body, &x); err == nil {
				again, err = Encoder{}.AppendExpect(nil, m.Header, &x)
			}
		default:
			var n Notice
			if err = ParseNotice(m.Body, &n); err == nil {
				again = AppendNotice(nil, m.Header, &n)
			}
		}
		if err != nil || string(again) != string(message) {
			t.Errorf("%v: written again it is\n% x\nnot\n% x", err, again, message)
		}
	}
}

var streamRow = regexp.MustCompile(`(?m)^\| (\d+) \| [A-Z_]+ \| .* \| (yes)? ?\|$`)

// The table of messages in docs/sync-protocol.md has those that the reader knows, and says which
// of them are numbered.
func TestDescriptionHasTheMessages(t *testing.T) {
	known := map[string]bool{} // and whether it is numbered
	for typ := range 256 {
		m := StreamMessage{Type: StreamType(typ)}
		if ok, _ := m.parse(nil); ok {
			known[fmt.Sprint(typ)] = m.Type.Numbered()
		}
	}
	_, section, _ := strings.Cut(readDescription(t), "\n### Messages\n")
	section, _, _ = strings.Cut(section, "\n##")
	for _, row := range streamRow.FindAllStringSubmatch(section, -1) {
		numbered, ok := known[row[1]]
		if !ok || numbered != (row[2] == "yes") {
			t.Errorf("%q: known %v, numbered %v", row[0], ok, numbered)
		}
		delete(known, row[1])
	}
	for typ := range known {
		t.Errorf("no row of type %s", typ)
	}
}

var compactRow = regexp.MustCompile(`(?m)^\| (\d+) \| [A-Z_]+ \| (\d+)(?: to (\d+))? \|`)

// The tables of compact attributes match the receiver's.
func TestDescriptionHasTheCompactAttributes(t *testing.T) {
	for heading, sizes := range map[string]*[256]compactSize{"\n### Flows\n": &compactSizes, "\n### Expectations\n": &compactExpectSizes} {
		_, section, found := strings.Cut(readDescription(t), heading)
		if !found {
			t.Fatalf("no section %q", heading)
		}
		section, _, _ = strings.Cut(section, "\n##")
		left := *sizes
		for _, row := range compactRow.FindAllStringSubmatch(section, -1) {
			attr, _ := strconv.Atoi(row[1])
			if row[3] == "" {
				row[3] = row[2]
			}
			if size := left[attr&0xff]; row[2] != fmt.Sprint(size.least) || row[3] != fmt.Sprint(size.most) {
				t.Errorf("%q: %d to %d bytes", row[0], size.least, size.most)
			}
			left[attr&0xff] = compactSize{}
		}
		if left != ([256]compactSize{}) {
			t.Errorf("%q: attributes without a row: %v", heading, left)
		}
	}
}

// This package reads every payload of version 2 in docs/sync-protocol.md, and writes the same.
func TestDescriptionHasGoodPayloads(t *testing.T) {
	const header = 28
	payloads := examples(t, "payload")
	payloads = append(payloads, examples(t, "datagram")[0][header:])
	e := Encoder{WindowTracking: true}
	for _, payload := range payloads {
		var written []byte
		var m StreamMessage
		for r := ReadStream(payload); ; {
			ok, err := r.Next(&m)
			if err != nil {
				t.Errorf("%v in % x", err, payload)
			}
			if !ok {
				break
			}
			if len(written) == 0 && m.Type != Position {
				t.Errorf("no POSITION: % x", payload)
			}
			end := m.Type == StreamFlowEnd || m.Type == StreamFlowWithdrawn || m.Type == StreamExpectEnd
			switch {
			case m.Type.IsFlow():
				var f ctnetlink.Flow
				var epoch uint32
				if epoch, err = ParseCompactFlow(m.Body, &f, end); err == nil {
					m.Body, err = e.AppendCompactFlow(nil, &f, end)
					m.Body = AppendCompactEpoch(m.Body, epoch)
				}
			case m.Type.IsExpect():
				var x ctnetlink.Expect
				if err = ParseCompactExpect(m.Body, &x); err == nil {
					m.Body, err = e.AppendCompactExpect(nil, &x, end)
				}
			}
			if err != nil {
				t.Errorf("%v in % x", err, payload)
			}
			written = m.Append(written)
		}
		if string(written) != string(payload) {
			t.Errorf("written again it is\n% x\nnot\n% x", written, payload)
		}
	}
}
