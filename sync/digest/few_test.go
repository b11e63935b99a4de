//go:build race || emulated

package digest

// Under emulation, and with the race detector, which cannot find anything in a package without
// goroutines, the tests take ten times longer.
const (
	seeds   = 1
	million = 50_000
)
