package docs_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// The machines of a page, made when the page first names one. fw1, fw2 and fw3 have
// eth0, a network between them with 203.0.113.1, .2 and .3; eth1 in the client's
// network with 192.0.2.11, .12 and .13; and eth2 in the server's with 198.51.100.11, .12
// and .13. client is 192.0.2.10, and server is 198.51.100.10, which answers TCP on
// port 80 and UDP on port 53.
var machineNames = []string{"fw1", "fw2", "fw3", "client", "server"}

const firstMachine = "fw1"

var firewalls = machineNames[:3]

func isMachine(name string) bool { return slices.Contains(machineNames, name) }

type network struct {
	t        *testing.T
	ns       map[string]*netnstest.NS
	machines map[string]*machine
}

// machine is a network namespace with a root file system that is a copy on
// write of this one's, and with processes of its own, which end with the test.
// The working directory is the module's root,
// whose bin/ has what make has built.
type machine struct {
	t    *testing.T
	name string
	root string // of its files, seen from outside: /proc/PID/root
	pid  int
	dir  string
	path string
}

func (n *network) machine(name string) *machine {
	if n.machines == nil {
		n.connect()
	}
	m := n.machines[name]
	if m == nil {
		m = boot(n.t, n.ns[name], name)
		n.machines[name] = m
		if name == "client" {
			n.serve()
		}
	}
	return m
}

// connect makes the namespaces and the cables.
func (n *network) connect() {
	t := n.t
	n.machines = make(map[string]*machine)
	ns := make(map[string]*netnstest.NS)
	n.ns = ns
	for _, name := range append(machineNames, "cables") {
		ns[name] = netnstest.New(t, name)
	}
	for _, bridge := range []string{"sync", "lan", "wan"} {
		ns["cables"].IP("link", "add", bridge, "type", "bridge")
		ns["cables"].IP("link", "set", bridge, "up")
	}
	plug := func(machine, dev, bridge, addr string) {
		port := bridge + "-" + machine
		netnstest.Link(t, netnstest.End{NS: ns[machine], Dev: dev, Addrs: []string{addr}},
			netnstest.End{NS: ns["cables"], Dev: port})
		ns["cables"].IP("link", "set", port, "master", bridge)
	}
	for i, fw := range firewalls {
		plug(fw, "eth0", "sync", fmt.Sprintf("203.0.113.%d/24", 1+i))
		plug(fw, "eth1", "lan", fmt.Sprintf("192.0.2.%d/24", 11+i))
		plug(fw, "eth2", "wan", fmt.Sprintf("198.51.100.%d/24", 11+i))
	}
	plug("client", "eth0", "lan", "192.0.2.10/24")
	plug("server", "eth0", "wan", "198.51.100.10/24")
	ns["client"].IP("route", "add", "default", "via", "192.0.2.1")
	for _, fw := range firewalls {
		ns[fw].Sysctl("net.ipv4.ip_forward", "1")
		ns[fw].Track()
	}
}

