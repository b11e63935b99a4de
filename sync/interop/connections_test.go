//go:build torture

package interop

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// connections are consecutive real TCP connections through a firewall, translated at both ends.
type connections struct {
	stop  chan struct{}
	done  sync.WaitGroup
	count atomic.Int64
}

// startConnections opens connections at this rate per second until end.
func (n *node) startConnections(rate int) *connections {
	t := n.kernel.t
	t.Helper()
	for _, a := range []string{n.host4(client), n.host4(server), n.host4(server + 1), n.outside} {
		n.ns.IP("addr", "replace", a+"/32", "dev", "lo")
	}
	for state, seconds := range map[string]string{"time_wait": "1", "close": "1", "close_wait": "2", "last_ack": "2", "fin_wait": "2"} {
		n.ns.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_"+state, seconds)
	}
	var listener net.Listener
	var err error
	n.ns.Do(func() {
		listener, err = (&net.ListenConfig{KeepAlive: -1}).Listen(t.Context(), "tcp", net.JoinHostPort(n.host4(server+1), "9000"))
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &connections{stop: make(chan struct{})}
	c.done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.done.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(time.Second))
				io.Copy(conn, conn)
			})
		}
	})
	c.done.Go(func() {
		defer listener.Close()
		c.dial(n, time.Second/time.Duration(rate))
	})
	return c
}

func (c *connections) end() {
	close(c.stop)
	c.done.Wait()
}

// dial connects again and again. Its thread stays in the namespace and ends with
// the goroutine.
func (c *connections) dial(n *node, every time.Duration) {
	runtime.LockOSThread()
	if unix.Setns(n.ns.FD(), unix.CLONE_NEWNET) != nil {
		return
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(n.host4(client))}, Timeout: time.Second, KeepAlive: -1}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-ticks.C:
		}
		conn, err := d.Dial("tcp", net.JoinHostPort(n.host4(server), "8000"))
		if err != nil {
			continue // the kernel's table may have been flushed in between
		}
		conn.SetDeadline(time.Now().Add(time.Second))
		if pass(conn, conn, "hello") == nil {
			c.count.Add(1)
		}
		conn.Close()
	}
}

// usage is a process's use of resources at one moment.
type usage struct {
	pid     int
	rss     int // KiB
	threads int
	files   int
	cpu     time.Duration
}

func usageOf(pid int) (u usage) {
	u.pid = pid
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	u.rss, u.threads = field(status, "VmRSS:"), field(status, "Threads:")
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	u.files = len(files)
	u.cpu = cpuOf(pid)
	return u
}

func (u usage) String() string {
	return fmt.Sprintf("%.1f MiB, %d threads, %d files", float64(u.rss)/1024, u.threads, u.files)
}
