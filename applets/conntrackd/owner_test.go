package conntrackd

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"ctbox/internal/netnstest"

	"golang.org/x/sys/unix"
)

// inserted are flows of a peer by port, with what one selector has to take of them.
var inserted = []struct {
	port     int
	flow     []string // beside the ports
	selector []string // that takes this flow and none of the others
}{
	{1001, []string{"-s", "198.51.100.2", "-d", "203.0.113.1"}, []string{"--src", "198.51.100.2"}},
	{1002, []string{"-s", "198.51.100.65", "-d", "203.0.113.1"}, []string{"--src", "198.51.100.64/26"}},
	{1003, []string{"-s", "198.51.100.1", "-d", "203.0.113.1", "-m", "0x1f"}, []string{"--mark", "0x10/0xf0"}},
	{1004, []string{"-s", "198.51.100.1", "-d", "203.0.113.1", "-w", "7"}, []string{"--zone", "7"}},
	{1005, []string{"-s", "198.51.100.1", "-d", "203.0.113.1", "-n", "203.0.113.99"}, []string{"--nat-src", "203.0.113.99"}},
	{1006, []string{"-s", "198.51.100.1", "-d", "203.0.113.1"}, nil},
}

// otherSide makes the clauses of node 2 of those of node 1 (inCluster).
var otherSide = strings.NewReplacer("Node 1 fw1", "Node 2 fw2", "Peer 2 fw2", "Peer 1 fw1", "192.0.2.2", "192.0.2.1", "192.0.2.1", "192.0.2.2")

// A commit with a selector takes the flows that it selects, with version 1 of the protocol and
// with a Cluster of two nodes.
func TestCommitOfAPart(t *testing.T) {
	for _, cluster := range []bool{false, true} {
		t.Run(fmt.Sprintf("cluster=%v", cluster), func(t *testing.T) {
			t.Parallel()
			a, b := newPair(t)
			sync := [2]string{ofMode("FTFW", "192.0.2.1", ""), ofMode("FTFW", "192.0.2.2", "")}
			if cluster {
				sync[0] = a.inCluster("", "")
				sync[1] = otherSide.Replace(sync[0])
			}
			a.start(ours(t), a.configure("", sync[0]))
			b.start(ours(t), b.configure("", sync[1]))
			all, here := map[int]bool{}, map[int]bool{}
			for _, f := range inserted {
				a.Must("/usr/sbin/conntrack", append([]string{"-I", "-p", "tcp", "--sport", fmt.Sprint(f.port), "--dport", "80",
					"--state", "ESTABLISHED", "-u", "ASSURED,SEEN_REPLY", "-t", "300"}, f.flow...)...)
				all[f.port], here[f.port] = true, false
			}
			b.caches("-e", all)
			for _, f := range inserted {
				if f.selector == nil {
					continue
				}
				out := b.client(append([]string{"-c"}, f.selector...)...)
				if strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, ": 1 flow taken\n") || strings.HasPrefix(out, "fw1: ") != cluster {
					t.Errorf("%q prints %q", f.selector, out)
				}
				here[f.port] = true
				b.caches("-i", here)
			}
			var result struct {
				Flows struct{ Committed, Failed int }
				Taken []struct {
					Name  string
					Flows int
				}
			}
			if err := json.Unmarshal([]byte(b.client("-c", "ct", "--zone", "0", "--src", "198.51.100.0/24", "--mark", "0", "-o", "json")), &result); err != nil {
				t.Fatal(err)
			}
			if result.Flows.Failed != 0 || len(result.Taken) != 1 || result.Taken[0].Flows != 4 {
				t.Errorf("three conditions: %+v", result)
			}
			b.caches("-i", all)
			if out := b.client("-c"); out != "" {
				t.Errorf("a plain -c prints %q", out)
			}
			b.owners(cluster, len(inserted))
		})
	}
}

