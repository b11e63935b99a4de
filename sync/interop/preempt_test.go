//go:build torture

package interop

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"
)

var preemptions = flag.Int("takeover.preemptions", 10, "how often a node dies, returns empty and takes over again, as keepalived decides")

// TestTakeoverByKeepalived has keepalived decide, with the shipped configuration of both
// programs: fw1 dies, fw2 takes over, fw1 returns empty and takes over again when it has all
// flows. No master may know less than all flows for more than a second.
func TestTakeoverByKeepalived(t *testing.T) {
	p := newFirewalls(t)
	p.start()
	flows := *takeoverFlows
	p.fill(flows)
	defer p.watch(flows)()
	var dead, synced, back []time.Duration
	missing := 0
	for i := range *preemptions {
		began := time.Now()
		p.fw1.crash()
		p.becomes(p.fw2, "fw2 is the master")
		dead = append(dead, time.Since(began))
		missing += flows - p.fw2.entries()
		began = time.Now()
		p.fw1.boot()
		p.await("fw1 may take over", func() bool { return p.fw1.value() == "0" })
		synced = append(synced, time.Since(began))
		held := p.fw1.readiness().Ready.Held
		p.becomes(p.fw1, "fw1 is the master again")
		back = append(back, time.Since(began))
		missing += flows - p.fw1.entries()
		p.await("fw2 may take over", func() bool { r := p.fw2.readiness().Ready; return p.fw2.value() == "0" && r.InSync && r.Held == flows })
		fmt.Printf("%3d: fw2 was the master with all in its kernel after %.2f s; fw1, empty, had %d flows and the file 0 after %.2f s, "+
			"and all in its kernel as the master after %.2f s\n", i+1, dead[i].Seconds(), held, synced[i].Seconds(), back[i].Seconds())
	}
	if missing != 0 {
		t.Errorf("%d flows are missing", missing)
	}
	for _, row := range []struct {
		what  string
		times []time.Duration
	}{{"death to takeover", dead}, {"start to may take over", synced}, {"start to takeover", back}} {
		slices.Sort(row.times)
		fmt.Printf("%s: median %.2f s, max %.2f s\n", row.what, row.times[len(row.times)/2].Seconds(), row.times[len(row.times)-1].Seconds())
	}
}
