package nfqueue

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gonfqueue "github.com/florianl/go-nfqueue/v2"
	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

// BenchmarkAccept accepts the packets of a queue in the OUTPUT chain, with this package and with
// go-nfqueue alone. cpu-ns/op is this process's CPU time per packet, sending included, which is the
// same for both.
func BenchmarkAccept(b *testing.B) {
	b.Run("ctbox", func(b *testing.B) {
		accept(b, func(ns *netnstest.NS, seen *atomic.Int64) (stop func()) {
			q, err := Open(ns.FD(), 4<<20)
			if err != nil {
				b.Fatal(err)
			}
			if err := q.bind(context.Background(), benchmarked(ns)); err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{})
			var stopping atomic.Bool
			go func() {
				defer close(done)
				for !stopping.Load() {
					if _, err := q.Read(func(p *Packet) { q.Accept(p); seen.Add(1) }, func(err error) { b.Error(err) }); err != nil {
						b.Error(err)
					}
					if err := q.Flush(); err != nil {
						b.Error(err)
					}
				}
			}()
			return func() {
				stopping.Store(true)
				q.Stop()
				<-done
				q.Close()
			}
		})
	})
	b.Run("go-nfqueue", func(b *testing.B) {
		accept(b, func(ns *netnstest.NS, seen *atomic.Int64) (stop func()) {
			q, err := gonfqueue.Open(benchmarked(ns))
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			err = q.RegisterWithErrorFunc(ctx, func(a gonfqueue.Attribute) int {
				if err := q.SetVerdict(*a.PacketID, gonfqueue.NfAccept); err != nil {
					b.Error(err)
				}
				seen.Add(1)
				return 0
			}, func(error) int { return 1 })
			if err != nil {
				b.Fatal(err)
			}
			return func() { cancel(); q.Close() }
		})
	})
}

// benchmarked is the queue of the benchmark. Not every kernel sends a packet's flow.
func benchmarked(ns *netnstest.NS) *gonfqueue.Config {
	return &gonfqueue.Config{
		NetNS: ns.FD(), NfQueue: 5, MaxPacketLen: maxPacket, Copymode: gonfqueue.NfQnlCopyPacket,
		Flags: gonfqueue.NfQaCfgFlagFailOpen, AfFamily: unix.AF_INET,
	}
}

// accept sends packets, at most 64 ahead of the accepted ones.
func accept(b *testing.B, start func(*netnstest.NS, *atomic.Int64) (stop func())) {
	ns := netnstest.New(b, "queue")
	ns.IP("link", "set", "lo", "up")
	ns.IP("addr", "add", "192.0.2.1/32", "dev", "lo")
	ns.Must("iptables", "-A", "OUTPUT", "-p", "udp", "--dport", "9", "-j", "NFQUEUE", "--queue-num", "5")
	var seen atomic.Int64
	defer start(ns, &seen)()
	var fd int
	ns.Do(func() {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			b.Fatal(err)
		}
	})
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Port: 9, Addr: [4]byte{192, 0, 2, 1}}
	payload := make([]byte, 100)
	before := cpu(b)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		// The port has no listener: an ICMP error for an earlier packet is not a failure.
		if err := unix.Sendto(fd, payload, 0, to); err != nil && err != unix.ECONNREFUSED && err != unix.EPERM {
			b.Fatal(err)
		}
		for int64(i)-seen.Load() > 64 {
			time.Sleep(10 * time.Microsecond)
		}
	}
	for seen.Load() < int64(b.N) {
		time.Sleep(10 * time.Microsecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpu returns the CPU time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
