package docs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// notOurs are texts in the first columns that others print.
var notOurs = []string{
	"table full, dropping packet", // the kernel
	// error numbers
	"No space left on device", "Operation not supported", "Device or resource busy", "address already in use", "Cannot allocate memory",
	"operation not permitted", "File exists",
}

// TestMessages checks that the messages in troubleshooting.md, the code in the
// first column of its tables, are messages of the programs: each piece between
// ellipses is in the source.
func TestMessages(t *testing.T) {
	root, all := pages(t)
	var source strings.Builder
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		// Strings that go on in the next line.
		source.WriteString(strings.ReplaceAll(string(text), "\" +\n\t\t\t\"", ""))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ours := source.String()
	for _, text := range notOurs {
		ours += "\n" + text
	}
	count := 0
	for _, p := range all {
		if p.path != "docs/troubleshooting.md" {
			continue
		}
		for line := range strings.Lines(p.text) {
			cells := strings.Split(line, "|")
			if len(cells) < 4 {
				continue
			}
			for i, code := range strings.Split(cells[1], "`") {
				if i%2 == 0 || strings.HasPrefix(code, "-") || strings.HasPrefix(code, "ctbox ") {
					continue
				}
				for piece := range strings.SplitSeq(code, "…") {
					count++
					if piece = strings.TrimSpace(piece); !strings.Contains(ours, piece) {
						t.Errorf("%s: nothing says %q", p.path, piece)
					}
				}
			}
		}
	}
	if count < 40 {
		t.Errorf("found only %d messages", count)
	}
}
