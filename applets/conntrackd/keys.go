//go:build !no_cluster

package conntrackd

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"

	"ctbox/conf"
	"ctbox/sync/seal"
)

// runGenKey is --genkey: it prints the contents of a new key file.
func runGenKey(log *slog.Logger, stdout io.Writer) int {
	key, err := seal.GenerateKey(rand.Reader)
	if err == nil {
		_, err = io.WriteString(stdout, key)
	}
	if err != nil {
		log.Error("can't make a key: " + err.Error())
		return exitFailed
	}
	return exitOK
}

// checkKeys judges the key files of a Cluster clause as the daemon would if this process's user
// started it.
func checkKeys(cfg *conf.Config) (found []conf.Finding) {
	if cfg.Sync == nil || cfg.Sync.Cluster == nil {
		return nil
	}
	seen := make(map[[seal.KeyLen]byte]uint8)
	for i := range cfg.Sync.Cluster.Keys {
		k := &cfg.Sync.Cluster.Keys[i]
		at, _ := cfg.Where(k)
		f := conf.Finding{File: cfg.File, Pos: at, Host: true}
		key, err := seal.ReadKey(k.File, os.Geteuid())
		if err != nil {
			f.Severity, f.Text = conf.Fatal, fmt.Sprintf("Key %d: %v", k.Number, err)
			found = append(found, f)
			continue
		}
		if other, twice := seen[key]; twice {
			f.Severity, f.Text = conf.Caution, fmt.Sprintf("Key %d is the same key as Key %d", k.Number, other)
			found = append(found, f)
			continue
		}
		seen[key] = k.Number
	}
	return found
}
