//go:build vm

package vmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// ftpMode is a way to announce a data connection: what one end says to the other,
// and who opens the connection.
type ftpMode struct {
	name   string
	active bool // the server opens it
	// text is the line that announces a port of an address.
	text func(addr string, port int) string
}

var ftpModes = []ftpMode{
	{"PORT", true, func(addr string, port int) string { return "PORT " + commas(addr, port) + "\r\n" }},
	{"EPRT", true, func(addr string, port int) string {
		return fmt.Sprintf("EPRT |%d|%s|%d|\r\n", map[bool]int{false: 1, true: 2}[strings.Contains(addr, ":")], addr, port)
	}},
	{"PASV", false, func(addr string, port int) string {
		return "227 Entering Passive Mode (" + commas(addr, port) + ")\r\n"
	}},
	{"EPSV", false, func(addr string, port int) string {
		return fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|)\r\n", port)
	}},
}

// commas is an address and port as PORT and the reply to PASV have it (RFC 959).
func commas(addr string, port int) string {
	return fmt.Sprintf("%s,%d,%d", strings.ReplaceAll(addr, ".", ","), port>>8, port&0xff)
}

// login opens a control connection and says what comes before the interesting.
func (fw *firewall) login(t *testing.T, port int, server, at string) session {
	t.Helper()
	l := listen(t, fw.server, at, 21)
	s := dial(t, fw.client, port, addrPort(server, 21), l)
	l.Close()
	relay(t, s.server, s.client, "220 ready\r\n")
	relay(t, s.client, s.server, "USER anonymous\r\n")
	relay(t, s.server, s.client, "230 logged in\r\n")
	return s
}

// In all four modes: what is announced is expected, and translated where the
// firewall translates; the data connection comes through, and what is beside it
// does not.
func TestFTP(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat, dnat} {
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(ftp)
				fw.load(nat, true, ftp)
				defer fw.start(p, false, ftp).end()
				for i, mode := range ftpModes {
					t.Run(mode.name, func(t *testing.T) { fw.announce(t, p, nat, mode, 42000+10*i) })
				}
			})
		}
	})
}

// announce announces a data connection in a mode, and opens it.
func (fw *firewall) announce(t *testing.T, p program, nat translation, mode ftpMode, port int) {
	// Where the client finds the server and the other way round, and what each
	// takes for its own address.
	server, client := nat.addresses()
	s := fw.login(t, port-1000, server, serverAddr)
	want := expected{protocol: "tcp", master: flow{addrPort(clientAddr, port-1000), addrPort(server, 21)}, helper: "ftp", lifetime: 300}
	from, to := fw.client, fw.server
	var dst, source string
	if mode.active {
		from, to = to, from
		dst, source = client, server
		want.src, want.dst = addrPort(serverAddr, 0), addrPort(client, port)
		send(t, s.client, s.server, mode.text(clientAddr, port), mode.text(client, port))
	} else {
		dst, source = server, client
		want.src, want.dst = addrPort(clientAddr, 0), addrPort(server, port)
		send(t, s.server, s.client, mode.text(serverAddr, port), mode.text(server, port))
	}
	if mode.name == "EPSV" && defect(t, p, 3) {
		fw.expectsNone(t)
		if nat != dnat {
			refused(t, from, addrPort(dst, port))
		}
		return
	}
	fw.expects(t, want)
	refused(t, from, addrPort(dst, port+1))
	l := listen(t, to, "", port)
	if nat == snat && mode.active || nat == dnat && !mode.active {
		if defect(t, p, 1) {
			// It is expected, but by the firewall itself, where nobody listens.
			if _, err := connect(t, from, 0, addrPort(dst, port)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("the data connection did not end at the firewall: %v", err)
			}
			return
		}
	} else if nat == dnat && defect(t, p, 1) {
		source = serverAddr
	}
	passes(t, from, addrPort(dst, port), l, source)
	fw.expectsNone(t)
}

