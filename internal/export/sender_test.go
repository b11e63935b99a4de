package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

const deadline = 30 * time.Second

// logText is a log that a test reads.
type logText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logText) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func appendTo(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o600)
}

// started returns a running output and its log.
func started(t *testing.T, o Options) (*output, *logText) {
	t.Helper()
	log := new(logText)
	o.Log, o.OpenFile = slog.New(slog.NewTextHandler(log, nil)), appendTo
	if o.QueueLimit == 0 {
		o.QueueLimit = 1000
	}
	if o.TemplateRefresh == 0 {
		o.TemplateRefresh = time.Minute
	}
	out := newOutput(&o)
	t.Cleanup(func() { out.stop() })
	return out, log
}

// numbered records flow number i.
func (o *output) numbered(i int) {
	f := tcpSNAT()
	f.ID = uint32(i)
	o.record(&Record{Flow: f, Kind: End, Time: 1700000000 * second})
}

// received are the flows' numbers in the order in which they were received.
type received struct {
	mu  sync.Mutex
	d   decoder
	ids []string
	err error
}

func (r *received) message(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	records, err := r.d.decode(b)
	if err != nil && r.err == nil {
		r.err = err
	}
	for _, record := range records {
		if id := record["148"]; id != "" {
			r.ids = append(r.ids, id)
		}
	}
}

func (r *received) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ids)
}

// check fails the test unless the flows from begin to end were received, in order.
func (r *received) check(t *testing.T, begin, end int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		t.Error(r.err)
	}
	if len(r.ids) != end-begin {
		t.Errorf("%d records of %d", len(r.ids), end-begin)
		return
	}
	for i, id := range r.ids {
		if id != hex(8, uint64(begin+i)) {
			t.Fatalf("record %d is %s", begin+i, id)
		}
	}
}

// udp receives the messages of an exporter until the test or stop ends it.
func (r *received) udp(t *testing.T, at string) (address netip.AddrPort, stop func()) {
	t.Helper()
	conn, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		b := make([]byte, 1<<16)
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			r.message(b[:n])
		}
	})
	stop = sync.OnceFunc(func() { conn.Close(); reader.Wait() })
	t.Cleanup(stop)
	return conn.LocalAddr().(*net.UDPAddr).AddrPort(), stop
}

func ipfix(to Destination) Options {
	return Options{Format: "ipfix", Destination: to, Choice: Choice{Flow: true}, Domain: 1}
}

// Over UDP, records that are made while nobody listens wait, are sent when somebody does, and a
// collector that starts in the middle gets the templates first.
func TestUDPCollectorComesAndGoes(t *testing.T) {
	var first received
	address, stop := first.udp(t, "127.0.0.1:0")
	out, log := started(t, ipfix(Destination{Collector: address}))
	for i := range 100 {
		out.numbered(i)
	}
	netnstest.Eventually(t, deadline, "the first records", func() bool { return first.len() == 100 })
	first.check(t, 0, 100)
	stop()
	// The datagram that finds out that nobody listens is lost; that is said.
	out.numbered(100)
	netnstest.Eventually(t, deadline, "the first record for nobody", func() bool { return out.status().Sent == 101 })
	out.numbered(101)
	netnstest.Eventually(t, deadline, "the failure", func() bool { return out.status().Error != "" })
	for i := 102; i < 300; i++ {
		out.numbered(i)
	}
	netnstest.Eventually(t, deadline, "more failures", func() bool { return out.status().Failures >= 3 })
	if s := out.status(); s.Sent != 101 || s.Queued+1 < 198 {
		t.Errorf("%+v", s)
	}
	second := received{}
	second.udp(t, address.String())
	netnstest.Eventually(t, deadline, "the records that waited", func() bool { return second.len() == 199 })
	second.check(t, 101, 300)
	if n := log.count("connection refused"); n != 1 {
		t.Errorf("the failure is logged %d times", n)
	}
	if s := out.status(); s.Error != "" || s.Made != 300 || s.Sent != 300 || s.ThrownAway != 0 {
		t.Errorf("%+v", s)
	}
}

// A UDP collector that was restarted unnoticed decodes again after TemplateRefresh.
func TestTemplateRefresh(t *testing.T) {
	var all received
	address, _ := all.udp(t, "[::1]:0")
	o := ipfix(Destination{Collector: address})
	o.TemplateRefresh = 50 * time.Millisecond
	out, _ := started(t, o)
	out.numbered(0)
	netnstest.Eventually(t, deadline, "the first record", func() bool { return all.len() == 1 })
	all.mu.Lock()
	all.d.templates = nil // the collector has forgotten them
	all.mu.Unlock()
	netnstest.Eventually(t, deadline, "the templates", func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return len(all.d.templates) > 0
	})
	out.numbered(1)
	netnstest.Eventually(t, deadline, "the second record", func() bool { return all.len() == 2 })
	all.check(t, 0, 2)
}

