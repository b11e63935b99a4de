//go:build root

package conf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// TestHost checks a configuration against a namespace of the real kernel.
func TestHost(t *testing.T) {
	ns, peer := netnstest.New(t, "host"), netnstest.New(t, "peer")
	netnstest.Link(t, netnstest.End{NS: ns, Dev: "sync0", Addrs: []string{"192.0.2.1/24", "2001:db8::1/64"}},
		netnstest.End{NS: peer, Dev: "sync0", Addrs: []string{"192.0.2.2/24"}})
	dir := t.TempDir()
	good := "General { HashLimit 2147483647 LockFile " + dir + "/lock UNIX { Path " + dir + "/ctl } LogFile " + dir + "/log }\n" +
		"Sync { Mode FTFW { }\n" +
		"UDP { IPv4_address 192.0.2.1 IPv4_Destination_Address 192.0.2.2 Port 3780 Interface sync0 }\n" +
		"UDP { IPv6_address 2001:db8::1 IPv6_Destination_Address 2001:db8::2 Port 3781 Interface sync0 } }"
	bad := strings.NewReplacer("192.0.2.1", "192.0.2.3", "sync0", "lo", dir+"/log", dir+"/none/log", dir+"/lock", dir).Replace(good)
	ns.Do(func() {
		c, _ := mustParse(t, good)
		compareFindings(t, good, c.Check(Host()), nil)
		c, _ = mustParse(t, bad)
		compareFindings(t, bad, c.Check(Host()), []string{
			"F 1:" + column(bad, "LogFile") + ": cannot create LogFile " + dir + "/none/log: " + dir + "/none: no such file or directory",
			"F 1:" + column(bad, "LockFile") + ": cannot create LockFile " + dir + ": " + dir + ": is a directory",
			"F 3:7: 192.0.2.3 is no address of this host",
			"C 4:7: 2001:db8::1 is an address of sync0, not of lo",
		})
	})

	ns.IP("link", "set", "sync0", "down", "mtu", "500")
	ns.Sysctl("net.netfilter.nf_conntrack_events", "0")
	ns.Do(func() {
		c, _ := mustParse(t, strings.Replace(good, "UDP { IPv6", "# UDP { IPv6", 1)+"\n}")
		compareFindings(t, "down", c.Check(Host()), []string{
			"C 3:75: sync0 is down",
			"C 3:75: sync0 has an MTU of 500, messages need 576",
			"F net.netfilter.nf_conntrack_events is 0: the kernel sends no events, set it to 1 or use PollSecs",
		})
	})
}

// column returns the byte column of a word in the first line.
func column(src, word string) string {
	return strconv.Itoa(strings.Index(src, word) + 1)
}

func TestHostFeatures(t *testing.T) {
	env := Host()
	ns := netnstest.New(t, "features")
	peer := ns.Peer("", "nfct", "list", "helper")
	ns.Do(func() {
		for _, f := range []Feature{FeatureConntrack, FeatureQueue} {
			if err := env.Kernel(f); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
		// Not every kernel has this feature; Debian's nfct must give the same answer.
		if err := env.Kernel(FeatureHelper); (err == nil) != (peer.Code == 0) {
			t.Errorf("%s: %v, but nfct says: %+v", FeatureHelper, err, peer)
		}
		if err := env.Kernel("time travel"); err == nil {
			t.Error("the kernel has every feature")
		}
	})
	if err := env.Creatable("/proc/conntrackd.log"); err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EROFS) {
		t.Errorf("/proc: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := env.Creatable(file); err != nil {
		t.Errorf("an existing file: %v", err)
	}
	if err := env.Creatable(file + "/x"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file in a file: %v", err)
	}
	if err := os.Symlink(file, file+".link"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{file: 0, filepath.Dir(file): fs.ModeDir, file + ".link": fs.ModeSymlink} {
		if mode, ok := env.Type(path); !ok || mode != want {
			t.Errorf("%s has type %v, %v", path, mode, ok)
		}
	}
	if mode, ok := env.Type(file + "x"); ok {
		t.Errorf("no file has type %v", mode)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := env.Head(file + ".link"); got != strings.Repeat("x", 32) {
		t.Errorf("the file begins with %q", got)
	}
	fifo := file + ".fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file + "x", filepath.Dir(file), fifo} {
		if got := env.Head(path); got != "" {
			t.Errorf("%s begins with %q", path, got)
		}
	}
}
