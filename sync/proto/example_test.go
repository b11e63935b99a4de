package proto_test

import (
	"fmt"
	"net/netip"
	"time"

	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// Two FT-FW machines and their owners' loops, without sockets, clocks or caches. A
// started node says HELLO on every message, until its peer has answered.
func ExampleMachine() {
	addr := [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	var nodes [2]proto.Receiver
	for i := range nodes {
		nodes[i] = proto.NewFTFW(0, proto.FTFWConfig{FirstSeq: 100, Window: 20, Resend: 1000})
	}

	// transmit sends what a machine has queued and hands it to the other one.
	transmit := func(from int, now time.Duration) {
		to := 1 - from
		for {
			send, ok := nodes[from].Next()
			if !ok {
				break
			}
			if !send.Control {
				// The owner encodes what its cache holds now, and sets the type.
				send.Header.Type = wire.FlowNew
			}
			verdict, _ := nodes[to].Receive(now, 0, addr[from], send.Header)
			if verdict == proto.Apply {
				fmt.Printf("%v: node %d puts flow %d into its external cache\n", now, to, send.Object.Handle)
			}
		}
		nodes[from].Sent(now)
	}

	// The kernel of node 0 has announced a flow, which is slot 7 of its internal cache.
	nodes[0].Changed(proto.Object{Table: proto.Flows, Handle: 7})
	for now := time.Duration(0); now <= time.Second; now += time.Second {
		for i := range nodes {
			nodes[i].Tick(now)
			transmit(i, now)
		}
	}
	// Acknowledged messages have left the resend queue.
	fmt.Println("unacknowledged:", nodes[0].Stats().Resend)

	// Output:
	// 0s: node 1 puts flow 7 into its external cache
	// unacknowledged: 0
}
