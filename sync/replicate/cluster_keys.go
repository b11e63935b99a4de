//go:build !no_cluster

package replicate

import (
	"fmt"

	"ctbox/conf"
	"ctbox/sync/seal"
)

// LoadRing reads the key files of a cluster. They must belong to root or to the user uid, and
// nobody else may have access to them. The error is one line with the number and the file of
// the key that is not acceptable. It may be called by any goroutine.
func LoadRing(c *conf.Cluster, uid int) (*seal.Ring, error) {
	keys := make(map[uint8][seal.KeyLen]byte, len(c.Keys))
	for _, k := range c.Keys {
		key, err := seal.ReadKey(k.File, uid)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", k.Number, err)
		}
		keys[k.Number] = key
	}
	return seal.NewRing(c.Name, keys, c.Send)
}

// CheckKeys returns why LoadRing would fail, or nil. s may lack a Cluster clause.
func CheckKeys(s *conf.Sync, uid int) error {
	if s == nil || s.Cluster == nil {
		return nil
	}
	_, err := LoadRing(s.Cluster, uid)
	return err
}
