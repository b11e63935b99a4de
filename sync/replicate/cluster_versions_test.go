//go:build !no_cluster

package replicate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/seeds"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/proto"
)

// migration is a town whose nodes go from one version to another under load.
type migration struct {
	*town
	t       *testing.T
	random  *rand.Rand
	flows   []ctnetlink.Flow
	key     string
	configs map[string]func(number int) *conf.Sync
}

func newMigration(t *testing.T, seed uint64) *migration {
	m := &migration{
		town: emptyTown(t, 2), t: t, random: rand.New(rand.NewPCG(seed, 1)), flows: flowtest.Flows(400),
		key: keyFile(t, newKey(t, 'a'), 0o600),
	}
	wrong := keyFile(t, newKey(t, 'b'), 0o600)
	m.configs = map[string]func(int) *conf.Sync{
		"version 1": func(n int) *conf.Sync { c := clusterConfig(n); c.Cluster = nil; return c },
		"cluster":   func(n int) *conf.Sync { return clusterConfig(n) },
		"allow":     func(n int) *conf.Sync { c := clusterConfig(n, m.key); c.Cluster.AllowPlain = true; return c },
		"sealed":    func(n int) *conf.Sync { return clusterConfig(n, m.key) },
		"wrong":     func(n int) *conf.Sync { return clusterConfig(n, wrong) },
		"wrong allow": func(n int) *conf.Sync {
			c := clusterConfig(n, wrong)
			c.Cluster.AllowPlain = true
			return c
		},
		"other": func(n int) *conf.Sync { c := clusterConfig(n); c.Cluster.Name = "core"; return c },
		"duplicate": func(n int) *conf.Sync {
			c := clusterConfig(n)
			c.Cluster.Node, c.Cluster.Peers[0].Number = c.Cluster.Peers[0].Number, c.Cluster.Node
			return c
		},
	}
	return m
}

// restart starts a node anew: its kernel's flows stay, its copies are gone.
func (m *migration) restart(number int, config string) {
	internal := cache.NewSide(cache.Config{})
	if v := m.nodes[number]; v != nil {
		var f ctnetlink.Flow
		handles := make([]cache.Handle, 64)
		var cur cache.Cursor
		for more := true; more; {
			var n int
			n, more = v.internal.Flows.Next(&cur, handles)
			for _, h := range handles[:n] {
				if v.internal.Flows.Load(h, &f) {
					internal.Flows.Replace(&f, m.now)
				}
			}
		}
	}
	m.start(number, m.configs[config](number), internal)
}

// reload puts another file in force, by a restart if it changes what a reload does not.
func (m *migration) reload(number int, config string) {
	c := m.configs[config](number)
	if now := m.nodes[number].cfg.Cluster; (now == nil) != (c.Cluster == nil) || now != nil && (now.Name != c.Cluster.Name || now.Node != c.Cluster.Node) {
		m.restart(number, config)
		return
	}
	m.nodes[number].Reconfigure(c)
}

// load changes flows for a while.
func (m *migration) load(d time.Duration) {
	for end := m.now + d; m.now < end; {
		for range 5 {
			f := &m.flows[m.random.IntN(len(m.flows))]
			v := m.nodes[0]
			if f.Orig.SrcPort%2 == 1 {
				v = m.nodes[1]
			}
			switch m.random.IntN(4) {
			case 0:
				v.end(f)
			case 1:
				v.store(f, true)
			default:
				f.Has |= ctnetlink.HasMark
				f.Mark = m.random.Uint32()
				v.rewrite(f)
			}
		}
		m.pass(20 * time.Millisecond)
	}
}

// settled waits until both nodes speak a version and hold what the other has.
func (m *migration) settled(what string, want proto.Version) {
	m.t.Helper()
	m.until(what, 40*time.Second, func() bool {
		for _, v := range m.nodes {
			if v.spoken() != want {
				return false
			}
		}
		return maps.Equal(contents(m.nodes[0].internal), contents(m.nodes[1].external.Side)) &&
			maps.Equal(contents(m.nodes[1].internal), contents(m.nodes[0].external.Side))
	})
	m.until(what+": dead flows are released", 20*time.Second, func() bool {
		return deadOf(m.nodes[0].internal) == 0 && deadOf(m.nodes[1].internal) == 0
	})
}

func (r *Replicator) spoken() proto.Version {
	if r.cluster == nil {
		return proto.Version1
	}
	return r.cluster.version
}

// deadOf counts the dead flows of a side, which a machine should have released.
func deadOf(side cache.Side) int {
	s := side.Flows.Stats()
	return s.Objects - s.Active
}

// The steps of a migration and its way back, each by one node after the other, by restart and by reload.
func TestMigration(t *testing.T) {
	steps := []struct {
		config string
		speaks proto.Version
	}{
		{"version 1", proto.Version1}, {"cluster", proto.Version2Plain}, {"allow", proto.Version2Sealed}, {"sealed", proto.Version2Sealed},
	}
	for _, how := range []string{"restart", "reload"} {
		t.Run(how, func(t *testing.T) {
			m := newMigration(t, 1)
			change := m.restart
			if how == "reload" {
				change = m.reload
			}
			m.restart(0, "version 1")
			m.restart(1, "version 1")
			m.load(3 * time.Second)
			m.settled("at the start", proto.Version1)
			at := proto.Version1
			for _, i := range []int{1, 2, 3, 2, 1, 0} {
				to := steps[i]
				for n := range 2 {
					change(n, to.config)
					m.load(2 * time.Second)
					want := to.speaks
					if n == 0 {
						want = min(at, to.speaks)
					}
					m.settled(fmt.Sprintf("node %d: %s", n+1, to.config), want)
				}
				at = to.speaks
			}
		})
	}
}

