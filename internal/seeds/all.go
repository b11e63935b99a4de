//go:build !race && !emulated

package seeds

// Few is described in few.go.
const Few = false
