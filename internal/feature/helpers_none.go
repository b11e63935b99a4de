//go:build no_helpers

package feature

// Helpers reports whether conntrackd is built with user-space helpers.
const Helpers = false
