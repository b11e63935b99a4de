package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ctbox/sync/seal"
)

// clusterClause makes a node speak version 2 of the protocol.
const clusterClause = `	Cluster {
		Name bench
		Node SELF fwSELF
		Peer PEER fwPEER {
			IPv4_Destination_Address 192.0.2.PEER
			IPv4_Destination_Address 203.0.113.PEER
		}
%s	}
`

// proved is the time in which the nodes compare their digests after the last change.
const proved = 3 * time.Second

// bulks is how often all flows are sent again, because once costs too little to be measured well.
const bulks = 5

// way is a version of the protocol, with what was measured of it.
type way struct {
	name, clause string
	speaks       string // in what a node says about its peer
	news, bulk   []usage
}

// writeKey writes the key file of a sealed Cluster and returns its path.
func (b *bench) writeKey() (file string, err error) {
	key, err := seal.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	file = filepath.Join(b.dir, "key")
	return file, os.WriteFile(file, []byte(key), 0o600)
}

// versions compares the versions of the protocol, each between two nodes of ours: with new flows, as
// conntrackd does, and then with a bulk of all of them.
func (b *bench) versions() error {
	if !b.wanted("versions") {
		return nil
	}
	file, err := b.writeKey()
	if err != nil {
		return err
	}
	for _, n := range b.replicated {
		ways := []*way{
			{name: "version 1", speaks: "1, ctbox"},
			{name: "version 2, plain", clause: fmt.Sprintf(clusterClause, ""), speaks: "2, not sealed"},
			{name: "version 2, sealed", clause: fmt.Sprintf(clusterClause, "\t\tKey 1 "+file+"\n"), speaks: "2, sealed with key 1"},
		}
		for range b.runs {
			for _, w := range ways {
				if err := b.measureWay(w, n); err != nil {
					return fmt.Errorf("%s, %d flows: %w", w.name, n, err)
				}
			}
		}
		b.printWays(ways, n)
	}
	return nil
}

func (b *bench) measureWay(w *way, n int) error {
	active, backup, err := b.newPair(b.oursd, n, w.clause)
	for _, node := range []*fwNode{active, backup} {
		if node != nil {
			defer node.stop()
		}
	}
	if err != nil {
		return err
	}
	time.Sleep(settled)
	for _, node := range []*fwNode{active, backup} {
		if out, err := node.ask("-s", "peers"); err != nil || !strings.Contains(out, w.speaks+"\n") {
			return errors.Join(err, fmt.Errorf("a node does not speak version %s:\n%s", w.speaks, out))
		}
	}
	begin := measure(active, backup)
	if err := steadily(active.conn, n, b.rate); err != nil {
		return err
	}
	if last, err := backup.follows(n); err != nil || last != n {
		return errors.Join(err, fmt.Errorf("the backup has %d flows", last))
	}
	time.Sleep(proved)
	replicated := measure(active, backup)
	for range bulks {
		if err := active.bulk(n); err != nil {
			return err
		}
	}
	time.Sleep(proved)
	w.news = append(w.news, replicated.since(begin))
	w.bulk = append(w.bulk, measure(active, backup).since(replicated))
	return nil
}

// bulk sends all n flows to the backup and waits until nothing more than the usual is sent.
func (n *fwNode) bulk(flows int) error {
	if _, err := n.ask("-B"); err != nil {
		return err
	}
	before := 0
	return until("the bulk is sent", 120*time.Second, func() bool {
		time.Sleep(time.Second)
		now, _ := n.sent()
		quiet := before > 0 && now-before < flows/1000
		before = now
		return quiet
	})
}

// pace says how fast flows begin.
func (b *bench) pace() string {
	if b.rate <= 0 {
		return "at full speed"
	}
	return fmt.Sprintf("at %d/s", b.rate)
}

// medianUsage returns the median of each figure separately.
func medianUsage(runs []usage) (m usage) {
	for i := range m.cpu {
		m.cpu[i] = time.Duration(middle(runs, func(u usage) int64 { return int64(u.cpu[i]) }))
		m.rss[i] = int(middle(runs, func(u usage) int64 { return int64(u.rss[i]) }))
	}
	m.packets = int(middle(runs, func(u usage) int64 { return int64(u.packets) }))
	m.bytes = int(middle(runs, func(u usage) int64 { return int64(u.bytes) }))
	return m
}

func (b *bench) printWays(ways []*way, n int) {
	fmt.Printf("\n| conntrackd, versions of the protocol, %d flows | CPU a flow, active | CPU a flow, backup | memory a flow, active | memory a flow, backup | bytes a flow | flows a packet |\n|---|---|---|---|---|---|---|\n", n)
	for _, load := range []struct {
		name string
		sent int
		of   func(*way) []usage
	}{
		{"new " + b.pace(), n, func(w *way) []usage { return w.news }},
		{"in a bulk", bulks * n, func(w *way) []usage { return w.bulk }},
	} {
		var medians []usage
		for _, w := range ways {
			m := medianUsage(load.of(w))
			medians = append(medians, m)
			fmt.Printf("| %s, %s | %.2f us | %.2f us | %d B | %d B | %.1f | %.1f |\n", w.name, load.name,
				m.cpu[0].Seconds()*1e6/float64(load.sent), m.cpu[1].Seconds()*1e6/float64(load.sent), m.rss[0]/n, m.rss[1]/n,
				float64(m.bytes)/float64(load.sent), float64(load.sent)/float64(max(m.packets, 1)))
		}
		for i, what := range []string{"plain to version 1", "sealed to plain"} {
			was, is := medians[i], medians[i+1]
			fmt.Printf("| %s | **%.2f** | **%.2f** | %+d B | %+d B | **%.2f** | **%.2f** |\n", what,
				float64(is.cpu[0])/float64(was.cpu[0]), float64(is.cpu[1])/float64(was.cpu[1]),
				(is.rss[0]-was.rss[0])/n, (is.rss[1]-was.rss[1])/n,
				float64(is.bytes)/float64(was.bytes), float64(was.packets)/float64(is.packets))
		}
	}
}
