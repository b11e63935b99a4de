//go:build vm

package vmtest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// patience is how long a test waits for a condition. The machine is emulated, and the host
// may be busy.
const patience = 20 * time.Second

var bin = flag.String("bin", "bin", "directory of our programs, as make builds them")

func TestMain(m *testing.M) {
	flag.Parse()
	path, err := filepath.Abs(*bin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
	*bin = path
	status := m.Run()
	if name := kernelHelper(); name != "" {
		fmt.Fprintf(os.Stderr, "vmtest: the kernel's own helper was loaded: %s\n", name)
		status = 1
	}
	os.Exit(status)
}

// applet returns the path of one of ctbox's programs.
func applet(name string) string { return filepath.Join(*bin, name) }

// kernelHelper returns the name of a loaded kernel module that does the work of a user-space
// helper, or "". With such a module the tests would pass without conntrackd.
func kernelHelper() string {
	modules, err := os.ReadFile("/proc/modules")
	if err != nil {
		return err.Error()
	}
	for line := range bytes.Lines(modules) {
		name, _, _ := bytes.Cut(line, []byte(" "))
		switch string(name) {
		case "nf_conntrack_ftp", "nf_conntrack_tftp", "nf_conntrack_sane", "nf_conntrack_amanda":
			return string(name)
		}
	}
	return ""
}

// A rule that names an unregistered helper is refused; it does not load the kernel's helper.
func TestUnregisteredHelperIsRefused(t *testing.T) {
	ns := netnstest.New(t, "r")
	for _, name := range []string{"ftp", "tftp", "sane", "amanda"} {
		protocol := "udp"
		if name == "ftp" || name == "sane" {
			protocol = "tcp"
		}
		ruleset := fmt.Sprintf("table ip t { ct helper h { type %q protocol %s; }; }", name, protocol)
		if r := ns.Run(ruleset, "nft", "-f", "-"); r.Code == 0 {
			t.Errorf("%s: the rule was taken", name)
		}
	}
}
