//go:build race

package proto

// The simulations have one goroutine: the race detector cannot find anything in them and makes
// them ten times slower.
const defaultSeeds = 50
