package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"ctbox/internal/iface"
	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// countLookups makes a link count its lookups of the interface.
func countLookups(l *Link) (count *int) {
	count = new(int)
	l.lookup = func(name string) (iface.Interface, error) {
		*count++
		return iface.ByName(name)
	}
	return count
}

// Changes of other interfaces cause no lookups, so that a host that creates and removes
// interfaces all the time costs nothing here.
func TestMonitorIgnoresOtherInterfaces(t *testing.T) {
	nsA, _ := pair(t)
	nsA.IP("link", "add", "bridge0", "type", "bridge")
	a := newSite(t, nsA, Config{Transport: UDP, Interface: "sync0", Port: 3780, Destination: addr("192.0.2.2")})
	lookups := countLookups(a.link)
	var monitor *Monitor
	var events *Monitor // not started: the test reads its socket
	nsA.Do(func() {
		var err error
		if monitor, err = NewMonitor([]*Link{a.link}, nil); err != nil {
			t.Fatal(err)
		}
		events = &Monitor{buf: make([]byte, longestMessage)}
		if err := events.open(); err != nil {
			t.Fatal(err)
		}
	})
	defer events.closeFiles()
	defer monitor.Close()
	for i := range 20 {
		dev := fmt.Sprint("veth", i)
		nsA.IP("link", "add", dev, "type", "veth", "peer", "name", "p"+dev)
		nsA.IP("link", "set", dev, "master", "bridge0", "up")
		nsA.IP("addr", "add", fmt.Sprintf("198.51.100.%d/32", i+1), "dev", "p"+dev)
		nsA.IP("link", "del", dev)
	}
	nsA.IP("link", "set", "sync0", "mtu", "1400")
	for a.link.Capacity() != 1400-28 {
		changed(t, monitor)
		a.open(t)
	}
	for range 100 {
		a.link.State()
		a.link.Stats()
	}
	looked, others, own := *lookups, 0, 0
	for {
		n, err := unix.Read(events.fd, events.buf)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		about := int64(binary.NativeEndian.Uint32(events.buf[unix.SizeofNlMsghdr+4:])) // the index, in messages about links and addresses
		typ := binary.NativeEndian.Uint16(events.buf[4:])
		mine := about == a.link.seen.index.Load()
		if got := a.link.affectedBy(typ, events.buf[unix.SizeofNlMsghdr:n]); got != mine {
			t.Errorf("a message of type %d about interface %d affects the link: %v", typ, about, got)
		}
		if mine {
			own++
		} else {
			others++
		}
	}
	if others < 100 || looked < 1 || looked > own {
		t.Errorf("%d lookups for %d messages about the link's interface and %d about others", looked, own, others)
	}
}

// Changes that affect a link are reported: those of its interface under any of its names, of
// an interface that takes its name, and of its addresses on any interface.
func TestMonitorReportsChanges(t *testing.T) {
	nsA, _ := pair(t)
	nsA.IP("link", "add", "other0", "type", "veth", "peer", "name", "other1")
	nsA.IP("link", "set", "other0", "up")
	named := New(Config{Transport: UDP, Interface: "sync0", Port: 3780, Destination: addr("192.0.2.2")}, 0, nil, Reports{})
	bound := New(Config{Transport: UDP, Interface: "sync0", Port: 3781, Address: addr("192.0.2.77"), Destination: addr("192.0.2.2")},
		1, nil, Reports{})
	missing := New(Config{Transport: UDP, Interface: "later0", Port: 3782, Destination: addr("192.0.2.2")}, 2, nil, Reports{})
	defer named.Close()
	for _, tt := range []struct {
		name string
		link *Link
		do   []string
	}{
		{"down", named, []string{"link", "set", "sync0", "down"}},
		{"up", named, []string{"link", "set", "sync0", "up"}},
		{"address", named, []string{"addr", "add", "192.0.2.3/24", "dev", "sync0"}},
		{"address elsewhere", bound, []string{"addr", "add", "192.0.2.77/32", "dev", "other0"}},
		{"created", missing, []string{"link", "add", "later0", "type", "veth", "peer", "name", "later1"}},
		{"created interface up", missing, []string{"link", "set", "later0", "up"}},
		{"another takes its name", missing, []string{"link", "set", "later0", "name", "was0"}},
		{"another name", missing, []string{"link", "property", "add", "dev", "was0", "altname", "later0"}},
		{"renamed", named, []string{"link", "set", "sync0", "name", "gone0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.do[1] == "set" && tt.do[3] == "name" { // older kernels rename only what is down
				nsA.IP("link", "set", tt.do[2], "down")
				defer nsA.IP("link", "set", tt.do[4], "up")
			}
			var monitor *Monitor
			nsA.Do(func() {
				_ = tt.link.Open() // fails for the links that wait for an interface or address
				var err error
				if monitor, err = NewMonitor([]*Link{tt.link}, nil); err != nil {
					t.Fatal(err)
				}
			})
			defer monitor.Close()
			nsA.IP(tt.do...)
			changed(t, monitor)
		})
	}
}

