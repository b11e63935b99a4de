package conntrack

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ctbox/applets/internal/screen"
	"ctbox/internal/netnstest"
	"ctbox/internal/seeds"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// topObject is an object of the stream.
type topObject struct {
	Time    json.Number
	Key     string
	Sort    string
	Seconds float64
	Keys    int
	Further int `json:"flows_of_further_keys"`
	Lost    int `json:"events_lost"`
	topNumbers
	Top []struct {
		Source, Destination *string
		Port, Zone, Mark    *int
		Proto               int
		ProtoName           string `json:"proto_name"`
		State, Family       string
		topNumbers
	}
}

type topNumbers struct {
	Flows   int
	New     *float64 `json:"new_per_second"`
	Ended   *float64 `json:"ended_per_second"`
	Packets *float64 `json:"packets_per_second"`
	Bytes   *float64 `json:"bytes_per_second"`
}

// topStream is a --top that writes to a pipe.
type topStream struct {
	t    *testing.T
	p    *netnstest.Process
	read *bufio.Reader
}

func startTop(t *testing.T, ns *netnstest.NS, args ...string) *topStream {
	t.Helper()
	cmd := ns.Command(netnstest.Applet(t, "conntrack"), append([]string{"--top", "--refresh", "0.2"}, args...)...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	p := ns.Launch(cmd)
	w.Close()
	t.Cleanup(func() { r.Close() })
	return &topStream{t, p, bufio.NewReader(r)}
}

func (s *topStream) next() (o topObject) {
	s.t.Helper()
	line, err := s.read.ReadString('\n')
	if err != nil {
		s.t.Fatalf("%v: %s", err, s.p.Stderr)
	}
	d := json.NewDecoder(strings.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		s.t.Fatalf("%s: %v", line, err)
	}
	return o
}

// until reads objects until one is as wanted.
func (s *topStream) until(what string, is func(*topObject) bool) topObject {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if o := s.next(); is(&o) {
			return o
		}
	}
	s.t.Fatalf("no object with %s", what)
	return topObject{}
}

func (s *topStream) stop() {
	s.t.Helper()
	if r := s.p.Stop(syscall.SIGINT); r.Code != 0 || r.Stderr != "" {
		s.t.Errorf("ended with status %d: %s", r.Code, r.Stderr)
	}
}

