package node

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// Peers and tasks have the same order in each answer.
func TestStatusIsInOrder(t *testing.T) {
	n := unwired(ModeFTFW)
	n.links = &links{node: n}
	var peers []string
	for i := range 9 {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(9 - i)})
		n.peers[addr] = &peer{}
		peers = append(peers, addr.String())
	}
	slices.Sort(peers)
	n.now = n.start.Add(time.Minute)
	want := []TaskStatus{{TaskAny, time.Minute, 3}, {TaskAny, time.Minute, 2}, {TaskCommit, time.Minute, 9}, {TaskAny, time.Second, 5}}
	for _, i := range []int{2, 0, 3, 1} {
		n.tasks[&task{typ: want[i].Type, began: n.now.Add(-want[i].Running), done: want[i].Done}] = struct{}{}
	}
	for range 20 { // a map's order is another one each time
		s := n.snapshot()
		var got []string
		for _, p := range s.Peers {
			got = append(got, p.Addr.Addr().String())
		}
		if !slices.Equal(got, peers) || !slices.Equal(s.Tasks, want) {
			t.Fatalf("peers %v, tasks %v", got, s.Tasks)
		}
	}
}
