package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// A namespace is found by its name, its path and by a process in it.
func TestOpen(t *testing.T) {
	ns := netnstest.New(t, "open")
	ns.IP("link", "add", "there", "type", "veth", "peer", "name", "other")
	inside := ns.Start("sleep", "100")
	netnstest.Eventually(t, 10*time.Second, "the process is in the namespace", func() bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", inside.Pid()))
		return err == nil && string(name) == "sleep\n"
	})
	for _, spec := range []string{ns.Name, ns.Path(), strconv.Itoa(inside.Pid()), fmt.Sprintf("/proc/%d/ns/net", inside.Pid())} {
		n, err := Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		err = n.Do(func() error {
			if _, err := net.InterfaceByName("there"); err != nil {
				return err
			}
			links, err := os.ReadFile("/proc/thread-self/net/dev")
			if err == nil && !strings.Contains(string(links), "there:") {
				t.Errorf("%s: /proc/net has %s", spec, links)
			}
			return err
		})
		if err != nil || n.Name() != spec || n.FD() == 0 {
			t.Errorf("%s: %v, descriptor %d", spec, err, n.FD())
		}
		argv := append(strings.Fields(n.Exec()), "cat", "/proc/net/dev")
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil || !strings.Contains(string(out), "there:") {
			t.Errorf("%q: %v, %s", argv, err, out)
		}
		n.Close()
	}
}

// The own namespace is not entered, which needs no privilege then.
func TestOpenOwn(t *testing.T) {
	// The process id stands for the main thread, which InNetNS may have used up.
	n, err := Open(own)
	if err != nil || n.FD() != 0 {
		t.Fatalf("%v, descriptor %d", err, n.FD())
	}
	if mine, err := Own(); err != nil || mine != n.ID() {
		t.Errorf("%v: %v, want %v", err, mine, n.ID())
	}
	var none *Namespace
	if none.FD() != 0 || none.Name() != "" || none.Do(func() error { return nil }) != nil {
		t.Error("nil is not the own namespace")
	}
}

func TestOpenErrors(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]string{
		"":                          ": no name, path or process id",
		"nowhere":                   "nowhere: no network namespace of that name in /run/netns",
		"999999999":                 "999999999: no network namespace of that name in /run/netns, and no such process",
		plain:                       plain + ": not a network namespace",
		"/proc/self/ns/uts":         "/proc/self/ns/uts: not a network namespace",
		plain + "x":                 plain + "x: no such file or directory",
		filepath.Dir(plain) + "/..": filepath.Dir(plain) + "/..: not a network namespace",
	} {
		if _, err := Open(spec); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", spec, err, want)
		}
	}
}

// Namespaces are listed when they have got a name, by a mount or by a symbolic link, and
// until they have lost it. The test's namespaces are in a directory of its own, in a mount
// namespace of its own.
func TestWatch(t *testing.T) {
	if os.Getenv("NETNS_TEST_WATCH") == "" {
		cmd := exec.Command("unshare", "--mount", "sh", "-c", `mkdir -p /run/netns && mount -t tmpfs none /run/netns && exec "$@"`, "sh",
			os.Args[0], "-test.run=^TestWatch$", "-test.v")
		cmd.Env = append(os.Environ(), "NETNS_TEST_WATCH=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestWatch") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	changed, err := Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	names := func() string {
		all, failed := Named()
		list := []string{}
		for _, n := range all {
			list = append(list, n.Name())
			n.Close()
		}
		for name, err := range failed {
			t.Errorf("%s: %v", name, err)
		}
		return strings.Join(list, " ")
	}
	await := func(want string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for got := names(); got != want; got = names() {
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("the names are %q, want %q", got, want)
			}
		}
	}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	await("")
	ip("netns", "add", "blue")
	await("blue")
	ip("netns", "add", "amber")
	await("amber blue")
	if err := os.Symlink("/run/netns/blue", "/run/netns/zz"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/run/netns/plain", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ip("netns", "del", "amber")
	await("blue")
	// The other name of the same namespace takes its place.
	if err := os.Symlink(own, "/run/netns/mine"); err != nil {
		t.Fatal(err)
	}
	await("blue mine")
	ip("netns", "del", "blue")
	await("mine")
	cancel()
}
