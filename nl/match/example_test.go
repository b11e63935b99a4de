package match_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/match"
)

// Many predicates, one reading of the table: the flows to two services that are gone, and
// all flows of a network.
func ExampleMatcher() {
	var predicates []match.Predicate
	for _, service := range []string{"192.0.2.10", "192.0.2.11"} {
		predicates = append(predicates, match.Predicate{
			Has: match.Proto, Proto: ctnetlink.ProtoUDP,
			Orig: match.Tuple{Has: match.Dst | match.DstPort, Dst: match.Host(netip.MustParseAddr(service)), DstPort: match.Port(53)},
		})
	}
	predicates = append(predicates, match.Predicate{
		Any: match.Tuple{Has: match.Src, Src: match.Prefix(netip.MustParsePrefix("2001:db8:1::/48"))},
	})
	m := match.New(predicates)

	conn, err := nl.Dial(nl.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	now := time.Now().UnixNano()
	hits := make([]int, len(predicates))
	var met []int32
	_, err = ctnetlink.DumpFlows(context.Background(), conn, m.Dump(), func(f *ctnetlink.Flow) error {
		met = m.AppendMatches(met[:0], f, now)
		for _, i := range met {
			hits[i]++
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(hits)
}

func ExamplePredicate_Match() {
	busy := match.Predicate{Has: match.Bytes, Bytes: match.AtLeast(1 << 20)}
	f := ctnetlink.Flow{
		Has:           ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply,
		CountersOrig:  ctnetlink.Counters{Packets: 20, Bytes: 1000},
		CountersReply: ctnetlink.Counters{Packets: 2000, Bytes: 3_000_000},
	}
	fmt.Println(busy.Match(&f, 0))
	// Output: true
}
