package protofile

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseServices(t *testing.T) {
	got := ParseServices("# comment\nweb\t80/tcp\twww w3 # other 81/tcp\nweb 81/udp\nbad 80\nbad x/tcp\nbad -1/tcp\nbad 65536/tcp\nbad 80/\nodd\n" +
		"web 82/tcp\nlast 65535/sctp")
	want := Services{"web/tcp": 80, "www/tcp": 80, "w3/tcp": 80, "web/udp": 81, "last/sctp": 65535}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if port, ok := got.Port("web", "udp"); port != 81 || !ok {
		t.Errorf("web of udp is %d, %v", port, ok)
	}
	if port, ok := got.Port("w3", "udp"); ok {
		t.Errorf("w3 of udp is %d", port)
	}
}

// Every line of the built-in list is a service, and says what the system's list says
// of the same name, where there is one.
func TestCommonServices(t *testing.T) {
	common := ParseServices(CommonServices)
	for line := range strings.Lines(strings.TrimSpace(CommonServices)) {
		fields := strings.Fields(line)
		_, protocol, _ := strings.Cut(fields[1], "/")
		for _, name := range append(fields[2:], fields[0]) {
			if _, ok := common.Port(name, protocol); !ok {
				t.Errorf("%s of %s is missing", name, protocol)
			}
		}
	}
	text, err := os.ReadFile(ServicesFile)
	if err != nil {
		return
	}
	for key, port := range ParseServices(string(text)) {
		if ours, ok := common[key]; ok && ours != port {
			t.Errorf("%s is %d, in %s %d", key, ours, ServicesFile, port)
		}
	}
}

func FuzzParseServices(f *testing.F) {
	f.Add(CommonServices)
	f.Add("x\nx 1\nx 1/\nx /tcp\nx 65536/tcp y\n# x 1/tcp\nx 1/tcp# y\nx 2/tcp")
	f.Fuzz(func(t *testing.T, text string) {
		for key := range ParseServices(text) {
			if at := strings.LastIndexByte(key, '/'); at < 1 || at == len(key)-1 || strings.Contains(key, "#") {
				t.Fatalf("service %q", key)
			}
		}
	})
}