// tcp accepts one connection after the other; serve gets each.
func tcp(t *testing.T, serve func(n int, c net.Conn)) (address netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var server sync.WaitGroup
	server.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(n, c)
		}
	})
	t.Cleanup(func() { l.Close(); server.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// stream decodes the messages of a connection until it ends or enough says so.
func (r *received) stream(c net.Conn, enough func() bool) {
	r.mu.Lock()
	r.d = decoder{strict: true}
	r.mu.Unlock()
	header := make([]byte, messageHeader)
	for !enough() {
		if _, err := io.ReadFull(c, header); err != nil {
			return
		}
		b := append([]byte(nil), header...)
		b = append(b, make([]byte, int(be.Uint16(header[2:]))-messageHeader)...)
		if _, err := io.ReadFull(c, b[messageHeader:]); err != nil {
			return
		}
		r.message(b)
	}
}

func never() bool { return false }

// Over TCP each session has its templates and sequence numbers from the beginning. A collector
// that closes the connection, and one that resets it, lose what they have not read; later
// records come over the next connection.
func TestTCPCollectorResets(t *testing.T) {
	var all received
	var ended sync.WaitGroup
	ended.Add(2)
	address := tcp(t, func(n int, c net.Conn) {
		switch n {
		case 0:
			all.stream(c, func() bool { return all.len() == 10 })
			c.Close()
			ended.Done()
		case 1:
			all.stream(c, func() bool { return all.len() == 20 })
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			ended.Done()
		default:
			all.stream(c, never)
			c.Close()
		}
	})
	out, log := started(t, ipfix(Destination{Collector: address, TCP: true}))
	for round := range 3 {
		for i := range 10 {
			out.numbered(10*round + i)
		}
		netnstest.Eventually(t, deadline, "the records", func() bool { return all.len() == 10*(round+1) })
	}
	all.check(t, 0, 30)
	if s := out.status(); s.Reconnects != 2 || s.Failures != 2 || s.Sent != 30 {
		t.Errorf("%+v", s)
	}
	if n := log.count("records are sent again"); n != 2 {
		t.Errorf("the log says %d times that records are sent again", n)
	}
	out.stop()
}

// A collector that does not read holds up nothing: the oldest records give way and are counted,
// and when it reads again it gets all others in order.
func TestSlowCollector(t *testing.T) {
	var all received
	read := make(chan struct{})
	address := tcp(t, func(_ int, c net.Conn) {
		c.(*net.TCPConn).SetReadBuffer(4096)
		<-read
		all.stream(c, never)
		c.Close()
	})
	o := ipfix(Destination{Collector: address, TCP: true})
	o.QueueLimit = 500
	out, _ := started(t, o)
	made := 0
	for ; out.status().ThrownAway == 0; made++ {
		out.numbered(made)
		if made%1000 == 0 {
			netnstest.Eventually(t, deadline, "room in the queue, or a collector that takes nothing", func() bool {
				s := out.status()
				return s.Queued == 0 || s.Sent+s.Queued < s.Made || made > 50000
			})
		}
	}
	close(read)
	netnstest.Eventually(t, deadline, "the rest", func() bool { s := out.status(); return s.Queued == 0 && all.len() == int(s.Sent) })
	s := out.status()
	if s.Made != uint64(made) || s.Sent+s.ThrownAway != s.Made || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
	all.mu.Lock()
	if all.err != nil {
		t.Error(all.err)
	}
	all.mu.Unlock()
	out.stop()
}

// Records that were on their way when a connection was reset are sent again over the next one.
// What the collector's kernel had acknowledged, and the collector had not read, nobody can know.
func TestUnacknowledgedRecords(t *testing.T) {
	var all received
	reset := make(chan struct{})
	address := tcp(t, func(n int, c net.Conn) {
		if n == 0 {
			c.(*net.TCPConn).SetReadBuffer(4096)
			<-reset
			c.(*net.TCPConn).SetLinger(0)
		} else {
			all.stream(c, never)
		}
		c.Close()
	})
	o := ipfix(Destination{Collector: address, TCP: true})
	o.QueueLimit = 100000
	out, _ := started(t, o)
	const made = 40000
	for i := range made {
		out.numbered(i)
	}
	netnstest.Eventually(t, deadline, "records on their way", func() bool { return out.status().Sent > 10000 })
	close(reset)
	netnstest.Eventually(t, deadline, "the rest", func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return len(all.ids) > 0 && all.ids[len(all.ids)-1] == hex(8, made-1)
	})
	if left := out.stop(); left != 0 {
		t.Errorf("%d records are left", left)
	}
	s := out.status()
	acknowledged := made - all.len()
	all.check(t, acknowledged, made) // the last ones, without a gap and in order
	if s.Resent == 0 || acknowledged > 5000 || s.Sent != made {
		t.Errorf("%+v", s)
	}
	t.Logf("%d records made, %d acknowledged before the reset, %d sent again", made, acknowledged, s.Resent)
}

// An end with a destination that takes nothing does not take long, and says what is left.
func TestStopWithoutCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	out, _ := started(t, ipfix(Destination{Collector: l.Addr().(*net.TCPAddr).AddrPort(), TCP: true}))
	out.numbered(1)
	netnstest.Eventually(t, deadline, "a failure", func() bool { return out.status().Failures > 0 })
	if left := out.stop(); left != 1 {
		t.Errorf("%d records are left", left)
	}
}

