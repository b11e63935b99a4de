package conntrackd

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// tracked waits until a file for keepalived has a number.
func (h *host) tracked(name, number string) {
	h.t.Helper()
	netnstest.Eventually(h.t, patience, name+" has "+number, func() bool {
		text, _ := os.ReadFile(h.path(name))
		return string(text) == number+"\n"
	})
}

// ready runs --ready and returns its status and the text of its one line.
func (h *host) ready(args ...string) (status int, line string) {
	h.t.Helper()
	r := h.Run("", ours(h.t), append([]string{"-C", h.path("conntrackd.conf"), "--ready"}, args...)...)
	if r.Stdout != "" || strings.Count(r.Stderr, "\n") != r.Code {
		h.t.Errorf("--ready: %+v", r)
	}
	return r.Code, strings.TrimSuffix(unstamped(h.t, r.Stderr), "\n")
}

// isReady waits until --ready has a status and says so.
func (h *host) isReady(status int, line string) {
	h.t.Helper()
	var got string
	defer func() {
		if h.t.Failed() {
			h.t.Logf("--ready: %q; %s", got, h.client("-s", "peers"))
		}
	}()
	netnstest.Eventually(h.t, patience, "--ready says "+line, func() (is bool) {
		var code int
		code, got = h.ready()
		return code == status && strings.HasPrefix(got, line)
	})
}

// status is what -s peers says in JSON.
type readyStatus struct {
	Peers []struct {
		Address string
		Version int
		CTBox   bool
		Holes   int
		InSync  bool `json:"in_sync"`
	}
	Ready struct {
		InSync     bool `json:"in_sync"`
		Promotable bool
		Reason     string
		Held       int `json:"flows_held"`
	}
}

func (h *host) readyStatus() (s readyStatus) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.client("-s", "peers", "--json")), &s); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// readyTo is a configuration with a file for keepalived.
func (h *host) readyTo(own string) string {
	return h.configure(" LogFile "+h.path("log"),
		strings.Replace(ofMode("FTFW", own, "StartupResync on\n"), "UDP {", "Ready { File "+h.path("run/ready")+" StartGrace 1000000 }\nUDP {", 1))
}

// --ready, -s peers and the file of a pair from its first start to the death of a node.
func TestReady(t *testing.T) {
	t.Parallel()
	a, b := newPair(t)
	config := a.readyTo("192.0.2.1")
	if status, line := a.ready(); status != 1 || !strings.Contains(line, "is conntrackd running?") {
		t.Errorf("without a daemon: %d, %q", status, line)
	}
	pa := a.start(ours(t), config)
	a.isReady(1, "[ERROR] not in sync: no peer has been heard")
	a.tracked("run/ready", "-60")
	a.insert("198.51.100.1", 1001)
	pb := b.start(ours(t), b.readyTo("192.0.2.2"))
	a.isReady(0, "")
	b.isReady(0, "")
	if status, line := b.ready("--max-lag", "1"); status != 0 || line != "" {
		t.Errorf("--max-lag: %d, %q", status, line)
	}
	a.tracked("run/ready", "0")
	b.tracked("run/ready", "0")
	b.caches("-e", map[int]bool{1001: true})
	s := b.readyStatus()
	if len(s.Peers) != 1 || s.Peers[0].Address != "192.0.2.1" || s.Peers[0].Version != 1 || !s.Peers[0].CTBox || !s.Peers[0].InSync ||
		!s.Ready.InSync || !s.Ready.Promotable || s.Ready.Held != 1 {
		t.Errorf("-s peers --json: %+v", s)
	}
	text := b.client("-s", "peers")
	for _, want := range []string{"peer 192.0.2.1:\n", "protocol version:\t\t1, ctbox\n", "in sync:\t\tyes\n", "may take over:\t\tyes: in sync\n", "flows held:\t\t1\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("-s peers lacks %q:\n%s", want, text)
		}
	}

	// Neither a reload, with and without a change, nor a short failure of the link begins a bulk anew.
	bulks := func() (n int) {
		for _, h := range []*host{a, b} {
			log, _ := os.ReadFile(h.path("log"))
			n += strings.Count(string(log), "sending bulk update")
		}
		return n
	}
	before := bulks()
	a.client("--reload")
	if err := syscall.Kill(pb.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	b.IP("link", "set", "sync0", "down")
	a.insert("198.51.100.1", 1002)
	b.IP("link", "set", "sync0", "up")
	b.caches("-e", map[int]bool{1002: true})
	a.isReady(0, "")
	b.isReady(0, "")
	if n := bulks(); n != before {
		t.Errorf("%d bulks, then %d", before, n)
	}

	// An operator empties the cache of the backup: it lacks the flows until it has asked for them.
	b.client("-f", "external")
	b.isReady(1, "[ERROR] not in sync: 192.0.2.1 has not been asked for its flows")
	b.tracked("run/ready", "-60")
	b.client("-n")
	b.isReady(0, "")
	b.tracked("run/ready", "0")

	stop(t, pa)
	a.tracked("run/ready", "-60")
	b.isReady(1, "[ERROR] not in sync: 192.0.2.1 has been silent for ")
	b.tracked("run/ready", "0") // the survivor stays
	if s := b.readyStatus(); s.Ready.InSync || !strings.HasPrefix(s.Ready.Reason, "no peer is heard, in sync ") {
		t.Errorf("the survivor: %+v", s)
	}
}

