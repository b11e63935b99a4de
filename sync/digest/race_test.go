//go:build race

package digest

// The package has no goroutine: the race detector cannot find anything in these tests and makes
// them ten times slower.
const (
	seeds   = 1
	million = 50_000
)