func TestTopStream(t *testing.T) {
	ns := netnstest.New(t, "top")
	ns.Sysctl("net.netfilter.nf_conntrack_acct", "0")
	fillTable(t, ns, 600) // of one source, to 200 destinations, half of them to port 8
	run(t, ns, "-I -t 1000 -p tcp --state ESTABLISHED -s 2001:db8::1 -d 2001:db8::2 --sport 1 --dport 443 -m 7 -w 3")

	s := startTop(t, ns)
	o := s.next()
	if o.Key != "source" || o.Sort != "flows" || o.Seconds != 0 || o.Flows != 601 || o.New != nil || o.Bytes != nil ||
		o.Keys != 2 || len(o.Top) != 2 || *o.Top[0].Source != "192.0.2.1" || o.Top[0].Flows != 600 || *o.Top[1].Source != "2001:db8::1" {
		t.Errorf("the first object is %+v", o)
	}
	if o = s.next(); o.Seconds < 0.1 || *o.New != 0 || *o.Ended != 0 || o.Bytes != nil {
		t.Errorf("the second object is %+v", o)
	}
	// What begins and ends between two refreshes is seen, too.
	for range 3 {
		run(t, ns, "-I -t 1000 -p udp -s 192.0.2.9 -d 192.0.2.2 --sport 9 --dport 9")
		run(t, ns, "-D -s 192.0.2.9")
	}
	began, ended := 0.0, 0.0
	s.until("three flows that began and ended", func(o *topObject) bool {
		for _, row := range o.Top {
			if *row.Source == "192.0.2.9" {
				began += *row.New * o.Seconds
				ended += *row.Ended * o.Seconds
			}
		}
		return began > 2.5 && ended > 2.5
	})
	run(t, ns, "-D -p udp")
	ended = 0
	s.until("600 flows that ended", func(o *topObject) bool {
		ended += *o.Ended * o.Seconds
		return o.Flows == 1 && ended > 599
	})
	s.stop()
	if began > 3.5 || ended > 601.5 {
		t.Errorf("%.1f flows began and %.1f ended", began, ended)
	}

	fillTable(t, ns, 600)
	for _, c := range []struct {
		args string
		want func(o *topObject) bool
	}{
		{"-p tcp", func(o *topObject) bool { return o.Flows == 1 && *o.Top[0].Source == "2001:db8::1" }},
		{"-s 192.0.2.1 --key destination", func(o *topObject) bool {
			return o.Flows == 600 && o.Keys == 200 && len(o.Top) == 20 && o.Top[19].Flows == 3 && *o.Top[0].Destination == "198.51.100.0"
		}},
		{"-p udp --dport 8 --key port", func(o *topObject) bool {
			return o.Flows == 300 && len(o.Top) == 1 && *o.Top[0].Port == 8 && o.Top[0].ProtoName == "udp"
		}},
		{"-f ipv6 --key zone", func(o *topObject) bool { return len(o.Top) == 1 && *o.Top[0].Zone == 3 }},
		{"-w 3 --key mark", func(o *topObject) bool { return len(o.Top) == 1 && *o.Top[0].Mark == 7 }},
		{"-m 7 --key pro", func(o *topObject) bool { return len(o.Top) == 1 && o.Top[0].Proto == 6 }},
		{"--key state", func(o *topObject) bool {
			return len(o.Top) == 2 && o.Top[0].State == "UNREPLIED" && o.Top[0].ProtoName == "udp" && o.Top[0].Flows == 600 && o.Top[1].State == "ESTABLISHED"
		}},
		{"--key fam", func(o *topObject) bool {
			return len(o.Top) == 2 && o.Top[0].Family == "ipv4" && o.Top[1].Family == "ipv6"
		}},
		{"--key protocol,new", func(o *topObject) bool { return o.Sort == "new" && len(o.Top) == 2 && o.Top[0].Proto == 17 }},
		{"-s 203.0.113.7", func(o *topObject) bool { return o.Flows == 0 && o.Keys == 0 && len(o.Top) == 0 }},
	} {
		s := startTop(t, ns, strings.Fields(c.args)...)
		if o := s.next(); !c.want(&o) {
			t.Errorf("%s: %+v", c.args, o)
		}
		s.stop()
	}
}

