package wire

import (
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
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

// Every example in docs/sync-protocol.md is one message, and this package writes the same data messages.
func TestDescriptionHasGoodExamples(t *testing.T) {
	blocks := strings.Split(readDescription(t), "```message\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("no examples")
	}
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		var message []byte
		for line := range strings.Lines(block) {
			digits := strings.ReplaceAll(exampleBytes.FindString(strings.TrimRight(line, "\n")), " ", "")
			b, err := hex.DecodeString(digits)
			if err != nil || len(b) == 0 {
				t.Errorf("no bytes in %q", line)
			}
			message = append(message, b...)
		}
		r := ReadDatagram(message)
		var c Counters
		m, ok := r.Next(&c)
		if _, more := r.Next(&c); !ok || more || c != (Counters{}) || m.Kind() == KindInvalid {
			t.Errorf("not one good message, %+v:\n%s", c, block)
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
