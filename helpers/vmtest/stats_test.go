//go:build vm

package vmtest

import (
	"encoding/json"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// The statistics and the metrics count what the helpers did.
func TestStatistics(t *testing.T) {
	fw := newFirewall(t)
	fw.register(ftp)
	fw.load(routed, true, ftp)
	d := fw.start(program{"ours", applet("conntrackd")}, false, ftp)
	defer d.end()
	ask := func(args ...string) string {
		t.Helper()
		return fw.router.Must(applet("conntrackd"), append([]string{"-C", d.config}, args...)...)
	}
	if text := ask("-s", "helpers"); !strings.HasPrefix(text, "user-space helpers:\n\tftp (inet, tcp, queue 5)\n") {
		t.Errorf("-s helpers: %s", text)
	}
	fw.announce(t, program{"ours", ""}, routed, v4, ftpModes[0], 42000)
	var status struct {
		Helpers struct{ Packets, Unread, Expectations, Overruns int }
	}
	netnstest.Eventually(t, patience, "an expectation is counted", func() bool {
		if err := json.Unmarshal([]byte(ask("-s", "helpers", "--json")), &status); err != nil {
			t.Fatal(err)
		}
		return status.Helpers.Expectations == 1
	})
	if h := status.Helpers; h.Packets < 4 || h.Unread != 0 || h.Overruns != 0 {
		t.Errorf("%+v", h)
	}
	if text := ask("-s", "metrics"); !strings.Contains(text, "\nconntrackd_helper_expectations_total 1\n") {
		t.Errorf("-s metrics: %s", text)
	}
}