// Bytes and packets are those of flows that are there and of those that ended.
func TestTopCountsBytes(t *testing.T) {
	ns := netnstest.New(t, "bytes")
	ns.Track()
	ns.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	s := startTop(t, ns, "-p", "udp", "--key", "port,bytes")
	s.next()
	ns.Do(func() {
		server, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		client, err := net.Dial("udp", server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for range 10 {
			if _, err := client.Write(make([]byte, 972)); err != nil { // with headers 1000
				t.Fatal(err)
			}
		}
	})
	run(t, ns, "-D -p udp")
	bytes, packets, rows := 0.0, 0.0, 0.0
	s.until("10 packets", func(o *topObject) bool {
		if o.Bytes == nil {
			// The first flow with counters may have ended between two readings.
			return false
		}
		bytes += *o.Bytes * o.Seconds
		packets += *o.Packets * o.Seconds
		for _, row := range o.Top {
			rows += *row.Bytes * o.Seconds
		}
		return packets > 9.5
	})
	s.stop()
	if bytes < 9900 || bytes > 10100 || rows < 9900 || rows > 10100 || packets > 10.5 {
		t.Errorf("%.0f bytes, %.0f in the rows, %.1f packets", bytes, rows, packets)
	}
}

// --once prints one table, with the rates of one interval.
func TestTopOnce(t *testing.T) {
	ns := netnstest.New(t, "once")
	ns.Sysctl("net.netfilter.nf_conntrack_acct", "0")
	fillTable(t, ns, 60)
	run(t, ns, "-I -t 1000 -p tcp --state ESTABLISHED -s 2001:db8::1 -d 2001:db8::2 --sport 1 --dport 443")
	applet := netnstest.Applet(t, "conntrack")
	r := ns.Run("", applet, "--top", "--once", "--refresh", "0.1")
	want := "61 flows  0 new/s  0 ended/s\n2 keys, no packets and bytes: nf_conntrack_acct=0\n" +
		"SOURCE                 f*FLOWS     n NEW/s   e ENDED/s\n" +
		"192.0.2.1                   60           0           0\n2001:db8::1                  1           0           0\n"
	if r != (netnstest.Result{Stdout: want}) {
		t.Errorf("%+v, want %s", r, want)
	}
	r = ns.Run("", applet, strings.Fields("--top --once --refresh 0.1 --key state,new -o json")...)
	if r.Code != 0 || strings.Count(r.Stdout, "\n") != 1 || !strings.Contains(r.Stdout, `"seconds":`) || !strings.Contains(r.Stdout, `"sort":"new"`) {
		t.Errorf("as JSON: %+v", r)
	}
}

func TestTopRates(t *testing.T) {
	for _, c := range []struct {
		name                string
		now, before, events tally
		seconds             float64
		want                [topColumns]float64
	}{
		{"first", tally{flows: 5}, tally{}, tally{}, 0, [...]float64{5, 0, 0, 0, 0}},
		{"quiet", tally{flows: 5, bytes: 9}, tally{flows: 5, bytes: 9}, tally{}, 2, [...]float64{5, 0, 0, 0, 0}},
		{"turnover", tally{flows: 5}, tally{flows: 5}, tally{flows: 4, ended: 4}, 2, [...]float64{5, 2, 2, 0, 0}},
		{"an event that comes early", tally{flows: 5}, tally{flows: 5}, tally{flows: 1}, 1, [...]float64{5, 1, 1, 0, 0}},
		{"and its flow", tally{flows: 6}, tally{flows: 5, owed: 1}, tally{}, 1, [...]float64{6, 0, 0, 0, 0}},
		{"an event that comes late", tally{flows: 5}, tally{flows: 4, owed: -1}, tally{flows: 2}, 1, [...]float64{5, 1, 0, 0, 0}},
		{"ends that came early", tally{flows: 0}, tally{flows: 433, owed: 0}, tally{ended: 600}, 1, [...]float64{0, 167, 600, 0, 0}},
		{"no event at the end", tally{flows: 3}, tally{flows: 5}, tally{flows: 2}, 2, [...]float64{3, 1, 2, 0, 0}},
		{"no events at all", tally{flows: 9}, tally{flows: 5}, tally{}, 2, [...]float64{9, 2, 0, 0, 0}},
		{"counters", tally{flows: 1, packets: 10, bytes: 100}, tally{flows: 2, packets: 8, bytes: 50}, tally{ended: 1, packets: 6, bytes: 70}, 2,
			[...]float64{1, 0, 0.5, 4, 60}},
		{"counters set to zero", tally{flows: 1}, tally{flows: 1, packets: 8, bytes: 50}, tally{}, 2, [...]float64{1, 0, 0, 0, 0}},
	} {
		if got := rates(c.now, c.before, c.events, c.seconds); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Flows begin, carry traffic and end while the table is read and events wait: however
// the events and readings interleave, nothing is counted twice, for a key and for all,
// and everything is counted once the events have arrived.
func TestTopCountsEverythingOnce(t *testing.T) {
	type flow struct {
		key   topKey
		bytes uint64
	}
	for seed := range seeds.Count(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var tp top
		tp.reset()
		var live []*flow
		var waiting []func() // events that have not arrived
		var sent, began, ended, shownBytes, shownBegan, shownEnded float64
		var perKey, shownPerKey [3]float64
		old, delivered := 0, 0 // events that waited when the last reading ended, and deliveries since
		deliver := func(n int) {
			n = max(n, 0)
			delivered += n
			for _, event := range waiting[:n] {
				event()
			}
			waiting = waiting[n:]
		}
		event := func(f *flow, end bool) {
			final := ctnetlink.Flow{Has: ctnetlink.HasCountersOrig, CountersOrig: ctnetlink.Counters{Bytes: f.bytes}}
			waiting = append(waiting, func() { tp.pending.event(&f.key, &final, end) })
		}
		happen := func() {
			switch r.IntN(4) {
			case 0:
				f := &flow{key: topKey{number: uint32(r.IntN(3))}}
				live = append(live, f)
				began++
				event(f, false)
			case 1, 2:
				if len(live) > 0 {
					f := live[r.IntN(len(live))]
					n := r.Uint64N(1000)
					f.bytes += n
					sent += float64(n)
					perKey[f.key.number] += float64(n)
				}
			case 3:
				if len(live) > 0 {
					i := r.IntN(len(live))
					ended++
					event(live[i], true)
					live = slices.Delete(live, i, i+1)
				}
			}
			deliver(r.IntN(len(waiting) + 1))
		}
		start := time.Now()
		for round := range 40 {
			if round > 0 && round < 36 {
				for range r.IntN(8) {
					happen()
				}
			}
			deliver(old - delivered) // those of the last reading arrive before the next
			tp.beginReading()
			// The kernel reaches one flow after the other.
			for _, f := range slices.Clone(live) {
				if round < 36 && r.IntN(3) == 0 {
					happen()
				}
				if slices.Contains(live, f) {
					tp.next.flow(&f.key, &ctnetlink.Flow{Has: ctnetlink.HasCountersOrig, CountersOrig: ctnetlink.Counters{Bytes: f.bytes}})
				}
			}
			old, delivered = len(waiting), 0
			tp.endReading(start.Add(time.Duration(round+1) * time.Second))
			var v topView
			tp.view(&v, 100)
			shownBytes += v.all[topBytes]
			shownBegan += v.all[topNew]
			shownEnded += v.all[topEnded]
			for _, row := range v.rows {
				shownPerKey[row.key.number] += row.values[topBytes]
			}
			if shownBytes > sent {
				t.Fatalf("seed %d, reading %d: %.0f of %.0f bytes", seed, round, shownBytes, sent)
			}
		}
		if shownBytes > sent || shownEnded > ended || shownBegan > began {
			t.Fatalf("seed %d: %.0f of %.0f bytes, %.0f of %.0f flows began, %.0f of %.0f ended", seed, shownBytes, sent, shownBegan, began, shownEnded, ended)
		}
		if diff := cmp.Diff(perKey, shownPerKey); diff != "" {
			t.Fatalf("seed %d: bytes of the keys (-sent +shown): %s", seed, diff)
		}
	}
}

// More keys than are kept are counted together, and the memory stays.
func TestTopBoundsKeys(t *testing.T) {
	var now, before, events tallies
	count := func(table *tallies) {
		table.reset()
		f := ctnetlink.Flow{Has: ctnetlink.HasCountersOrig}
		for i := range uint32(3 * maxTopKeys) {
			table.flow(&topKey{number: i}, &f)
		}
	}
	count(&now)
	count(&before)
	events.reset()
	if len(now.rows) != maxTopKeys || now.left.flows != 2*maxTopKeys || now.all.flows != 3*maxTopKeys {
		t.Errorf("%d rows, %d flows left out of %d", len(now.rows), now.left.flows, now.all.flows)
	}
	if allocs := testing.AllocsPerRun(2, func() { count(&now) }); allocs > 0 {
		t.Errorf("%.0f allocations for a table as before", allocs)
	}
	// A key that the table before has no room for has no rates.
	now.reset()
	now.flow(&topKey{number: 1}, &ctnetlink.Flow{})
	now.flow(&topKey{number: 3*maxTopKeys - 1}, &ctnetlink.Flow{})
	v := topView{seconds: 1, sort: topEnded}
	v.best(&now, &before, &events, 5)
	for _, r := range v.rows {
		if r.key.number == 3*maxTopKeys-1 && r.values[topNew] != 0 {
			t.Errorf("rates of a key that was not kept: %+v", r)
		}
	}
	if len(v.rows) != 5 || v.rows[0].values[topEnded] != 1 {
		t.Errorf("rows %+v", v.rows)
	}
}

func TestTopOrder(t *testing.T) {
	var now, none tallies
	now.reset()
	none.reset()
	var want []uint32
	for i := range uint32(50) {
		for range i % 7 * 3 {
			now.flow(&topKey{number: i}, &ctnetlink.Flow{})
		}
	}
	for weight := 6; weight > 0; weight-- {
		for i := uint32(weight); i < 50; i += 7 {
			want = append(want, i)
		}
	}
	for _, n := range []int{0, 1, 10, 100} {
		var v topView
		v.best(&now, &none, &none, n)
		var got []uint32
		for _, r := range v.rows {
			got = append(got, r.key.number)
		}
		if diff := cmp.Diff(want[:min(n, len(want))], got); diff != "" && n > 0 || n == 0 && len(got) > 0 {
			t.Errorf("%d rows (-want +got):\n%s", n, diff)
		}
	}
}

// A refresh allocates nothing for a flow.
func TestTopAllocatesNothingPerFlow(t *testing.T) {
	ns := netnstest.New(t, "topallocs")
	plain := loadFiles(t, "")
	ns.Do(func() {
		s := &session{ctx: t.Context(), stdout: io.Discard, stderr: io.Discard}
		defer s.close()
		s.out = newOutput(io.Discard)
		c := &Command{Op: OpTop}
		tp := &top{session: s, command: c, filter: newFilter(c)}
		tp.reset()
		costs := make(map[int]float64)
		for _, n := range []int{few, many} {
			quietly(t, fmt.Sprint("-R ", plain, n))
			costs[n] = testing.AllocsPerRun(3, func() {
				if err := tp.refresh(); err != nil {
					t.Fatal(err)
				}
			})
			if got := tp.now.all.flows; got != uint64(n) {
				t.Fatalf("counted %d of %d flows", got, n)
			}
		}
		if per := (costs[many] - costs[few]) / (many - few); per > 0.01 {
			t.Errorf("%.3f allocations a flow: %v", per, costs)
		}
	})
}

func TestTopPaints(t *testing.T) {
	var now, none tallies
	now.reset()
	none.reset()
	v := &topView{kind: 0, sort: topBytes, seconds: 1, counted: true, left: 7, lost: 3, keys: 40}
	for i := range byte(40) {
		f := ctnetlink.Flow{Has: ctnetlink.HasCountersOrig, CountersOrig: ctnetlink.Counters{Packets: 3, Bytes: uint64(i) * 12345678}}
		k := topKey{family: nl.FamilyIPv6, addr: ctnetlink.Addr{0x20, 1, 0xd, 0xb8, 4: i, 6: 0xff, 8: 0xff, 10: 0xff, 12: 0xff, 14: 0xff, 15: i}}
		now.flow(&k, &f)
	}
	v.all = rates(now.all, none.all, none.all, 1)
	for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {20, 5}, {10, 3}, {1, 1}, {3, 0}} {
		v.best(&now, &none, &none, topRows(size[1]))
		p := topPainter{view: *v, every: time.Second, command: []string{"conntrack", "--top", "\x1b[2J\xff"}}
		for range 2 {
			lines := p.paint(size[0], size[1], true)
			if len(lines) > size[1] {
				t.Errorf("%v: %d lines", size, len(lines))
			}
			for i, line := range lines {
				text := strings.NewReplacer("\x1b[7m", "", "\x1b[0m", "").Replace(string(line))
				if len(text) > size[0] || strings.Contains(text, "\x1b") {
					t.Errorf("%v: line %d is %q", size, i, line)
				}
				if size[0] >= 80 && i == 3 && !strings.Contains(text, "b*BYTES/s") {
					t.Errorf("%v: the sorted column is not seen: %q", size, text)
				}
			}
			if size[0] == 80 && (len(lines) != 24 || !strings.Contains(string(lines[23]), "q quit") || !strings.Contains(string(lines[4]), "2001:")) {
				t.Errorf("painted %q", lines)
			}
			if size == [2]int{20, 5} && (len(lines) != 5 || !strings.Contains(string(lines[2]), "2001:") || !strings.Contains(string(lines[4]), "q quit")) {
				t.Errorf("painted %q", lines)
			}
		}
	}
	for n, want := range map[float64]string{0: "0", 0.54: "0.5", 12.3: "12", 9999: "9999", 12345: "12.3k", 4.5e6: "4.5M", 1e18: "1000000.0T"} {
		if got := string(screen.AppendNumber(nil, n, false)); got != want {
			t.Errorf("%v is %s, want %s", n, got, want)
		}
	}
}

// pane is a terminal of 80 columns and 24 lines that tmux(1) has, with a shell in
// the namespace.
type pane struct {
	t      *testing.T
	socket string
}

func newPane(t *testing.T, ns *netnstest.NS) *pane {
	t.Helper()
	p := &pane{t, filepath.Join(t.TempDir(), "tmux")}
	p.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24",
		"nsenter", "--net="+ns.Path(), "env", "PATH="+netnstest.BinDir(t)+":"+os.Getenv("PATH"), "PS1=ready> ", "bash", "--norc", "--noprofile", "-i")
	t.Cleanup(func() { p.tmux("kill-server") })
	p.wait("ready>")
	return p
}

func (p *pane) tmux(args ...string) string {
	p.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", p.socket}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

func (p *pane) see() string { return p.tmux("capture-pane", "-p") }

// wait waits until the pane shows all of the texts.
func (p *pane) wait(texts ...string) {
	p.t.Helper()
	p.until(strings.Join(texts, ", "), func(seen string) bool {
		return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(seen, text) })
	})
}

