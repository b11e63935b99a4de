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

// ftpMode is a way to announce a data connection: the line that one end sends, and which end
// opens the connection.
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

// commas returns an address and port in the form of PORT and the reply to PASV (RFC 959).
func commas(addr string, port int) string {
	return fmt.Sprintf("%s,%d,%d", strings.ReplaceAll(addr, ".", ","), port>>8, port&0xff)
}

// login opens a control connection and logs in.
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

// In all four modes the announced connection is expected, and its address rewritten where the
// firewall translates; the data connection passes, and a connection to the next port does
// not.
func TestFTP(t *testing.T) {
	for _, family := range []struct {
		name  string
		kind  kind
		at    addresses
		modes []ftpMode
	}{
		{"ipv4", ftp, v4, ftpModes},
		{"ipv6", ftp6, v6, []ftpMode{ftpModes[1], ftpModes[3]}},
	} {
		for _, nat := range []translation{routed, snat, dnat} {
			t.Run(family.name+"/"+string(nat), func(t *testing.T) {
				each(t, func(t *testing.T, p program) {
					fw := newFirewall(t)
					fw.register(family.kind)
					fw.load(nat, true, family.kind)
					defer fw.start(p, false, family.kind).end()
					for i, mode := range family.modes {
						t.Run(mode.name, func(t *testing.T) { fw.announce(t, p, nat, family.at, mode, 42000+10*i) })
					}
				})
			})
		}
	}
}

// announce announces a data connection in a mode, and opens it.
func (fw *firewall) announce(t *testing.T, p program, nat translation, at addresses, mode ftpMode, port int) {
	// The addresses at which client and server see each other.
	server, client := nat.of(at)
	s := fw.login(t, port-1000, server, at.server)
	want := expected{protocol: "tcp", master: flow{addrPort(at.client, port-1000), addrPort(server, 21)}, helper: "ftp", lifetime: 300}
	say, from, to := mode.text(at.server, port), fw.client, fw.server
	speaker, listener := s.server, s.client
	dst, source, heard := server, client, mode.text(server, port)
	want.src = addrPort(at.client, 0)
	if mode.active {
		say, from, to = mode.text(at.client, port), to, from
		speaker, listener = listener, speaker
		dst, source, heard = client, server, mode.text(client, port)
		want.src = addrPort(at.server, 0)
	}
	want.dst = addrPort(dst, port)
	if mode.name == "EPSV" && defect(t, p, 3) || at == v6 && defect(t, p, 4) {
		relay(t, speaker, listener, say)
		fw.expectsNone(t)
		refused(t, from, addrPort(dst, port))
		return
	}
	send(t, speaker, listener, say, heard)
	fw.expects(t, want)
	refused(t, from, addrPort(dst, port+1))
	l := listen(t, to, "", port)
	if nat == snat && mode.active || nat == dnat && !mode.active {
		if defect(t, p, 1) {
			// The expected connection leads to the firewall itself, where no program listens.
			if _, err := connect(t, from, 0, addrPort(dst, port)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("the data connection did not end at the firewall: %v", err)
			}
			return
		}
	} else if nat == dnat && defect(t, p, 1) {
		source = at.server
	}
	passes(t, from, addrPort(dst, port), l, source)
	fw.expectsNone(t)
}

// A real client transfers whole files from a real server. iptables attaches the helper, which
// conntrackd creates. Faults that stop the data are in TestFTP.
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

				server, _ := nat.of(v4)
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
