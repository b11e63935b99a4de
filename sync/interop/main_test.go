// Package interop tests whole daemons: pairs of ctbox's conntrackd, or of ctbox's and Debian's,
// each on a real kernel in a network namespace of its own, with real traffic, over good and
// bad links.
//
// A pair is two such firewalls. The matrix runs one scenario on every combination of mode,
// transport, address family and programs; each of the other tests is about one fault.
package interop

import (
	"flag"
	"testing"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) {
	// Pairs mostly wait for timers of the protocol or of a daemon, so more tests than
	// CPUs run in parallel. The command line can override this.
	flag.Set("test.parallel", "6")
	netnstest.Main(m)
}