// A peer that is conntrack-tools' marks no end of a bulk.
func TestReadyBesideDebian(t *testing.T) {
	t.Parallel()
	a, b := newPair(t)
	b.insert("198.51.100.1", 1001)
	b.start(debian(t), b.configure("", ofMode("FTFW", "192.0.2.2", "")))
	a.start(ours(t), a.readyTo("192.0.2.1"))
	a.isReady(1, "[ERROR] not in sync: ")
	a.isReady(0, "")
	a.tracked("run/ready", "0")
	if s := a.readyStatus(); s.Peers[0].CTBox || s.Ready.Held != 1 {
		t.Errorf("-s peers --json: %+v", s)
	}
}

// In the other modes time has to do, and in statistics mode there is nobody to be in sync with.
func TestReadyInOtherModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ mode, clauses string }{
		{"ALARM", "RefreshTime 1\n"}, {"NOTRACK", "StartupResync on\n"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			a, b := newPair(t)
			sync := func(own string) string {
				return strings.Replace(ofMode(c.mode, own, c.clauses), "UDP {", "Ready { StartGrace 2 }\nUDP {", 1)
			}
			a.insert("198.51.100.1", 1001)
			b.insert("198.51.100.1", 1002)
			b.start(ours(t), b.configure("", sync("192.0.2.2")))
			a.start(ours(t), a.configure("", sync("192.0.2.1"))) // asks the one that runs
			a.isReady(0, "")
			a.caches("-e", map[int]bool{1002: true})
			a.client("-f", "external")
			if status, line := a.ready(); status != 1 || !strings.Contains(line, "192.0.2.2") {
				t.Errorf("without a cache: %d, %q", status, line)
			}
		})
	}
	t.Run("without an external cache", func(t *testing.T) {
		t.Parallel()
		a, b := newPair(t)
		a.insert("198.51.100.1", 1001)
		a.start(ours(t), a.configure("", ofMode("FTFW", "192.0.2.1", "DisableExternalCache on\n")))
		b.start(ours(t), b.configure("", ofMode("FTFW", "192.0.2.2", "DisableExternalCache on\n")))
		a.isReady(0, "")
		b.isReady(0, "")
		b.client("-f", "external") // there is none
		b.isReady(0, "")
	})
	h := newHost(t)
	h.start(ours(t), h.configure("", "Stats {\n}"))
	if status, line := h.ready(); status != 1 || line == "" {
		t.Errorf("in statistics mode: %d, %q", status, line)
	}
}

// systemd shows whether the node may take over, after READY=1.
func TestReadyInSystemd(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cmd := h.Command(ours(t), "-C", h.configure("", strings.Replace(ofMode("FTFW", "192.0.2.1", ""), "UDP {", "Ready { StartGrace 1 }\nUDP {", 1)))
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+h.path("notify"))
	h.Launch(cmd)
	for first := true; ; first = false {
		buf := make([]byte, 256)
		conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(buf)
		switch got := string(buf[:n]); {
		case err != nil:
			t.Fatal(err)
		case first && got == "READY=1":
		case !first && got == "STATUS=may take over: no peer was heard for 1 s after the start":
			return
		case !first && got == "STATUS=may not take over: not in sync since the start: no peer has been heard":
		default:
			t.Fatalf("%q", got)
		}
	}
}
