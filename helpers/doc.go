// Package helpers runs user-space helpers. It registers their objects with the kernel,
// passes each packet that the kernel queues to the flow's helper, and applies the answer:
// it creates expectations and sends the verdict.
//
// Each helper is a package below this one, written with package helper and listed in
// package builtin. host.go starts and stops them, queue.go handles a packet, expect.go
// creates expectations, and private.go keeps private data that the kernel does not have yet.
package helpers
