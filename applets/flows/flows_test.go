package flows

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// patience is longer than any step of these tests takes.
const patience = 20 * time.Second

// host is a namespace with connection tracking and NAT.
type host struct {
	*netnstest.NS
	t     *testing.T
	ctbox string
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{netnstest.New(t, "flows"), t, netnstest.Applet(t, "ctbox")}
	h.Track()
	h.NFT("table ip nat { chain out { type nat hook postrouting priority 100; }; chain in { type nat hook prerouting priority -100; }; }")
	for _, name := range []string{"acct", "timestamp", "events"} {
		h.Sysctl("net.netfilter.nf_conntrack_"+name, "1")
	}
	return h
}

// add creates a UDP flow from 192.0.2.1 and a port, with its source translated to outside
// unless that is "".
func (h *host) add(port, outside string) {
	h.t.Helper()
	args := []string{"-I", "-p", "udp", "-s", "192.0.2.1", "-d", "198.51.100.1", "--sport", port, "--dport", "53", "-t", "600"}
	if outside != "" {
		args = append(args, "-n", outside)
	}
	h.Must(netnstest.Applet(h.t, "conntrack"), args...)
}

func (h *host) remove(port string) {
	h.t.Helper()
	h.Must(netnstest.Applet(h.t, "conntrack"), "-D", "-p", "udp", "--sport", port)
}

// record is the part of a record that the tests compare.
type record struct {
	Event, Origin, Reason string
	Start                 json.Number
	Original, Reply       struct {
		Src, Dst     string
		Sport, Dport int
		Packets      *int
	}
}

