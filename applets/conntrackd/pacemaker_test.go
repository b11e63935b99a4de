package conntrackd

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"ctbox/internal/netnstest"
)

// agent runs the commands of an action of Pacemaker's agent ocf:heartbeat:conntrackd. It fails at
// the first command whose exit status is not 0.
func (h *host) agent(action string) error {
	h.t.Helper()
	for _, option := range map[string][]string{
		"start": {"-d"}, "stop": {"-k"}, "monitor": {"-s"},
		"promote": {"-c", "-f", "-R", "-B"},
		"demote":  {"-t", "-n"},
	}[action] {
		if r := h.Run("", ours(h.t), "-C", h.path("conntrackd.conf"), option); r.Code != 0 {
			return fmt.Errorf("%s: conntrackd %s ended with %d: %s", action, option, r.Code, r.Stderr)
		}
	}
	return nil
}

// translated creates a flow whose replies go to an address of the firewall.
func (h *host) translated(port int) {
	h.t.Helper()
	h.Must("/usr/sbin/conntrack", "-I", "-p", "tcp", "-s", "198.51.100.1", "-d", "203.0.113.1", "--sport", fmt.Sprint(port), "--dport", "80",
		"--state", "ESTABLISHED", "-u", "ASSURED,SEEN_REPLY", "-t", "300", "-n", "203.0.113.100")
}

// A failover under Pacemaker succeeds although the new primary's kernel refuses one flow, which is
// reported in the log and the statistics. The fail-back succeeds too.
func TestPacemaker(t *testing.T) {
	a, b := newPair(t)
	a.configure(" LogFile "+a.path("log"), ftfwTo("192.0.2.1", "192.0.2.2"))
	b.configure(" LogFile "+b.path("log"), ftfwTo("192.0.2.2", "192.0.2.1"))
	act := func(h *host, actions ...string) {
		t.Helper()
		for _, action := range actions {
			if err := h.agent(action); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer func() {
		for _, h := range []*host{a, b} {
			h.Run("", ours(t), "-C", h.path("conntrackd.conf"), "-k")
		}
	}()
	if a.agent("monitor") == nil {
		t.Error("the monitor finds a daemon before the start")
	}
	act(a, "start", "monitor", "promote", "monitor")
	act(b, "start", "monitor", "demote", "monitor")
	a.insert("198.51.100.1", 1001)
	a.translated(1002)
	b.caches("-e", map[int]bool{1001: true, 1002: true})
	// On the other node another flow has the reply tuple of the translated flow.
	b.insert("203.0.113.100", 1002)

	text, err := os.ReadFile(a.path("lock"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL) // the primary's daemon; the cluster fails over
	refused := b.Run("", ours(t), "-C", b.path("conntrackd.conf"), "-c")
	said := unstamped(t, refused.Stderr)
	if refused.Code != 0 || refused.Stdout != "" || !strings.HasPrefix(said, "[warning] 1 of 2 entries can't be committed\n[warning] commit-create: ") ||
		!strings.Contains(said, "src=198.51.100.1 dst=203.0.113.1 sport=1002") || strings.Count(said, "\n") != 2 {
		t.Errorf("-c: %+v", refused)
	}
	strict := b.Run("", ours(t), "-C", b.path("conntrackd.conf"), "-c", "--strict")
	if strict.Code != 1 || masked(strings.ReplaceAll(unstamped(t, strict.Stderr), "[ERROR]", "[warning]")) != masked(said) {
		t.Errorf("-c --strict: %+v", strict)
	}
	act(b, "promote", "monitor")
	if table := b.Must("/usr/sbin/conntrack", "-L"); !strings.Contains(table, "sport=1001 ") {
		t.Errorf("the new primary's kernel has\n%s", table)
	}
	log, _ := os.ReadFile(b.path("log"))
	if !strings.Contains(string(log), "commit-create: ") || !strings.Contains(string(log), "1 entries can't be committed") {
		t.Errorf("the log has\n%s", log)
	}
	var status struct {
		Commits struct {
			Last struct {
				Flows   struct{ Committed, Failed int }
				Refused []struct{ Reason, Entry string }
			}
		}
	}
	if err := json.Unmarshal([]byte(b.client("-s", "runtime", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if last := status.Commits.Last; last.Flows.Failed != 1 || last.Flows.Committed != 1 || len(last.Refused) != 1 ||
		!strings.Contains(last.Refused[0].Entry, "sport=1002") || !strings.HasPrefix(last.Refused[0].Reason, "commit-create: ") {
		t.Errorf("%+v", last)
	}
	if metrics := b.client("-s", "metrics"); !strings.Contains(metrics, `conntrackd_last_commit_entries{table="flows",result="failed"} 1`+"\n") {
		t.Errorf("%s", metrics)
	}

	// The node comes back, and the cluster fails back to it.
	act(a, "start", "demote", "monitor")
	a.caches("-e", map[int]bool{1001: true})
	act(b, "demote")
	act(a, "promote", "monitor")
	act(b, "stop")
	act(a, "stop")
	if b.agent("monitor") == nil {
		t.Error("the monitor finds a daemon after the stop")
	}
}

// A commit fails without a daemon, with one that ends meanwhile, and with --strict if the daemon
// does not report the outcome.
func TestCommitFails(t *testing.T) {
	h := newHost(t)
	config := h.configure("", setups["notrack"])
	if r := h.Run("", ours(t), "-C", config, "-c"); r.Code != 1 {
		t.Errorf("without a daemon: %+v", r)
	}
	theirs := h.start(debian(t), config)
	if r := h.Run("", ours(t), "-C", config, "-c"); r != (netnstest.Result{}) {
		t.Errorf("Debian's daemon: %+v", r)
	}
	r := h.Run("", ours(t), "-C", config, "-c", "--strict")
	if want := "[ERROR] the running daemon does not report the result of the commit\n"; r.Code != 1 || unstamped(t, r.Stderr) != want {
		t.Errorf("Debian's daemon, --strict: %+v", r)
	}
	stop(t, theirs)
	h.start(ours(t), config)
	for _, args := range [][]string{{"-c"}, {"-c", "--strict"}, {"-c", "ct", "--strict"}, {"--strict", "-c", "expect"}} {
		if r := h.Run("", ours(t), append([]string{"-C", config}, args...)...); r != (netnstest.Result{}) {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

// A client that cannot write the answer, for example on a full disk, exits with 0, so that a
// monitor does not take the daemon for dead.
func TestAnswerOnAFullDisk(t *testing.T) {
	h := newHost(t)
	config := h.configure("", setups["notrack"])
	h.start(ours(t), config)
	for line, code := range map[string]int{"-s": 0, "-s cache": 0, "-s --json": 1, "-s metrics": 1} {
		r := h.Run("", "sh", "-c", `"$0" -C "$1" `+line+" >/dev/full", ours(t), config)
		if want := "[ERROR] write /dev/stdout: no space left on device\n"; r.Code != code || unstamped(t, r.Stderr) != want {
			t.Errorf("%s: %+v, want status %d", line, r, code)
		}
	}
}
