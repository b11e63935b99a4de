//go:build vm

package vmtest

import (
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"

	"ctbox/internal/netnstest"
)

// objects returns the status of the kernel's helper objects.
func (fw *firewall) objects() map[string]string {
	fw.t.Helper()
	objects := make(map[string]string)
	var name string
	for line := range strings.Lines(fw.router.Must(applet("nfct"), "helper", "list")) {
		key, value, _ := strings.Cut(strings.Trim(line, "\t,\n"), " = ")
		switch key {
		case ".name", ".l3protonum", ".l4protonum", ".queuenum", ".priv_data_len":
			name += value + " "
		case ".status":
			objects[strings.TrimSpace(name)], name = value, ""
		}
	}
	return objects
}

// With Setup, conntrackd creates all helper objects itself, like nfct.
func TestSetup(t *testing.T) {
	want := make(map[string]string)
	for _, k := range kinds {
		l3, l4 := 2, 17
		if k.family == "inet6" {
			l3 = 10
		}
		if k.protocol == "tcp" {
			l4 = 6
		}
		length := map[string]int{"ftp": 24, "rpc": 16, "sane": 4, "tns": 1}[k.name]
		want[fmt.Sprint(k.name, " ", k.queue, " ", l3, " ", l4, " ", length)] = "enabled"
	}
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.unregister()
		defer fw.start(p, true, kinds...).end()
		if got := fw.objects(); !maps.Equal(got, want) {
			t.Errorf("objects %v\nwant %v", got, want)
		}
		// nfct and conntrackd accept each other's objects and only update them.
		for _, k := range kinds {
			fw.router.Must(applet("nfct"), "helper", "add", k.name, k.family, k.protocol)
		}
	})
}

// Without Setup, a missing helper object is an error.
func TestNoSetup(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		d := fw.launch(p, false, ftp)
		if r := d.Wait(patience); r.Code != 1 || !strings.Contains(r.Stderr, "trying to configure cthelper `ftp': ") {
			t.Errorf("status %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
}

// After a daemon has ended, established connections continue and new ones pass without a
// helper. After a restart the helper continues with the old connections.
func TestStop(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(ftp)
		fw.load(routed, true, ftp)
		d := fw.start(p, false, ftp)
		s := fw.login(t, 41000, serverAddr, serverAddr)
		d.end()
		want := "disabled"
		if defect(t, p, 105) {
			want = "enabled"
		}
		for object, got := range fw.objects() {
			if got != want {
				t.Errorf("object %s is %s, want %s", object, got, want)
			}
		}
		relay(t, s.client, s.server, "NOOP\r\n")
		relay(t, s.server, s.client, "200 well\r\n")
		if want == "disabled" {
			fw.login(t, 41001, serverAddr, serverAddr)
		}

		defer fw.start(p, false, ftp).end()
		fw.continues(t, s, 42000)
	})
}

// continues checks that a control connection from port 41000, on which lines were
// exchanged, still has a helper that knows them.
func (fw *firewall) continues(t *testing.T, s session, port int) {
	t.Helper()
	// No line was read meanwhile, so one has to pass first.
	relay(t, s.client, s.server, "NOOP\r\n")
	text := ftpModes[0].text(clientAddr, port)
	relay(t, s.client, s.server, text)
	fw.expects(t, expected{protocol: "tcp", src: addrPort(serverAddr, 0), dst: addrPort(clientAddr, port),
		master: flow{addrPort(clientAddr, 41000), addrPort(serverAddr, 21)}, helper: "ftp", lifetime: 300})
	passes(t, fw.server, addrPort(clientAddr, port), listen(t, fw.client, "", port), serverAddr)
}

// A killed daemon cannot disable its helpers, but the kernel accepts the packets of
// established connections when no program has their queue. The helpers' data about them is in
// the kernel.
func TestKill(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(ftp)
		fw.load(routed, true, ftp)
		d := fw.start(p, false, ftp)
		s := fw.login(t, 41000, serverAddr, serverAddr)
		d.Stop(syscall.SIGKILL)
		netnstest.Eventually(t, patience, "the queue is gone", func() bool { return !fw.bound(ftp.queue) })
		relay(t, s.server, s.client, "421 bye\r\n")

		defer fw.start(p, false, ftp).end()
		// The client's next line begins where its last line before the kill ended.
		text := ftpModes[0].text(clientAddr, 42000)
		relay(t, s.client, s.server, text)
		fw.expects(t, expected{protocol: "tcp", src: addrPort(serverAddr, 0), dst: addrPort(clientAddr, 42000),
			master: flow{addrPort(clientAddr, 41000), addrPort(serverAddr, 21)}, helper: "ftp", lifetime: 300})
		passes(t, fw.server, addrPort(clientAddr, 42000), listen(t, fw.client, "", 42000), serverAddr)
	})
}

// Two lines wait in the queue together: the second is read correctly although its copy of the
// private data is older than the first line's verdict.
func TestBurst(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(ftp)
		fw.load(routed, true, ftp)
		d := fw.start(p, false, ftp)
		defer d.end()
		s := fw.login(t, 41000, serverAddr, serverAddr)
		d.signal(syscall.SIGSTOP)
		// TCP_NODELAY is Go's default: a segment each.
		lines := []string{"TYPE I\r\n", ftpModes[0].text(clientAddr, 42000)}
		for _, line := range lines {
			if _, err := s.client.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
		}
		netnstest.Eventually(t, patience, "both wait", func() bool { return fw.waiting(ftp.queue) == 2 })
		d.signal(syscall.SIGCONT)
		send(t, s.client, s.server, "", strings.Join(lines, ""))
		if defect(t, p, 103) {
			fw.expectsNone(t)
			return
		}
		fw.expects(t, expected{protocol: "tcp", src: addrPort(serverAddr, 0), dst: addrPort(clientAddr, 42000),
			master: flow{addrPort(clientAddr, 41000), addrPort(serverAddr, 21)}, helper: "ftp", lifetime: 300})
	})
}

