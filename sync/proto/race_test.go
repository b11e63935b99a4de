//go:build race

package proto

// The simulations have one goroutine: the race detector makes them ten times slower
// and has nothing to see.
const defaultSeeds = 50
