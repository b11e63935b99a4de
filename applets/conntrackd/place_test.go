package conntrackd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

// threadNames are the names of a process's threads, each once.
func threadNames(t *testing.T, pid int) string {
	t.Helper()
	pattern := "/proc/%d/task/*/comm"
	if os.Getenv("RACE") != "" { // with the race detector only the first thread can be reached
		pattern = "/proc/%d/comm"
	}
	files, err := filepath.Glob(fmt.Sprintf(pattern, pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("process %d: %v", pid, err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		if name, err := os.ReadFile(file); err == nil { // a thread may have ended
			seen[strings.TrimSpace(string(name))] = true
		}
	}
	var all []string
	for name := range seen {
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

// In every way of starting it, the daemon and each of its threads have the name conntrackd, and ps
// shows the command line with that name.
func TestNameOfTheProcess(t *testing.T) {
	box := filepath.Join(filepath.Dir(ours(t)), "ctbox")
	for _, c := range []struct {
		name    string
		argv    []string
		cmdline string
	}{
		{"link", []string{ours(t), "-C"}, ours(t) + " -C %s"},
		{"box", []string{box, "conntrackd", "-C"}, box + " conntrackd -C %s"},
		{"link, -d", []string{ours(t), "-d", "-C"}, ours(t) + " -d -C %s"},
		{"box, -d", []string{box, "conntrackd", "-d", "-C"}, "conntrackd -d -C %s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			config := h.configure("", "Stats {\n}")
			h.Start(c.argv[0], append(c.argv[1:], config)...)
			netnstest.Eventually(t, patience, "the daemon answers", func() bool { return h.Run("", ours(t), "-C", config, "-s").Code == 0 })
			text, err := os.ReadFile(h.path("lock"))
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { h.Run("", ours(t), "-C", config, "-k") }()
			if got := threadNames(t, pid); got != "conntrackd" {
				t.Errorf("its threads are named %s", got)
			}
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			got := strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
			if want := fmt.Sprintf(c.cmdline, config); err != nil || got != want {
				t.Errorf("its command line is %q, %v, want %q", got, err, want)
			}
		})
	}
}

// scriptsByName are commands with which start scripts, monitors and package tests find the daemon
// by name. They run in a PID namespace of their own, without other daemons.
const scriptsByName = `
daemon=$1 config=$2 lock=$3
set -x
start() { "$@" -C "$config" -d; }
gone() { n=0; while [ -e "$lock" ]; do n=$((n+1)); [ $n -lt 400 ] || exit 9; sleep 0.05; done; }
one() { [ "$(cat "$lock")" = "$1" ]; }

for how in "$daemon" "${daemon%/*}/ctbox conntrackd"; do
	start $how && one "$(pgrep -x conntrackd)" && pkill -x conntrackd && gone || exit 1
	start $how && one "$(pidof conntrackd)" && killall conntrackd && gone || exit 2
	start $how && ps -C conntrackd >/dev/null && one "$(pgrep -o conntrackd)" || exit 3
	start-stop-daemon --status --name conntrackd || exit 4
	start-stop-daemon --start --name conntrackd --exec "$daemon" -- -C "$config" -d && exit 5 # it runs
	start-stop-daemon --stop --name conntrackd --pidfile "$lock" --retry 20 && gone || exit 6
	start $how && start-stop-daemon --stop --name conntrackd --retry 20 && gone || exit 7
	start-stop-daemon --start --oknodo --exec "$daemon" -- -C "$config" -d &&
		start-stop-daemon --stop --exec "$daemon" --retry 20 && gone || exit 8
done
`

func TestScriptsThatGoByName(t *testing.T) {
	h := newHost(t)
	config := h.configure("", "Stats {\n}")
	r := h.Run("", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", scriptsByName, "sh", ours(t), config, h.path("lock"))
	if r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// without starts the daemon where a part of the system is missing.
func (h *host) without(prepare string, args ...string) *netnstest.Process {
	h.t.Helper()
	return h.Start("unshare", append([]string{"--mount", "sh", "-c", prepare + ` && exec "$0" "$@"`, ours(h.t)}, args...)...)
}

// A daemon in a root directory without /proc or without /dev/null starts, reopens its logs, and
// ends.
func TestWithoutPartsOfTheSystem(t *testing.T) {
	for name, prepare := range map[string]string{
		"proc": "umount -l /proc",
		"null": "mount -t tmpfs none /dev",
		"both": "umount -l /proc && mount -t tmpfs none /dev",
	} {
		for _, background := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, background %v", name, background), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				config := h.configure(" LogFile "+h.path("log"), "Stats {\n LogFile "+h.path("stats")+"\n}")
				for _, name := range []string{"lock", "log", "stats"} {
					if err := os.WriteFile(h.path(name), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				args := []string{"-C", config}
				if background {
					args = append(args, "-d")
				}
				p := h.without(prepare, args...)
				if background {
					if r := p.Wait(patience); r.Code != 0 || strings.Contains(r.Stderr, "ERROR") {
						t.Fatalf("-d: %+v", r)
					}
				}
				netnstest.Eventually(t, patience, "the daemon answers", func() bool { return h.Run("", ours(t), "-C", config, "-s").Code == 0 })
				defer func() { h.Run("", ours(t), "-C", config, "-k") }()
				text, _ := os.ReadFile(h.path("lock"))
				pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
				if err != nil {
					t.Fatalf("the lock has %q", text)
				}
				if got := threadNames(t, pid); got != "conntrackd" {
					t.Errorf("its threads are named %s", got)
				}
				for _, name := range []string{"log", "stats"} {
					if err := os.Rename(h.path(name), h.path(name+".1")); err != nil {
						t.Fatal(err)
					}
				}
				syscall.Kill(pid, syscall.SIGHUP)
				netnstest.Eventually(t, patience, "the logs are opened anew", func() bool { return exists(h.path("log")) && exists(h.path("stats")) })
				// And again, with existing files, as after logrotate's create.
				for _, name := range []string{"log", "stats"} {
					if err := os.Rename(h.path(name), h.path(name+".2")); err != nil || os.WriteFile(h.path(name), nil, 0o600) != nil {
						t.Fatal(err)
					}
				}
				syscall.Kill(pid, syscall.SIGHUP)
				netnstest.Eventually(t, patience, "the new log is written", func() bool {
					h.client("-R")
					log, _ := os.ReadFile(h.path("log"))
					return strings.Contains(string(log), "resync with master conntrack table")
				})
				if os.Getenv("RACE") == "" { // with the race detector not all threads can be reached
					threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
					for _, thread := range threads {
						tid, _ := strconv.Atoi(filepath.Base(thread))
						policy, _, errno := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, uintptr(tid), 0, 0)
						if errno == 0 && policy != unix.SCHED_RR {
							t.Errorf("thread %d has policy %d", tid, policy)
						}
					}
				}
				h.client("-k")
				if !background {
					if r := p.Wait(patience); r.Code != 0 || strings.Contains(r.Stderr, "ERROR") {
						t.Errorf("%+v", r)
					}
				}
				if exists(h.path("lock")) || exists(h.path("ctl")) {
					t.Error("after -k the lock or the socket is there")
				}
			})
		}
	}
}
