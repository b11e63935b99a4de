//go:build vm

package vmtest

import (
	"fmt"
	"strings"
	"testing"
)

// The kernel applies the configured policy: the number of expectations, of which a new one
// replaces the oldest, and their timeout.
func TestPolicy(t *testing.T) {
	for _, test := range []struct {
		policy       string
		max, timeout int
		half         bool
	}{
		{"ExpectMax 2 ExpectTimeout 77", 2, 77, false},
		{"ExpectMax 2", 2, 300, true},
		{"ExpectTimeout 77", 1, 77, true},
	} {
		t.Run(test.policy, func(t *testing.T) {
			each(t, func(t *testing.T, p program) {
				k := ftp
				k.policy = test.policy
				fw := newFirewall(t)
				fw.unregister()
				defer fw.start(p, true, k).end()
				fw.load(routed, true, k)

				broken := test.half && defect(t, p, 21)
				timeout, most := test.timeout, test.max
				switch {
				case broken && most == 2:
					timeout = 0
				case broken:
					most = 0 // no limit
				}
				object := fw.router.Must(applet("nfct"), "get", "helper", "ftp", "-o", "json")
				policy := func(most int) string {
					return fmt.Sprintf(`"policies":[{"name":"ftp","expect_max":%d,"expect_timeout":%d}]`, most, timeout)
				}
				// Later kernels replace 0 by the largest number.
				if want := policy(most); !strings.Contains(object, want) && (most != 0 || !strings.Contains(object, policy(255))) {
					t.Errorf("the kernel has %s, want %s", object, want)
				}
				if broken {
					return
				}
				s := fw.login(t, 41000, serverAddr, serverAddr)
				var wants []expected
				for port := 42000; port < 42003; port++ {
					relay(t, s.client, s.server, ftpModes[0].text(clientAddr, port))
					wants = append(wants, expected{protocol: "tcp", src: addrPort(serverAddr, 0), dst: addrPort(clientAddr, port),
						master: flow{addrPort(clientAddr, 41000), addrPort(serverAddr, 21)}, helper: "ftp", lifetime: timeout})
				}
				fw.expects(t, wants[len(wants)-most:]...)
			})
		})
	}
}