// until waits until the pane's text meets a condition. The limit is only for tests that fail.
func (p *pane) until(what string, met func(seen string) bool) {
	p.t.Helper()
	seen := ""
	defer func() {
		if p.t.Failed() {
			p.t.Logf("the terminal shows\n%s", seen)
		}
	}()
	netnstest.Eventually(p.t, time.Minute, what, func() bool {
		seen = p.see()
		return met(seen)
	})
}

func (p *pane) typed(keys ...string) {
	p.t.Helper()
	p.tmux(append([]string{"send-keys"}, keys...)...)
}

func TestTopOnATerminal(t *testing.T) {
	ns := netnstest.New(t, "tmux")
	ns.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	fillTable(t, ns, 90)
	run(t, ns, "-I -t 1000 -p tcp --state ESTABLISHED -s 2001:db8::1 -d 2001:db8::2 --sport 1 --dport 443")
	p := newPane(t, ns)
	p.typed("stty -g > "+p.socket+".before; echo sh''ell", "Enter")
	p.wait("shell\nready>")

	p.typed("conntrack --top --refresh 0.2", "Enter")
	p.wait("SOURCE", "f*FLOWS", "192.0.2.1                   90", "2001:db8::1                  1", "q quit", "91 flows")
	p.typed("p", "n")
	p.wait("PORT", "n*NEW/s", "7/udp                       45", "443/tcp                      1")
	p.typed("l", "f")
	p.wait("PROTOCOL", "udp                         90")
	p.typed("d", "b")
	p.wait("DESTINATION", "b*BYTES/s")
	p.typed("?")
	p.wait("Enter       count only the flows of this row", "count by:  s source", "sort by:  f flows")
	p.typed("x")
	p.wait("DESTINATION")

	// Enter counts the flows of one row by another key, and backspace goes back.
	p.typed("s", "f")
	p.wait("SOURCE", "192.0.2.1                   90")
	p.typed("Down", "Enter")
	p.wait("DESTINATION", "source 2001:db8::1, 1 key", "2001:db8::2", "1 flows")
	p.typed("Enter")
	p.wait("PORT", "source 2001:db8::1, destination 2001:db8::2, 1 key", "443/tcp")
	p.typed("BSpace")
	p.wait("DESTINATION", "source 2001:db8::1, 1 key")
	p.typed("Escape")
	p.wait("SOURCE", "192.0.2.1                   90", "91 flows")
	p.typed("Up", "Enter")
	p.wait("DESTINATION", "source 192.0.2.1, 90 keys", "90 flows")
	p.typed("BSpace")
	p.wait("SOURCE", "91 flows")
	p.typed("t")
	p.wait("STATE", "udp UNREPLIED               90", "tcp ESTABLISHED              1")
	p.typed("d", "b")
	p.wait("DESTINATION", "b*BYTES/s")
	p.tmux("resize-window", "-x", "40", "-y", "10")
	p.wait("DESTINATION", "b*BYTES/s")
	p.until("a small picture", func(seen string) bool {
		seen = strings.TrimRight(seen, "\n")
		return strings.Count(seen, "\n") == 9 && strings.HasPrefix(seen, "conntrack --top") && strings.Contains(seen, "\nq quit  ? help  by: s source")
	})
	p.tmux("resize-window", "-x", "80", "-y", "24")
	p.wait("q quit")

	// It gives the terminal back when it is stopped, and takes it again.
	p.typed("C-z")
	p.wait("Stopped", "shell\n")
	p.prompt()
	p.typed("fg", "Enter")
	p.wait("DESTINATION", "q quit")
	p.typed("q")
	p.sane("after q")

	p.typed("clear; conntrack --top --refresh 0.2 -p tcp", "Enter")
	p.wait("conntrack --top --refresh 0.2 -p tcp, every 200ms", "1 flows")
	p.typed("C-c")
	p.sane("after an interrupt")

	for _, signal := range []string{"TERM", "HUP", "QUIT"} {
		p.typed("clear; sh -c 'echo $$ > "+p.socket+".pid; exec conntrack --top --refresh 0.2'", "Enter")
		p.wait("q quit")
		ns.Must("sh", "-c", "kill -"+signal+" $(cat "+p.socket+".pid)")
		p.sane("after SIG" + signal)
	}
}

// prompt waits until the program has ended or was stopped: the shell shows a new prompt. What is
// typed earlier may go to the program, even when it has given the terminal back.
func (p *pane) prompt() {
	p.t.Helper()
	p.until("a new prompt", func(seen string) bool {
		seen = strings.TrimRight(seen, " \n")
		return seen == "ready>" || strings.HasSuffix(seen, "\nready>")
	})
}

// sane waits for the shell and checks that its terminal is as it was before.
func (p *pane) sane(when string) {
	p.t.Helper()
	p.prompt()
	after := p.socket + ".after"
	os.Remove(after)
	p.typed("stty -g > "+after+"; echo do''ne", "Enter") // what is typed is not what is awaited
	p.wait("done\nready>")
	was, err := os.ReadFile(p.socket + ".before")
	if err != nil {
		p.t.Fatal(err)
	}
	if is, err := os.ReadFile(after); err != nil || string(is) != string(was) {
		p.t.Errorf("%s the terminal is %s (%v), was %s", when, is, err, was)
	}
	if flags := p.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}"); flags != "0 1\n" {
		p.t.Errorf("%s: other screen and cursor: %s", when, flags)
	}
	p.typed("clear", "Enter")
}
