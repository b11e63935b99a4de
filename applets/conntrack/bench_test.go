package conntrack

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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