func TestFTPIPv6(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(ftp6)
		fw.load(routed, true, ftp6)
		defer fw.start(p, false, ftp6).end()
		master := func(port int) flow { return flow{addrPort(clientAddr6, port), addrPort(serverAddr6, 21)} }

		t.Run("EPRT", func(t *testing.T) {
			s := fw.login(t, 41000, serverAddr6, serverAddr6)
			relay(t, s.client, s.server, ftpModes[1].text(clientAddr6, 42000))
			if defect(t, p, 4) {
				fw.expectsNone(t)
				refused(t, fw.server, addrPort(clientAddr6, 42000))
				return
			}
			fw.expects(t, expected{protocol: "tcp", src: addrPort(serverAddr6, 0), dst: addrPort(clientAddr6, 42000),
				master: master(41000), helper: "ftp", lifetime: 300})
			refused(t, fw.server, addrPort(clientAddr6, 42001))
			passes(t, fw.server, addrPort(clientAddr6, 42000), listen(t, fw.client, "", 42000), serverAddr6)
		})
		t.Run("EPSV", func(t *testing.T) {
			s := fw.login(t, 41010, serverAddr6, serverAddr6)
			relay(t, s.server, s.client, ftpModes[3].text(serverAddr6, 42010))
			if defect(t, p, 3) {
				fw.expectsNone(t)
				refused(t, fw.client, addrPort(serverAddr6, 42010))
				return
			}
			fw.expects(t, expected{protocol: "tcp", src: addrPort(clientAddr6, 0), dst: addrPort(serverAddr6, 42010),
				master: master(41010), helper: "ftp", lifetime: 300})
			refused(t, fw.client, addrPort(serverAddr6, 42011))
			passes(t, fw.client, addrPort(serverAddr6, 42010), listen(t, fw.server, "", 42010), clientAddr6)
		})
	})
}

// Whole files from a real server by a real client. The helper is attached by
// iptables; conntrackd makes it itself. Where a fault stops the data, TestFTP knows.
func TestFTPTransfer(t *testing.T) {
	dir := t.TempDir()
	file := strings.Repeat("a line of a file\n", 500)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	modes := map[string][]string{
		"PORT": {"--ftp-port", "-", "--disable-eprt"},
		"EPRT": {"--ftp-port", "-"},
		"PASV": {"--disable-epsv"},
		"EPSV": {},
	}
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat, dnat} {
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.unregister()
				defer fw.start(p, true, ftp, ftp6).end()
				fw.load(nat, false, ftp, ftp6)
				for _, tables := range []string{"iptables", "ip6tables"} {
					fw.router.Must(tables, "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "21", "-j", "CT", "--helper", "ftp")
				}
				fw.server.Start("python3", "-m", "pyftpdlib", "-i", "::", "-p", "21", "-d", dir)
				bound(t, fw.server, "tcp", 21)

				server, _ := nat.addresses()
				fetch := func(name, server string, broken bool) {
					if broken {
						return
					}
					args := append([]string{"-sS", "--max-time", "15"}, modes[name]...)
					r := fw.client.Run("", "curl", append(args, "ftp://"+server+"/file")...)
					if r.Code != 0 || r.Stdout != file {
						t.Errorf("%s: curl: status %d, %d bytes of %d: %s", name, r.Code, len(r.Stdout), len(file), r.Stderr)
					}
				}
				fetch("PORT", server, nat == snat && defect(t, p, 1))
				fetch("EPRT", server, nat == snat && defect(t, p, 1))
				fetch("PASV", server, nat == dnat && defect(t, p, 1))
				fetch("EPSV", server, defect(t, p, 3))
				if nat == routed {
					fetch("EPRT", "["+serverAddr6+"]", defect(t, p, 4))
					fetch("EPSV", "["+serverAddr6+"]", defect(t, p, 3))
				}
			})
		}
	})
}
