package conntrack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// ran is the result of a run of the applet.
type ran struct {
	stdout, stderr string
	status         int
}

// run runs the applet with the words of line in the namespace.
func run(t testing.TB, ns *netnstest.NS, line string) ran {
	t.Helper()
	return runTo(t, ns, line, "", nil)
}

func runTo(t testing.TB, ns *netnstest.NS, line, stdin string, stdout io.Writer) ran {
	t.Helper()
	var out, errs bytes.Buffer
	if stdout == nil {
		stdout = &out
	}
	var r ran
	ns.Do(func() {
		r.status = Run(t.Context(), append([]string{"conntrack"}, strings.Fields(line)...), strings.NewReader(stdin), stdout, &errs)
	})
	r.stdout, r.stderr = out.String(), errs.String()
	return r
}

// must runs the applet and expects success and a summary, "" for no summary.
func must(t testing.TB, ns *netnstest.NS, line, summary string) string {
	t.Helper()
	r := run(t, ns, line)
	if r.status != 0 || r.stderr != onStderr(summary) {
		t.Fatalf("%s: status %d\n%s%s", line, r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// onStderr returns the line on stderr for a summary or an error.
func onStderr(summary string) string {
	if summary == "" {
		return ""
	}
	return messagePrefix + summary + "\n"
}

// fails runs the applet and expects a message and an exit status.
func fails(t testing.TB, ns *netnstest.NS, line string, status int, message string) {
	t.Helper()
	if r := run(t, ns, line); r.status != status || r.stderr != onStderr(message) {
		t.Errorf("%s: status %d, %q; want %d, %q", line, r.status, r.stderr, status, onStderr(message))
	}
}

// table returns the namespace's table as Debian's conntrack lists it, sorted.
func table(t testing.TB, ns *netnstest.NS, args ...string) []string {
	t.Helper()
	out := ns.Must("/usr/sbin/conntrack", append([]string{"-L"}, args...)...)
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if out == "" {
		return nil
	}
	slices.Sort(lines)
	return lines
}

// entries returns the number of flows in the table.
func entries(t testing.TB, ns *netnstest.NS) int {
	t.Helper()
	n, err := strconv.Atoi(ns.ReadSysctl("net.netfilter.nf_conntrack_count"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const (
	udp4  = "-p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1000 --dport 53"
	tcp4  = "-p tcp -s 192.0.2.1 -d 192.0.2.2 --sport 1000 --dport 80 --state ESTABLISHED"
	udp6  = "-p udp -s 2001:db8::1 -d 2001:db8::2 --sport 1000 --dport 53"
	icmp4 = "-p icmp -s 192.0.2.1 -d 192.0.2.2 --icmp-type 8 --icmp-code 0 --icmp-id 9"
)

// fillTable makes n UDP flows, half of them to port 7 and half to port 8.
func fillTable(t testing.TB, ns *netnstest.NS, n int) {
	t.Helper()
	var file strings.Builder
	for i := range n {
		fmt.Fprintf(&file, "-I -t 1000 -p udp -s 192.0.2.1 -d 198.51.100.%d --sport %d --dport %d\n", i%200, i+1-i%2, 7+i%2)
	}
	if r := runTo(t, ns, "-R -", file.String(), nil); r.status != 0 || r.stderr != "" {
		t.Fatalf("load %d flows: %+v", n, r)
	}
}

// timeoutField finds a flow's timeout in the text, save and XML output.
var timeoutField = regexp.MustCompile(`(?m)(^(?:ipv[46] +\d+ )?[a-z]+ +\d+ |-t |<timeout>|^)\d+`)

// sameSecond makes equal the timeouts in outputs that were printed at different times.
func sameSecond(out string) string {
	return timeoutField.ReplaceAllString(out, "${1}N")
}

// listener is an -E that runs beside the test.
type listener struct {
	out, errs netnstest.Output
	stop      context.CancelFunc
	done      chan int
}

// listen starts -E with the words of line; it listens when listen returns.
func listen(t testing.TB, ns *netnstest.NS, line string, stdout io.Writer) *listener {
	t.Helper()
	before := ns.Subscribers()
	ctx, cancel := context.WithCancel(t.Context())
	l := &listener{stop: cancel, done: make(chan int, 1)}
	if stdout == nil {
		stdout = &l.out
	}
	go ns.Do(func() {
		l.done <- Run(ctx, append([]string{"conntrack"}, strings.Fields(line)...), nil, stdout, &l.errs)
	})
	netnstest.Eventually(t, 10*time.Second, "a listener", func() bool { return ns.Subscribers() > before })
	return l
}

// end stops the listener and returns its result.
func (l *listener) end(t testing.TB) ran {
	t.Helper()
	l.stop()
	select {
	case status := <-l.done:
		return ran{l.out.String(), l.errs.String(), status}
	case <-time.After(10 * time.Second):
		t.Fatal("the listener does not end")
		return ran{}
	}
}

func TestMain(m *testing.M) { netnstest.Main(m) }
