//go:build !race && !emulated

package digest

const (
	seeds   = 3
	million = 1_000_000
)
