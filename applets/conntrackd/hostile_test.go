package conntrackd

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"ctbox/internal/netnstest"
)

// stranger is a local user who may write to the directory of the daemon's files, for example
// /var/lock.
const stranger = 65534

// plant creates a symbolic link, owned by the stranger, to a file of root's.
func (h *host) plant(name string) (victim string) {
	h.t.Helper()
	victim = h.path("victim")
	if err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), os.Symlink(victim, h.path(name)),
		os.Lchown(h.path(name), stranger, stranger), os.Chmod(h.dir, 0o777|os.ModeSticky)); err != nil {
		h.t.Fatal(err)
	}
	return victim
}

func checkPrecious(t testing.TB, victim string) {
	t.Helper()
	if text, err := os.ReadFile(victim); string(text) != "precious" {
		t.Errorf("the victim has %q, %v", text, err)
	}
}

// No file of the daemon's is written through another user's link.
func TestPlantedLinks(t *testing.T) {
	const trap = "may be a trap of another user: a symbolic link of user 65534\n"
	for _, c := range []struct{ name, clause, want string }{
		{"log", "LogFile %s", "can't open logfile `%s'.Reason: " + trap},
		{"stats", "", "can't open logfile `%s'.Reason: " + trap},
		{"lock", "", "can't make lockfile `%s': " + trap},
		{"ctl", "", "can't open unix socket! %s exists and is not a socket\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			victim := h.plant(c.name)
			general := ""
			if c.clause != "" {
				general = fmt.Sprintf(c.clause, h.path(c.name))
			}
			config := h.configure(general, "Stats {\n LogFile "+h.path("stats")+"\n}")
			for _, args := range [][]string{{"-C", config}, {"-C", config, "-d"}} {
				r := h.Start(ours(t), args...).Wait(patience)
				if want := fmt.Sprintf(c.want, h.path(c.name)); r.Code != 1 || !strings.Contains(r.Stderr, want) {
					t.Errorf("%q: status %d, %s, want %s", args, r.Code, r.Stderr, want)
				}
				checkPrecious(t, victim)
			}
		})
	}
}

// A link that was planted while the log was moved away is not followed either.
func TestPlantedLinkAtHangup(t *testing.T) {
	h := newHost(t)
	p := h.start(ours(t), h.configure(" LogFile "+h.path("log"), "Stats {\n}"))
	if err := os.Rename(h.path("log"), h.path("log.1")); err != nil {
		t.Fatal(err)
	}
	victim := h.plant("log")
	syscall.Kill(p.Pid(), syscall.SIGHUP)
	netnstest.Eventually(t, patience, "the old log tells of it", func() bool {
		text, err := os.ReadFile(h.path("log.1"))
		return err == nil && strings.Contains(string(text), "can't reopen logfile: "+h.path("log")+": may be a trap of another user")
	})
	checkPrecious(t, victim)
	stop(t, p)
}

// A configuration that other users can change is used, with a warning at the start and from
// --check, but not with every command.
func TestExposedConfiguration(t *testing.T) {
	for _, c := range []struct {
		name   string
		expose func(h *host, config string) error
		want   string
	}{
		{"writable", func(_ *host, config string) error { return os.Chmod(config, 0o666) }, "can be written by every user"},
		{"another's", func(_ *host, config string) error { return os.Chown(config, stranger, -1) }, "belongs to user 65534"},
		{"exchangeable", func(h *host, _ string) error { return os.Chmod(h.dir, 0o777) },
			"is in a directory where every user can exchange it"},
		{"group", func(h *host, config string) error {
			return errors.Join(os.Chmod(h.dir, 0o777|os.ModeSticky), os.Chmod(config, 0o664))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			config := h.configure("", "Stats {\n}")
			if err := c.expose(h, config); err != nil {
				t.Fatal(err)
			}
			want := ""
			if c.want != "" {
				want = config + " " + c.want + "\n"
			}
			r := h.Run("", ours(t), "-C", config, "--check")
			if r.Code != 0 || strings.Contains(r.Stderr, config+" ") != (want != "") || !strings.Contains(r.Stderr, want) {
				t.Errorf("--check: %+v", r)
			}
			p := h.start(ours(t), config)
			if want != "" {
				want = "[warning] " + want
			}
			if r := h.Run("", ours(t), "-C", config, "-s"); r.Stderr != "" {
				t.Errorf("-s: %s", r.Stderr)
			}
			stop(t, p) // after its end both pipes have all of its output
			if got := unstamped(t, p.Stderr.String()); got != want {
				t.Errorf("at the start: %q, want %q", got, want)
			}
		})
	}
}
