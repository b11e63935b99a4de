//go:build no_cluster

package replicate

import "ctbox/conf"

// CheckKeys returns nil: a configuration has no Cluster clause.
func CheckKeys(*conf.Sync, int) error { return nil }
