package link

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"ctbox/internal/netnstest"
)

// TestMain runs the tests in a network namespace of their own, with the loopback interface
// up.
func TestMain(m *testing.M) {
	const inside = "LINK_TESTS_INSIDE_NAMESPACE"
	if os.Getenv(inside) != "" {
		os.Exit(netnstest.RunTests(m))
	}
	enter := []string{"--net", "sh", "-c", `ip link set lo up && exec "$0" "$@"`, os.Args[0]}
	cmd := exec.Command("unshare", append(enter, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "network namespace for the tests:", err)
		os.Exit(1)
	}
}
