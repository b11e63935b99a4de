package nfqueue

import (
	"os"
	"testing"

	"ctbox/internal/netnstest"
)

// No goroutine outlives what it belongs to.
func TestMain(m *testing.M) { os.Exit(netnstest.RunTests(m)) }
