package conntrackd

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ctbox/internal/netnstest"
)

// The rates of counters are right, in a pipe and on a terminal.
func TestTop(t *testing.T) {
	h := newHost(t)
	h.start(ours(t), h.configure("", setups["notrack"]))
	p := h.Start(ours(t), "-C", h.path("conntrackd.conf"), "--top")
	lines := func() []string { return strings.Split(p.Stdout.String(), "\n") }
	netnstest.Eventually(t, patience, "an object", func() bool { return len(lines()) > 1 })
	h.Must("/usr/sbin/conntrack", "-I", "-p", "tcp", "-s", "198.51.100.1", "-d", "203.0.113.1",
		"--sport", "1001", "--dport", "2002", "--state", "ESTABLISHED", "-t", "300")
	gained := func(line string) bool {
		var o struct {
			Time    json.Number
			Metrics []struct {
				Name      string
				Labels    map[string]string
				Value     float64
				PerSecond *float64 `json:"per_second"`
			}
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		for _, m := range o.Metrics {
			if m.Name == "conntrackd_cache_operations_total" && m.Labels["operation"] == "create" && m.Labels["result"] == "ok" &&
				m.Labels["table"] == "flows" && m.Labels["cache"] == "internal" && m.Value == 1 && m.PerSecond != nil && *m.PerSecond > 0.3 {
				return true
			}
		}
		return false
	}
	netnstest.Eventually(t, patience, "an object with one flow more", func() bool {
		all := lines()
		for _, line := range all[:len(all)-1] {
			if gained(line) {
				return true
			}
		}
		return false
	})
	if r := p.Stop(syscall.SIGINT); r.Code != 0 || r.Stderr != "" {
		t.Errorf("%+v", r)
	}

	socket := filepath.Join(t.TempDir(), "tmux")
	tmux := func(args ...string) string {
		out, err := exec.Command("tmux", append([]string{"-S", socket}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "nsenter", "--net="+h.Path(), "sh", "-c",
		ours(t)+" -C "+h.path("conntrackd.conf")+" --top; echo status=$?; stty -a; sleep 1000")
	t.Cleanup(func() { tmux("kill-server") })
	seen := func(texts ...string) {
		t.Helper()
		netnstest.Eventually(t, patience, strings.Join(texts, ", "), func() bool {
			pane := tmux("capture-pane", "-p")
			for _, text := range texts {
				if !strings.Contains(pane, text) {
					return false
				}
			}
			return true
		})
	}
	seen("conntrackd --top, every 1s", "PER SECOND", "uptime_seconds", "cache_entries cache=internal table=flows")
	tmux("send-keys", "q")
	seen("status=0", " icanon", " echo ")

	r := h.Run("", ours(t), "-C", newHost(t).configure("", ""), "--top")
	if r.Code != 1 || r.Stdout != "" || !strings.Contains(r.Stderr, "can't connect") {
		t.Errorf("without a daemon: %+v", r)
	}
}

func TestTopPaints(t *testing.T) {
	var view top
	view.read("# TYPE x counter\nconntrackd_x_total{a=\"b\",c=\"d\"} 7\nconntrackd_y 1.25\nconntrackd_zero 0\n# EOF\n")
	for _, size := range [][2]int{{80, 24}, {30, 4}, {5, 2}, {1, 1}, {1, 0}} {
		lines := view.paint(size[0], size[1])
		if len(lines) > size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, line := range lines {
			if text := strings.NewReplacer("\x1b[7m", "", "\x1b[0m", "").Replace(string(line)); len(text) > size[0] {
				t.Errorf("%v: %q", size, text)
			}
		}
	}
	if lines := view.paint(80, 24); len(lines) != 4 || !strings.HasPrefix(string(lines[2]), "y ") || !strings.HasPrefix(string(lines[3]), "x_total a=b c=d ") {
		t.Errorf("painted %q", lines)
	}
	for text, want := range map[string]float64{"0": 0, "12": 12, "1.25": 1.25, "0.5": 0.5, "x": 0} {
		if got := decimal(text); got != want {
			t.Errorf("%s is %v", text, got)
		}
	}
}
