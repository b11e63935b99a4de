//go:build no_helpers

package feature

// Helpers is whether conntrackd has user-space helpers.
const Helpers = false
