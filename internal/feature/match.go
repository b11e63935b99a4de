//go:build !no_match

package feature

// Match reports whether conntrack is built with --match.
const Match = true
