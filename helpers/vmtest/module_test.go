//go:build vm

package vmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// A kernel without nf_conntrack_netlink accepts a subscription to its events all the same. The
// daemon exits with an error, so that the program that starts it learns of it.
func TestNoFlowsOverNetlink(t *testing.T) {
	ns := netnstest.New(t, "r")
	ns.Must(applet("conntrack"), "-C") // loads nfnetlink, which stays loaded
	unload(t, "nf_conntrack_netlink")
	each(t, func(t *testing.T, p program) {
		dir := t.TempDir()
		config := filepath.Join(dir, "conf")
		text := fmt.Sprintf("General {\n\tHashSize 1024\n\tHashLimit 8192\n\tLockFile %[1]s/lock\n"+
			"\tUNIX {\n\t\tPath %[1]s/ctl\n\t}\n}\nStats {\n\tLogFile off\n}\n", dir)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := ns.Run("", "timeout", "60", p.path, "-C", config)
		if out := r.Stdout + r.Stderr; r.Code != 1 || !strings.Contains(out, "can't get kernel conntrack table") {
			t.Errorf("status %d: %s", r.Code, out)
		} else if !p.debian() && !strings.Contains(out, "this kernel has no nf_conntrack_netlink") {
			t.Errorf("no reason: %s", out)
		}
	})
}

// conntrack also fails at once, with every command.
func TestNoFlowsToShow(t *testing.T) {
	ns := netnstest.New(t, "r")
	ns.Must(applet("conntrack"), "-C")
	unload(t, "nf_conntrack_netlink")
	for _, args := range []string{
		"-L", "-L expect", "-C", "-S", "-E", "-E expect", "-F", "-D -p tcp", "-U -p tcp -m 1", "-G -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2",
		"-I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2 -t 9",
	} {
		r := ns.Run("", "timeout", append([]string{"60", applet("conntrack")}, strings.Fields(args)...)...)
		if r.Code != 1 || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, "(this kernel has no nf_conntrack_netlink)") {
			t.Errorf("%s: status %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
		}
	}
}

// unload removes a module from the kernel and prevents loading it until the test ends.
func unload(t *testing.T, module string) {
	t.Helper()
	const loader = "/proc/sys/kernel/modprobe"
	was, err := os.ReadFile(loader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(path string) {
		if err := os.WriteFile(loader, []byte(path), 0); err != nil {
			t.Fatal(err)
		}
	}
	set("/bin/false")
	t.Cleanup(func() { set(string(was)) })
	netnstest.Eventually(t, patience, module+" is not in use", func() bool {
		err := unix.DeleteModule(module, unix.O_NONBLOCK)
		return err == nil || errors.Is(err, unix.ENOENT)
	})
}
