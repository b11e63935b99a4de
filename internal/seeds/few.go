//go:build race || emulated

package seeds

// Few is true with the race detector, and with the build tag emulated, which `make emulated` sets.
const Few = true
