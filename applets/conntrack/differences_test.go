package conntrack

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDifferencesAreListed holds that each difference that a script announces
// is a row of docs/differences.md, and that a row's id stands for it alone.
func TestDifferencesAreListed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "differences.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z]+[0-9]+) \|`).FindAllStringSubmatch(string(text), -1) {
		if slices.Contains(rows, m[1]) {
			t.Errorf("docs/differences.md has two rows %s", m[1])
		}
		rows = append(rows, m[1])
	}
	paths, err := filepath.Glob(filepath.Join("testdata", "parity", "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		script, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(script)) {
			ids, differs := strings.CutPrefix(line, "! ")
			for _, id := range strings.Fields(ids) {
				if differs && !slices.Contains(rows, id) {
					t.Errorf("%s: docs/differences.md has no row %s", path, id)
				}
			}
		}
	}
}
