package conntrack

import (
	"testing"

	"ctbox/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }
