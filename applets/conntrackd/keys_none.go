//go:build no_cluster

package conntrackd

import (
	"io"
	"log/slog"

	"ctbox/conf"
)

// runGenKey is --genkey.
func runGenKey(log *slog.Logger, _ io.Writer) int {
	log.Error("this ctbox was built without Cluster")
	return exitFailed
}

func checkKeys(*conf.Config) []conf.Finding { return nil }
