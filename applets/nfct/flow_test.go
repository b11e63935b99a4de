package nfct

import (
	"net"
	"regexp"
	"strconv"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// Real flows get the timeouts of a policy that the CT target attaches, and flows without
// a policy those of a changed default. The timeouts are far from the kernel's own, so that
// the seconds that pass do not matter.
func TestPolicyActsOnFlows(t *testing.T) {
	client, server := netnstest.New(t, "client"), netnstest.New(t, "server")
	netnstest.Link(t, netnstest.End{NS: client, Dev: "eth0", Addrs: []string{"192.0.2.1/24"}},
		netnstest.End{NS: server, Dev: "eth0", Addrs: []string{"192.0.2.2/24"}})
	client.Track()
	nfct := netnstest.Applet(t, "nfct")
	client.Must(nfct, "add", "timeout", "tcp", "inet", "tcp", "established", "2000000")
	client.Must(nfct, "add", "timeout", "udp", "inet", "udp", "unreplied", "1000000", "replied", "3000000")
	client.Must(nfct, "default-set", "timeout", "inet", "udp", "unreplied", "500000")
	client.Must("iptables", "-t", "raw", "-A", "OUTPUT", "-p", "tcp", "-j", "CT", "--timeout", "tcp")
	client.Must("iptables", "-t", "raw", "-A", "OUTPUT", "-p", "udp", "--dport", "7", "-j", "CT", "--timeout", "udp")

	var listener net.Listener
	var echo net.PacketConn
	server.Do(func() {
		var err error
		if listener, err = net.Listen("tcp", "192.0.2.2:7"); err != nil {
			t.Fatal(err)
		}
		if echo, err = net.ListenPacket("udp", "192.0.2.2:7"); err != nil {
			t.Fatal(err)
		}
	})
	defer listener.Close()
	defer echo.Close()
	dial := func(network, addr string) net.Conn {
		var conn net.Conn
		client.Do(func() {
			var err error
			if conn, err = net.Dial(network, addr); err != nil {
				t.Fatal(err)
			}
		})
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	timeout := func(proto, port string) int {
		table := client.Must("/usr/sbin/conntrack", "-L", "-p", proto, "--dport", port)
		m := regexp.MustCompile(`^` + proto + ` +[0-9]+ ([0-9]+) `).FindStringSubmatch(table)
		if m == nil {
			return 0
		}
		seconds, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		return seconds
	}
	// want waits until a flow's timeout is one that was set seconds, at most an
	// hour ago.
	want := func(proto, port string, set int) {
		t.Helper()
		netnstest.Eventually(t, 30*time.Second, proto+" flow with a timeout of "+strconv.Itoa(set), func() bool {
			got := timeout(proto, port)
			return got <= set && got > set-3600
		})
	}

	dial("tcp", "192.0.2.2:7")
	want("tcp", "7", 2000000)
	ask := dial("udp", "192.0.2.2:7")
	if _, err := ask.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	want("udp", "7", 1000000)
	if _, err := dial("udp", "192.0.2.2:8").Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	want("udp", "8", 500000)

	// An answer brings the flow to the next state of its policy, once packets
	// have gone both ways for two seconds.
	if err := echo.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, from, err := echo.ReadFrom(make([]byte, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := echo.WriteTo([]byte("y"), from); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, 30*time.Second, "udp flow with the timeout for replied", func() bool {
		if _, err := ask.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		return timeout("udp", "7") > 3000000-3600
	})

	// The rule counts; later kernels also count flows.
	r := client.Run("", nfct, "get", "timeout", "udp", "-o", "json")
	if r.Code != 0 || !regexp.MustCompile(`^{"name":"udp","family":"ipv4","proto":17,"proto_name":"udp","use":([2-9]|\d{2,}),`+
		`"timeouts":{"UNREPLIED":1000000,"REPLIED":3000000}}\n$`).MatchString(r.Stdout) {
		t.Errorf("policy in use: %+v", r)
	}
}
