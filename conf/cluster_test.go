package conf

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const clusterLinks = "UDP { IPv4_address 192.0.2.1 Port 3780 Interface a }\nUDP { IPv6_address 2001:db8::1 Port 3781 Interface b }\n"

// inCluster returns a file with two UDP links and a Cluster clause in lines 4 and 5: its
// clauses, then those that every cluster needs, in line 5.
func inCluster(clauses string) string {
	return "Sync {\n" + clusterLinks + "Cluster { " + clauses + "\nName edge Node 1 fw1 Peer 2 fw2 { IPv4_Destination_Address 192.0.2.2 IPv6_Destination_Address 2001:db8::2 } } }"
}

func TestClusterErrors(t *testing.T) {
	const peer2 = " Peer 2 y { IPv4_Destination_Address 192.0.2.2 IPv6_Destination_Address 2001:db8::2 } "
	cluster := func(links, clauses string) string { return "Sync {\n" + links + "\nCluster { " + clauses + " } }" }
	many := func(n int, clause string) string {
		var all strings.Builder
		for i := range n {
			fmt.Fprintf(&all, clause+" ", i+1)
		}
		return all.String()
	}
	for _, tt := range []struct{ src, want string }{
		{inCluster("Name a/b"), `4:16: found "a/b", expected the name of a cluster: 1 to 63 letters, digits, _, . or -`},
		{inCluster("Name " + strings.Repeat("x", 64)), `4:16: found "` + strings.Repeat("x", 60) + `...", expected the name of a cluster: 1 to 63 letters, digits, _, . or -`},
		{inCluster("Node fw1"), `4:16: found "fw1", expected a number from 1 to 16`},
		{inCluster("Node 17 fw1"), `4:16: found "17", expected a number from 1 to 16`},
		{inCluster("Node 1 Peer { }"), `4:23: found "{", expected a clause of Cluster or "}"`},
		{inCluster("Peer 0 fw2 { }"), `4:16: found "0", expected a number from 1 to 16`},
		{inCluster("Peer 2 { }"), `4:18: found "{", expected the name of a node: 1 to 63 letters, digits, _, . or -`},
		{inCluster("Peer 3 x { IPv4_Destination_Address 2001:db8::3 }"), `4:47: found "2001:db8::3", expected an IPv4 address of a host`},
		{inCluster("Peer 3 x { IPv4_Destination_Address 0.0.0.0 }"), `4:47: found "0.0.0.0", expected an IPv4 address of a host`},
		{inCluster("Peer 3 x { IPv6_Destination_Address ff02::1 }"), `4:47: found "ff02::1", expected an IPv6 address of a host`},
		{inCluster("Peer 3 x { Destination 192.0.2.3 }"), `4:22: found "Destination", expected a clause of Peer or "}"`},
		{inCluster("Peer 3 x { Prt 5 }"), `4:22: found "Prt", expected a clause of Peer or "}" (did you mean Port?)`},
		{inCluster("Peer 3 x { " + strings.Repeat("IPv4_Destination_Address 192.0.2.3 ", 5) + "}"),
			"4:162: too many addresses of a Peer: there are at most 4 links"},
		{inCluster("Key 0 /k"), `4:15: found "0", expected a number from 1 to 255`},
		{inCluster("Key 256 /k"), `4:15: found "256", expected a number from 1 to 255`},
		{inCluster("Key 1 k"), `4:17: found "k", expected an absolute path`},
		{inCluster("Key 1 /" + strings.Repeat("x", 256)), "4:17: the path of a Key is longer than 256 characters"},
		{inCluster("Key 1 /k\nKey 1 /l"), "5:1: Key 1 is there already, in line 4"},
		{inCluster("Keys 1 /k"), `4:11: found "Keys", expected a clause of Cluster or "}" (did you mean Key?)`},
		{inCluster(many(16, "Key %d /k") + "\nKey 17 /k"), "5:1: too many Key clauses: a cluster has at most 16 keys"},
		{inCluster(many(15, "Peer %d x { }") + "\n"), "6:22: too many Peer clauses: a cluster has at most 15 peers"},
		{inCluster("Send 3"), "4:11: Send 3 is the number of no Key"},
		{inCluster("Key 1 /k Send 3"), "4:20: Send 3 is the number of no Key"},
		{inCluster("Key 1 /k Key 2 /l"), "4:1: Cluster has 2 keys and needs Send with the number of the one that seals"},
		{inCluster("Send 0"), `4:16: found "0", expected a number from 1 to 255`},
		{inCluster("AllowPlain maybe"), `4:22: found "maybe", expected on, yes, off or no`},

		{cluster("", "Node 1 x"+peer2), "3:1: Cluster needs a Name"},
		{cluster("", "Name a"+peer2), "3:1: Cluster needs a Node: this node's number and name"},
		{cluster("", "Name a Node 1 x"), "3:1: Cluster needs a Peer"},
		{cluster("Mode ALARM { }", "Name a Node 1 x"+peer2), "2:1: Cluster needs Mode FTFW and cannot be used with Mode ALARM"},
		{cluster("Mode NOTRACK { DisableInternalCache on }", "Name a Node 1 x"+peer2), "2:1: Cluster needs Mode FTFW and cannot be used with Mode NOTRACK"},
		{cluster("Mode FTFW { DisableExternalCache on }", "Name a Node 1 x"+peer2), "2:13: DisableExternalCache cannot be used with Cluster, which needs both caches"},
		{cluster("TCP { }", "Name a Node 1 x"+peer2), "2:1: Cluster needs UDP links and cannot be used with TCP"},
		{cluster("Multicast { }", "Name a Node 1 x"+peer2), "2:1: Cluster needs UDP links and cannot be used with Multicast"},
		{cluster("", "Name a Node 2 x"+peer2), "3:27: Peer 2 y has the number of this Node"},
		{inCluster("Peer 2 x { IPv4_Destination_Address 192.0.2.3 IPv6_Destination_Address 2001:db8::3 }"), "5:22: Peer 2 fw2 has the number of Peer 2 x"},
		{inCluster("Peer 3 x { IPv4_Destination_Address 192.0.2.3 }"), "4:11: Peer 3 x has 1 addresses and needs one for each UDP link, of which there are 2"},
		{inCluster("Peer 3 x { IPv4_Destination_Address 192.0.2.3 IPv6_Destination_Address 2001:db8::3 IPv6_Destination_Address 2001:db8::4 }"),
			"4:11: Peer 3 x has 3 addresses and needs one for each UDP link, of which there are 2"},
		{inCluster("Peer 3 x { IPv6_Destination_Address 2001:db8::3 IPv4_Destination_Address 192.0.2.3 }"), "4:11: Peer 3 x: 2001:db8::3 is not of the family of its link, IPv4"},
		{inCluster("Peer 3 x { IPv4_Destination_Address 192.0.2.2 IPv6_Destination_Address 2001:db8::3 }"), "5:22: Peer 2 fw2: 192.0.2.2 is the address of Peer 3 x"},
		{inCluster("Peer 3 x { IPv4_Destination_Address 192.0.2.1 IPv6_Destination_Address 2001:db8::3 }"), "4:11: Peer 3 x: 192.0.2.1 is this node's own address"},
		{cluster("UDP { IPv4_address 192.0.2.1 IPv4_Destination_Address 192.0.2.3 Port 3780 Interface a }",
			"Name a Node 1 x Peer 2 y { IPv4_Destination_Address 192.0.2.2 }"), "2:30: the link's destination 192.0.2.3 is not the address of a Peer on this link"},
		{"Sync { Mode FTFW { Cluster { } } }", `1:20: found "Cluster", expected a clause of Mode FTFW or "}" (Cluster belongs in Sync)`},
		{"Sync { AllowPlain on }", `1:8: found "AllowPlain", expected a clause of Sync or "}" (AllowPlain belongs in Cluster)`},
	} {
		if c, _, err := Parse("x.conf", []byte(tt.src)); err == nil || c != nil || err.Error() != "x.conf:"+tt.want {
			t.Errorf("%s\n got %v\nwant x.conf:%s", tt.src, err, tt.want)
		}
	}
}

