package conntrackd

import (
	"fmt"

	"ctbox/conf"
)

// withoutHelpers is what has to be said where the file has a Helper clause, which
// this version reads and does not carry out; "" where it has none. Packets that a
// rule gives to such a helper's queue wait there for nobody.
func withoutHelpers(cfg *conf.Config) string {
	if cfg.Helper == nil {
		return ""
	}
	return fmt.Sprintf("this version runs no user-space helpers: the %d of the Helper clause are not set up",
		len(cfg.Helper.Types))
}

// onlyHelpers reports whether the file asks for nothing that this version does.
func onlyHelpers(cfg *conf.Config) bool {
	return cfg.Helper != nil && cfg.Sync == nil && cfg.Stats == nil
}
