//go:build vm

package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tftpRead requests a file (RFC 1350); tftpData is its first block.
const (
	tftpRead = "\x00\x01file\x00octet\x00"
	tftpData = "\x00\x03\x00\x01data"
)

// The server answers from a port that the request does not contain.
func TestTFTP(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat, dnat} {
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(tftp)
				fw.load(nat, true, tftp)
				defer fw.start(p, false, tftp).end()

				server, client := nat.of(v4)
				at := datagrams(t, fw.server, serverAddr, 69)
				from := datagrams(t, fw.client, clientAddr, 40000)
				post(t, from, tftpRead, addrPort(server, 69))
				receive(t, at)
				fw.expects(t, expected{protocol: "udp", src: addrPort(serverAddr, 0), dst: addrPort(client, 40000),
					master: flow{addrPort(clientAddr, 40000), addrPort(server, 69)}, helper: "tftp", lifetime: 300})
				refusedDatagram(t, fw.server, serverAddr, 3333, addrPort(client, 40001))

				data := peer(t, fw.server, serverAddr, 3333, addrPort(client, 40000))
				post(t, data, tftpData, "")
				if nat == snat && defect(t, p, 1) {
					if _, err := data.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("the data did not end at the firewall: %v", err)
					}
					return
				}
				_, source := receive(t, from)
				post(t, from, "\x00\x04\x00\x01", source.String())
				receive(t, data)
				// The client sees the address that it sent the request to.
				want := addrPort(server, 3333)
				if nat == dnat && defect(t, p, 1) {
					want = addrPort(serverAddr, 3333)
				}
				if source.String() != want {
					t.Errorf("the data came from %s, want %s", source, want)
				}
			})
		}
	})
}

func TestTFTPIPv6(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(tftp6)
		fw.load(routed, true, tftp6)
		defer fw.start(p, false, tftp6).end()

		at := datagrams(t, fw.server, serverAddr6, 69)
		from := datagrams(t, fw.client, clientAddr6, 40000)
		post(t, from, tftpRead, addrPort(serverAddr6, 69))
		receive(t, at)
		fw.expects(t, expected{protocol: "udp", src: addrPort(serverAddr6, 0), dst: addrPort(clientAddr6, 40000),
			master: flow{addrPort(clientAddr6, 40000), addrPort(serverAddr6, 69)}, helper: "tftp", lifetime: 300})
		refusedDatagram(t, fw.server, serverAddr6, 3333, addrPort(clientAddr6, 40001))
		post(t, datagrams(t, fw.server, serverAddr6, 3333), tftpData, addrPort(clientAddr6, 40000))
		receive(t, from)
	})
}

// A real client gets a whole file from a real server. iptables attaches the helper. Faults
// that stop the data are in TestTFTP.
func TestTFTPTransfer(t *testing.T) {
	dir := t.TempDir()
	want := strings.Repeat("a line of a file\n", 200)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat} {
			if nat == snat && defect(t, p, 1) {
				continue
			}
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(tftp)
				fw.load(nat, false, tftp)
				fw.router.Must("iptables", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "69", "-j", "CT", "--helper", "tftp")
				defer fw.start(p, false, tftp).end()

				fw.server.Start("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
					"--enable-tftp", "--tftp-root="+dir, "--listen-address="+serverAddr, "--bind-interfaces", "--pid-file")
				bound(t, fw.server, "udp", 69)
				r := fw.client.Run("", "busybox", "tftp", "-g", "-r", "file", "-l", "-", serverAddr)
				if r.Code != 0 || r.Stdout != want {
					t.Errorf("tftp: status %d, %d bytes of %d: %s", r.Code, len(r.Stdout), len(want), r.Stderr)
				}
			})
		}
	})
}
