// Package seeds sets how many random cases the tests run.
package seeds

// Count returns how many of its n seeds a simulation runs with: all of them or, if Few, a
// twentieth, but at least five.
//
// A simulation has one goroutine, so the race detector cannot find anything in it and makes it ten
// times slower. Under emulation a few seeds reach the code that depends on the byte order and the
// word size; all seeds run on the machine's own architecture.
func Count(n uint64) uint64 {
	if !Few {
		return n
	}
	return min(n, max(n/20, 5))
}
