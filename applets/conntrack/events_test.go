package conntrack

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// shown waits until the listener has printed something.
func (l *listener) shown(t testing.TB, what string) {
	t.Helper()
	netnstest.Eventually(t, 10*time.Second, what, func() bool { return strings.Contains(l.out.String(), what) })
}

func TestEvents(t *testing.T) {
	ns := netnstest.New(t, "events")
	all := listen(t, ns, "-E", nil)
	some := listen(t, ns, "-E -e NEW,DESTROY -p udp -s 192.0.2.0/24 -o timestamp,id", nil)
	xml := listen(t, ns, "-E -o xml,timestamp", nil)
	lines := listen(t, ns, "-E -o json", nil)
	save := listen(t, ns, "-E -e NEW -o save", nil)
	none := listen(t, ns, "-E -o xml -p 200", nil)

	run(t, ns, "-I -t 1000 -m 7 "+udp4)
	run(t, ns, "-I -t 1000 "+tcp4)
	run(t, ns, "-I -t 1000 "+udp6)
	run(t, ns, "-U -p tcp -m 8")
	run(t, ns, "-D -p tcp")
	run(t, ns, "-D -p udp -f ipv4")
	all.shown(t, "[DESTROY] udp ")

	r := all.end(t)
	portid := " [USERSPACE] portid="
	for i, want := range []string{
		"    [NEW] udp      17 1000 src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=53 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=53 dport=1000 mark=7" + portid,
		"    [NEW] tcp      6 1000 ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=80 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=80 dport=1000 mark=0" + portid,
		"    [NEW] udp      17 1000 src=2001:db8::1 dst=2001:db8::2 sport=1000 dport=53 [UNREPLIED] src=2001:db8::2 dst=2001:db8::1 sport=53 dport=1000 mark=0" + portid,
		" [UPDATE] tcp      6 N ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=80 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=80 dport=1000 mark=8" + portid,
		"[DESTROY] tcp      6 N ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=80 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=80 dport=1000 mark=8" + portid,
		"[DESTROY] udp      17 N src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=53 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=53 dport=1000 mark=7" + portid,
	} {
		got := strings.Split(r.stdout, "\n")
		if i >= len(got) || !strings.HasPrefix(regexp.MustCompile(` \d{3,4} (src|EST)`).ReplaceAllString(got[i], " N $1"), strings.NewReplacer(" 1000 src", " N src", " 1000 EST", " N EST").Replace(want)) {
			t.Errorf("event %d:\n%s\nwant %s…", i, r.stdout, want)
			break
		}
	}
	if r.status != 0 || r.stderr != onStderr("6 flow events have been shown.") {
		t.Errorf("-E: %d %s", r.status, r.stderr)
	}
	if r = some.end(t); r.stderr != onStderr("2 flow events have been shown.") ||
		!regexp.MustCompile(`^\[\d{8,}\.\d{6}\]\t    \[NEW\] udp .* id=\d+ \[USERSPACE\].*\n\[.*\t\[DESTROY\] udp `).MatchString(r.stdout) {
		t.Errorf("-E with a filter: %+v", r)
	}
	if r = xml.end(t); strings.Count(r.stdout, "<?xml") != 1 || !strings.HasSuffix(r.stdout, "</flow>\n</conntrack>\n") ||
		strings.Count(r.stdout, "<when>") != 6 || strings.Contains(r.stdout, "USERSPACE") {
		t.Errorf("-E -o xml: %+v", r)
	}
	r = lines.end(t)
	for line := range strings.Lines(r.stdout) {
		var e struct {
			Event  string
			Time   float64
			Portid uint32
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Event == "" || e.Time == 0 || e.Portid == 0 {
			t.Errorf("-E -o json: %v %s", err, line)
		}
	}
	if r = save.end(t); !strings.HasPrefix(r.stdout, "-A -t 1000 -u UNSET -s 192.0.2.1 ") {
		t.Errorf("-E -o save: %+v", r)
	}
	if r = none.end(t); r.stdout != "" || r.stderr != onStderr("0 flow events have been shown.") {
		t.Errorf("-E with nothing to show: %+v", r)
	}
}

func TestExpectEvents(t *testing.T) {
	ns := netnstest.New(t, "expectevents")
	l := listen(t, ns, "-E expect -o timestamp", nil)
	if r := runTo(t, ns, "-R -", `{"proto":6,"original":{"src":"192.0.2.1","dst":"192.0.2.2","sport":1000,"dport":21},"timeout":1000,"state":"ESTABLISHED","helper":"ftp"}`, nil); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	must(t, ns, "-I expect -s 192.0.2.1 -d 192.0.2.2 -p tcp --sport 1000 --dport 21 --tuple-src 192.0.2.2 --tuple-dst 192.0.2.1 --tuple-port-src 0 --tuple-port-dst 5000 --mask-src 255.255.255.255 --mask-dst 255.255.255.255 --mask-port-src 0 --mask-port-dst 65535 -t 100", "")
	l.shown(t, "helper=ftp")
	if r := l.end(t); r.stderr != onStderr("1 expectation events have been shown.") ||
		!regexp.MustCompile(`^\[\d{8,}\.\d{6}\]\t    \[NEW\] \d+ proto=6 src=192.0.2.2 `).MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
}

// TestEventUserspace checks the name of the program behind an event.
func TestEventUserspace(t *testing.T) {
	ns := netnstest.New(t, "userspace")
	l := listen(t, ns, "-E", nil)
	run(t, ns, "-I -t 1000 "+udp4)
	l.shown(t, "portid")
	// Our socket was open when the event was printed, unless the printing was
	// slower than the whole run.
	r := l.end(t)
	if !regexp.MustCompile(` \[USERSPACE\] portid=\d+( progname=\S+)?\n$`).MatchString(r.stdout) {
		t.Errorf("%q", r.stdout)
	}
}

// TestEventsBuffer checks the message about the size of the buffer.
func TestEventsBuffer(t *testing.T) {
	ns := netnstest.New(t, "buffer")
	l := listen(t, ns, "-E -b 65536", nil)
	if r := l.end(t); r.stderr != "NOTICE: Netlink socket buffer size has been set to 131072 bytes.\n"+onStderr("0 flow events have been shown.") {
		t.Errorf("-b: %q", r.stderr)
	}
}

// TestEventLoss has a reader that stops reading, so that the kernel drops events: the
// events that are printed and those reported as lost are all events.
func TestEventLoss(t *testing.T) {
	ns := netnstest.New(t, "loss")
	for _, output := range []string{"", " -o json"} {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		l := listen(t, ns, "-E -e NEW -b 65536 --queue-size 4096"+output, writer)
		const flows = 20000
		fillTable(t, ns, flows)
		// No line has been read so far: the pipe and the buffers are full.
		var printed, reported int
		read := make(chan string)
		go func() {
			all, _ := io.ReadAll(reader)
			read <- string(all)
		}()
		netnstest.Eventually(t, 20*time.Second, "a warning", func() bool { return strings.Contains(l.errs.String(), "WARNING") })
		r := l.end(t)
		writer.Close()
		out := <-read
		if !strings.HasPrefix(r.stderr[strings.Index(r.stderr, "WARNING"):], "WARNING: We have hit ENOBUFS! We are losing events.\n") {
			t.Errorf("stderr: %s", r.stderr)
		}
		lost := 0
		for _, m := range regexp.MustCompile(`WARNING: (\d+) events lost, (\d+) in all\.`).FindAllStringSubmatch(r.stderr, -1) {
			n, _ := strconv.Atoi(m[1])
			all, _ := strconv.Atoi(m[2])
			if lost += n; lost != all {
				t.Errorf("%d lost so far, not %d", lost, all)
			}
		}
		for line := range strings.Lines(out) {
			if output == "" {
				printed++
				continue
			}
			var e struct {
				Event    string
				Messages int
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if e.Event == "lost" {
				reported += e.Messages
			} else {
				printed++
			}
		}
		if lost == 0 || printed+lost != flows || output != "" && reported != lost {
			t.Errorf("%s: %d printed, %d lost, %d reported in the stream, of %d", output, printed, lost, reported, flows)
		}
		if want := fmt.Sprintf("%d flow events have been shown.\n", printed); !strings.HasSuffix(r.stderr, want) {
			t.Errorf("%s: %s", want, r.stderr)
		}
		run(t, ns, "-F")
	}
}

// TestEventsNothingLost checks that no event of a burst is lost with the default sizes.
func TestEventsNothingLost(t *testing.T) {
	ns := netnstest.New(t, "burst")
	l := listen(t, ns, "-E -e NEW", nil)
	const flows = 30000
	fillTable(t, ns, flows)
	netnstest.Eventually(t, 20*time.Second, "all events", func() bool { return strings.Count(l.out.String(), "\n") == flows })
	if r := l.end(t); r.stderr != onStderr(fmt.Sprintf("%d flow events have been shown.", flows)) {
		t.Errorf("%s", r.stderr)
	}
}