// owners tests --owner at a node with one peer, from which it has some flows.
func (h *host) owners(cluster bool, flows int) {
	h.t.Helper()
	config := h.path("conntrackd.conf")
	if text := h.client("-e"); strings.Contains(text, "owner") {
		h.t.Errorf("-e names owners: %s", text)
	}
	reason := "fw9 is no peer of this node. Its configuration has no Cluster clause, which names them"
	if cluster {
		reason = "fw9 is no peer of this node. Its peers are: fw1"
		for _, name := range []string{"fw1", "1"} {
			text := h.client("-e", "--owner", name)
			if strings.Count(text, "\n") != flows || strings.Count(text, "s] [owner=fw1]\n") != flows {
				h.t.Errorf("-e --owner %s: %s", name, text)
			}
		}
		if text := h.client("-e", "--owner", "fw1", "--json"); strings.Count(text, `,"owner":"fw1"}`+"\n") != flows {
			h.t.Errorf("-e --owner fw1 --json: %s", text)
		}
		if got, want := h.client("-e", "-x", "--owner", "fw1"), h.client("-e", "-x"); len(got) != len(want) || strings.Contains(got, "owner") {
			h.t.Errorf("-e -x --owner fw1: %s", got)
		}
		if out := h.client("-c", "--owner", "fw1"); !strings.HasPrefix(out, "fw1: heard ") || !strings.HasSuffix(out, fmt.Sprintf(": %d flows taken\n", flows)) {
			h.t.Errorf("-c --owner fw1 prints %q", out)
		}
	}
	for _, args := range [][]string{{"-c"}, {"-c", "expect"}, {"-e"}, {"-e", "-x"}, {"-c", "--zone", "7"}, {"-c", "--json"}} {
		r := h.Run("", ours(h.t), append([]string{"-C", config, "--owner", "fw9"}, args...)...)
		if want := "[ERROR] --owner: " + reason + "\n"; r.Code != 1 || r.Stdout != "" || unstamped(h.t, r.Stderr) != want {
			h.t.Errorf("%q: %+v, want %q", args, r, want)
		}
	}
}

// A value that is not valid is one line, and no daemon is asked; a daemon that does not know
// selectors does nothing.
func TestSelectorsThatFail(t *testing.T) {
	h := newHost(t)
	config := h.configure("", setups["notrack"])
	h.start(debian(t), config)
	h.insert("198.51.100.1", 1001)
	for _, c := range []struct{ args, want string }{
		{"-c --zone x", `--zone takes a number from 0 to 65535, found "x"`},
		{"-e --owner", `--owner takes the name or number of a node, found ""`},
		{"-c --owner fw1", errNoSelection.Error()},
		{"-c --src 192.0.2.0/24 -o json", errNoSelection.Error()},
		{"-e --owner fw1", errNoSelection.Error()},
		{"-c -o json", "the running daemon does not know this request"},
	} {
		r := h.Run("", ours(t), append([]string{"-C", config}, strings.Fields(c.args)...)...)
		if r.Code != 1 || r.Stdout != "" || unstamped(t, r.Stderr) != "[ERROR] "+c.want+"\n" {
			t.Errorf("%s: %+v, want %q", c.args, r, c.want)
		}
	}
	if r := h.Run("", ours(t), "-C", config, "-c"); r != (netnstest.Result{}) {
		t.Errorf("-c: %+v", r)
	}
}

// newThree returns three hosts on one wire, whose daemons have a Cluster of three nodes.
func newThree(t *testing.T) (hosts [3]*host) {
	t.Helper()
	wire := netnstest.New(t, "wire")
	wire.IP("link", "add", "br0", "type", "bridge")
	wire.IP("link", "set", "br0", "up")
	for i := range hosts {
		hosts[i] = &host{netnstest.New(t, fmt.Sprintf("fw%d", i+1)), t, t.TempDir()}
		port := fmt.Sprintf("port%d", i+1)
		netnstest.Link(t, netnstest.End{NS: wire, Dev: port},
			netnstest.End{NS: hosts[i].NS, Dev: "sync0", Addrs: []string{fmt.Sprintf("192.0.2.%d/24", i+1)}})
		wire.IP("link", "set", port, "master", "br0")
	}
	for i, h := range hosts {
		clause := fmt.Sprintf("Cluster {\nName edge\nNode %d fw%d\n", i+1, i+1)
		for p := range hosts {
			if p != i {
				clause += fmt.Sprintf("Peer %d fw%d {\nIPv4_Destination_Address 192.0.2.%d\n}\n", p+1, p+1, p+1)
			}
		}
		h.configure("", fmt.Sprintf("Sync {\nMode FTFW {\n}\n%s}\nUDP {\nIPv4_address 192.0.2.%d\nPort 3780\nInterface sync0\n}\n}", clause, i+1))
	}
	return hosts
}

