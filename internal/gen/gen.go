// Package gen holds generated files to the tables that they are made from. Tests use
// it: without -update a file that differs fails the test, with -update (make generate)
// it is rewritten. The generators themselves are in the test files of the packages
// with the tables, so that no program carries them.
package gen

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Update is set when generated files are to be rewritten.
var Update = flag.Bool("update", false, "rewrite generated files and golden files")

// File compares the file with what the tables give, or rewrites it.
func File(t *testing.T, path string, want []byte) {
	t.Helper()
	if *Update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), string(want)); diff != "" {
		t.Errorf("%s is out of date; run make generate (-file +tables):\n%s", path, diff)
	}
}

// Section is File for a part of a page that is otherwise written by hand. In Markdown
// it is between the lines
//
//	<!-- generated: NAME -->
//	<!-- end of NAME -->
//
// and in a man page between the same words in lines that begin with .\".
func Section(t *testing.T, path, name string, want string) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	replaced, err := replace(string(page), name, want)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	File(t, path, []byte(replaced))
}

// replace returns the page with that section's text replaced.
func replace(page, name, text string) (string, error) {
	for _, form := range []string{"<!-- %s -->\n", ".\\\" %s\n"} {
		begin, end := fmt.Sprintf(form, "generated: "+name), fmt.Sprintf(form, "end of "+name)
		before, rest, ok := strings.Cut(page, begin)
		if !ok {
			continue
		}
		_, after, ok := strings.Cut(rest, end)
		if !ok {
			return "", fmt.Errorf("generated section %s has no end", name)
		}
		return before + begin + text + end + after, nil
	}
	return "", fmt.Errorf("no generated section %s", name)
}

// Names writes names for a sentence: `a`, `b` and `c`; or "none".
func Names(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = "`" + name + "`"
	}
	switch n := len(quoted); n {
	case 0:
		return "none"
	case 1:
		return quoted[0]
	default:
		return strings.Join(quoted[:n-1], ", ") + " and " + quoted[n-1]
	}
}
