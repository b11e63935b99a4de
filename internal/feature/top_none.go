//go:build no_top

package feature

// Top reports whether conntrack is built with --top.
const Top = false
