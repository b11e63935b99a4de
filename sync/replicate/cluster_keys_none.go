//go:build no_cluster

package replicate

import "ctbox/conf"

// Keys are no keys: a configuration has no Cluster clause.
type Keys struct{}

// ReadKeys reads nothing.
func ReadKeys(*conf.Sync, int) (Keys, error) { return Keys{}, nil }
