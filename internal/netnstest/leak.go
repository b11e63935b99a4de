package netnstest

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// RunTests is m.Run, and fails if a goroutine of ours is left when all tests have
// ended: whatever a test opened it has closed, and what is closed has ended its
// goroutines. Main does this, too.
func RunTests(m *testing.M) int {
	if err := runFiltered(); err != nil {
		fmt.Fprintln(os.Stderr, "netnstest:", err)
		return 1
	}
	status := m.Run()
	if status != 0 {
		return status
	}
	if left := Leaked(10 * time.Second); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "netnstest: goroutines are left after the tests:\n\n%s\n", strings.Join(left, "\n\n"))
		return 1
	}
	return 0
}

// Leaked waits until no goroutine but the caller's runs code of this module, or
// was started by such code, and returns the stacks of those that still do after
// limit.
func Leaked(limit time.Duration) []string {
	deadline := time.Now().Add(limit)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		left := ourGoroutines()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(wait)
	}
}

func ourGoroutines() (stacks []string) {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for i, stack := range bytes.Split(buf, []byte("\n\n")) {
		// The first one is the caller's. A function's line begins with its package.
		if i > 0 && (bytes.Contains(stack, []byte("\nctbox/")) || bytes.Contains(stack, []byte("created by ctbox/"))) {
			stacks = append(stacks, string(stack))
		}
	}
	return stacks
}
