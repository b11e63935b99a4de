//go:build vm

package vmtest

import (
	"encoding/binary"
	"fmt"
	"io"
	"syscall"
	"testing"

	"ctbox/internal/netnstest"
)

// words returns numbers as 32-bit words in network order.
func words(numbers ...uint32) string {
	var b []byte
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return string(b)
}

// The scanner's data port is in the answer to the start of a scan (the net
// protocol of SANE).
func TestSANE(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat} {
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(sane)
				fw.load(nat, true, sane)
				defer fw.start(p, false, sane).end()

				server, client := nat.of(v4)
				s := dial(t, fw.client, 41000, addrPort(server, 6566), listen(t, fw.server, "", 6566))
				relay(t, s.client, s.server, words(7, 0))                // NET_START
				relay(t, s.server, s.client, words(0, 42000, 0x1234, 0)) // status, port, byte order, resource
				fw.expects(t, expected{protocol: "tcp", src: addrPort(clientAddr, 0), dst: addrPort(serverAddr, 42000),
					master: flow{addrPort(clientAddr, 41000), addrPort(serverAddr, 6566)}, helper: "sane", lifetime: 300})
				refused(t, fw.client, addrPort(server, 42001))
				passes(t, fw.client, addrPort(server, 42000), listen(t, fw.server, "", 42000), client)
				fw.expectsNone(t)
				// The answer to another request has no port.
				relay(t, s.client, s.server, words(6, 0))
				relay(t, s.server, s.client, words(0, 42002, 0x1234, 0))
				fw.expectsNone(t)
			})
		}
	})
}

// A backup client announces three ports, for the data, its messages and its index.
func TestAmanda(t *testing.T) {
	const request, reply = "Amanda 2.6 REQ\n", "Amanda 2.6 REP\nCONNECT DATA 50001 MESG 50002 INDEX 50003\n"
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat, dnat} {
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(amanda)
				fw.load(nat, true, amanda)
				d := fw.start(p, false, amanda)

				server, client := nat.of(v4)
				at := datagrams(t, fw.server, serverAddr, 10080)
				from := datagrams(t, fw.client, clientAddr, 900)
				post(t, from, request, addrPort(server, 10080))
				_, source := receive(t, at)
				post(t, at, reply, source.String())
				if nat != routed && defect(t, p, 7) {
					if r := d.Wait(patience); r.Code != 128+int(syscall.SIGSEGV) {
						t.Errorf("the daemon ended with status %d", r.Code)
					}
					return
				}
				defer d.end()
				text, _ := receive(t, from)

				want := expected{protocol: "tcp", src: addrPort(clientAddr, 0), dst: addrPort(server, 900),
					master: flow{addrPort(clientAddr, 900), addrPort(server, 10080)}, helper: "amanda", lifetime: 180}
				if text != reply {
					t.Errorf("got %q", text)
				}
				if defect(t, p, 5) && defect(t, p, 6) {
					fw.expects(t, want)
					return
				}
				var wants []expected
				for _, port := range []int{50001, 50002, 50003} {
					want.dst = addrPort(server, port)
					wants = append(wants, want)
				}
				fw.expects(t, wants...)
				refused(t, fw.client, addrPort(server, 50004))
				for _, port := range []int{50001, 50002, 50003} {
					passes(t, fw.client, addrPort(server, port), listen(t, fw.server, "", port), client)
				}
				fw.expectsNone(t)
			})
		}
	})
}

// tnsPacket is a packet of Oracle's TNS (Ian Redfern, "Oracle Protocol").
func tnsPacket(kind byte, data string) string {
	header := binary.BigEndian.AppendUint16(nil, uint16(8+len(data)))
	return string(append(header, 0, 0, kind, 0, 0, 0)) + data
}

func tnsRedirect(text string) string {
	return tnsPacket(5, string(binary.BigEndian.AppendUint16(nil, uint16(len(text))))+text)
}

func tnsAddress(addr string, port int) string {
	return fmt.Sprintf("(ADDRESS=(PROTOCOL=tcp)(DEV=8)(HOST=%s)(PORT=%d))", addr, port)
}

// A listener redirects the client to the port of a database, in its REDIRECT or in the DATA
// after an empty one.
func TestTNS(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat, dnat} {
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(tns)
				fw.load(nat, true, tns)
				defer fw.start(p, false, tns).end()
				server, client := nat.of(v4)
				l := listen(t, fw.server, "", 1521)

				check := func(t *testing.T, master, port int) {
					t.Helper()
					want := expected{protocol: "tcp", src: addrPort(clientAddr, 0), dst: addrPort(server, port),
						master: flow{addrPort(clientAddr, master), addrPort(server, 1521)}, helper: "tns", lifetime: 300}
					fw.expects(t, want)
					refused(t, fw.client, addrPort(server, port+1))
					passes(t, fw.client, addrPort(server, port), listen(t, fw.server, "", port), client)
					fw.expectsNone(t)
				}
				t.Run("redirect", func(t *testing.T) {
					s := dial(t, fw.client, 41000, addrPort(server, 1521), l)
					relay(t, s.client, s.server, tnsPacket(1, "(CONNECT_DATA=)"))
					text := tnsRedirect(tnsAddress(serverAddr, 42000))
					mangled := text
					if nat == dnat {
						mangled = tnsRedirect(tnsAddress(server, 42000))
						if defect(t, p, 9) {
							if _, err := io.WriteString(s.server, text); err != nil {
								t.Fatal(err)
							}
							netnstest.Eventually(t, patience, "the client sees a wrong checksum", func() bool { return badChecksums(t, fw.client) > 0 })
							if defect(t, p, 10) {
								fw.expects(t, expected{protocol: "tcp", src: addrPort(clientAddr, 0), dst: addrPort(serverAddr, 42000),
									master: flow{addrPort(clientAddr, 41000), addrPort(server, 1521)}, helper: "tns", lifetime: 300})
							}
							return
						}
					}
					send(t, s.server, s.client, text, mangled)
					check(t, 41000, 42000)
				})
				t.Run("redirect then data", func(t *testing.T) {
					s := dial(t, fw.client, 41010, addrPort(server, 1521), l)
					relay(t, s.client, s.server, tnsPacket(1, "(CONNECT_DATA=)"))
					relay(t, s.server, s.client, tnsRedirect(""))
					text := tnsPacket(6, "\x00\x00"+tnsAddress(serverAddr, 42010))
					if defect(t, p, 11) {
						if nat == routed {
							relay(t, s.server, s.client, text)
							fw.expectsNone(t)
						}
						return
					}
					mangled := text
					if nat == dnat {
						mangled = tnsPacket(6, "\x00\x00"+tnsAddress(server, 42010))
					}
					send(t, s.server, s.client, text, mangled)
					check(t, 41010, 42010)
				})
			})
		}
	})
}
