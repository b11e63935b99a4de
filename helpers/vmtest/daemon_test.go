//go:build vm

package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ctbox/internal/netnstest"
)

// program is a conntrackd.
type program struct{ name, path string }

func (p program) String() string { return p.name }

// debian reports whether p is conntrack-tools' conntrackd. The tests expect its known faults:
// see defect.
func (p program) debian() bool { return p.name == "debian" }

// defects are the faults of conntrack-tools' conntrackd that the tests meet, with the row of
// docs/differences.md where it has one.
var defects = map[int]string{
	1:   "H1: the translation of an expected flow never reaches the kernel",
	3:   "H13, ftp: a 229 reply is only understood if client and server have one address",
	4:   "H13, ftp: an address of EPRT is always taken for IPv4",
	5:   "H16, amanda: the port announced is thrown away for that of the request",
	6:   "H16, amanda: of three expectations one is made",
	7:   "amanda: a reply whose addresses are translated ends the daemon",
	9:   "H17, tns: a packet that was rewritten has a wrong checksum",
	10:  "tns: what is expected is the address in the text, whatever the client sees",
	11:  "H17, tns: the address after an empty redirection is not found",
	13:  "H21, ssdp: a search whose source is translated is discarded",
	2:   "H12: two clients that announce one port share an expectation",
	14:  "H21, ssdp: the port of an IPv6 URL is always taken for 80",
	18:  "H3: a packet of more than 4096 bytes gets no verdict",
	21:  "H10: half a Policy sets the other half to 0",
	101: "H20, dhcpv6: a message of a type that it does not know is discarded",
	102: "H4: packets that do not fit into the queue are discarded",
	103: "H7: of two packets in a burst the second does not know what the first has left",
	104: "H5: a packet with extension headers is not read",
	105: "P14: the helper objects stay enabled when the daemon ends",
	106: "H25, tns: an IPv6 address is not read",
	107: "H26, amanda: a reply over IPv6 is not read",
}

// defect reports whether p has that fault, and logs it if so.
func defect(t testing.TB, p program, number int) bool {
	t.Helper()
	text, ok := defects[number]
	if !ok {
		t.Fatalf("no defect %d", number)
	}
	if p.debian() {
		t.Logf("defect %d: %s", number, text)
	}
	return p.debian()
}

// programs returns Debian's conntrackd and ctbox's.
func programs() []program {
	return []program{{"debian", "/usr/sbin/conntrackd"}, {"ours", applet("conntrackd")}}
}

// each runs a test with both programs.
func each(t *testing.T, test func(t *testing.T, p program)) {
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) { test(t, p) })
	}
}

// kind is a helper for a family and protocol, as a Type of the configuration has it.
type kind struct {
	name, family, protocol string
	port                   int // of the service
	queue                  int
	length                 int    // of the queue; 0 for the default
	policy                 string // the body of its Policy block; "" for no block
}

var (
	amanda = kind{"amanda", "inet", "udp", 10080, 3, 0, ""}
	dhcpv6 = kind{"dhcpv6", "inet6", "udp", 547, 4, 0, ""}
	ftp    = kind{"ftp", "inet", "tcp", 21, 5, 0, ""}
	ftp6   = kind{"ftp", "inet6", "tcp", 21, 6, 0, ""}
	mdns   = kind{"mdns", "inet", "udp", 5353, 7, 0, ""}
	rpcTCP = kind{"rpc", "inet", "tcp", 111, 8, 0, ""}
	rpcUDP = kind{"rpc", "inet", "udp", 111, 9, 0, ""}
	rtsp   = kind{"rtsp", "inet", "tcp", 554, 17, 0, ""}
	rtsp6  = kind{"rtsp", "inet6", "tcp", 8554, 18, 0, ""}
	sane   = kind{"sane", "inet", "tcp", 6566, 10, 0, ""}
	slp    = kind{"slp", "inet", "udp", 427, 11, 0, ""}
	ssdp   = kind{"ssdp", "inet", "udp", 1900, 12, 0, ""}
	// the device's own port, for what the search has found
	ssdpTCP = kind{"ssdp", "inet", "tcp", 49152, 13, 0, ""}
	tftp    = kind{"tftp", "inet", "udp", 69, 14, 0, ""}
	tftp6   = kind{"tftp", "inet6", "udp", 69, 15, 0, ""}
	tns     = kind{"tns", "inet", "tcp", 1521, 16, 0, ""}
)

