package link

import (
	"encoding/binary"
	"testing"
	"time"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// TestFrames checks the frames on the cable: the UDP checksum, which is optional over IPv4
// (RFC 768) and mandatory over IPv6 (RFC 8200), and the hop limit. Multicast datagrams stay
// on the cable, as conntrack-tools' do.
func TestFrames(t *testing.T) {
	for _, tt := range []struct {
		name     string
		config   Config
		checksum bool
		hops     byte
	}{
		{"UDP", Config{Transport: UDP, Destination: addr("192.0.2.2"), Checksum: true}, true, 64},
		{"UDP without checksum", Config{Transport: UDP, Destination: addr("192.0.2.2")}, false, 64},
		{"UDP over IPv6 without checksum", Config{Transport: UDP, Destination: addr("2001:db8::2")}, true, 64},
		{"multicast", Config{Transport: Multicast, Address: addr("225.0.0.50"), Local: addr("192.0.2.1"), Checksum: true}, true, 1},
		{"multicast without checksum", Config{Transport: Multicast, Address: addr("225.0.0.50")}, false, 1},
		{"multicast over IPv6", Config{Transport: Multicast, Address: addr("ff02::50"), Checksum: true}, true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nsA, nsB := pair(t)
			tt.config.Interface, tt.config.Port = "sync0", 3780
			a := newSite(t, nsA, tt.config)
			cable := tap(t, nsB, "sync0")
			netnstest.Eventually(t, 20*time.Second, "a datagram on the cable", func() bool {
				// Nothing leaves until the interface has its routes.
				nsA.Do(func() { a.link.Send(packed(100, "message")) })
				hops, sum, ok := cable.datagram(3780)
				if ok && (hops != tt.hops || (sum != 0) != tt.checksum) {
					t.Fatalf("%d hops, checksum %#x", hops, sum)
				}
				return ok
			})
		})
	}
}

// cable is a packet socket on one end of a cable.
type cable struct{ fd int }

func tap(t *testing.T, ns *netnstest.NS, dev string) cable {
	t.Helper()
	fd := -1
	ns.Do(func() {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		request, err := unix.NewIfreq(dev)
		if err != nil {
			t.Fatal(err)
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			t.Fatal(err)
		}
		if err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(request.Uint32())})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Close(fd) })
	return cable{fd}
}

// datagram returns the hop limit and checksum of the next UDP datagram to the port, if
// one has arrived.
func (c cable) datagram(port uint16) (hops byte, sum uint16, ok bool) {
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(c.fd, buf)
		if err != nil {
			return 0, 0, false
		}
		b := buf[:n]
		switch {
		case n >= 28 && b[0] == 0x45 && b[9] == unix.IPPROTO_UDP:
			hops, b = b[8], b[20:]
		case n >= 48 && b[0]>>4 == 6 && b[6] == unix.IPPROTO_UDP:
			hops, b = b[7], b[40:]
		default:
			continue
		}
		if binary.BigEndian.Uint16(b[2:]) == port {
			return hops, binary.BigEndian.Uint16(b[6:]), true
		}
	}
}
