package conntrack

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// BenchmarkMatch is the filter alone.
func BenchmarkMatch(b *testing.B) {
	flow := made(b, tcp4)
	for _, line := range []string{"-L", "-L -p tcp --dport 80", "-L -s 192.0.2.0/24 -m 0 -u !ASSURED -n"} {
		b.Run(line, func(b *testing.B) {
			f := newFilter(parse(b, line))
			for b.Loop() {
				f.match(flow)
			}
		})
	}
}

// BenchmarkRestore makes a request of a JSON flow.
func BenchmarkRestore(b *testing.B) {
	line := []byte(`{"family":"ipv4","proto":6,"proto_name":"tcp","original":{"src":"192.0.2.1","dst":"192.0.2.2","sport":5,"dport":99},"reply":{"src":"192.0.2.3","dst":"192.0.2.1","sport":80,"dport":5},"timeout":97,"state":"TIME_WAIT","status":["CONFIRMED","DST_NAT","SRC_NAT_DONE","DST_NAT_DONE"],"mark":0,"use":1,"id":2187039758}`)
	var j jsonCommands
	var c Command
	b.ReportAllocs()
	for b.Loop() {
		if err := j.command(line, &c); err != nil {
			b.Fatal(err)
		}
		if _, err := createRequest(&c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad is -R on the kernel, a line an iteration.
func BenchmarkLoad(b *testing.B) {
	ns := netnstest.New(b, "bench")
	const lines = 100000
	var text strings.Builder
	for i := range lines {
		fmt.Fprintf(&text, "-A -t 1000 -u SEEN_REPLY,ASSURED -s 192.0.%d.%d -d 198.51.100.1 -r 198.51.100.1 -q 192.0.%d.%d -p tcp --sport %d --dport 80 --reply-port-src 80 --reply-port-dst %d --state ESTABLISHED\n",
			i>>8&255, i&255, i>>8&255, i&255, 1000+i>>16, 1000+i>>16)
	}
	file := filepath.Join(b.TempDir(), "flows")
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		runTo(b, ns, "-F", "", nil)
		if r := runTo(b, ns, "-R "+file, "", nil); r.status != 0 {
			b.Fatal(r)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/line")
}

// BenchmarkList is -L on the kernel, with another reader that discards.
func BenchmarkList(b *testing.B) {
	ns := netnstest.New(b, "bench")
	const flows = 50000
	fillTable(b, ns, flows)
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			runTo(b, ns, "-L", "", io.Discard)
		}
	})
	b.Run("kernel", func(b *testing.B) {
		for b.Loop() {
			ns.Do(func() {
				conn, err := nl.Dial(nl.Config{})
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				if _, err := conn.Dump(b.Context(), nl.Dump{Type: ctnetlink.TypeFlowGet}, func(*nl.Message) error { return nil }); err != nil {
					b.Fatal(err)
				}
			})
		}
	})
}

// What a command allocates may not grow with the table: a single allocation a
// flow would be 1. The rest is buffers that grow.
const (
	few, many   = 2500, 5500
	mostPerFlow = 0.1
)

// checkPerFlow compares what work allocates for few flows and for many. n is
// the number of flows; the whole process is counted, goroutines included.
func checkPerFlow(t *testing.T, what string, work func(n int)) {
	t.Helper()
	cost := func(n int) float64 { return testing.AllocsPerRun(1, func() { work(n) }) }
	if per := (cost(many) - cost(few)) / (many - few); per > mostPerFlow {
		t.Errorf("%s: %.3f allocations a flow", what, per)
	}
}

// quietly runs the applet in the namespace that the thread is in.
func quietly(t *testing.T, line string) {
	t.Helper()
	if status := Run(t.Context(), append([]string{"conntrack"}, strings.Fields(line)...), nil, io.Discard, io.Discard); status != 0 {
		t.Fatalf("%s: status %d", line, status)
	}
}

// loadFiles writes a load file of few and one of many flows, each of which
// empties the table first, and returns what their names have before the number.
func loadFiles(t *testing.T, more string) string {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), "load")
	for _, n := range []int{few, many} {
		var b strings.Builder
		b.WriteString("-F\n")
		for i := range n {
			fmt.Fprintf(&b, "-A -t 1000 -u SEEN_REPLY,ASSURED -s 192.0.2.%d -d 198.51.100.2 -r 198.51.100.2 -q 192.0.2.%d -p tcp --sport %d --dport 80 --reply-port-src 80 --reply-port-dst %d --state ESTABLISHED%s\n",
				i%200, i%200, i+1, i+1, more)
		}
		if err := os.WriteFile(fmt.Sprint(prefix, n), []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return prefix
}

func TestNothingIsAllocatedPerFlow(t *testing.T) {
	ns := netnstest.New(t, "allocs")
	plain := loadFiles(t, "")
	translated := loadFiles(t, " --src-nat 203.0.113.9 -m 5")
	json := filepath.Join(t.TempDir(), "json")
	for _, n := range []int{few, many} {
		run(t, ns, fmt.Sprint("-R ", plain, n))
		if err := os.WriteFile(fmt.Sprint(json, n), []byte(run(t, ns, "-L -o json").stdout), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ns.Do(func() {
		for _, prefix := range []string{plain, translated, json} {
			checkPerFlow(t, "-R "+filepath.Base(prefix), func(n int) { quietly(t, fmt.Sprint("-R ", prefix, n)) })
		}
		for _, change := range []string{"-D -p tcp", "-U -m 7"} {
			checkPerFlow(t, "-R and "+change, func(n int) {
				quietly(t, fmt.Sprint("-R ", plain, n))
				quietly(t, change)
			})
		}
	})
}

func TestListingAllocatesNothingPerFlow(t *testing.T) {
	tables := map[int]*netnstest.NS{few: netnstest.New(t, "few"), many: netnstest.New(t, "many")}
	for n, ns := range tables {
		fillTable(t, ns, n)
	}
	for _, line := range []string{"-L", "-L -o extended,id", "-L -o save", "-L -o xml", "-L -o json", "-L -p udp --dport 7", "-L -u UNREPLIED -s 192.0.2.0/24"} {
		checkPerFlow(t, line, func(n int) { tables[n].Do(func() { quietly(t, line) }) })
	}
}

func TestEventsAllocateNothing(t *testing.T) {
	ns := netnstest.New(t, "eventallocs")
	var sub *ctnetlink.Subscription
	ns.Do(func() {
		var err error
		if sub, err = ctnetlink.Subscribe(ctnetlink.EventOptions{Groups: ctnetlink.AllFlowEvents}); err != nil {
			t.Fatal(err)
		}
	})
	defer sub.Close()
	fillTable(t, ns, few)
	events, err := sub.Next(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"-E", "-E -o timestamp,extended,id", "-E -o save", "-E -o xml", "-E -o json", "-E -p udp --dport 7 -s 192.0.2.0/24"} {
		c := mustParse(t, line)
		s := &session{ctx: context.Background(), stderr: io.Discard, out: newOutput(io.Discard)}
		w := &watcher{session: s, printer: newPrinter(s.out, &c), filter: newFilter(&c), turn: new(sync.Mutex)}
		printAgain := func() {
			if err := w.take(events); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 * outputChunks {
			printAgain() // the first times bring the chunks' memory
		}
		if n := testing.AllocsPerRun(20, printAgain); n != 0 {
			t.Errorf("%s: %v allocations for a run of events", line, n)
		}
		if w.printer.entries == 0 {
			t.Errorf("%s printed nothing", line)
		}
		s.close()
	}
}

// BenchmarkPredicates reads a file of --match with 5,000 lines and makes its matcher.
func BenchmarkPredicates(b *testing.B) {
	var options, objects strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&options, "-p tcp -s 10.0.%d.%d -d 198.51.100.7 --sport %d --dport 443 -w 0\n", i>>8, i&255, i)
		fmt.Fprintf(&objects, `{"proto":6,"original":{"src":"10.0.%d.%d","dst":"198.51.100.7","sport":%d,"dport":443},"zone":0}`+"\n", i>>8, i&255, i)
	}
	for _, file := range []struct{ name, text string }{{"options", options.String()}, {"JSON", objects.String()}} {
		b.Run(file.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				s := &session{stdin: strings.NewReader(file.text), argv: []string{"conntrack"}, parser: NewParser(io.Discard, false)}
				if _, err := s.readPredicates(&Command{MatchFile: "-"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
