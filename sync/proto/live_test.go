package proto

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/peertest"
	"ctbox/sync/wire"

	"golang.org/x/sys/unix"
)

const (
	ourAddress   = "192.0.2.130"
	theirAddress = "192.0.2.129"
	patience     = 30 * time.Second
)

// remote represents, in the simulation, Debian's daemon at the other end of a real socket.
// Its kernel is real.
type remote struct {
	t     *testing.T
	sock  *net.UDPConn
	to    netip.AddrPort
	table map[uint16]uint32
	conn  *nl.Conn
}

func (r *remote) boot()                       {}
func (r *remote) crash()                      {}
func (r *remote) timer()                      {}
func (r *remote) check()                      {}
func (r *remote) running() bool               { return true }
func (r *remote) deadline() time.Duration     { return None }
func (r *remote) keys() (first, end uint16)   { return 0, simKeys }
func (r *remote) kernel() map[uint16]uint32   { return r.table }
func (r *remote) external() map[uint16]uint32 { return nil }
func (r *remote) datagram(_ int, b []byte) {
	if _, err := r.sock.WriteToUDPAddrPort(b, r.to); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		r.t.Error(err)
	}
}

// changed applies the table's entry to the real kernel.
func (r *remote) changed(key uint16) {
	f := flowOf(key, r.table[key])
	_, there := r.table[key]
	req := nl.Request{Type: ctnetlink.TypeFlowDelete, Family: nl.FamilyIPv4, Attrs: f.Append}
	if there {
		f.Reply = f.Orig.Inverted()
		f.Has |= ctnetlink.HasTimeout | ctnetlink.HasStatus
		f.Timeout, f.Status = 600, ctnetlink.StatusConfirmed|ctnetlink.StatusSeenReply
		req = nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE, Family: nl.FamilyIPv4, Attrs: f.Append}
	}
	if err := r.conn.Do(r.t.Context(), req, nil); err != nil && (there || !errors.Is(err, unix.ENOENT)) {
		r.t.Errorf("flow %d: %v", key, err)
	}
}

// live is a node of ctbox with model caches, in real time, and Debian's daemon.
type live struct {
	*sim
	ours   *daemon
	remote *remote
	start  time.Time
}

func newLive(t *testing.T, a, b *netnstest.NS, make func(time.Duration, wire.Seq) Receiver) *live {
	l := &live{sim: newSim(t, 1), start: time.Now()}
	l.epoch = uint32(l.start.Unix())
	l.ours = l.addDaemon(make)
	l.remote = &remote{t: t, to: netip.MustParseAddrPort(theirAddress + ":3780"), table: map[uint16]uint32{}}
	l.nodes = append(l.nodes, l.remote)
	var err, err2 error
	l.remote.conn, err = nl.Dial(nl.Config{NetNS: a.FD()})
	b.Do(func() {
		l.remote.sock, err2 = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(ourAddress+":3780")))
	})
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.remote.conn.Close(); l.remote.sock.Close() })
	return l
}

// step runs ctbox's node for a moment.
func (l *live) step() {
	l.run(time.Since(l.start))
	buf := make([]byte, 65536)
	for {
		l.remote.sock.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, _, err := l.remote.sock.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			l.t.Fatal(err)
		}
		l.now = max(l.now, time.Since(l.start))
		if l.chance(l.faults.loss) {
			continue
		}
		if l.trace {
			l.logf("0 gets %s", describe(buf[:n]))
		}
		l.ours.datagram(1, buf[:n])
	}
}

// until runs ctbox's node until cond holds.
func (l *live) until(what string, cond func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			l.t.Fatalf("not within %v: %s", patience, what)
		}
		l.step()
	}
}

// externalOf returns a function that reads the external cache of Debian's daemon, by key. It
// runs the client at most every 200 ms.
func externalOf(d *peertest.Daemon) func() map[uint16]uint32 {
	line := regexp.MustCompile(`sport=(\d+) dport=53 .*mark=(\d+)`)
	var last time.Time
	var got map[uint16]uint32
	return func() map[uint16]uint32 {
		if time.Since(last) < 200*time.Millisecond {
			return got
		}
		got = map[uint16]uint32{}
		for l := range strings.Lines(d.Command("-e")) {
			if m := line.FindStringSubmatch(l); m != nil {
				key, _ := strconv.ParseUint(m[1], 10, 16)
				mark, _ := strconv.ParseUint(m[2], 10, 32)
				got[uint16(key)] = uint32(mark)
			}
		}
		last = time.Now()
		return got
	}
}