func addrs(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, addr(a))
	}
	return all
}

func TestCluster(t *testing.T) {
	c, warnings := mustParse(t, inCluster("Key 3 /k Peer 3 fw3 { IPv4_Destination_Address 192.0.2.3 IPv6_Destination_Address 2001:db8::3 Port 99 }"))
	want := &Cluster{
		Name: "edge", Node: 1, NodeName: "fw1",
		Peers: []ClusterPeer{
			{Number: 3, Name: "fw3", Addresses: addrs("192.0.2.3", "2001:db8::3"), Port: 99},
			{Number: 2, Name: "fw2", Addresses: addrs("192.0.2.2", "2001:db8::2")},
		},
		Keys: []ClusterKey{{3, "/k"}}, Send: 3,
	}
	if diff := cmp.Diff(want, c.Sync.Cluster, sameConfig); diff != "" || len(warnings) != 1 { // no Mode
		t.Errorf("%s%v", diff, warnings)
	}
	for i, line := range []int{4, 5} {
		if at, ok := c.Where(&c.Sync.Cluster.Peers[i]); !ok || at.Line != line {
			t.Errorf("peer %d is at %v", i, at)
		}
	}
	roundTrip(t, c)
	// The link's own destination may be that of any peer.
	for _, destination := range []string{"192.0.2.2", "192.0.2.3"} {
		mustParse(t, "Sync { UDP { Port 1 Interface a IPv4_Destination_Address "+destination+" } Cluster { Name a Node 1 x\n"+
			"Peer 2 y { IPv4_Destination_Address 192.0.2.2 } Peer 3 z { IPv4_Destination_Address 192.0.2.3 } } }")
	}
}

