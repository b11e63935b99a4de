package conntrackd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/applets/conntrackd/report"
	"ctbox/conf"
	"ctbox/internal/netnstest"
	"ctbox/sync/node"
	"ctbox/sync/replicate"
)

const scripts = "../../scripts/"

// The example configurations have the mode of their name and cause no warnings.
func TestExamples(t *testing.T) {
	names, err := filepath.Glob(scripts + "conntrackd/*.conf")
	if err != nil || len(names) < 8 {
		t.Fatal(names, err)
	}
	modes := map[string]conf.Mode{"ftfw": conf.ModeFTFW, "ftfw-cluster": conf.ModeFTFW, "ftfw-cluster3": conf.ModeFTFW, "multicast": conf.ModeFTFW, "alarm": conf.ModeALARM,
		"notrack": conf.ModeNOTRACK, "active-active": conf.ModeNOTRACK}
	for _, name := range names {
		cfg, warnings, err := conf.Load(name)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, %v", name, err, warnings)
			continue
		}
		base := strings.TrimSuffix(filepath.Base(name), ".conf")
		if mode, ok := modes[base]; ok != (cfg.Sync != nil) || ok && cfg.Sync.Mode != mode {
			t.Errorf("%s has another mode than its name says", name)
		}
		if (base == "stats") != (cfg.Stats != nil) || (base == "helpers") != (cfg.Helper != nil) {
			t.Errorf("%s has other clauses than its name says", name)
		}
		if cfg.Sync != nil && cfg.Sync.Cluster != nil {
			continue // conntrack-tools refuses the clause
		}
		// Debian's client reads the whole file, too. Besides the missing daemon it may only report
		// missing interfaces.
		h := newHost(t)
		for line := range strings.Lines(unstamped(t, h.Run("", debian(t), "-C", name, "-s").Stderr)) {
			if !strings.Contains(line, "can't connect") && !strings.HasSuffix(line, " is an invalid interface\n") {
				t.Errorf("%s: Debian's parser says %s", name, line)
			}
		}
	}
}

// recorder replaces conntrackd: it records its arguments and fails as configured.
const recorder = `#!/bin/sh
shift 2 # -C FILE
printf '%s\n' "$*" >>"$RECORD"
case " $FAILS " in *" $* "*) exit 1 ;; esac
case "$* $LOCKED" in "-d yes") [ ! -e "$CONNTRACKD_LOCK" ] || exit 1 ;; esac
case "$*" in "-s peers") [ -z "$PEERS" ] || cat "$PEERS" ;; esac
`

