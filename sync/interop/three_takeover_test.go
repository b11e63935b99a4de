package interop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

var (
	clusterKills = flag.Int("cluster.kills", 3, "how often one of three nodes dies")
	clusterFlows = flag.Int("cluster.flows", 1000, "flows behind each node")
	clusterRate  = flag.Int("cluster.rate", 100, "flows that begin behind each node in a second; as many change, and as many end")
	clusterExact = flag.Bool("cluster.exact", false, "what the dead node's kernel had 100 ms before its death must be known, which needs a machine that has time")
)

// homes are which node's kernel has the flows of each load.
type homes map[*load]*node

// of returns the loads of a node.
func (h homes) of(n *node) (loads []*load) {
	for l, home := range h {
		if home == n {
			loads = append(loads, l)
		}
	}
	slices.SortFunc(loads, func(x, y *load) int { return strings.Compare(x.side.name, y.side.name) })
	return loads
}

// TestTakeoverOfThree repeatedly kills one of three nodes under load. Another one takes over at once with a plain
// -c: it gets the flows of the dead node, those too that the dead node had taken over itself, and none of the
// living third one, nor any that had ended.
func TestTakeoverOfThree(t *testing.T) {
	if !*clusterExact {
		t.Parallel()
	}
	c := newCluster(t, 3)
	random := rand.New(rand.NewPCG(3, 6))
	at := homes{}
	c.limit = fmt.Sprintf("HashLimit %d\n\tNetlinkBufferSize 33554432\n\tNetlinkBufferSizeMaxGrowth 134217728", 8**clusterFlows)
	c.start(c.nodes...) // first, or the kernels make no events for the ends of these flows
	for i, n := range c.nodes {
		l := newLoad(n, uint64(i), 3**clusterRate, *clusterFlows)
		l.steady = true
		if err := l.fill(); err != nil {
			t.Fatal(err)
		}
		at[l] = n
	}
	var times []time.Duration
	missing, stale, foreign := 0, 0, 0
	for kill := range *clusterKills {
		c.inSync(fmt.Sprintf("before death %d", kill+1), c.nodes...)
		c.spread(at, fmt.Sprintf("before death %d", kill+1))
		order := random.Perm(3)
		if len(at.of(c.nodes[order[0]])) == 0 {
			order[0], order[1] = order[1], order[0]
		}
		dead, heir, third := c.nodes[order[0]], c.nodes[order[1]], c.nodes[order[2]]
		moved := at.of(dead)
		for l := range at {
			l.begin()
		}
		begun := time.Now()
		until := begun.Add(settled + time.Duration(random.Int64N(int64(time.Second))))
		netnstest.Eventually(t, patience, "the loads make changes", func() bool {
			return time.Now().After(until) && !slices.ContainsFunc(moved, func(l *load) bool { return l.by(time.Now()).at.IsZero() })
		})
		known := time.Now()
		m := dead.flow(uint16(1 + kill)) // whose arrival says that everything before it has arrived
		if !*clusterExact {
			dead.kernel.create(&m)
			netnstest.Eventually(t, patience, heir.name+" has what was before the marker", func() bool { return heir.external()[entryOfFlow(&m)] })
		}
		c.wire.isolate(partition([]*node{dead}, []*node{heir, third})...)
		death := time.Now()
		dead.daemon.kill()
		r := heir.ns.Run("", ours.path(t), "-C", heir.daemon.path("conf"), "-c")
		took := time.Since(death)
		if *clusterExact {
			known = death.Add(-settled)
		}
		for l := range at {
			if err := l.end(); err != nil {
				t.Fatal(err)
			}
		}
		if kept := len(at.of(third)) == 0 || strings.Contains(r.Stdout, third.name+" keeps its flows\n"); r.Code != 0 || !kept || !strings.Contains(r.Stdout, " flows taken") {
			t.Errorf("death %d: -c: %+v", kill+1, r)
		}
		flows := heir.kernel.flows()
		bad := 0
		for _, l := range moved {
			m, s := l.compare(flows, known)
			missing, stale, bad = missing+m, stale+s, bad+m+s
		}
		for i := range flows {
			for _, l := range at.of(third) {
				if l.side.ownsTuple(&flows[i].Orig) {
					foreign, bad = foreign+1, bad+1
				}
			}
		}
		times = append(times, took)
		line := fmt.Sprintf("%3d: %s took over from %s in %.3f s; %d flows; in all %d missing, %d that had ended, %d of the living node",
			kill+1, heir.name, dead.name, took.Seconds(), len(flows), missing, stale, foreign)
		if t.Log(line); bad > 0 {
			t.Errorf("%s\n%s%s", line, r.Stdout, c.logs())
		}
		if !*clusterExact {
			heir.kernel.remove(&m)
		}
		for _, command := range []string{"-R", "-B"} { // as primary-backup.sh
			heir.daemon.client(command)
		}
		c.wire.isolate()
		dead.kernel.flush()
		dead.daemon.start()
		for _, l := range moved {
			then := l.by(known)
			l.moveTo(heir)
			if err := l.repair(then); err != nil {
				t.Fatal(err)
			}
			at[l] = heir
		}
		if all := at.of(heir); len(all) == 3 {
			// The one after this would find nothing to leave alone.
			if err := errors.Join(all[0].clear(), all[1].clear()); err != nil {
				t.Fatal(err)
			}
			for i, n := range []*node{dead, third} {
				all[i].moveTo(n)
				at[all[i]] = n
				if err := all[i].fill(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	c.inSync("at the end", c.nodes...)
	c.spread(at, "at the end")
	slices.Sort(times)
	t.Logf("%d deaths, %d flows behind each node: %d flows missing, %d that had ended, %d of the living node; "+
		"from the death to the end of the commit: median %.3f s, max %.3f s",
		len(times), *clusterFlows, missing, stale, foreign, times[len(times)/2].Seconds(), times[len(times)-1].Seconds())
}

// spread waits until each node shows exactly the flows of each load whose home is another node.
func (c *cluster) spread(at homes, when string) {
	c.t.Helper()
	c.eventually(when+": each node shows what the others own, and nothing of its own", func() string {
		for _, n := range c.nodes {
			want, got := map[entry]bool{}, n.external()
			shown := map[entry]bool{}
			for l, home := range at {
				for e := range about(got, l.side) {
					shown[e] = true
				}
				if home != n {
					for e := range about(home.kernel.entries(), l.side) {
						want[e] = true
					}
				}
			}
			if diff := difference(want, shown); diff != "" {
				return "external cache of " + n.name + ":\n" + diff
			}
		}
		return ""
	})
}

// compare returns how many of the load's flows are missing in a kernel that had to have what there was by then,
// and how many are there that had ended by then.
func (l *load) compare(flows []ctnetlink.Flow, known time.Time) (missing, stale int) {
	then := l.by(known)
	there := map[ctnetlink.Tuple]bool{}
	for i := range flows {
		if f := &flows[i]; l.side.ownsTuple(&f.Orig) && f.Orig.SrcPort >= firstNumbered {
			there[f.Orig] = true
		}
	}
	for i := l.first; i < then.next; i++ {
		if f := l.side.numbered(i); !there[f.Orig] {
			missing++
		}
	}
	for i := then.first; i < l.next; i++ {
		f := l.side.numbered(i)
		delete(there, f.Orig)
	}
	return missing, len(there)
}

// clear ends all flows of the load.
func (l *load) clear() error {
	p := l.conn.NewPipeline(context.Background(), l.complete)
	from := l.first
	l.first = l.next
	return errors.Join(l.submit(p, from, l.next, func(f *ctnetlink.Flow) nl.Request {
		return nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Family(), Attrs: (&ctnetlink.Flow{Orig: f.Orig}).Append}
	}), p.Close())
}