// linkedPair makes two namespaces with a dedicated link, and starts Debian's daemon in the first.
func linkedPair(t *testing.T, mode string) (a, b *netnstest.NS, d *peertest.Daemon) {
	a, b = netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Link(t,
		netnstest.End{NS: a, Dev: "sync0", Addrs: []string{theirAddress + "/25"}},
		netnstest.End{NS: b, Dev: "sync0", Addrs: []string{ourAddress + "/25"}})
	d = peertest.Start(t, a, mode+`
	UDP {
		IPv4_address `+theirAddress+`
		IPv4_Destination_Address `+ourAddress+`
		Port 3780
		Interface sync0
	}`)
	netnstest.Eventually(t, patience, "conntrackd answers", d.Answers)
	return a, b, d
}

// TestFTFWWithDebian replicates between ctbox's machine and Debian's daemon on a real link,
// with losses in both directions, resyncs and restarts of both.
func TestFTFWWithDebian(t *testing.T) {
	a, b, d := linkedPair(t, "Mode FTFW { ACKWindowSize 10 }")
	l := newLive(t, a, b, func(now time.Duration, first wire.Seq) Receiver {
		return NewFTFW(now, FTFWConfig{FirstSeq: first, Window: 10, StartupResync: true})
	})
	theirExternal := externalOf(d)
	equal := func() bool {
		return maps.Equal(l.remote.table, l.ours.external()) && maps.Equal(l.ours.table, theirExternal())
	}
	changes := func(n int) {
		for range n {
			l.change(l.nodes[l.rng.IntN(2)])
			l.step()
		}
	}
	l.ours.boot()
	l.until("the greeting is over", func() bool {
		m := l.ours.m.(*FTFW)
		return m.hello == helloAnswered && m.peer.have
	})
	changes(60)
	l.until("both know all", equal)

	l.faults.loss = 30
	changes(200)
	l.faults.loss = 0
	l.until("both know all after losses", equal)

	d.Command("-n")
	l.until("the end of our bulk", func() bool { return l.ours.m.Stats().Bulks > 0 && l.ours.m.Stats().Transmit == 0 })
	l.until("both know all after their resync", equal)

	l.ours.crash()
	changes(10)
	l.now = time.Since(l.start)
	l.ours.boot()
	l.until("we know all after a restart", func() bool { return maps.Equal(l.remote.table, l.ours.external()) })

	if n := d.Malformed(); n != 0 {
		t.Errorf("conntrackd refused %d messages:\n%s", n, d.Command("-s", "network"))
	}
	d.Stop()
	changes(5)
	d.Restart()
	netnstest.Eventually(t, patience, "conntrackd answers", d.Answers)
	l.until("we ask the restarted one for everything", func() bool {
		for k, v := range l.remote.table {
			if l.ours.external()[k] != v {
				return false
			}
		}
		return true
	})
	if c := l.ours.counters; c.Malformed() != 0 {
		t.Errorf("we refused messages of conntrackd: %+v", c)
	}
}

// TestNoTrackWithDebian and TestAlarmWithDebian replicate in the other modes, in both directions.
func TestNoTrackWithDebian(t *testing.T) {
	a, b, d := linkedPair(t, "Mode NOTRACK {\n}")
	testSimpleMode(t, newLive(t, a, b, newNoTrack), d)
}

func TestAlarmWithDebian(t *testing.T) {
	a, b, d := linkedPair(t, "Mode ALARM {\nRefreshTime 2\nCacheTimeout 20\n}")
	testSimpleMode(t, newLive(t, a, b, func(_ time.Duration, first wire.Seq) Receiver {
		return NewAlarm(first, 2*time.Second, 1)
	}), d)
}

func testSimpleMode(t *testing.T, l *live, d *peertest.Daemon) {
	theirExternal := externalOf(d)
	for range 10 {
		l.change(l.remote) // before ctbox's node receives
	}
	l.ours.boot()
	for range 60 {
		l.change(l.nodes[l.rng.IntN(2)])
		l.step()
	}
	l.until("both know all", func() bool {
		return maps.Equal(l.remote.table, l.ours.external()) && maps.Equal(l.ours.table, theirExternal())
	})
	if n := d.Malformed(); n != 0 {
		t.Errorf("conntrackd refused %d messages:\n%s", n, d.Command("-s", "network"))
	}
	if c := l.ours.counters; c.Malformed() != 0 {
		t.Errorf("we refused messages of conntrackd: %+v", c)
	}
}
