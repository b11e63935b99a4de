package conntrackd

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
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
				sync[1] = strings.NewReplacer("Node 1 fw1", "Node 2 fw2", "Peer 2 fw2", "Peer 1 fw1", "192.0.2.2", "192.0.2.1", "192.0.2.1", "192.0.2.2").Replace(sync[0])
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