// kinds are those that conntrack-tools has, too.
var kinds = []kind{amanda, dhcpv6, ftp, ftp6, mdns, rpcTCP, rpcUDP, sane, slp, ssdp, ssdpTCP, tftp, tftp6, tns}

func (k kind) object() string { return strings.Join([]string{k.name, k.family, k.protocol}, "-") }

func (k kind) nfproto() string {
	if k.family == "inet6" {
		return "ipv6"
	}
	return "ipv4"
}

func (k kind) l3proto() string {
	if k.family == "inet6" {
		return "ip6"
	}
	return "ip"
}

// register creates the kernel's helper objects with ctbox's nfct for the duration of the
// test. The rules that refer to them must be removed first.
func (fw *firewall) register(kinds ...kind) {
	fw.t.Helper()
	for _, k := range kinds {
		fw.router.Must(applet("nfct"), "helper", "add", k.name, k.family, k.protocol)
	}
	fw.unregister()
}

// unregister removes the kernel's helper objects at the end of the test.
func (fw *firewall) unregister() {
	fw.t.Cleanup(func() {
		fw.router.NFT("flush ruleset")
		if out, err := exec.Command(applet("nfct"), "helper", "flush").CombinedOutput(); err != nil {
			fw.t.Errorf("nfct helper flush: %v: %s", err, out)
		}
		if out, err := exec.Command(applet("nfct"), "helper", "list").CombinedOutput(); err != nil || len(out) > 0 {
			fw.t.Errorf("helpers stay behind: %v: %s", err, out)
		}
	})
}

// daemon is a conntrackd that runs on the firewall.
type daemon struct {
	*netnstest.Process
	fw     *firewall
	config string // the name of its file
}

// launch starts conntrackd with a Helper clause only. With setup, conntrackd creates the
// helper objects.
func (fw *firewall) launch(p program, setup bool, kinds ...kind) *daemon {
	fw.t.Helper()
	dir := fw.t.TempDir()
	var b strings.Builder
	fmt.Fprintf(&b, "General {\n\tLockFile %[1]s/lock\n\tUNIX {\n\t\tPath %[1]s/ctl\n\t}\n}\nHelper {\n", dir)
	fmt.Fprintf(&b, "\tSetup %s\n", map[bool]string{true: "yes", false: "no"}[setup])
	for _, k := range kinds {
		fmt.Fprintf(&b, "\tType %s %s %s {\n\t\tQueueNum %d\n\t\tQueueLen %d\n", k.name, k.family, k.protocol, k.queue, k.length)
		if k.policy != "" {
			fmt.Fprintf(&b, "\t\tPolicy %s {\n\t\t\t%s\n\t\t}\n", k.name, k.policy)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	file := filepath.Join(dir, "conntrackd.conf")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		fw.t.Fatal(err)
	}
	return &daemon{fw.router.Start(p.path, "-C", file), fw, file}
}

// start launches conntrackd and waits until it reads the queues.
func (fw *firewall) start(p program, setup bool, kinds ...kind) *daemon {
	fw.t.Helper()
	d := fw.launch(p, setup, kinds...)
	netnstest.Eventually(fw.t, patience, p.name+" reads its queues", func() bool {
		if d.Ended() {
			r := d.Wait(patience)
			fw.t.Fatalf("%s ended with status %d:\n%s%s", p, r.Code, r.Stdout, r.Stderr)
		}
		return !slices.ContainsFunc(kinds, func(k kind) bool { return !fw.bound(k.queue) })
	})
	return d
}

// end stops the daemon and checks its exit status.
func (d *daemon) end() {
	d.fw.t.Helper()
	if r := d.Stop(syscall.SIGTERM); r.Code != 0 {
		d.fw.t.Errorf("conntrackd ended with status %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// signal sends a signal other than one that ends the daemon.
func (d *daemon) signal(sig syscall.Signal) {
	d.fw.t.Helper()
	if err := syscall.Kill(d.Pid(), sig); err != nil {
		d.fw.t.Fatal(err)
	}
}