// Any number of changes of a link's own interface during a pause are reported together
// after it.
func TestMonitorGathersChanges(t *testing.T) {
	nsA, _ := pair(t)
	a := newSite(t, nsA, Config{Transport: UDP, Interface: "sync0", Port: 3780, Destination: addr("192.0.2.2")})
	pausing, over, finished := make(chan struct{}), make(chan struct{}), make(chan struct{})
	pause := func() {
		select {
		case pausing <- struct{}{}:
		case <-finished: // Close waits for a pause to end, and nothing receives from pausing then
			return
		}
		select {
		case <-over:
		case <-finished:
		}
	}
	var monitor *Monitor
	nsA.Do(func() {
		var err error
		if monitor, err = newMonitor([]*Link{a.link}, nil, pause); err != nil {
			t.Fatal(err)
		}
	})
	defer monitor.Close()
	defer close(finished)
	nsA.IP("link", "set", "sync0", "mtu", "1400")
	changed(t, monitor)
	<-pausing
	for i := range 20 {
		nsA.IP("link", "set", "sync0", "mtu", fmt.Sprint(1300+i))
	}
	over <- struct{}{}
	changed(t, monitor)
	<-pausing
	nsA.IP("link", "set", "sync0", "mtu", "1200")
	select {
	case <-monitor.Changed:
		t.Error("a change is reported before the pause is over")
	default:
	}
}

// A lookup that fails, because there are too many open files for example, does not close
// the link.
func TestLookupFailureKeepsLinkOpen(t *testing.T) {
	nsA, _ := pair(t)
	a := newSite(t, nsA, Config{Transport: UDP, Interface: "sync0", Port: 3780, Destination: addr("192.0.2.2")})
	netnstest.Eventually(t, 10*time.Second, "carrier", func() bool { a.open(t); return a.link.State() == Running })
	a.link.lookup = func(string) (iface.Interface, error) { return iface.Interface{}, unix.EMFILE }
	var err error
	if nsA.Do(func() { err = a.link.Open() }); !errors.Is(err, unix.EMFILE) {
		t.Errorf("got %v", err)
	}
	a.link.Send(packed(100, "message"))
	if s := a.link.Stats(); a.link.State() != Running || s.ErrorsSent != 0 {
		t.Errorf("state %v, %+v", a.link.State(), s)
	}
}

// Reads that fail one after another are paused between, and reported once.
func TestReadErrorsBackOff(t *testing.T) {
	r, w, err := os.Pipe() // not a socket: recvmmsg fails with ENOTSOCK
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	d := &datagram{ended: make(chan struct{})}
	var reported []string
	var pauses []time.Duration
	d.link = New(Config{Transport: UDP, Interface: "sync0"}, 0, nil, Reports{Failed: func(err error) { reported = append(reported, err.Error()) }})
	const reads = 10
	d.link.sleep = func(p time.Duration, _ <-chan struct{}) {
		if pauses = append(pauses, p); len(pauses) == reads {
			close(d.ended)
		}
	}
	d.done.Add(1)
	d.receive(raw)
	if want := []string{"UDP over sync0: receive: socket operation on non-socket"}; !slices.Equal(reported, want) {
		t.Errorf("reported %q, want %q", reported, want)
	}
	if n := d.link.Stats().ErrorsRecv; n < reads || n > reads+1 {
		t.Errorf("%d errors counted, want %d", n, reads)
	}
	if pauses[0] != firstPause || pauses[1] != 2*firstPause || pauses[reads-1] != lastPause {
		t.Errorf("pauses %v", pauses)
	}
}