// While a daemon reads nothing, packets that do not fit into the queue pass, and so do all
// later ones.
func TestFullQueue(t *testing.T) {
	const room, sent = 16, 64
	each(t, func(t *testing.T, p program) {
		k := tftp
		k.length = room
		fw := newFirewall(t)
		fw.register(k)
		fw.load(routed, true, k)
		d := fw.start(p, false, k)
		defer d.end()
		at := datagrams(t, fw.server, serverAddr, 69)
		from := datagrams(t, fw.client, clientAddr, 40000)
		post(t, from, "first", addrPort(serverAddr, 69))
		receive(t, at)

		d.signal(syscall.SIGSTOP)
		for i := range sent {
			post(t, from, fmt.Sprintf("%02d", i), addrPort(serverAddr, 69))
		}
		netnstest.Eventually(t, patience, "the queue is full", func() bool { return fw.waiting(k.queue) == room })
		if !defect(t, p, 102) {
			for i := room; i < sent; i++ {
				if text, _ := receive(t, at); text != fmt.Sprintf("%02d", i) {
					t.Fatalf("got datagram %s, want %d", text, i)
				}
			}
		}
		d.signal(syscall.SIGCONT)
		for i := range room {
			if text, _ := receive(t, at); text != fmt.Sprintf("%02d", i) {
				t.Fatalf("got datagram %s, want %d", text, i)
			}
		}
		post(t, from, tftpRead, addrPort(serverAddr, 69))
		if text, _ := receive(t, at); text != tftpRead {
			t.Errorf("got %q after that", text)
		}
		fw.expects(t, expected{protocol: "udp", src: addrPort(serverAddr, 0), dst: addrPort(clientAddr, 40000),
			master: flow{addrPort(clientAddr, 40000), addrPort(serverAddr, 69)}, helper: "tftp", lifetime: 300})
	})
}

// Unusual and malformed packets pass.
func TestStrangePackets(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(tftp, tftp6)
		fw.load(routed, true, tftp, tftp6)
		defer fw.start(p, false, tftp, tftp6).end()
		at := datagrams(t, fw.server, serverAddr, 69)
		from := datagrams(t, fw.client, clientAddr, 40000)
		same := func(name, text string) {
			t.Helper()
			post(t, from, text, addrPort(serverAddr, 69))
			if got, _ := receive(t, at); got != text {
				t.Errorf("%s: %d bytes arrived of %d", name, len(got), len(text))
			}
		}
		same("empty", "")
		same("one byte", "\x00")
		same("two bytes", "\x00\x03")
		fw.expectsNone(t)
		if !defect(t, p, 18) {
			// In fragments, which the firewall reassembles.
			same("long", "\x00\x03"+strings.Repeat("x", 20000))
			fw.expectsNone(t)
		}
		same("request in fragments", "\x00\x01"+strings.Repeat("x", 2000))
		fw.expects(t, expected{protocol: "udp", src: addrPort(serverAddr, 0), dst: addrPort(clientAddr, 40000),
			master: flow{addrPort(clientAddr, 40000), addrPort(serverAddr, 69)}, helper: "tftp", lifetime: 300})

		at6 := datagrams(t, fw.server, serverAddr6, 69)
		from6 := datagrams(t, fw.client, clientAddr6, 40000)
		raw, err := from6.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		// destination options, of padding alone (RFC 8200)
		raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptString(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_DSTOPTS, "\x00\x00\x01\x04\x00\x00\x00\x00")
		})
		if err != nil {
			t.Fatal(err)
		}
		post(t, from6, tftpRead, addrPort(serverAddr6, 69))
		if got, _ := receive(t, at6); got != tftpRead {
			t.Errorf("with options: got %q", got)
		}
		if lines, _ := fw.expectations("ipv6"); len(lines) != map[bool]int{true: 0, false: 1}[defect(t, p, 104)] {
			t.Errorf("expectations:\n%s", strings.Join(lines, "\n"))
		}
	})
}

// If two clients behind one address announce the same port, the second gets another port, and
// each gets its own connection.
func TestSamePortTwice(t *testing.T) {
	const second = "192.0.2.3"
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.client.IP("addr", "add", second+"/24", "dev", "c0")
		fw.register(ftp)
		fw.load(snat, true, ftp)
		defer fw.start(p, false, ftp).end()
		clients := []string{clientAddr, second}
		for i, client := range clients {
			l := listen(t, fw.server, serverAddr, 21)
			s := dialFrom(t, fw.client, client, 41000+i, addrPort(serverAddr, 21), l)
			l.Close()
			relay(t, s.server, s.client, "220 ready\r\n")
			relay(t, s.client, s.server, "USER anonymous\r\n")
			port := 42000 + i
			if defect(t, p, 2) {
				port = 42000
			}
			send(t, s.client, s.server, ftpModes[0].text(client, 42000), ftpModes[0].text(outerAddr, port))
		}
		if p.debian() {
			lines, _ := fw.expectations("ipv4")
			if len(lines) != 1 {
				t.Errorf("expectations:\n%s", strings.Join(lines, "\n"))
			}
			return
		}
		for i, client := range clients {
			passes(t, fw.server, addrPort(outerAddr, 42000+i), listen(t, fw.client, client, 42000), serverAddr)
		}
	})
}
