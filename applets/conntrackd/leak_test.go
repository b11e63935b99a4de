package conntrackd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// leaving is the name under which the test binary runs a daemon and prints what it leaves behind.
const leaving = "leaving"

// leave runs the applet and prints the stacks of the goroutines, and the descriptors, that exist
// after its return.
func leave(argv []string) int {
	before := descriptors()
	status := Run(context.Background(), argv, os.Stdin, os.Stdout, os.Stderr)
	for _, stack := range netnstest.Leaked(10 * time.Second) {
		fmt.Println("LEFT", stack)
	}
	for name := range descriptors() {
		if !before[name] {
			fmt.Println("LEFT", name)
		}
	}
	return status
}

// descriptors returns the open descriptors of sockets and files, without those of Go's runtime.
func descriptors() map[string]bool {
	links, _ := filepath.Glob("/proc/self/fd/*")
	all := make(map[string]bool)
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && (strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "/")) {
			all[target] = true
		}
	}
	return all
}

// A daemon leaves no goroutine and no descriptor behind, so that a process can run it repeatedly,
// as tests do.
func TestNothingIsLeft(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), leaving)
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	for mode, clauses := range setups {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if mode == "stats" {
				clauses = strings.Replace(clauses, "Stats {", "Stats {\n LogFile "+h.path("stats"), 1)
			}
			// Without the sandbox, which the race detector does not support.
			config := h.configure(" LogFile "+h.path("log"), clauses)
			p := h.Start(name, "-C", config, "--no-sandbox")
			netnstest.Eventually(t, patience, "the daemon is started", func() bool {
				return strings.Contains(p.Stdout.String(), "-- starting in console mode --")
			})
			syscall.Kill(p.Pid(), syscall.SIGHUP)
			for _, args := range [][]string{{"-s"}, {"-i"}, {"-e"}, {"-R"}, {"-c"}, {"-f"}, {"-t"}, {"-n"}, {"-B"}, {"-k"}} {
				h.Run("", ours(t), append([]string{"-C", config}, args...)...)
			}
			if r := p.Wait(patience); r.Code != 0 || strings.Contains(r.Stdout, "LEFT") {
				t.Errorf("%+v", r)
			}
		})
	}
}
