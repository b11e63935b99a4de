package nl

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNetNS calls f in the network namespace of the descriptor netns; 0 is the caller's own.
// A socket that f opens stays in that namespace. f runs on a thread of its own, which ends
// with it, so that no other goroutine ever runs there.
func InNetNS(netns int, f func() error) error {
	if netns == 0 {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
