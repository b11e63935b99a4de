// Package helpers runs user-space helpers: it registers their objects with the
// kernel, reads the packets that the kernel queues for them, has the helper read
// each, and carries out its answer, in the kernel's table of expectations and in
// the packet's verdict.
//
// A helper itself is a folder below this one, written with package helper and
// listed in package builtin. host.go is the life of them all, queue.go what
// happens to a packet, expect.go how an expectation is made, private.go what is
// remembered of flows whose packets arrive faster than they are answered.
package helpers
