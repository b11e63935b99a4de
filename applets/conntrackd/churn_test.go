package conntrackd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// churn creates and removes a veth pair that is unrelated to replication, like a host of
// containers.
func (h *host) churn() {
	h.t.Helper()
	h.IP("link", "add", "pod0", "type", "veth", "peer", "name", "pod1")
	h.IP("link", "set", "pod0", "up")
	h.IP("link", "set", "pod1", "up")
	h.IP("link", "del", "pod0")
}

// The daemon queries the kernel about an interface when one of its own has changed, never about
// others and never for its statistics.
func TestInterfaceChurnAsksNothing(t *testing.T) {
	h := newHost(t)
	config := h.configure("", ftfwTo("192.0.2.1", "192.0.2.2"))
	trace := h.path("trace")
	p := h.start(ours(t), config)
	tracer := h.Start("strace", "-f", "-yy", "-e", "trace=sendto,sendmsg", "-o", trace, "-p", strconv.Itoa(p.Pid()))
	netnstest.Eventually(t, patience, "strace is attached", func() bool {
		return strings.Contains(tracer.Stderr.String(), " attached")
	})
	requests := func() (n int) {
		text, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "<NETLINK:[ROUTE:")
	}
	for range 10 {
		h.churn()
		h.Must(ours(t), "-C", config, "-s", "link")
		h.Must(ours(t), "-C", config, "-s")
	}
	h.IP("link", "set", "sync0", "down")
	netnstest.Eventually(t, patience, "the link is down", func() bool {
		return strings.Contains(h.Must(ours(t), "-C", config, "-s", "link"), " status=DOWN ")
	})
	// Setting an interface down causes several messages: the interface, its carrier, its addresses.
	if n := requests(); n < 1 || n > 4 {
		t.Errorf("%d requests after changes of other interfaces and one of ours, want 1 or a few", n)
	}
}

// BenchmarkInterfaceChurn measures the CPU time of a daemon while an unrelated interface is
// created and removed ten times a second.
func BenchmarkInterfaceChurn(b *testing.B) {
	for _, others := range []int{10, 1000} {
		b.Run(strconv.Itoa(others), func(b *testing.B) {
			h := newHost(b)
			var batch strings.Builder
			for i := range others / 2 {
				fmt.Fprintf(&batch, "link add o%d type veth peer name p%d\n", i, i)
			}
			if r := h.Run(batch.String(), "ip", "-batch", "-"); r.Code != 0 {
				b.Fatal(r.Stderr)
			}
			p := h.start(ours(b), h.configure("", ftfwTo("192.0.2.1", "192.0.2.2")))
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			b.ResetTimer()
			before, began := taskTime(b, p.Pid()), time.Now()
			for range b.N {
				h.churn()
				<-tick.C
			}
			took := taskTime(b, p.Pid()) - before
			b.ReportMetric(float64(took.Microseconds())/float64(b.N), "cpu-us/change")
			b.ReportMetric(100*took.Seconds()/time.Since(began).Seconds(), "%cpu")
		})
	}
}

// taskTime returns the CPU time of a process's threads (proc(5), schedstat).
func taskTime(t testing.TB, pid int) (sum time.Duration) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads of %d: %v", pid, err)
	}
	for _, file := range files {
		text, _ := os.ReadFile(file)
		nanoseconds, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(nanoseconds, 10, 64)
		sum += time.Duration(n)
	}
	return sum
}
