package nfct

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ctbox/helpers/builtin"
)

// What the shells offer is what the tables say: bash is asked, the scripts of the
// others must have the same words.
func TestCompletion(t *testing.T) {
	dir := filepath.Join("..", "..", "scripts", "completion")
	complete := func(words ...string) []string {
		script := `. ` + filepath.Join(dir, "nfct.bash") + `; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nfct; echo "${COMPREPLY[*]}"`
		out, err := exec.Command("bash", append([]string{"-c", script, "bash", "nfct"}, words...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(slices.Values(strings.Fields(string(out))))
	}
	var helpers []string
	for _, h := range builtin.All() {
		helpers = append(helpers, h.Name)
	}
	both := []string{"inet", "inet6"}
	protocols := []string{"dccp", "generic", "gre", "icmp", "icmpv6", "sctp", "tcp", "udp", "udplite"}
	for _, p := range protocols {
		if _, ok := trackedNames[p]; !ok {
			t.Errorf("%s is none of the protocols", p)
		}
	}
	for _, c := range []struct {
		line string // up to the word that is to be completed
		want []string
	}{
		{" ", commands},
		{"l", []string{"list"}},
		{"list ", subsystems},
		{"add helper ", helpers},
		{"add timeout ", nil},
		{"add helper ftp ", both},
		{"add helper ftp inet ", []string{"tcp", "udp"}},
		{"add timeout name inet ", protocols},
		{"default-set timeout ", both},
		{"default-get timeout inet ", protocols},
		{"list timeout -o ", []string{"json"}},
	} {
		want := slices.Sorted(slices.Values(c.want))
		if got := complete(strings.Split(strings.TrimPrefix(c.line, " "), " ")...); !slices.Equal(got, want) {
			t.Errorf("%q: offered %q, want %q", c.line, got, want)
		}
	}
	for _, name := range []string{"_nfct", "nfct.fish"} {
		script, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, words := range [][]string{commands, subsystems, helpers, both, {"tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "gre", "generic"}} {
			if !strings.Contains(string(script), strings.Join(words, " ")) {
				t.Errorf("%s does not offer %q", name, words)
			}
		}
	}
}
