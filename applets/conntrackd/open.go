package conntrackd

import (
	"context"
	"io"
	"log/slog"

	"ctbox/conf"
	"ctbox/sync/node"
)

// Run is the applet (applets.RunFunc).
func Run(ctx context.Context, argv []string, _ io.Reader, stdout, stderr io.Writer) int {
	return run(ctx, argv, stdout, stderr, func(cfg *conf.Config, log *slog.Logger, ended node.Ended) (runner, error) {
		return node.New(cfg, log, ended)
	})
}
