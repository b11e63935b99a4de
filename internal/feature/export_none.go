//go:build no_export

package feature

// Export reports whether conntrackd is built with the Export clause, which records flows.
const Export = false