func jsonTo(to Destination) Options {
	return Options{Format: "json", Destination: to, Choice: Choice{Flow: true}}
}

// ids returns the numbers of the flows in JSON lines, and the numbers of records that the lines
// say are missing.
func ids(t *testing.T, text string) (ids []int, missing uint64) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = line[max(strings.Index(line, "{"), 0):]
		var id int
		var lost uint64
		if i := strings.Index(line, `,"id":`); i >= 0 {
			if _, err := fmt.Sscanf(line[i:], `,"id":%d,`, &id); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			ids = append(ids, id)
		} else if i := strings.Index(line, `"records":`); i >= 0 {
			if _, err := fmt.Sscanf(line[i:], `"records":%d}`, &lost); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			missing += lost
		} else {
			t.Fatalf("neither a flow nor a loss: %q", line)
		}
	}
	return ids, missing
}

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// A file that is rotated gets every record once, in one of its parts.
func TestFileIsRotated(t *testing.T) {
	name := filepath.Join(t.TempDir(), "flows.json")
	out, _ := started(t, jsonTo(Destination{File: name}))
	const parts = 5
	for part := range parts {
		for i := range 100 {
			out.numbered(100*part + i)
		}
		netnstest.Eventually(t, deadline, "the records", func() bool {
			return out.status().Queued == 0 && strings.Contains(content(t, name), fmt.Sprintf(`"id":%d,`, 100*part+99))
		})
		if err := os.Rename(name, fmt.Sprintf("%s.%d", name, part)); err != nil {
			t.Fatal(err)
		}
		out.reopen()
		netnstest.Eventually(t, deadline, "the new file", func() bool { _, err := os.Stat(name); return err == nil })
	}
	out.stop()
	for part := range parts {
		got, missing := ids(t, content(t, fmt.Sprintf("%s.%d", name, part)))
		if len(got) != 100 || got[0] != 100*part || got[99] != 100*part+99 || missing != 0 {
			t.Errorf("part %d has %d records, %d are missing", part, len(got), missing)
		}
	}
}

// A full disk has neither parts of lines nor gaps that are not said. What is made while it is
// full waits, and is written when there is room again.
func TestDiskIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "flows.json")
	o := jsonTo(Destination{File: name})
	o.QueueLimit = 300
	out, log := started(t, o)
	const all = 1500
	for i := range all {
		out.numbered(i)
		if i == 200 {
			netnstest.Eventually(t, deadline, "a full disk", func() bool { return out.status().Error != "" || out.status().Queued == 0 })
		}
	}
	netnstest.Eventually(t, deadline, "a full disk", func() bool { return out.status().Error != "" })
	if n := log.count("no space left"); n != 1 {
		t.Errorf("the full disk is logged %d times", n)
	}
	before, _ := ids(t, content(t, name))
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, deadline, "an empty queue", func() bool { s := out.status(); return s.Queued == 0 && s.Error == "" })
	out.stop()
	got, missing := ids(t, content(t, name))
	if s := out.status(); uint64(len(got))+missing != all || missing != s.ThrownAway || missing == 0 || len(got) <= len(before) {
		t.Errorf("%d records and %d missing: %+v", len(got), missing, s)
	}
	for i := 1; i < len(got); i++ {
		if got[i] <= got[i-1] {
			t.Fatalf("record %d follows %d", got[i], got[i-1])
		}
	}
}

