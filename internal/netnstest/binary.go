package netnstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// built is the binary under test, made once a test process.
var built struct {
	once sync.Once
	dir  string // set by Main, the directory of the binary and its links
	err  error
}

// Main runs the tests of a package that needs our binary; call it from
// TestMain. The binary itself is built when the first test asks for it, and
// removed at the end, when no goroutine may be left (RunTests).
func Main(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if err := runFiltered(); err != nil {
		fmt.Fprintln(os.Stderr, "netnstest:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "ctbox-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "netnstest:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	built.dir = dir
	if os.Getenv("RACE") == "" {
		return RunTests(m)
	}
	// make takes RACE from the environment: our programs have the race detector,
	// and say there what it finds.
	reports := filepath.Join(dir, "race")
	os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" log_path="+reports))
	status := RunTests(m)
	if races(reports) {
		return 1
	}
	return status
}

// races prints the reports of the race detector, and tells whether there are any.
func races(reports string) bool {
	names, _ := filepath.Glob(reports + ".*")
	for _, name := range names {
		text, err := os.ReadFile(name)
		fmt.Fprintf(os.Stderr, "netnstest: the race detector found in a program of ours (%v):\n%s\n", err, text)
	}
	return len(names) > 0
}

// BinDir returns the directory with ctbox and its links, as `make` builds them. CTBOX_BIN
// in the environment names one that is built already: a virtual machine compiles nothing.
func BinDir(t testing.TB) string {
	t.Helper()
	if built.dir == "" {
		t.Fatal("netnstest: TestMain does not call netnstest.Main")
	}
	built.once.Do(func() {
		if dir := os.Getenv("CTBOX_BIN"); dir != "" {
			built.dir = dir
			return
		}
		root, err := ModuleRoot()
		if err == nil {
			var out []byte
			if out, err = exec.Command("make", "-s", "-C", root, "BIN="+built.dir).CombinedOutput(); err != nil {
				err = fmt.Errorf("make: %w\n%s", err, out)
			}
		}
		built.err = err
	})
	if built.err != nil {
		t.Fatalf("netnstest: build ctbox: %v", built.err)
	}
	return built.dir
}

// Applet returns the path of our program of that name ("conntrack"), or of
// "ctbox" itself.
func Applet(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(BinDir(t), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("netnstest: ctbox has no applet %s: %v", name, err)
	}
	return path
}

// ModuleRoot returns the directory of the module's go.mod, which is the
// test's own directory or one above it.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod above the test's directory")
		}
		dir = parent
	}
}
