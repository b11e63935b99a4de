//go:build !no_cluster

package replicate

import (
	"fmt"

	"ctbox/conf"
	"ctbox/sync/seal"
)

// Keys are the keys of a Cluster clause, as read from their files. They are immutable.
type Keys struct{ ring *seal.Ring }

// ReadKeys reads the key files of the Cluster clause. They must belong to root or to the user uid, and
// nobody else may have access to them. The error is one line with the number and the file of the
// key that is not acceptable. s may be nil or lack the clause; the Keys are empty then. Any goroutine may
// call ReadKeys.
func ReadKeys(s *conf.Sync, uid int) (Keys, error) {
	if s == nil || s.Cluster == nil {
		return Keys{}, nil
	}
	c := s.Cluster
	keys := make(map[uint8][seal.KeyLen]byte, len(c.Keys))
	for _, k := range c.Keys {
		key, err := seal.ReadKey(k.File, uid)
		if err != nil {
			return Keys{}, fmt.Errorf("key %d: %w", k.Number, err)
		}
		keys[k.Number] = key
	}
	ring, err := seal.NewRing(c.Name, keys, c.Send)
	return Keys{ring}, err
}
