package interop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// membership is a node's Cluster clause; nil for none.
type membership struct {
	name      string // of the cluster
	duplicate bool   // under the peer's number
	key       string // file of key 3, "" for none
	allow     bool   // AllowPlain
}

// file returns the contents of the Sync clause of FT-FW with a Cluster clause, if there is one.
func (m *membership) file(family int) func(me, peer *side) string {
	return func(me, peer *side) string {
		text := syncClause(modes[0], transport{clause: udp(family, 0, "sync0", "")}, withExpects)(me, peer)
		if m == nil {
			return text
		}
		number := map[string]int{"a": 1, "b": 2, "c": 3}
		own, other := number[me.name], number[peer.name]
		if m.duplicate {
			own, other = other, own
		}
		text += fmt.Sprintf("\nCluster {\n\tName %s\n\tNode %d %s\n\tPeer %d %s {\n\t\tIPv%d_Destination_Address %s\n\t}\n",
			m.name, own, me.name, other, peer.name, family, peer.link(family, 0))
		if m.key != "" {
			text += "\tKey 3 " + m.key + "\n"
		}
		if m.allow {
			text += "\tAllowPlain on\n"
		}
		return text + "}"
	}
}

// makeKey3 makes a key file with the daemon's own command.
func makeKey3(t testing.TB, p *pair) string {
	t.Helper()
	file := filepath.Join(shortDir(t), "key3")
	if err := os.WriteFile(file, []byte(p.a.ns.Must(ours.path(t), "--genkey")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// speak waits until both nodes say that the peer speaks a version.
func (p *pair) speak(when, version string) {
	p.t.Helper()
	p.each(func(n, _ *node) {
		p.t.Helper()
		netnstest.Eventually(p.t, patience, fmt.Sprintf("%s: %s hears version %s", when, n.daemon.name(), version), func() bool {
			return n.daemon.program != ours || strings.Contains(n.daemon.client("-s", "peers"), "version:\t\t"+version)
		})
	})
}

// TestVersion1BesideACluster runs a node with a Cluster clause against nodes that know nothing of it.
func TestVersion1BesideACluster(t *testing.T) {
	for _, peer := range []program{ours, debian} {
		t.Run(string(peer), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.startRoles(programs{ours, peer}, (&membership{name: "edge"}).file(4), (*membership)(nil).file(4), "")
			p.speak("at the start", "1")
			s := &scenario{pair: p, mode: modes[0]}
			s.create()
			s.change()
			s.commit()
			s.remove()
		})
	}
}

// TestNodesThatDoNotFit checks that a node accepts nothing of a peer that has another key or cluster, or its own
// number, and says why in one line.
func TestNodesThatDoNotFit(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	good, bad := makeKey3(t, p), makeKey3(t, p)
	for i, c := range []struct {
		name string
		a, b *membership
		says string
	}{
		{"key", &membership{name: "edge", key: good}, &membership{name: "edge", key: bad}, "it was altered, or the key of that number or the cluster's Name is another one there"},
		{"sealed, another cluster", &membership{name: "edge", key: good}, &membership{name: "core", key: good}, "it was altered, or the key of that number or the cluster's Name is another one there"},
		{"version 1", &membership{name: "edge", key: good}, nil, "refused version 1 of the protocol from b: there are keys, and AllowPlain is off"},
		{"plain, another cluster", &membership{name: "edge"}, &membership{name: "core"}, "b is of another cluster: nothing in the clear is accepted from it. Here Name is edge"},
		{"number", &membership{name: "edge"}, &membership{name: "edge", duplicate: true}, "b sends as Node 1, which is this node: each node of a Cluster needs a number of its own"},
	} {
		if i == 0 {
			p.startRoles(programs{ours, ours}, c.a.file(4), c.b.file(4), "")
		} else {
			p.each(func(n, _ *node) { n.daemon.stop() })
			p.a.daemon.configure(c.a.file(4)(p.a.side, p.b.side), "")
			p.b.daemon.configure(c.b.file(4)(p.b.side, p.a.side), "")
			os.Remove(p.a.daemon.path("log"))
			p.a.daemon.start()
			p.b.daemon.start()
		}
		netnstest.Eventually(t, patience, c.name+": the log says "+c.says, func() bool { return strings.Contains(p.a.daemon.log(), c.says) })
		f := p.b.flow(uint16(20000 + i))
		p.b.kernel.create(&f)
		netnstest.Eventually(t, patience, c.name+": b sends the flow", func() bool { return p.b.internal()[entryOfFlow(&f)] })
		p.b.daemon.client("-B")
		for entry := range p.a.external() {
			if entry == entryOfFlow(&f) {
				t.Errorf("%s: a accepts %s", c.name, entry)
			}
		}
		if n := strings.Count(p.a.daemon.log(), c.says); n != 1 {
			t.Errorf("%s: %q is said %d times:\n%s", c.name, c.says, n, p.a.daemon.log())
		}
	}
}

// churn creates and ends flows behind a node all the time, and never changes those that it keeps.
type churn struct {
	side *side
	conn *nl.Conn
	next uint16
	stop context.CancelFunc
	done chan error
}

func newChurn(t testing.TB, n *node) *churn {
	t.Helper()
	conn, err := nl.Dial(nl.Config{NetNS: n.ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &churn{side: n.side, conn: conn, next: 2000}
}

// begin goes on with the load.
func (c *churn) begin() {
	ctx, stop := context.WithCancel(context.Background())
	c.stop, c.done = stop, make(chan error, 1)
	go func() { c.done <- c.run(ctx) }()
}

func (c *churn) run(ctx context.Context) error {
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		if err := c.step(); err != nil {
			return err
		}
	}
}

// step creates a flow and ends one that has lived for 30 steps, except each fourth.
func (c *churn) step() error {
	f := c.side.flow(c.next)
	r := nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.Family(), Attrs: f.Append}
	if err := c.conn.Do(context.Background(), r, nil); err != nil {
		return fmt.Errorf("create %s: %w", entryOfFlow(&f), err)
	}
	if old := c.next - 30; c.next >= 2030 && old%4 != 0 {
		f := c.side.flow(old)
		gone := ctnetlink.Flow{Orig: f.Orig}
		if err := c.conn.Do(context.Background(), nl.Request{Type: ctnetlink.TypeFlowDelete, Family: f.Family(), Attrs: gone.Append}, nil); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove %s: %w", entryOfFlow(&f), err)
		}
	}
	c.next++
	return nil
}

// pause ends the load until begin.
func (c *churn) pause(t testing.TB) {
	t.Helper()
	c.stop()
	if err := <-c.done; err != nil {
		t.Fatal(err)
	}
}

// lacksNothing waits until the external cache of each has all flows of the other's kernel. A C daemon does
// not say which have ended while it was not running, and misses flows that begin while it starts.
func (p *pair) lacksNothing(when string) {
	p.t.Helper()
	p.each(func(from, to *node) {
		p.t.Helper()
		diff := ""
		defer func() {
			if p.t.Failed() {
				p.t.Logf("%s:\n%s\nlogs:\n%s\n%s", when, diff, from.daemon.log(), to.daemon.log())
			}
		}()
		netnstest.Eventually(p.t, patience, when+": "+to.daemon.name()+" has the other's flows", func() bool {
			want, got := about(from.kernel.entries(), from.side), to.external()
			if from.daemon.program == debian {
				own := from.internal()
				maps.DeleteFunc(want, func(e entry, _ bool) bool { return !own[e] })
			}
			maps.DeleteFunc(got, func(e entry, _ bool) bool { return !want[e] })
			diff = difference(want, got)
			return diff == ""
		})
	})
}

// TestMigration takes a pair from C daemons to a sealed cluster and back, one node after the other, while
// flows begin and end all the time. After each step each node has the flows of the other, and no others where both are ours.
func TestMigration(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	key := makeKey3(t, p)
	steps := []struct {
		name    string
		program program
		cluster *membership
		version string // that both speak once both nodes have taken the step
	}{
		{"C daemons", debian, nil, ""},
		{"version 1", ours, nil, "1"},
		{"Cluster", ours, &membership{name: "edge"}, "2, not sealed"},
		{"Key and AllowPlain", ours, &membership{name: "edge", key: key, allow: true}, "2, sealed with key 3"},
		{"AllowPlain off", ours, &membership{name: "edge", key: key}, "2, sealed with key 3"},
	}
	p.start(programs{debian, debian}, steps[0].cluster.file(4), "")
	loads := []*churn{newChurn(t, p.a), newChurn(t, p.b)}
	for _, l := range loads {
		l.begin()
	}
	at := 0
	for _, to := range []int{1, 2, 3, 4, 3, 2, 1, 0} {
		from, step := steps[at], steps[to]
		p.each(func(n, other *node) {
			began := time.Now()
			file := step.cluster.file(4)(n.side, other.side)
			if from.cluster != nil && step.cluster != nil {
				n.daemon.configure(file, "")
				n.daemon.client("--reload")
			} else {
				n.daemon.stop()
				n.daemon.program = step.program
				n.daemon.configure(file, "")
				n.daemon.start()
				if n.daemon.program == debian {
					n.daemon.client("-n")
					n.daemon.client("-B")
				}
			}
			version := step.version
			if n == p.a { // the other one has not taken the step yet
				version = steps[min(at, to)].version
			}
			if version != "" {
				p.speak(n.name+": "+step.name, version)
			}
			for _, l := range loads {
				l.pause(t)
			}
			if p.a.daemon.program == ours && p.b.daemon.program == ours {
				p.replicated(n.name + ": " + step.name)
			} else {
				p.lacksNothing(n.name + ": " + step.name)
			}
			for _, l := range loads {
				l.begin()
			}
			t.Logf("%s: %s: %v", n.name, step.name, time.Since(began).Round(time.Millisecond))
		})
		at = to
	}
	for _, l := range loads {
		l.pause(t)
	}
}