// Any two files, in any order, by restart or reload, with loss: the nodes end with equal copies where they can.
func TestSimulatedMigrations(t *testing.T) {
	names := slices.Sorted(maps.Keys(newMigration(t, 0).configs))
	for seed := range seeds.Count(8) {
		m := newMigration(t, seed)
		m.restart(0, "version 1")
		m.restart(1, "cluster")
		now := [2]string{"version 1", "cluster"}
		for range 5 {
			m.lose = func(int, []byte) bool { return m.random.IntN(10) == 0 }
			for range 1 + m.random.IntN(3) {
				n := m.random.IntN(2)
				now[n] = names[m.random.IntN(len(names))]
				if m.random.IntN(2) == 0 {
					m.restart(n, now[n])
				} else {
					m.reload(n, now[n])
				}
				m.load(time.Duration(m.random.IntN(5000)) * time.Millisecond)
			}
			m.lose = nil
			m.load(time.Second)
			if want, ok := together(now[0], now[1]); ok {
				m.settled(fmt.Sprintf("seed %d: %v", seed, now), want)
			}
		}
	}
}

// together returns what two nodes with these files speak; ok is false if they can't.
func together(a, b string) (v proto.Version, ok bool) {
	pair := []string{a, b}
	has := func(names ...string) bool { return slices.Contains(names, a) || slices.Contains(names, b) }
	plain := func(s string) bool { return s != "sealed" && s != "wrong" }
	switch {
	case has("other", "duplicate"):
		return 0, false
	case has("version 1"):
		return proto.Version1, plain(a) && plain(b)
	case !has("cluster") && strings.Contains(a, "wrong") == strings.Contains(b, "wrong") && !slices.Contains(pair, "other"):
		return proto.Version2Sealed, true
	}
	return proto.Version2Plain, plain(a) && plain(b)
}

// What does not fit is said in one line, and nothing of it is accepted.
func TestNodesThatDoNotFit(t *testing.T) {
	for _, c := range []struct{ a, b, says string }{
		{"cluster", "other", "fw2 is of another cluster: nothing in the clear is accepted from it. Here Name is edge"},
		{"cluster", "duplicate", "fw2 sends as Node 1, which is this node: each node of a Cluster needs a number of its own"},
		{"sealed", "version 1", "refused version 1 of the protocol from fw2: there are keys, and AllowPlain is off"},
		{"sealed", "cluster", "refused version 1 of the protocol from fw2: there are keys, and AllowPlain is off"},
		{"sealed", "wrong", "refused a datagram of fw2 from 192.0.2.2: it was altered, or the key of that number or the cluster's Name is another one there"},
		{"allow", "wrong allow", "the file of a key has other contents here than at fw2"},
		{"sealed", "wrong allow", "refused version 1 of the protocol from fw2: there are keys, and AllowPlain is off"},
	} {
		m := newMigration(t, 1)
		m.restart(0, c.a)
		m.restart(1, c.b)
		m.load(20 * time.Second)
		stored := m.nodes[0].external.Flows.Stats()
		before := stored.Created + stored.Updated
		m.load(5 * time.Second)
		stored = m.nodes[0].external.Flows.Stats()
		if _, ok := together(c.a, c.b); ok != (stored.Created+stored.Updated > before) {
			t.Errorf("%s, %s: accepted before %d, then %d", c.a, c.b, before, stored.Created+stored.Updated)
		}
		if n := strings.Count(m.nodes[0].log.String(), "msg=\""+c.says+"\""); n != 1 {
			t.Errorf("%s, %s: %q is said %d times:\n%s", c.a, c.b, c.says, n, &m.nodes[0].log)
		}
	}
}

// A node that gives up its keys by a reload is believed at once, because it says so under the seal.
func TestKeysAreGivenUp(t *testing.T) {
	m := newMigration(t, 1)
	m.restart(0, "allow")
	m.restart(1, "allow")
	m.load(2 * time.Second)
	m.settled("sealed", proto.Version2Sealed)
	bulks := m.nodes[0].stats().Bulks + m.nodes[1].stats().Bulks
	m.reload(0, "cluster")
	m.until("plain", time.Second, func() bool { return m.nodes[1].spoken() == proto.Version2Plain })
	m.load(time.Second)
	m.settled("plain", proto.Version2Plain)
	m.reload(0, "allow")
	m.until("sealed", 2*time.Second, func() bool { return m.nodes[1].spoken() == proto.Version2Sealed })
	if n := m.nodes[0].stats().Bulks + m.nodes[1].stats().Bulks; n != bulks {
		t.Errorf("%d bulks for a change of the seal", n-bulks)
	}
}

// Plain datagrams of version 2 do not say of which cluster they are. Their offers do.
func TestPlainDatagramsOfAnotherCluster(t *testing.T) {
	m := newMigration(t, 1)
	m.configs["three others"] = func(n int) *conf.Sync {
		c := clusterConfig(n)
		c.Cluster.Name = "core"
		c.Cluster.Peers = append(c.Cluster.Peers, conf.ClusterPeer{Number: 3, Name: "fw3", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.3")}})
		return c
	}
	m.restart(0, "cluster")
	m.restart(1, "three others")
	m.load(5 * time.Second)
	if n := m.nodes[0].external.Flows.Len(); n > 0 || m.nodes[0].spoken() != proto.Version1 {
		t.Errorf("%d flows are accepted, and version %v is spoken", n, m.nodes[0].spoken())
	}
	if n := strings.Count(m.nodes[0].log.String(), "fw2 is of another cluster"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &m.nodes[0].log)
	}
}