// records parses the lines of an output; an incomplete last line is ignored.
func (h *host) records(text string) (all []record) {
	h.t.Helper()
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			h.t.Fatalf("%v: %s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// watched is a running `ctbox flows`.
type watched struct {
	*netnstest.Process
	h *host
}

// watch starts `ctbox flows` by a command that may be in another namespace, and waits until it
// receives events.
func (h *host) watch(cmd *exec.Cmd) *watched {
	h.t.Helper()
	before := h.Subscribers()
	w := &watched{h.Launch(cmd), h}
	netnstest.Eventually(h.t, patience, "ctbox flows listens", func() bool {
		if w.Ended() {
			h.t.Fatalf("ctbox flows ended: %s", w.Stderr)
		}
		return h.Subscribers() > before
	})
	return w
}

// await waits until a record satisfies is, and returns it.
func (w *watched) await(what string, is func(*record) bool) (found record) {
	w.h.t.Helper()
	defer func() {
		if w.h.t.Failed() {
			w.h.t.Logf("%s%s", w.Stdout, w.Stderr)
		}
	}()
	netnstest.Eventually(w.h.t, patience, what, func() bool {
		all := w.h.records(w.Stdout.String())
		i := slices.IndexFunc(all, func(r record) bool { return is(&r) })
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// stop interrupts the program, which then ends with status 0, and returns its records.
func (w *watched) stop() []record {
	w.h.t.Helper()
	res := w.Stop(syscall.SIGINT)
	if res.Code != 0 || res.Stderr != "" {
		w.h.t.Errorf("interrupted: status %d, %s", res.Code, res.Stderr)
	}
	return w.h.records(res.Stdout)
}

func of(event string, port int) func(*record) bool {
	return func(r *record) bool { return r.Event == event && r.Original.Sport == port }
}

// Each flow has a record at its begin and its end, one that existed before at the start.
func TestFlowsBeginAndEnd(t *testing.T) {
	h := newHost(t)
	h.add("1000", "")
	w := h.watch(h.Command(h.ctbox, "flows"))
	if r := w.await("the flow that existed", of("new", 1000)); r.Origin != "existing" || r.Start == "" {
		t.Errorf("%+v", r)
	}
	h.add("1001", "")
	if r := w.await("the flow's begin", of("new", 1001)); r.Origin != "" {
		t.Errorf("%+v", r)
	}
	h.remove("1001")
	h.remove("1000")
	for _, port := range []int{1000, 1001} {
		if r := w.await("the flow's end", of("destroy", port)); r.Reason != "forced" || r.Original.Packets == nil {
			t.Errorf("%+v", r)
		}
	}
	if all := w.stop(); len(all) != 4 {
		t.Errorf("%d records, want 4: %+v", len(all), all)
	}
}

// With --records nat only translated flows are recorded; destinations can be left out.
func TestTranslations(t *testing.T) {
	h := newHost(t)
	w := h.watch(h.Command(h.ctbox, "flows", "--records", "nat", "--no-destinations"))
	h.add("1000", "")
	h.add("1001", "203.0.113.7:41234")
	h.remove("1001")
	w.await("the translation's end", of("destroy", 1001))
	all := w.stop()
	if len(all) != 2 {
		t.Fatalf("%d records, want 2: %+v", len(all), all)
	}
	for _, r := range all {
		if r.Original.Src != "192.0.2.1" || r.Reply.Dst != "203.0.113.7" || r.Reply.Dport != 41234 || r.Original.Dst+r.Reply.Src != "" {
			t.Errorf("%+v", r)
		}
	}
}

// Flows that go on are recorded every --active-timeout.
func TestActiveTimeout(t *testing.T) {
	h := newHost(t)
	w := h.watch(h.Command(h.ctbox, "flows", "--active-timeout=1"))
	h.add("1000", "")
	if r := w.await("the flow that goes on", of("update", 1000)); r.Reason != "active" || r.Original.Packets == nil {
		t.Errorf("%+v", r)
	}
	w.stop()
}

// --netns prints the flows of another namespace, and so does --once.
func TestOtherNamespace(t *testing.T) {
	h := newHost(t)
	h.add("1000", "")
	w := h.watch(exec.Command(h.ctbox, "flows", "--netns", h.Path()))
	w.await("the other namespace's flow", of("new", 1000))
	h.add("1001", "")
	w.await("the other namespace's event", of("new", 1001))
	if all := w.stop(); len(all) != 2 {
		t.Errorf("%+v", all)
	}
	out, err := exec.Command(h.ctbox, "flows", "--netns", h.Path(), "--once").Output()
	if all := h.records(string(out)); err != nil || len(all) != 2 {
		t.Errorf("--once: %v, %+v", err, all)
	}
}

// --once prints the flows of the table that pass the options.
func TestOnce(t *testing.T) {
	h := newHost(t)
	h.add("1000", "")
	h.add("1001", "203.0.113.7")
	h.Must(netnstest.Applet(t, "conntrack"), "-I", "-p", "tcp", "-s", "2001:db8::1", "-d", "2001:db8::2", "--sport", "1002", "--dport", "80",
		"-t", "600", "--state", "ESTABLISHED")
	for _, c := range []struct {
		args string
		want []int
	}{
		{"", []int{1000, 1001, 1002}},
		{"--records nat", []int{1001}},
		{"--proto udp", []int{1000, 1001}},
		{"--proto tcp,17", []int{1000, 1001, 1002}},
		{"--proto icmp,igmp", nil},
		{"--address 2001:db8::/64", []int{1002}},
		{"--address 198.51.100.1", []int{1000, 1001}},
		{"--address 203.0.113.0/24,2001:db8::2", []int{1002}},
		{"--address 192.0.2.77/24 --proto udp --records nat --no-destinations", []int{1001}},
	} {
		var got []int
		for _, r := range h.records(h.Must(h.ctbox, append([]string{"flows", "--once"}, strings.Fields(c.args)...)...)) {
			got = append(got, r.Original.Sport)
			if r.Event != "new" || r.Origin != "existing" {
				t.Errorf("%s: %+v", c.args, r)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("--once %s: flows from ports %v, want %v", c.args, got, c.want)
		}
	}
}

// A wrong command line is one line that names the option, and nothing is printed.
func TestUsage(t *testing.T) {
	h := newHost(t)
	for args, want := range map[string]string{
		"--records all":                        "--records all: it is flow or nat",
		"--no-destinations":                    "--no-destinations is for --records nat",
		"--once --active-timeout 5":            "--active-timeout is for --records flow without --once",
		"--active-timeout 0":                   "--active-timeout 0: it is a number of seconds from 1 to 2147483647",
		"--active-timeout 5m":                  "--active-timeout 5m: it is a number of seconds from 1 to 2147483647",
		"--proto tcp,":                         `--proto tcp,: unknown protocol ""`,
		"--proto ftp":                          `--proto ftp: unknown protocol "ftp"`,
		"--address 192.0.2.0/33":               `--address 192.0.2.0/33: "192.0.2.0/33" is not an address or a network`,
		"--address 192.0.2.1,fe80::1%lo":       `--address 192.0.2.1,fe80::1%lo: "fe80::1%lo" is not an address or a network`,
		"--once --netns /nonexistent":          "--netns /nonexistent: no such file or directory",
		"--once extra":                         `unknown argument "extra"`,
		"--records nat --active-timeout 5":     "--active-timeout is for --records flow without --once",
		"--once --no-destinations --proto tcp": "--no-destinations is for --records nat",
	} {
		res := h.Run("", h.ctbox, append([]string{"flows"}, strings.Fields(args)...)...)
		if got, _, _ := strings.Cut(strings.TrimPrefix(res.Stderr, "ctbox flows: "), " (try "); res.Code != exitUsage || strings.TrimSuffix(got, "\n") != want || res.Stdout != "" {
			t.Errorf("%s: status %d, %q, want %q", args, res.Code, res.Stderr, want)
		}
	}
}

// Without a privilege the program says so and fails.
func TestWithoutPrivilege(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{{"flows"}, {"flows", "--once"}} {
		cmd := h.Command("setpriv", append([]string{"--reuid=65534", "--clear-groups", "--bounding-set=-all", h.ctbox}, args...)...)
		p := h.Launch(cmd)
		res := p.Wait(patience)
		if res.Code != exitFailure || !strings.Contains(res.Stderr, "operation not permitted") || strings.Count(res.Stderr, "\n") != 1 {
			t.Errorf("%v: status %d, %q", args, res.Code, res.Stderr)
		}
	}
}

// A reader that closes the pipe ends the program.
func TestReaderCloses(t *testing.T) {
	h := newHost(t)
	h.add("1000", "")
	p := h.Start("sh", "-c", h.ctbox+" flows | head -n 1")
	netnstest.Eventually(t, patience, "a record", func() bool { return p.Stdout.String() != "" })
	netnstest.Eventually(t, patience, "the program has ended", func() bool {
		h.add("1001", "")
		h.remove("1001")
		return p.Ended()
	})
}