// owned waits until -e shows the flows with these ports, each with its owner.
func (h *host) owned(flows map[int]string) {
	h.t.Helper()
	var text string
	netnstest.Eventually(h.t, patience, fmt.Sprintf("-e shows %v", flows), func() bool {
		text = h.client("-e")
		for port, owner := range flows {
			if !strings.Contains(text, fmt.Sprintf("sport=%d ", port)) || !strings.Contains(text, fmt.Sprintf("s] [owner=%s]\n", owner)) {
				return false
			}
		}
		return strings.Count(text, "\n") == len(flows)
	})
	for line := range strings.Lines(text) {
		for port, owner := range flows {
			if strings.Contains(line, fmt.Sprintf("sport=%d ", port)) && !strings.HasSuffix(line, fmt.Sprintf("s] [owner=%s]\n", owner)) {
				h.t.Errorf("%d is not of %s: %s", port, owner, line)
			}
		}
	}
}

// In a Cluster of three nodes a plain -c takes the flows of the dead node and leaves those of the living
// one, whose copy primary-backup.sh does not empty. --owner takes without asking.
func TestCommitAmongThree(t *testing.T) {
	hosts := newThree(t)
	var daemons [3]*netnstest.Process
	for i, h := range hosts {
		daemons[i] = h.start(ours(t), h.path("conntrackd.conf"))
	}
	fw1, fw2, fw3 := hosts[0], hosts[1], hosts[2]
	fw1.insert("198.51.100.1", 1001)
	fw1.insert("198.51.100.1", 1002)
	fw3.insert("198.51.100.3", 3001)
	fw2.owned(map[int]string{1001: "fw1", 1002: "fw1", 3001: "fw3"})
	if text := fw2.client("-e", "--owner", "3"); strings.Count(text, "\n") != 1 || !strings.Contains(text, "sport=3001 ") {
		t.Errorf("-e --owner 3: %s", text)
	}
	daemons[0].Stop(unix.SIGKILL)
	cmd := fw2.Command("dash", scripts+"primary-backup.sh", "primary")
	cmd.Env = append(cmd.Env, "CONNTRACKD_BIN="+ours(t), "CONNTRACKD_CONFIG="+fw2.path("conntrackd.conf"), "CONNTRACKD_LOCK="+fw2.path("lock"))
	out, err := cmd.CombinedOutput()
	if text := string(out); err != nil || !strings.HasPrefix(text, "fw1: heard ") || !strings.Contains(text, ": 2 flows taken\n") || !strings.HasSuffix(text, "fw3 keeps its flows\n") {
		t.Errorf("primary-backup.sh: %v, %s", err, text)
	}
	fw2.caches("-i", map[int]bool{1001: true, 1002: true, 3001: false})
	fw2.owned(map[int]string{3001: "fw3"})
	fw3.owned(map[int]string{1001: "fw2", 1002: "fw2"})
	if out := fw2.client("-c", "--owner", "fw3"); !strings.HasPrefix(out, "fw3: heard ") || !strings.HasSuffix(out, ": 1 flow taken\n") {
		t.Errorf("-c --owner fw3: %s", out)
	}
	fw2.caches("-i", map[int]bool{1001: true, 1002: true, 3001: true})
	fw3.owned(map[int]string{1001: "fw2", 1002: "fw2", 3001: "fw2"})
}

// With HotStandby nothing is committed, and -c says so.
func TestCommitOfAHotStandby(t *testing.T) {
	a, b := newPair(t)
	sync := a.inCluster("HotStandby on\n", "")
	a.start(ours(t), a.configure("", sync))
	b.start(ours(t), b.configure("", otherSide.Replace(sync)))
	a.insert("198.51.100.1", 1001)
	b.caches("-e", map[int]bool{1001: true})
	if out := b.client("-c", "--owner", "fw1"); !strings.HasPrefix(out, "fw1: heard ") || !strings.HasSuffix(out, ": taken, in the kernel already\n") {
		t.Errorf("-c --owner fw1 prints %q", out)
	}
	if out := b.client("-c", "--json"); !strings.Contains(out, `"flows":{"committed":0,"failed":0}`) || strings.Contains(out, "taken") {
		t.Errorf("-c --json prints %q", out)
	}
}
