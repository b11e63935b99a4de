package nfqueue

import (
	"os"
	"testing"

	"ctbox/internal/netnstest"
)

// TestMain fails if a test leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(netnstest.RunTests(m)) }
