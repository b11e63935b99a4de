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

// leaving is the name under which the test binary is a daemon that tells what it
// leaves.
const leaving = "leaving"

// leave runs the applet and prints the stacks of the goroutines, and the
// descriptors, that are there when it has returned.
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

// descriptors are the open ones of sockets and files. Those of Go's runtime have
// neither.
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

// When a daemon has ended nothing of it is left: what it was made of can be used
// again and again in one process, as tests do.
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
			// The sandbox is off: with the race detector there is none.
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
