// Package interop holds the tests of whole daemons: our conntrackd beside
// Debian's, and beside another of ours, each on a real kernel in a network
// namespace of its own, with real traffic, over links that work and links that
// do not.
//
// A pair is two such firewalls. The matrix lets one scenario run on every
// combination of mode, transport, address family and programs; the other tests
// are about one fault each.
package interop

import (
	"flag"
	"testing"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) {
	// Pairs wait most of the time, for a timer of the protocol or of a daemon,
	// so more of them than there are processors run at once. The command line
	// has the last word.
	flag.Set("test.parallel", "6")
	netnstest.Main(m)
}
