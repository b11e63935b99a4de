package iface

import (
	"os"
	"testing"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.RunTests(m)) }
