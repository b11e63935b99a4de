//go:build torture

package interop

import (
	"flag"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	soakTime   = flag.Duration("soak.time", time.Hour, "how long the soak takes")
	soakSample = flag.Duration("soak.sample", time.Minute, "how often it looks at the daemons")
	soakRate   = flag.Int("soak.rate", 5000, "its changes a second")
)

// soaked are the measurements of a daemon in one period.
type soaked struct {
	usage
	perEvent time.Duration // CPU
}

// TestSoak replicates the same load for a long time and prints the daemons' use of resources.
// It fails if that grows.
func TestSoak(t *testing.T) {
	p := newPair(t)
	p.start(programs{ours, ours}, clause("FTFW {\n}", ""), "")
	fresh := [2]int{p.a.daemon.goroutines(), p.b.daemon.goroutines()}
	p.a.daemon.start()
	p.b.daemon.start()
	l := newLoad(p.a, seed(t), *soakRate, 20000)
	l.steady = true
	if err := l.fill(); err != nil {
		t.Fatal(err)
	}
	l.begin()
	fmt.Printf("%d changes a second of %d flows; active and backup\n", l.rate, l.target)
	fmt.Printf("%8s %10s | %8s %7s %5s %8s | %8s %7s %5s %8s | %7s %7s\n",
		"seconds", "events", "MiB", "threads", "files", "us/event", "MiB", "threads", "files", "us/event", "dropped", "unacked")
	var seen [2][]soaked
	daemons := [2]*daemon{p.a.daemon, p.b.daemon}
	last := [2]usage{usageOf(daemons[0].process.Pid()), usageOf(daemons[1].process.Pid())}
	events := daemons[0].statistics().Kernel.Events
	begin := time.Now()
	for at := *soakSample; at <= *soakTime; at += *soakSample {
		time.Sleep(time.Until(begin.Add(at)))
		now := daemons[0].statistics()
		n := now.Kernel.Events - events
		events = now.Kernel.Events
		for i, d := range daemons {
			if d.process.Ended() {
				t.Fatalf("%s has died: %+v\n%s", d.name(), d.process.Wait(time.Second), d.log())
			}
			u := usageOf(d.process.Pid())
			seen[i] = append(seen[i], soaked{u, (u.cpu - last[i].cpu) / time.Duration(max(n, 1))})
			last[i] = u
		}
		a, b := seen[0][len(seen[0])-1], seen[1][len(seen[1])-1]
		fmt.Printf("%8.0f %10d | %8.1f %7d %5d %8.2f | %8.1f %7d %5d %8.2f | %7d %7d\n", at.Seconds(), n,
			float64(a.rss)/1024, a.threads, a.files, micro(a.perEvent), float64(b.rss)/1024, b.threads, b.files, micro(b.perEvent),
			now.Kernel.Lost, now.Replication.Unacknowledged)
	}
	if err := l.end(); err != nil {
		t.Error(err)
	}
	p.replicated("after the soak")
	for i, d := range daemons {
		flat(t, d, seen[i])
		n := d.goroutines()
		fmt.Printf("%s: %d goroutines at the end, %d after a start\n", d.name(), n, fresh[i])
		if n > fresh[i]+2 {
			t.Errorf("%s: %d goroutines at the end, %d after a start", d.name(), n, fresh[i])
		}
	}
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// flat compares the last quarter of a soak with the second. In the first the runtime's heap
// still settles.
func flat(t *testing.T, d *daemon, all []soaked) {
	t.Helper()
	quarter := len(all) / 4
	if quarter == 0 {
		t.Fatalf("%d samples are too few", len(all))
	}
	mean := func(part []soaked, of func(soaked) float64) (m float64) {
		for _, s := range part {
			m += of(s) / float64(len(part))
		}
		return m
	}
	for _, c := range []struct {
		what  string
		of    func(soaked) float64
		ratio float64
		more  float64
	}{
		{"MiB of memory", func(s soaked) float64 { return float64(s.rss) / 1024 }, 1.1, 2},
		{"threads", func(s soaked) float64 { return float64(s.threads) }, 1, 2},
		{"files", func(s soaked) float64 { return float64(s.files) }, 1, 0.5},
		// Other programs may use the machine meanwhile and evict the CPU's caches.
		{"us of CPU an event", func(s soaked) float64 { return micro(s.perEvent) }, 1.5, 1},
	} {
		early, late := mean(all[quarter:2*quarter], c.of), mean(all[len(all)-quarter:], c.of)
		if late > early*c.ratio+c.more {
			t.Errorf("%s: %.1f %s in the second quarter, %.1f in the last", d.name(), early, c.what, late)
		}
	}
}

// goroutines ends a daemon of ctbox and returns its number of goroutines.
func (d *daemon) goroutines() int {
	d.t.Helper()
	r := d.process.Stop(syscall.SIGQUIT)
	n := 0
	for line := range strings.Lines(r.Stderr) {
		if strings.HasPrefix(line, "goroutine ") && !strings.HasPrefix(line, "goroutine 0 ") {
			n++
		}
	}
	if n == 0 {
		d.t.Errorf("%s: no goroutines in what SIGQUIT prints:\n%.2000s", d.name(), r.Stderr)
	}
	return n
}
