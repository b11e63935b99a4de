package netnstest

import (
	"strings"
	"testing"
	"time"
)

func waitFor(c chan int) { <-c }

// A goroutine that stays is found, with what it waits for; one that ends is
// waited for.
func TestLeaked(t *testing.T) {
	stop := make(chan int)
	go waitFor(stop)
	left := Leaked(50 * time.Millisecond)
	if text := strings.Join(left, "\n"); !strings.Contains(text, "netnstest.waitFor(") {
		t.Errorf("found %q", text)
	}
	close(stop)
	Eventually(t, 10*time.Second, "it has ended", func() bool {
		return !strings.Contains(strings.Join(Leaked(0), "\n"), "netnstest.waitFor(")
	})
}