// buildCache is the Go compiler's, which the machines share.
func buildCache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatalf("go env GOCACHE: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// hostWide are what the kernel has once for all network namespaces, with the values that
// a machine sees in /proc in their place: the kernel's own on a machine of 4 GiB. The
// pages show these, and the host that runs the tests may be tuned.
var hostWide = map[string]string{
	"sys/net/netfilter/nf_conntrack_max":        "262144",
	"sys/net/netfilter/nf_conntrack_buckets":    "262144",
	"sys/net/netfilter/nf_conntrack_expect_max": "4096",
	"sys/net/core/rmem_max":                     "212992",
	"sys/net/core/rmem_default":                 "212992",
	"sys/net/core/wmem_max":                     "212992",
	"sys/net/core/wmem_default":                 "212992",
	"sys/net/core/optmem_max":                   "131072",
	"meminfo":                                   "MemTotal:        4194304 kB\nMemFree:         3145728 kB\nMemAvailable:    3670016 kB",
}

// boot starts process 1 of the machine. It ends at the end of its standard input, and all other
// processes with it.
func boot(t *testing.T, ns *netnstest.NS, name string) *machine {
	t.Helper()
	root, err := netnstest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir()
	// The files that are mounted over those of /proc, by their paths with dots.
	values := t.TempDir()
	for path, value := range hostWide {
		name := filepath.Join(values, strings.ReplaceAll(path, "/", "."))
		if err := os.WriteFile(name, []byte(value+"\n"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	cmd := ns.Command("bash", "-ec", `
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
for value in "$6"/*; do
	over=${value##*/}
	over=proc/${over//.//}
	[ ! -e "$over" ] || mount --bind "$value" "$over"
done
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mkdir run/lock
rm -rf etc/conntrackd etc/keepalived
# Of the host's /tmp only what leads to the module and its programs.
for entry in tmp/*; do
	case "$3/" in "/$entry/"*) continue ;; esac
	case "$4/" in "/$entry/"*) continue ;; esac
	until rm -rf "$entry" 2>/dev/null; do :; done # others may be writing there
done
mkdir etc/conntrackd
mkdir -p "./$3/bin" "./$5"
cp -a "$4/." "./$3/bin/"
mount --bind "$5" "./$5"
hostname "$2"
echo ready
exec chroot . cat
`, "boot", scratch, name, root, netnstest.BinDir(t), buildCache(t), values)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	p := ns.Launch(cmd)
	netnstest.Eventually(t, 10*time.Second, name+" has its files", func() bool {
		if p.Ended() {
			t.Fatalf("%s: %s", name, p.Stderr)
		}
		return strings.Contains(p.Stdout.String(), "ready") && changedRoot(p.Pid())
	})
	return &machine{t: t, name: name, pid: p.Pid(), root: fmt.Sprintf("/proc/%d/root", p.Pid()), dir: root,
		path: "/usr/local/sbin:" + netnstest.BinDir(t)}
}

// changedRoot reports that the process sees the machine's files as its root.
func changedRoot(pid int) bool {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && filepath.Base(link) == "cat"
}

// run runs a script on the machine and returns its output, standard error included, and its exit
// status.
func (m *machine) run(script string) (string, int) {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "nsenter", fmt.Sprintf("--target=%d", m.pid), "--mount", "--pid", "--uts", "--ipc", "--net",
		"--root", "--", "env", "--chdir="+m.dir, "timeout", "60", "bash", "-c", script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // what a daemon keeps open
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME=/root", "PATH="+m.path+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	err := cmd.Run()
	if cmd.ProcessState == nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	if err := os.WriteFile(m.root+path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// server is the program on the machine of that name.
const server = `
import socket, threading
tcp = socket.create_server(("", 80))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 53))
def answers():
    while True:
        data, peer = udp.recvfrom(2000)
        udp.sendto(data, peer)
def echo(peer):
    while data := peer.recv(2000):
        peer.sendall(data)
threading.Thread(target=answers, daemon=True).start()
open("/tmp/serving", "w").close()
while True:
    threading.Thread(target=echo, args=(tcp.accept()[0],), daemon=True).start()
`

func (n *network) serve() {
	m := n.machine("server")
	m.write("/tmp/server.py", server)
	if out, status := m.run("python3 /tmp/server.py >/tmp/server.log 2>&1 & until [ -e /tmp/serving ]; do sleep 0.02; done"); status != 0 {
		n.t.Fatalf("server: %s", out)
	}
}

// What a page shows does not depend on how the host is tuned.
func TestMachineSeesNoTuning(t *testing.T) {
	m := (&network{t: t}).machine(firstMachine)
	for path, value := range hostWide {
		// An older kernel has some of them in the first network namespace only.
		if out, status := m.run("[ ! -e /proc/" + path + " ] || cat /proc/" + path); status != 0 || out != "" && out != value+"\n" {
			t.Errorf("%s is %q, want %q", path, out, value)
		}
	}
	if out, status := m.run("sysctl -n net.netfilter.nf_conntrack_max"); status != 0 || out != hostWide["sys/net/netfilter/nf_conntrack_max"]+"\n" {
		t.Errorf("sysctl says %q", out)
	}
}
