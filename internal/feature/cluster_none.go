//go:build no_cluster

package feature

// Cluster reports whether conntrackd is built with the Cluster clause: version 2 of the
// protocol, and golang.org/x/crypto.
const Cluster = false
