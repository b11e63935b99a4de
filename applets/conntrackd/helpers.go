package conntrackd

import (
	"context"
	"fmt"

	"ctbox/applets/conntrackd/report"
	"ctbox/conf"
	"ctbox/helpers"
	"ctbox/internal/feature"
)

// openHelpers registers the user-space helpers of the configuration, if it has any, and opens
// their queues. From then on packets are queued until runHelpers reads them.
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

// runHelpers processes packets until ctx ends. If it fails, it stops the daemon, since
// packets in the queues would wait forever.
func (d *daemon) runHelpers(ctx context.Context, stop context.CancelCauseFunc) {
	if !feature.Helpers || d.helpers == nil {
		return
	}
	if err := d.helpers.Run(ctx); err != nil {
		stop(err)
	}
}

// helperCounts returns the statistics of the helpers, nil without helpers.
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

// helperNames returns the helpers of a Helper clause, each with family, protocol and queue.
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
