package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// sizes are the clusters that nodes compares.
var sizes = []int{2, 3}

// nodes measures what further nodes of a sealed Cluster cost: new flows on one node, which all others
// receive. All nodes are on one wire, whatever their number.
func (b *bench) nodes() error {
	if !b.wanted("nodes") {
		return nil
	}
	file, err := b.writeKey()
	if err != nil {
		return err
	}
	for _, flows := range b.replicated {
		used := make([][]usage, len(sizes))
		for range b.runs {
			for i, size := range sizes {
				u, err := b.measureNodes(size, flows, file)
				if err != nil {
					return fmt.Errorf("%d nodes, %d flows: %w", size, flows, err)
				}
				used[i] = append(used[i], u)
			}
		}
		b.printNodes(used, flows)
	}
	return nil
}

// clauseOf returns the Cluster clause of one of several nodes.
func clauseOf(self, size int, key string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "\tCluster {\n\t\tName bench\n\t\tNode %d fw%d\n\t\tKey 1 %s\n", self, self, key)
	for n := 1; n <= size; n++ {
		if n != self {
			fmt.Fprintf(&s, "\t\tPeer %d fw%d {\n\t\t\tIPv4_Destination_Address 192.0.2.%d\n\t\t\tIPv4_Destination_Address 203.0.113.%d\n\t\t}\n", n, n, n, n)
		}
	}
	return s.String() + "\t}\n"
}

// newNodes starts a cluster. Its links are two bridges.
func (b *bench) newNodes(size, flows int, key string) (nodes []*fwNode, stop func(), err error) {
	wires, err := newNamespace("wires")
	if err != nil {
		return nil, func() {}, err
	}
	stop = func() {
		for _, n := range nodes {
			n.stop()
		}
		wires.Close()
	}
	var steps [][]string
	for _, link := range []string{"sync0", "sync1"} {
		steps = append(steps, []string{"ip", "-n", wires.name, "link", "add", link, "type", "bridge"},
			[]string{"ip", "-n", wires.name, "link", "set", link, "up"})
	}
	for i := range size {
		n := &fwNode{dir: filepath.Join(b.dir, fmt.Sprintf("node%d", i))}
		if n.ns, err = newNamespace(fmt.Sprintf("fw%d", i)); err != nil {
			return nil, stop, err
		}
		nodes = append(nodes, n)
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return nil, stop, err
		}
		for link, net := range map[string]string{"sync0": "192.0.2.%d/24", "sync1": "203.0.113.%d/24"} {
			port := fmt.Sprintf("%s-%d", link, i)
			steps = append(steps,
				[]string{"ip", "link", "add", link, "netns", n.ns.name, "type", "veth", "peer", "name", port, "netns", wires.name},
				[]string{"ip", "-n", wires.name, "link", "set", port, "master", link, "up"},
				[]string{"ip", "-n", n.ns.name, "addr", "add", fmt.Sprintf(net, i+1), "dev", link},
				[]string{"ip", "-n", n.ns.name, "link", "set", link, "up"})
		}
	}
	for _, step := range steps {
		if out, err := exec.Command(step[0], step[1:]...).CombinedOutput(); err != nil {
			return nil, stop, fmt.Errorf("%s: %w: %s", strings.Join(step, " "), err, out)
		}
	}
	for i, n := range nodes {
		if err := n.start(b.oursd, i+1, (i+1)%size+1, flows, clauseOf(i+1, size, key)); err != nil {
			return nil, stop, err
		}
	}
	return nodes, stop, nil
}

// measureNodes returns what the active node and the first backup of a cluster use for new flows.
func (b *bench) measureNodes(size, flows int, key string) (usage, error) {
	nodes, stop, err := b.newNodes(size, flows, key)
	defer stop()
	if err != nil {
		return usage{}, err
	}
	time.Sleep(settled)
	for _, n := range nodes {
		out, err := n.ask("-s", "peers")
		if speak := strings.Count(out, "2, sealed with key 1\n"); err != nil || speak != size-1 {
			return usage{}, errors.Join(err, fmt.Errorf("a node speaks version 2 with %d peers:\n%s", speak, out))
		}
	}
	active, backup := nodes[0], nodes[1]
	before := measure(active, backup)
	if err := steadily(active.conn, flows, b.rate); err != nil {
		return usage{}, err
	}
	for _, n := range nodes[1:] {
		if last, err := n.follows(flows); err != nil || last != flows {
			return usage{}, errors.Join(err, fmt.Errorf("a backup has %d flows", last))
		}
	}
	time.Sleep(proved)
	return measure(active, backup).since(before), nil
}

func (b *bench) printNodes(used [][]usage, flows int) {
	fmt.Printf("\n| conntrackd, a sealed Cluster, %d flows %s | CPU a flow, active | CPU a flow, a backup | memory a flow, active | memory a flow, a backup | bytes a flow |\n|---|---|---|---|---|---|\n", flows, b.pace())
	var medians []usage
	for i, size := range sizes {
		m := medianUsage(used[i])
		medians = append(medians, m)
		fmt.Printf("| %d nodes | %.2f us | %.2f us | %d B | %d B | %.1f |\n", size, m.cpu[0].Seconds()*1e6/float64(flows),
			m.cpu[1].Seconds()*1e6/float64(flows), m.rss[0]/flows, m.rss[1]/flows, float64(m.bytes)/float64(flows))
	}
	was, is := medians[0], medians[1]
	fmt.Printf("| ratio | **%.2f** | **%.2f** | %+d B | %+d B | **%.2f** |\n", float64(is.cpu[0])/float64(was.cpu[0]),
		float64(is.cpu[1])/float64(was.cpu[1]), (is.rss[0]-was.rss[0])/flows, (is.rss[1]-was.rss[1])/flows, float64(is.bytes)/float64(was.bytes))
}
