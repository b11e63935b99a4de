package conntrackd

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

// get fetches a URL from the daemon's namespace; status 0 means no answer.
func (h *host) get(url string) (status int, body string) { return h.getAs(url, "*/*") }

func (h *host) getAs(url, accept string) (status int, body string) {
	h.t.Helper()
	r := h.Run("", "curl", "-sS", "--max-time", "5", "-w", "\n%{http_code}", "-H", "Accept: "+accept, url)
	body, code, _ := cutLast(r.Stdout, "\n")
	fmt.Sscan(code, &status)
	return status, body
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// loopback sets the loopback interface up. The tests use these addresses on it.
const (
	listen4 = " Metrics {\n  Listen 127.0.0.1:9107\n }\n"
	listen6 = " Metrics {\n  Listen [::1]:9108\n }\n"
)

// names returns the metrics of a text with their labels.
func names(metrics string) []string {
	var all []string
	for line := range strings.Lines(metrics) {
		if name, _, ok := cutLast(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(line, "#") {
			all = append(all, name)
		}
	}
	return all
}

// HTTP and the command have the same metrics, in every mode and in the sandbox.
func TestMetricsOverHTTP(t *testing.T) {
	for name, clauses := range setups {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.IP("link", "set", "lo", "up")
			p := h.start(ours(t), h.configure(listen4, clauses))
			checkConfined(t, p.Pid(), confinedTo(unix.CAP_NET_ADMIN))
			status, body := h.get("http://127.0.0.1:9107/metrics")
			if status != 200 || strings.Contains(body, "# EOF") {
				t.Fatalf("%d: %s", status, body)
			}
			printed := h.client("-s", "metrics")
			if got, want := names(body), names(printed); !slices.Equal(got, want) || len(got) < 5 {
				t.Errorf("over HTTP there are\n%v\nthe command has\n%v", got, want)
			}
			for from, text := range map[string]string{"over HTTP": body, "-s metrics": printed} {
				if r := h.Run(text, "promtool", "check", "metrics"); r.Code != 0 || r.Stdout+r.Stderr != "" {
					t.Errorf("promtool check metrics, %s: %+v", from, r)
				}
			}
			status, body = h.getAs("http://127.0.0.1:9107/metrics", "application/openmetrics-text")
			if status != 200 || !strings.HasPrefix(body, "# TYPE conntrackd_build info\n") || !strings.HasSuffix(body, "# EOF\n") {
				t.Errorf("OpenMetrics: %d: %s", status, body)
			}
			if status, _ := h.get("http://127.0.0.1:9107/"); status != 404 {
				t.Errorf("/: %d", status)
			}
			if status, _ := h.get("http://192.0.2.1:9107/metrics"); status != 0 {
				t.Errorf("on another address: %d", status)
			}
			stop(t, p)
		})
	}
}

// A reload moves the server, also to another address family, and stops it. An address that
// cannot be bound changes nothing.
func TestReloadMetrics(t *testing.T) {
	h := newHost(t)
	h.IP("link", "set", "lo", "up")
	here := func(url string, want bool) {
		t.Helper()
		if status, _ := h.get(url); (status == 200) != want {
			t.Errorf("%s: %d", url, status)
		}
	}
	const four, six = "http://127.0.0.1:9107/metrics", "http://[::1]:9108/metrics"
	p := h.start(ours(t), h.configure("", ""))
	here(four, false)
	h.reloads("General Metrics", listen4, "")
	here(four, true)
	h.reloads("", listen4, "")
	here(four, true)
	h.reloads("General Metrics", listen6, "")
	here(four, false)
	here(six, true)
	var busy net.Listener
	h.Do(func() {
		var err error
		if busy, err = net.Listen("tcp", "127.0.0.1:9107"); err != nil {
			t.Fatal(err)
		}
	})
	defer busy.Close()
	r := h.reload(listen4+" HashLimit 77\n", "")
	if r.Code != 1 || !strings.Contains(r.Stdout, "can't serve metrics: listen tcp4 127.0.0.1:9107: bind: address already in use\n") {
		t.Errorf("%+v", r)
	}
	here(six, true)
	h.reloads("General Metrics", "", "")
	here(six, false)
	stop(t, p)
}

