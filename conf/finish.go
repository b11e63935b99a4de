package conf

import "slices"

// finish checks and settles combinations of clauses.
func (p *parser) finish() {
	c := p.cfg
	if c.Stats != nil && c.Stats.Syslog != FacilityOff && c.General.Syslog != FacilityOff &&
		c.Stats.Syslog != c.General.Syslog {
		p.warn(c.pos[&c.Stats.Syslog], Always, "conflicting Syslog facility values, defaulting to General")
		c.Stats.Syslog = c.General.Syslog
	}
	if c.Sync != nil {
		p.finishSync(c.Sync)
	}
	if c.Helper != nil {
		for _, t := range c.Helper.Types {
			t.Policies = slices.Clone(p.shared[t.object()])
		}
	}
	if p.loose != nil || len(p.policies) > 0 {
		p.warn(c.pos[c.Helper], OnCheck, "Helper has clauses of a Type after its last Type; they count for none")
	}
}

func (p *parser) finishSync(s *Sync) {
	c := p.cfg
	if _, ok := c.pos[&s.Mode]; !ok {
		p.warn(c.pos[s], AtStart, "No synchronization mode specified. Defaulting to FT-FW mode.")
	}
	if s.Mode != ModeNOTRACK {
		p.otherMode(&s.DisableInternalCache, "DisableInternalCache", s.Mode)
	}
	if s.Mode == ModeALARM {
		p.otherMode(&s.DisableExternalCache, "DisableExternalCache", s.Mode)
		p.otherMode(&s.StartupResync, "StartupResync", s.Mode)
	}
	if s.Mode != ModeFTFW {
		// Other modes do not have them: values from the block of an unused mode are
		// not kept.
		s.ResendQueueSize, s.ACKWindowSize = defaultResendQueueSize, defaultACKWindowSize
	}
	if s.CommitTimeout != 0 && s.DisableExternalCache {
		p.warn(c.pos[&s.CommitTimeout], Always, "`CommitTimeout' can't be combined with `DisableExternalCache', "+
			"ignoring this option. Fix your configuration file.")
		s.CommitTimeout = 0
	}
	if len(s.Links) > 0 {
		for _, l := range s.Links {
			if l.Default {
				return
			}
		}
		s.Links[0].Default = true
	}
}

// otherMode clears a flag that was set in the block of an unused mode.
func (p *parser) otherMode(flag *bool, name string, used Mode) {
	if *flag {
		*flag = false
		p.warn(p.cfg.pos[flag], Always, name+" was set for another mode than "+used.String()+", which is used, ignoring")
	}
}
