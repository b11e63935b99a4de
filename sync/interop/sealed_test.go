package interop

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/seal"
)

// newKeyFile makes a key.
func newKeyFile(t testing.TB) string {
	t.Helper()
	text, err := seal.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(shortDir(t), "key")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// clusterClause is a Cluster of the two nodes; key is a file, "" for none.
func clusterClause(family int, key string) func(me, peer *side) string {
	number := func(s *side) int { return int(s.name[0]-'a') + 1 }
	return func(me, peer *side) string {
		text := fmt.Sprintf("Cluster {\n\tName edge\n\tNode %d %s\n\tPeer %d %s {\n\t\tIPv%d_Destination_Address %s\n\t}\n",
			number(me), me.name, number(peer), peer.name, family, peer.link(family, 0))
		if key != "" {
			text += "\tKey 1 " + key + "\n"
		}
		return text + "}\n"
	}
}

// inCluster is a UDP link between nodes of a Cluster.
func inCluster(family int, key string) transport {
	link, cluster := udp(family, 0, "sync0", ""), clusterClause(family, key)
	name := fmt.Sprintf("plain-IPv%d", family)
	if key != "" {
		name = fmt.Sprintf("sealed-IPv%d", family)
	}
	return transport{name, func(me, peer *side) string { return link(me, peer) + cluster(me, peer) }}
}

var ftfw = modes[0]

// TestSealedPair runs the scenario with version 2 of the protocol.
func TestSealedPair(t *testing.T) {
	key := newKeyFile(t)
	for _, tr := range []transport{inCluster(4, key), inCluster(6, key), inCluster(4, ""), inCluster(6, "")} {
		if !netnstest.Long && tr.name != "sealed-IPv4" {
			continue
		}
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(programs{ours, ours}, syncClause(ftfw, tr, withExpects), "")
			(&scenario{pair: p, mode: ftfw, transport: tr}).run()
			p.each(func(n, _ *node) { n.provenEqual("at the end") })
			p.each(func(n, _ *node) {
				text := n.daemon.client("-s", "network")
				for _, reason := range []string{"malformed", "node", "plain", "key", "tag"} {
					if !strings.Contains(text, "\t"+reason+"\t0\n") {
						t.Errorf("%s has refused datagrams:\n%s\n%s", n.name, text, n.daemon.log())
						break
					}
				}
			})
		})
	}
}

// provenEqual waits until the node's copy is proven to be equal.
func (n *node) provenEqual(when string) {
	t := n.daemon.t
	t.Helper()
	netnstest.Eventually(t, patience, when+": "+n.name+" has proven its copy", func() bool {
		return strings.Contains(n.daemon.client("-s", "peers"), "proven equal:\t\tyes")
	})
}

// TestSealedTakeover kills a node like a power failure. The other commits all of its flows, those
// that only version 2 can express too.
func TestSealedTakeover(t *testing.T) {
	tr := inCluster(4, newKeyFile(t))
	p := newPair(t)
	p.start(programs{ours, ours}, syncClause(ftfw, tr, withExpects), "")
	samples := p.a.samples()
	for i := range samples {
		p.a.kernel.create(&samples[i].flow)
	}
	for zone := uint16(3); zone <= 4; zone++ {
		f := samples[0].flow
		f.Has |= ctnetlink.HasNATSrc
		f.NATSrc = ctnetlink.NAT{HasAddr: true}
		_, f.NATSrc.Addr = parseAddr(fmt.Sprintf("192.0.2.%d", 200+zone))
		f.Orig.Has |= ctnetlink.TupleZone
		f.Orig.Zone = zone
		f.Reply = f.Orig.Inverted()
		f.Reply.Has &^= ctnetlink.TupleZone
		p.a.kernel.create(&f)
	}
	p.b.follows(p.a, "before the takeover")
	p.b.provenEqual("before the takeover")
	want := about(p.a.kernel.entries(), p.a.side)
	p.a.daemon.kill()
	p.b.daemon.commit()
	if diff := difference(want, about(p.b.kernel.entries(), p.a.side)); diff != "" {
		t.Errorf("after the takeover (- missing, + too many):\n%s\n%s", diff, p.b.daemon.log())
	}
}