// A daemon that can't serve its metrics does not start, and --check reports likely problems.
func TestMetricsCheck(t *testing.T) {
	h := newHost(t)
	for listen, c := range map[string]struct {
		code int
		said string
	}{
		"127.0.0.1:9107":    {0, ""},
		"[::1]:9107":        {0, ""},
		"192.0.2.1:9107":    {0, ":7:3: warning: Listen 192.0.2.1:9107 is open to others than this host: whoever can connect reads the metrics\n"},
		"[::]:9107":         {0, ":7:3: warning: Listen [::]:9107 is open to others than this host: whoever can connect reads the metrics\n"},
		"198.51.100.1:9107": {2, ":7:3: error: no interface has the address of Listen 198.51.100.1:9107\n"},
	} {
		config := h.configure(" Metrics {\n  Listen "+listen+"\n }\n", "Stats {\n}")
		r := h.Run("", ours(t), "--check", "-C", config)
		if r.Code != c.code || !strings.Contains(r.Stderr, c.said) || strings.Contains(r.Stderr, "Listen") != (c.said != "") {
			t.Errorf("%s: %+v", listen, r)
		}
	}
	config := h.configure(" Metrics {\n  Listen 198.51.100.1:9107\n }\n", "Stats {\n}")
	r := h.Start(ours(t), "-C", config).Wait(patience)
	if r.Code != 1 || !strings.Contains(r.Stderr, "[ERROR] can't serve metrics: listen tcp4 198.51.100.1:9107: bind: cannot assign requested address\n") {
		t.Errorf("%+v", r)
	}
	for _, left := range []string{"lock", "ctl"} {
		if exists(h.path(left)) {
			t.Errorf("it leaves %s", left)
		}
	}
}

// Debian's Prometheus, which accepts a text only as a whole, scrapes the daemon and evaluates the
// alerting rules.
func TestPrometheus(t *testing.T) {
	h := newHost(t)
	h.IP("link", "set", "lo", "up")
	h.start(ours(t), h.configure(listen4, setups["ftfw"]))
	h.insert("198.51.100.1", 1001)
	h.caches("-i", map[int]bool{1001: true})
	rules := monitoring(t, "conntrackd.rules.yml")
	config := h.path("prometheus.yml")
	text := fmt.Sprintf(`global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}
rule_files: [%s]
scrape_configs:
  - job_name: conntrackd
    static_configs: [{targets: ["127.0.0.1:9107"]}]
`, rules)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Start("prometheus", "--config.file="+config, "--storage.tsdb.path="+h.path("data"), "--web.listen-address=127.0.0.1:9090")
	query := func(expr string) string {
		r := h.Run("", "curl", "-sS", "--max-time", "5", "-G", "--data-urlencode", "query="+expr, "http://127.0.0.1:9090/api/v1/query")
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		if json.Unmarshal([]byte(r.Stdout), &answer) != nil || len(answer.Data.Result) != 1 {
			return ""
		}
		return fmt.Sprint(answer.Data.Result[0].Value[1])
	}
	for expr, want := range map[string]string{
		`up{job="conntrackd"}`: "1",
		`conntrackd_cache_entries{cache="internal",table="flows"}`: "1",
		`conntrackd_build_info{mode="ftfw"}`:                       "1",
		`conntrackd_uptime_seconds > bool 0`:                       "1",
		// The daemon has just been started, without a peer.
		`ALERTS{alertname="ConntrackdRestarted",alertstate="firing"}`: "1",
		`ALERTS{alertname="ConntrackdNoPeer",alertstate="pending"}`:   "1",
	} {
		netnstest.Eventually(t, patience, expr+" is "+want, func() bool { return query(expr) == want })
	}
}

// monitoring returns the path of a file in scripts/monitoring.
func monitoring(t testing.TB, name string) string {
	t.Helper()
	root, err := netnstest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "scripts", "monitoring", name)
}

// The alerting rules are valid and fire when they should. The rules and the dashboard use only
// existing metrics.
func TestRulesAndDashboard(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{
		{"check", "rules", monitoring(t, "conntrackd.rules.yml")},
		{"test", "rules", monitoring(t, "conntrackd.rules.test.yml")},
	} {
		if r := h.Run("", "promtool", args...); r.Code != 0 {
			t.Errorf("promtool %s: %+v", args, r)
		}
	}
	metrics, err := os.ReadFile(filepath.Join(filepath.Dir(monitoring(t, "")), "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\bconntrackd_[a-z_]+`)
	known := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(conntrackd_[a-z_]+)` \\|").FindAllStringSubmatch(string(metrics), -1) {
		known[m[1]] = true
	}
	rules, err := os.ReadFile(monitoring(t, "conntrackd.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(monitoring(t, "grafana-conntrackd.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	all := string(rules)
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %s: %+v", p.Title, p)
		}
		for _, target := range p.Targets {
			all += target.Expr + "\n"
		}
	}
	found := name.FindAllString(all, -1)
	if len(found) < 30 {
		t.Errorf("only %d metrics are named", len(found))
	}
	for _, m := range found {
		if !known[m] {
			t.Errorf("%s is no metric of ours", m)
		}
	}
}
