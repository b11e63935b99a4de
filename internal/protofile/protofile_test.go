package protofile

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got := Parse("# comment\ntcp\t6\tTCP alias # tcp 7\n\nodd\nbad x\nneg -1\nmptcp 262 MPTCP\nmine 200\ntcp 9 Tcp\nlast 201 end")
	want := map[string]uint8{"tcp": 6, "TCP": 6, "alias": 6, "mine": 200, "Tcp": 9, "last": 201, "end": 201}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ip\t0\tIP\t# internet protocol\nicmp 1 ICMP\nipv6-icmp 58 IPv6-ICMP\n")
	f.Add("x\nx y\nx 256\nx -1\n# x 1\nx 1# y\nx 2")
	f.Fuzz(func(t *testing.T, text string) {
		for name := range Parse(text) {
			if name == "" || strings.Contains(name, "#") || !strings.Contains(text, name) {
				t.Fatalf("name %q", name)
			}
		}
	})
}
