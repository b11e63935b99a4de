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

// UseOneThread lets Go code run on one thread at a time: for a daemon that only
// answers packets of helpers, one after the other. With more, each packet wakes a
// second thread that finds nothing to do.
func UseOneThread() { runtime.GOMAXPROCS(1) }
