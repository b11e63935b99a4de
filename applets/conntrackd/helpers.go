package conntrackd

import (
	"context"
	"fmt"

	"ctbox/applets/conntrackd/report"
	"ctbox/conf"
	"ctbox/helpers"
	"ctbox/internal/feature"
)

// openHelpers registers the user-space helpers of the configuration, if there are
// any, and takes their queues. From then on packets wait for runHelpers.
func (d *daemon) openHelpers(ctx context.Context) error {
	if h := d.cfg.Helper; !feature.Helpers || h == nil || len(h.Types) == 0 {
		return nil
	}
	host, err := helpers.Open(ctx, d.cfg.Helper, d.log)
	if err != nil {
		return err
	}
	d.helpers = host
	return nil
}

// runHelpers answers packets until ctx ends. Without helpers there is nothing to
// do. If it can't go on, the daemon ends: packets would wait for nobody.
func (d *daemon) runHelpers(ctx context.Context, stop context.CancelCauseFunc) {
	if !feature.Helpers || d.helpers == nil {
		return
	}
	if err := d.helpers.Run(ctx); err != nil {
		stop(err)
	}
}

// helperCounts are the numbers of the helpers; nil without any.
func (d *daemon) helperCounts() *report.Helpers {
	if d.helpers == nil {
		return nil
	}
	s := &d.helpers.Stats
	return &report.Helpers{
		Names:   helperNames(d.cfg.Helper),
		Packets: s.Packets.Load(), Unread: s.Unread.Load(), Dropped: s.Dropped.Load(), Rewritten: s.Rewritten.Load(),
		Expectations: s.Expectations.Load(), Refused: s.Refused.Load(), Verdicts: s.Verdicts.Load(), Overruns: s.Overruns.Load(),
	}
}

// helperNames are the helpers of a Helper clause in words.
func helperNames(h *conf.Helper) []string {
	var names []string
	for _, t := range h.Types {
		family, protocol := "inet", "tcp"
		if t.IPv6 {
			family = "inet6"
		}
		if t.Protocol != 6 {
			protocol = "udp"
		}
		names = append(names, fmt.Sprintf("%s (%s, %s, queue %d)", t.Name, family, protocol, t.QueueNum))
	}
	return names
}