// randomCluster returns a file with a Cluster clause that is accepted.
func randomCluster(r *rand.Rand) string {
	shuffled := func(clauses []string) string {
		r.Shuffle(len(clauses), func(i, j int) { clauses[i], clauses[j] = clauses[j], clauses[i] })
		return strings.Join(clauses, "\n")
	}
	links := r.IntN(MaxLinks + 1)
	six := make([]bool, links)
	clauses := []string{"Name edge", "Node 1 fw1"}
	var udp strings.Builder
	for i := range six {
		six[i] = r.IntN(2) > 0
		address := map[bool]string{false: "IPv4_address 192.0.2.1", true: "IPv6_address 2001:db8::1"}[six[i]]
		fmt.Fprintf(&udp, "UDP { %s Port %d Interface eth%d }\n", address, 3780+i, i)
	}
	for number := 2; number <= 2+r.IntN(MaxPeers); number++ {
		peer := fmt.Sprintf("Peer %d fw%d {", number, number)
		for i := range six {
			if six[i] {
				peer += fmt.Sprintf(" IPv6_Destination_Address 2001:db8::%x", 16*number+i)
			} else {
				peer += fmt.Sprintf(" IPv4_Destination_Address 192.0.2.%d", 15*number+i)
			}
		}
		clauses = append(clauses, peer+[]string{" }", " Port 0 }", " Port 5 }"}[r.IntN(3)])
	}
	keys := r.Perm(255)[:r.IntN(MaxClusterKeys+1)]
	for _, k := range keys {
		clauses = append(clauses, fmt.Sprintf("Key %d /etc/key%d", k+1, k+1))
	}
	if len(keys) > 1 || len(keys) == 1 && r.IntN(2) == 0 {
		clauses = append(clauses, fmt.Sprintf("Send %d", keys[r.IntN(len(keys))]+1))
	}
	if r.IntN(2) == 0 {
		clauses = append(clauses, "AllowPlain "+[]string{"on", "off"}[r.IntN(2)])
	}
	if r.IntN(2) == 0 {
		clauses = append(clauses, "HotStandby "+[]string{"on", "off"}[r.IntN(2)])
	}
	return "Sync {\n" + shuffled([]string{"Mode FTFW { }", udp.String(), "Cluster {\n" + shuffled(clauses) + "\n}"}) + "\n}\n"
}

func TestRandomClusters(t *testing.T) {
	for seed := range uint64(300) {
		src := randomCluster(rand.New(rand.NewPCG(seed, 0)))
		c, _, err := Parse("random", []byte(src))
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, src)
		}
		if roundTrip(t, c); t.Failed() {
			t.Fatalf("seed %d: %s", seed, src)
		}
	}
}