func TestPrimaryBackupScript(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "conntrackd")
	if err := os.WriteFile(bin, []byte(recorder), 0o755); err != nil {
		t.Fatal(err)
	}
	ns := netnstest.New(t, "script")
	record, lock := filepath.Join(dir, "record"), filepath.Join(dir, "lock")
	peers := map[string]string{}
	for name, nodes := range map[string]int{"two": 2, "three": 3, "sixteen": 16} {
		s := node.Status{Status: replicate.Status{Cluster: replicate.ClusterStatus{Version: 2, Nodes: nodes}}}
		peers[name] = filepath.Join(dir, name)
		if err := os.WriteFile(peers[name], report.AppendReady(nil, &s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		arg, fails string
		lock       string // content, "-" for no file
		locked     string // yes: a lock file keeps it from starting
		want       string
		code       int
	}{
		{"primary", "", "-", "", "-c -s peers -f -R -B", 0},
		{"primary two", "", "-", "", "-c -s peers -f -R -B", 0},
		{"primary three", "", "-", "", "-c -s peers -R -B", 0},
		{"primary sixteen", "-c", "-", "", "-c -s peers -R -B", 1},
		{"primary", "-s peers", "-", "", "-c -s peers -f -R -B", 0}, // conntrack-tools does not have it
		{"primary", "-c -B", "-", "", "-c -s peers -f -R -B", 1},
		{"primary --nat-src 198.51.100.1", "", "-", "", "-c --nat-src 198.51.100.1", 0},
		{"primary --mark 1/3 --zone 7", "", "-", "", "-c --mark 1/3 --zone 7", 0},
		{"primary --zone 7", "-c --zone 7", "-", "", "-c --zone 7", 1},
		{"backup --nat-src 198.51.100.1", "", "-", "", "-s", 0},
		{"backup --nat-src 198.51.100.1", "-s", "-", "", "-s -d", 0},
		{"fault --nat-src 198.51.100.1", "-s -d", "-", "", "-s -d", 1},
		{"master --nat-src 198.51.100.1", "", "-", "", "", 1},
		{"backup", "", "-", "", "-s -t -n", 0},
		{"backup", "-s", "-", "", "-s -d -t -n", 0},
		{"backup", "-s -d", "-", "", "-s -d -t -n", 1},
		{"backup", "-s", "", "yes", "-s -d -d -t -n", 0},    // the lock of a dead conntrack-tools daemon
		{"backup", "-s", "77\n", "yes", "-s -d -t -n", 1},   // a lock of ctbox's, which ctbox handles itself
		{"backup", "-s -d -n", "", "", "-s -d -d -t -n", 1}, // the failure has another reason
		{"fault", "", "-", "", "-t", 0},
		{"fault", "-t", "-", "", "-t", 1},
		{"alive", "", "-", "", "-s", 0},
		{"alive", "-s", "-", "", "-s", 1},
		{"", "", "-", "", "", 1},
		{"master", "", "-", "", "", 1},
	} {
		for _, shell := range []string{"dash", "bash", "busybox sh"} {
			os.Remove(record)
			os.Remove(lock)
			if c.lock != "-" {
				if err := os.WriteFile(lock, []byte(c.lock), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			arg, cluster, _ := strings.Cut(c.arg, " ")
			argv := append(strings.Fields(shell), scripts+"primary-backup.sh", arg)
			if strings.HasPrefix(cluster, "--") {
				argv = append(argv, strings.Fields(cluster)...)
			}
			cmd := ns.Command(argv[0], argv[1:]...)
			cmd.Env = append(cmd.Env, "RECORD="+record, "FAILS="+c.fails, "LOCKED="+c.locked, "PEERS="+peers[cluster],
				"CONNTRACKD_BIN="+bin, "CONNTRACKD_LOCK="+lock)
			out, _ := cmd.CombinedOutput()
			text, _ := os.ReadFile(record)
			got := strings.Join(strings.Split(strings.TrimSpace(string(text)), "\n"), " ")
			if got != c.want || cmd.ProcessState.ExitCode() != c.code || (len(out) > 0) != (c.code != 0 && c.arg != "alive") {
				t.Errorf("%s %q, failing %q, lock %q: ran %q, status %d, %s", shell, c.arg, c.fails, c.lock,
					got, cmd.ProcessState.ExitCode(), out)
			}
		}
	}
}

// The script with the real daemon, through all its roles.
func TestPrimaryBackupScriptWithTheDaemon(t *testing.T) {
	h := newHost(t)
	config := h.configure(" LogFile "+h.path("log"), setups["notrack"])
	script := func(arg string) {
		t.Helper()
		cmd := h.Command("dash", scripts+"primary-backup.sh", arg)
		cmd.Env = append(cmd.Env, "CONNTRACKD_BIN="+ours(t), "CONNTRACKD_CONFIG="+config, "CONNTRACKD_LOCK="+h.path("lock"))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v, %s", arg, err, out)
		}
	}
	script("backup") // starts it
	defer h.client("-k")
	script("primary")
	script("fault")
	script("backup")
	log, _ := os.ReadFile(h.path("log"))
	said := unstamped(t, string(log))
	for _, want := range []string{"-- starting in daemon mode --", "flushing conntrack table in 60 secs", "resync requested",
		"committing all external caches", "flushing caches", "resync with master conntrack table", "sending bulk update"} {
		if !strings.Contains(said, "[notice] "+want+"\n") {
			t.Errorf("%q is not in the log:\n%s", want, said)
		}
	}
}
