package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// The checked-in pictures match what the generator draws from the checked-in data.
func TestPictures(t *testing.T) {
	var names []string
	for _, p := range pictures {
		names = append(names, p.name+".svg")
		t.Run(p.name, func(t *testing.T) {
			s, err := p.draw(root)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(root, "docs", "pictures", p.name+".svg")
			have, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(have, s.bytes()) {
				t.Errorf("%s is not what the generator draws: make pictures draws it anew", file)
			}
			check(t, s)
		})
	}
	have, err := os.ReadDir(filepath.Join(root, "docs", "pictures"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range have {
		if !slices.Contains(names, entry.Name()) {
			t.Errorf("docs/pictures/%s is nothing that the generator draws", entry.Name())
		}
	}
}

// check checks that a picture is well-formed, small and made for both themes, and that its text
// is inside the picture.
func check(t *testing.T, s *svg) {
	t.Helper()
	data := s.bytes()
	if len(data) > 64<<10 {
		t.Errorf("%d bytes", len(data))
	}
	if !bytes.Contains(data, []byte("prefers-color-scheme:dark")) || s.title == "" {
		t.Error("no dark theme, or no title")
	}
	texts := 0
	for d := xml.NewDecoder(bytes.NewReader(data)); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "text" {
			texts++
		}
	}
	if texts < 5 {
		t.Errorf("%d texts", texts)
	}
	if strings.Contains(string(data), "NaN") {
		t.Error("a coordinate is no number")
	}
}

func TestReadBenchmarks(t *testing.T) {
	const page = `
| command | printed |
|---|---|
| x | 1 s |

| work | runs | conntrack-tools | ctbox | **ratio** |
|---|---|---|---|---|
| -L | 5 | 2 s | 1.5 s | **0.75** |
| -o json | 5 | – | 1 s | – |
| -U | 5 | fails | 1 s | – |
| -V | 5 × 20 | 2.5 ms | 4 ms | **1.60** |

| work | a | ctbox |
|---|---|---|
| another | 1 s | 1 s |
`
	peer, got, err := readBenchmarks(page)
	want := []benchmark{{"-L", "2 s", "1.5 s", 2, 1.5}, {"-V", "2.5 ms", "4 ms", 0.0025, 0.004}}
	if err != nil || peer != "conntrack-tools" || !slices.Equal(got, want) {
		t.Errorf("%q, %v, %v", peer, got, err)
	}
	if _, _, err := readBenchmarks("no table"); err == nil {
		t.Error("a page without a table has one")
	}
}

func TestUnits(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{0, "ops", "0"}, {0.0042, "s", "4.2 ms"}, {3, "s", "3 s"}, {600, "s", "10 min"}, {0.25, "percentunit", "25 %"},
		{3 << 20, "bytes", "3 MiB"}, {1500, "ops", "1.5k/s"}, {2e6, "bps", "2 Mb/s"}, {8123, "short", "8.12k"}, {-4000, "bps", "-4 kb/s"},
		{math.NaN(), "short", "–"},
	} {
		if got := withUnit(c.v, c.unit); got != c.want {
			t.Errorf("%v of %s is %q, want %q", c.v, c.unit, got, c.want)
		}
	}
	for v, want := range map[float64]float64{0: 1, 1: 1, 7: 8, 11.2: 15, 0.03: 0.03, 999: 1000, 1001: 1500} {
		if got := niceAbove(v); math.Abs(got-want) > 1e-9*want {
			t.Errorf("above %v is %v, want %v", v, got, want)
		}
	}
}
