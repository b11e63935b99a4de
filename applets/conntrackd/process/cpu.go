package process

import "runtime"

// AllowTwoThreads lets Go code run on two threads at least, on a machine with one
// CPU, too: the reader of kernel events keeps one of them while it lets events
// gather (nl.EventOptions.Coalesce).
func AllowTwoThreads() {
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
}
