//go:build torture

package interop

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

var (
	takeoverKills = flag.Int("takeover.kills", 50, "how often a primary dies")
	takeoverFlows = flag.Int("takeover.flows", 200000, "flows at each death")
	takeoverBurst = flag.Int("takeover.burst", 4000, "how many changes come at once at least")
	takeoverRate  = flag.Int("takeover.rate", 2000, "flows that begin in a second; as many change, and as many end")
)

// TestTakeover repeatedly kills the primary under load, with the shipped example configuration,
// lets the backup take over, and continues with exchanged roles. The backup must report missing
// flows.
func TestTakeover(t *testing.T) {
	s := seed(t)
	p := newShippedPair(t, "")
	primary, backup := p.a, p.b
	l := newLoad(primary, s, 3**takeoverRate, *takeoverFlows)
	l.steady, l.atOnce = true, *takeoverBurst
	if err := l.fill(); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(s, 4))
	var times []time.Duration
	missing, stale, announced := 0, 0, 0
	for kill := range *takeoverKills {
		backup.awaitCopy(primary)
		l.begin()
		time.Sleep(settled + time.Duration(random.Int64N(int64(2*time.Second))))
		death := time.Now()
		primary.daemon.kill()
		backup.daemon.commit()
		took := time.Since(death)
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		then := l.by(death.Add(-settled))
		m, st, had := backup.lacks(l, then)
		said := backup.daemon.statistics().Commits.Last.Missing
		times = append(times, took)
		missing, stale = missing+m, stale+st
		if said > 0 {
			announced++
		}
		fmt.Printf("%3d: %s took over from %s in %.3f s; %d flows, %d missing (%d events said to be), %d that had ended\n",
			kill+1, backup.name, primary.name, took.Seconds(), had, m, said, st)
		if m > 0 && said == 0 {
			t.Errorf("after kill %d %d flows are missing; logs:\n%s\n%s", kill+1, m, primary.daemon.log(), backup.daemon.log())
		}
		// Like primary-backup.sh; the other node comes back from a reset.
		for _, command := range []string{"-f", "-R", "-B"} {
			backup.daemon.client(command)
		}
		primary.kernel.flush()
		primary.daemon.start()
		primary.daemon.client("-n")
		primary, backup = backup, primary
		l.moveTo(primary)
		if m > 0 {
			then.next = l.first // the load assumes that they exist
		}
		if err := l.repair(then); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(times)
	at := func(part int) float64 { return times[(len(times)-1)*part/100].Seconds() }
	fmt.Printf("%d deaths at %d flows: %d flows missing, %d times the backup said so; %d that had ended were brought back\n",
		len(times), *takeoverFlows, missing, announced, stale)
	fmt.Printf("from the death to the end of the commit: min %.3f s, median %.3f s, 95 %% within %.3f s, max %.3f s\n",
		at(0), at(50), at(95), at(100))
}

// awaitCopy waits until n's external cache has as many flows as the kernel of another node,
// whose load is stopped.
func (n *node) awaitCopy(of *node) {
	t := n.kernel.t
	t.Helper()
	entries, _, err := ctnetlink.Count(context.Background(), of.kernel.conn)
	if err != nil {
		t.Fatal(err)
	}
	got := uint64(0)
	netnstest.Eventually(t, 2*patience, n.daemon.name()+" has a copy of everything", func() bool {
		time.Sleep(50 * time.Millisecond) // leaves the CPU to the daemon
		got = n.daemon.statistics().Caches["external"].Flows.Active
		return got == uint64(entries)
	})
}

// lacks compares the kernel after a commit with what a load had made by then, and
// not ended since. It returns how many flows are missing, how many are there that
// had ended by then, and how many there are.
func (n *node) lacks(l *load, then ack) (missing, stale, had int) {
	there := map[ctnetlink.Tuple]bool{}
	for _, f := range n.kernel.flows() {
		there[f.Orig] = true
	}
	had = len(there)
	for i := l.first; i < then.next; i++ {
		if f := l.side.numbered(i); !there[f.Orig] {
			missing++
		}
	}
	for i := then.first; i < l.next; i++ {
		f := l.side.numbered(i)
		delete(there, f.Orig)
	}
	return missing, len(there), had
}
