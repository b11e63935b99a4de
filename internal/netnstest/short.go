//go:build !long

package netnstest

// Long is described in long.go.
const Long = false
