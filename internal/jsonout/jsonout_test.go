package jsonout

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestObject(t *testing.T) {
	var o Object
	o.Begin()
	o.Uint("a", 1)
	o.Open("b")
	o.Int("c", -2)
	o.Open("empty")
	o.End()
	o.Text("d", "x\"y")
	o.End()
	o.List("e", 2, func(i int) { o.Bool("f", i == 1) })
	o.List("g", 0, nil)
	o.Token("h", "t")
	o.Bytes("i", []byte("b\n"))
	o.Decimal("j", 1.25, 1)
	o.Decimal("k", 0.5, -1)
	o.Nanoseconds("l", 12_000_000_034)
	o.Line()
	o.Begin()
	o.Line()
	const want = `{"a":1,"b":{"c":-2,"empty":{},"d":"x\"y"},"e":[{"f":false},{"f":true}],"g":[],"h":"t","i":"b\u000a",` +
		`"j":1.2,"k":0.5,"l":12.000000034}` + "\n{}\n"
	if string(o.Dst) != want {
		t.Errorf("%s\nwant\n%s", o.Dst, want)
	}
	for line := range strings.Lines(string(o.Dst)) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		o.Dst = o.Dst[:0]
		o.Begin()
		o.Text("a", "text \xff ü")
		o.Bytes("b", []byte("text"))
		o.Nanoseconds("c", 1)
		o.End()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzAppendString holds that encoding/json reads any text back, broken UTF-8 replaced.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "text", "\x00\x1f\x7f\"\\/", "ü€\U0001f600", "\xff\xc3", "\xed\xa0\x80", "a\xe2\x82"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, b := AppendString(nil, s), AppendString(nil, []byte(s))
		var got string
		if err := json.Unmarshal(a, &got); err != nil || string(a) != string(b) {
			t.Fatalf("%q: %s and %s: %v", s, a, b, err)
		}
		if want := string([]rune(s)); got != want {
			t.Errorf("%q became %q, want %q", s, got, want)
		}
		if utf8.ValidString(s) && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}
