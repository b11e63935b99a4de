package conntrackd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

const unit = scripts + "conntrackd.service"

// unitSettings are the settings of the systemd unit.
func unitSettings(t testing.TB) (text string, settings map[string]string) {
	t.Helper()
	file, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	settings = make(map[string]string)
	for line := range strings.Lines(string(file)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = value
		}
	}
	return string(file), settings
}

// systemd accepts the unit without a warning, and its security rating is as good as possible for a
// daemon that needs CAP_NET_ADMIN.
func TestServiceUnit(t *testing.T) {
	text, settings := unitSettings(t)
	if settings["Type"] != "notify" || settings["WatchdogSec"] == "" || settings["NoNewPrivileges"] != "yes" {
		t.Errorf("the unit has %v", settings)
	}
	name := filepath.Join(t.TempDir(), "conntrackd.service")
	text = strings.Replace(text, "ExecStart=/usr/sbin/conntrackd", "ExecStart="+ours(t), 1)
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "--man=no"}, {"security", "--offline=true", "--no-pager", "--threshold=25"}} {
		out, err := exec.Command("systemd-analyze", append(args, name)...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}

// A daemon that starts with the unit's capabilities works. It cannot change its bounding set, but
// is confined otherwise.
func TestServiceCapabilities(t *testing.T) {
	numbers := map[string]int{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_SYS_NICE": unix.CAP_SYS_NICE}
	_, settings := unitSettings(t)
	least, bounding := "-all", []int(nil)
	for _, name := range strings.Fields(settings["CapabilityBoundingSet"]) {
		number, ok := numbers[name]
		if !ok {
			t.Errorf("the unit has %s", name)
		}
		least += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
		bounding = append(bounding, number)
	}
	h := newHost(t)
	p := h.Start("setpriv", "--no-new-privs", "--bounding-set", least, "--inh-caps", "-all", ours(t), "-C",
		h.configure(" LogFile "+h.path("log"), setups["ftfw"]))
	netnstest.Eventually(t, patience, "the daemon is started", func() bool { return strings.Contains(p.Stdout.String(), "-- starting") })
	want := confinedTo(unix.CAP_NET_ADMIN)
	want.bounding = confinedTo(bounding...).bounding
	checkConfined(t, p.Pid(), want)
	if h.client("-R"); p.Stderr.String() != "" {
		t.Errorf("it says %s", p.Stderr)
	}
	h.client("-k")
	if exists(h.path("lock")) || exists(h.path("ctl")) {
		t.Error("after -k the lock or the socket is there")
	}
}
