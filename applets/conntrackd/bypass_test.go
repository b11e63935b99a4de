package conntrackd

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/wire"
)

// Without an internal cache, events and bulks that a slow TCP peer has not accepted wait in the
// kernel and are not lost.
func TestBypassWaitsForASlowPeer(t *testing.T) {
	const count = 5000
	near, far := netnstest.New(t, "cd"), netnstest.New(t, "cd")
	netnstest.Link(t, netnstest.End{NS: near, Dev: "sync0", Addrs: []string{"192.0.2.1/24"}},
		netnstest.End{NS: far, Dev: "sync0", Addrs: []string{"192.0.2.2/24"}})
	far.Sysctl("net.ipv4.tcp_rmem", "4096 8192 16384")
	var listener net.Listener
	far.Do(func() {
		var err error
		if listener, err = net.Listen("tcp4", "192.0.2.2:3780"); err != nil {
			t.Fatal(err)
		}
	})
	defer listener.Close()
	h := &host{near, t, t.TempDir()}
	p := h.start(ours(t), h.configure(" NetlinkBufferSize 8388608\n NetlinkBufferSizeMaxGrowth 33554432",
		strings.NewReplacer("DisableExternalCache on", "", "UDP {", "TCP {\n\t\tErrorQueueLength 4\n\t\tSndSocketBuffer 8192").Replace(setups["bypass"])))
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	netnstest.Eventually(t, patience, "the link is connected", func() bool {
		return strings.Contains(h.client("-s"), "client=connected")
	})
	var load strings.Builder
	for i := range count {
		fmt.Fprintf(&load, "-I -p udp -s 198.51.100.1 -d 203.0.113.1 --sport %d --dport 53 -t 600\n", 1000+i)
	}
	if err := os.WriteFile(h.path("load"), []byte(load.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Must("/usr/sbin/conntrack", "-R", h.path("load"))
	h.client("-B")

	var messages, flows atomic.Int64
	go countFlows(conn, &messages, &flows)
	netnstest.Eventually(t, 3*patience, "all flows came", func() bool { return flows.Load() == count && messages.Load() >= 2*count })
	if got := h.client("-s", "queue"); strings.Contains(got, "errorq") && !strings.Contains(strings.SplitAfter(got, "queue errorq:")[1], "not enough space errors:\t           0") {
		t.Errorf("the link's queue lost something:\n%s", got)
	}
	stop(t, p)
}

// countFlows counts the messages of a stream and the different flows in them.
func countFlows(conn net.Conn, messages, flows *atomic.Int64) {
	seen := map[uint16]bool{}
	in := bufio.NewReader(conn)
	message := make([]byte, 1<<16)
	var c wire.Counters
	var f ctnetlink.Flow
	for {
		if _, err := io.ReadFull(in, message[:wire.HeaderLen]); err != nil {
			return
		}
		whole := message[:max(wire.HeaderLen, int(binary.BigEndian.Uint16(message[2:])))]
		if _, err := io.ReadFull(in, whole[wire.HeaderLen:]); err != nil {
			return
		}
		r := wire.ReadDatagram(whole)
		if m, ok := r.Next(&c); ok && m.Type.IsFlow() && wire.ParseFlow(m.Body, &f) == nil {
			seen[f.Orig.SrcPort] = true
			messages.Add(1)
			flows.Store(int64(len(seen)))
		}
	}
}
