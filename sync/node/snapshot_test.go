package node

import (
	"ctbox/sync/sched"
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
	n.sched.SetNow(time.Minute)
	want := []TaskStatus{{sched.KindAny, time.Minute, 3}, {sched.KindAny, time.Minute, 2}, {sched.KindCommit, time.Minute, 9}, {sched.KindAny, time.Second, 5}}
	for _, i := range []int{2, 0, 3, 1} {
		task := n.sched.Register(want[i].Type)
		task.Began, task.Done = n.sched.Now()-want[i].Running, want[i].Done
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