// A stream socket whose reader goes away in the middle of a line, and comes back, gets whole
// lines: none twice and none missing but those that the old reader had.
func TestSocketReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listen := func() *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := listen()
	out, _ := started(t, jsonTo(Destination{Socket: path}))
	out.numbered(0)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	if n, err := conn.Read(b); err != nil || b[n-1] != '\n' {
		t.Fatalf("%d bytes, %v", n, err)
	}
	conn.Close()
	l.Close()
	for i := 1; i <= 50; i++ {
		out.numbered(i)
	}
	netnstest.Eventually(t, deadline, "the failure", func() bool { return out.status().Error != "" })
	l = listen()
	defer l.Close()
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, deadline, "the rest", func() bool { return out.status().Sent == 51 })
	out.stop()
	rest, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if got, missing := ids(t, string(rest)); len(got) != 50 || got[0] != 1 || missing != 0 {
		t.Errorf("%d records, from %v", len(got), got[:min(len(got), 1)])
	}
}

// Syslog over UDP gets a message for each record, over a Unix datagram socket each line is one.
func TestDatagrams(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	path := filepath.Join(t.TempDir(), "socket")
	unixgram, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unixgram.Close()
	for _, c := range []struct {
		to   Destination
		conn net.PacketConn
		head string
	}{
		{Destination{Syslog: udp.LocalAddr().(*net.UDPAddr).AddrPort()}, udp, "<30>1 2"},
		{Destination{Socket: path}, unixgram, "{"},
	} {
		out, _ := started(t, jsonTo(c.to))
		for i := range 20 {
			out.numbered(i)
		}
		b := make([]byte, 1<<16)
		for i := range 20 {
			c.conn.SetReadDeadline(time.Now().Add(deadline))
			n, _, err := c.conn.ReadFrom(b)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := ids(t, string(b[:n]))
			if !bytes.HasPrefix(b, []byte(c.head)) || len(got) != 1 || got[0] != i {
				t.Errorf("%v: %s", c.to, b[:n])
			}
		}
		out.stop()
	}
}

// Syslog over TCP counts its messages (RFC 6587, section 3.4.1).
func TestSyslogStream(t *testing.T) {
	all := make(chan []byte, 1)
	address := tcp(t, func(_ int, c net.Conn) {
		b, _ := io.ReadAll(c)
		all <- b
		c.Close()
	})
	out, _ := started(t, jsonTo(Destination{Syslog: address, TCP: true}))
	for i := range 20 {
		out.numbered(i)
	}
	netnstest.Eventually(t, deadline, "all records", func() bool { return out.status().Sent == 20 })
	out.stop()
	b := <-all
	for i := range 20 {
		var n int
		length, rest, ok := bytes.Cut(b, []byte(" "))
		if _, err := fmt.Sscan(string(length), &n); err != nil || !ok || n > len(rest) {
			t.Fatalf("message %d begins with %.20q", i, b)
		}
		got, _ := ids(t, string(rest[:n]))
		if len(got) != 1 || got[0] != i {
			t.Errorf("message %d: %s", i, rest[:n])
		}
		b = rest[n:]
	}
	if len(b) > 0 {
		t.Errorf("then %q", b)
	}
}

// The kernel's losses stand in the log where they happened.
func TestLostEventsInTheLog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "flows.json")
	out, _ := started(t, jsonTo(Destination{File: name}))
	out.numbered(1)
	out.eventsLost(17, time.Unix(1700000000, 0))
	out.numbered(2)
	out.stop()
	lines := strings.Split(content(t, name), "\n")
	if len(lines) != 4 || lines[1] != `{"event":"lost","time":1700000000.000000000,"messages":17}` {
		t.Errorf("%q", lines)
	}
	if s := out.status(); s.EventsLost != 17 || s.Made != 2 {
		t.Errorf("%+v", s)
	}
}

func TestDestinationNames(t *testing.T) {
	for _, c := range []struct {
		to   Destination
		want string
	}{
		{Destination{Collector: netip.MustParseAddrPort("192.0.2.9:4739")}, "udp 192.0.2.9:4739"},
		{Destination{Collector: netip.MustParseAddrPort("[2001:db8::9]:4739"), TCP: true}, "tcp [2001:db8::9]:4739"},
		{Destination{File: "-"}, "file -"},
		{Destination{Socket: "/run/s"}, "socket /run/s"},
		{Destination{Syslog: netip.MustParseAddrPort("192.0.2.9:514")}, "syslog udp 192.0.2.9:514"},
	} {
		if got := c.to.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if _, err := dial(context.Background(), true, netip.MustParseAddrPort("127.0.0.1:1")); err == nil || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("an error names the address twice: %v", err)
	}
}
