//go:build vm

package vmtest

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// burst is the number of packets in flight: enough to be read in batches, fewer than a queue
// holds.
const burst = 64

// BenchmarkQueue measures the packets per second through a helper's queue, and the daemon's
// user and system CPU time per packet. On an emulated machine only the ratio of two programs
// is meaningful.
func BenchmarkQueue(b *testing.B) {
	for _, traffic := range []struct {
		name string
		kind kind
		run  func(b *testing.B, d *daemon)
	}{
		// Lines of a control connection and their acknowledgements.
		{"ftp", ftp, func(b *testing.B, d *daemon) {
			s := dial(b, d.fw.client, 41000, addrPort(serverAddr, 21), listen(b, d.fw.server, "", 21))
			deadline := time.Now().Add(10 * time.Minute)
			s.client.SetDeadline(deadline)
			s.server.SetDeadline(deadline)
			const line = "NOOP\r\n"
			all := make([]byte, burst*len(line))
			d.measure(b, func() {
				for left := b.N; left > 0; left -= burst {
					n := min(left, burst)
					for range n {
						if _, err := io.WriteString(s.client, line); err != nil {
							b.Fatal(err)
						}
					}
					if _, err := io.ReadFull(s.server, all[:n*len(line)]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}},
		// Datagrams of one flow that announce nothing.
		{"tftp", tftp, func(b *testing.B, d *daemon) { d.datagrams(b, "\x00\x03\x00\x01x") }},
		// Each datagram announces the same flow.
		{"tftp-requests", tftp, func(b *testing.B, d *daemon) { d.datagrams(b, tftpRead) }},
	} {
		for _, p := range programs() {
			b.Run(traffic.name+"/"+p.name, func(b *testing.B) {
				fw := newFirewall(b)
				fw.register(traffic.kind)
				fw.load(routed, true, traffic.kind)
				d := fw.start(p, false, traffic.kind)
				defer d.end()
				traffic.run(b, d)
			})
		}
	}
}

// datagrams sends the same datagram many times to the server's port 69.
func (d *daemon) datagrams(b *testing.B, text string) {
	at := datagrams(b, d.fw.server, serverAddr, 69)
	from := peer(b, d.fw.client, clientAddr, 40000, addrPort(serverAddr, 69))
	deadline := time.Now().Add(10 * time.Minute)
	at.SetDeadline(deadline)
	from.SetDeadline(deadline)
	buf := make([]byte, 64)
	// The flow's first packet is not in the kernel's table yet.
	post(b, from, text, "")
	receive(b, at)
	d.measure(b, func() {
		for left := b.N; left > 0; left -= burst {
			n := min(left, burst)
			for range n {
				if _, err := from.Write([]byte(text)); err != nil {
					b.Fatal(err)
				}
			}
			for range n {
				if _, err := at.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// measure runs f and reports its cost per queued packet.
func (d *daemon) measure(b *testing.B, f func()) {
	packets, used := d.fw.queued(), d.used(b)
	start := time.Now()
	b.ResetTimer()
	f()
	b.StopTimer()
	took := time.Since(start)
	used = d.used(b) - used
	n := float64(d.fw.queued() - packets)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(n, "packets")
	b.ReportMetric(n/took.Seconds(), "packets/s")
	b.ReportMetric(float64(used.Microseconds())/n, "cpu-us/packet")
}

// used returns the CPU time that the daemon has used.
func (d *daemon) used(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.Pid()))
	if err != nil {
		b.Fatal(err)
	}
	// pid (name) state … utime stime, the 14th and 15th, in hundredths of a second
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	var ticks int
	for _, field := range f[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
