package conf

import (
	"strings"
	"time"
)

var syncClauses = []clause{
	{
		name: "Mode",
		value: &mode{
			ModeFTFW:    {title: "Mode FTFW", syntax: "{ ... }", doc: docFTFW, clauses: ftfwClauses},
			ModeALARM:   {title: "Mode ALARM", syntax: "{ ... }", doc: docALARM, clauses: alarmClauses},
			ModeNOTRACK: {title: "Mode NOTRACK", syntax: "{ ... }", doc: docNOTRACK, clauses: notrackClauses},
		},
		doc: "The replication protocol, in any letter case, and its clauses. Of several, FTFW goes before ALARM, and " +
			"ALARM before NOTRACK. NACK is an old name of FTFW, and PERSISTENT one of ALARM.",
	},
	in(refreshTime, func(s scope) bool { return s.cfg.Sync.Mode == ModeALARM }),
	in(cacheTimeout, func(s scope) bool { return s.cfg.Sync.Mode == ModeALARM }),
	in(commitTimeout, func(scope) bool { return true }),
	in(purgeTimeout, func(scope) bool { return true }),
	{
		name: "Delay",
		ours: true,
		live: true,
		doc: "Keeps new flows in the internal cache, and off the link, until they are so old or do not need to wait any longer. " +
			"A flow that ends before is never sent, which halves the traffic or more where most flows are short; until a flow " +
			"is sent a failover loses it. Masters of expectations, flows with a helper and related flows do not wait.",
		value: &group{block: &block{
			title:   "Delay",
			syntax:  "{ ... }",
			clauses: delayClauses,
		}},
	},
	{
		name: "Ready",
		ours: true,
		live: true,
		doc: "When this node may take over: a file for keepalived, and what `conntrackd --ready` and `-s peers` report. " +
			"docs/quickstart-firewall-pair.md has a pair that uses it.",
		value: &group{block: &block{title: "Ready", syntax: "{ ... }", clauses: readyClauses}},
	},
	{
		name:  "Multicast",
		value: linkGroup(Multicast, multicastClauses),
		doc:   "A dedicated link over multicast UDP. " + docDefault,
	},
	{
		name:  "UDP",
		value: linkGroup(UDP, udpClauses),
		doc:   "A dedicated link over UDP to one peer. " + docDefault,
	},
	{
		name:  "TCP",
		value: linkGroup(TCP, tcpClauses),
		doc:   "A dedicated link over TCP to one peer. " + docDefault,
	},
	clusterClause,
	{
		name: "Options",
		doc:  "Options about what is replicated.",
		value: &group{block: &block{
			title:  "Options",
			syntax: "{ ... }",
			clauses: []clause{
				{
					name:  "TCPWindowTracking",
					live:  true,
					value: &boolean{at: func(s scope) *bool { return &s.cfg.Sync.TCPWindowTracking }},
					doc: "Replicate window scales, and have the kernel check the windows of committed flows. Otherwise the kernel " +
						"does not check them.",
				},
				{
					name:  "ExpectationSync",
					value: &expectationSync{},
					doc: "Replicate expectations: all, or those of the named helpers. A name matches every helper whose name starts " +
						"with it: sip matches sip-5060. Lists add up.",
				},
			},
		}},
	},
}

var delayClauses = []clause{
	{
		name:  "TCP",
		value: delaySeconds(func(d *Delay) *time.Duration { return &d.TCP }),
		doc:   "How many seconds TCP flows wait. Without it, or with 0, they do not.",
	},
	{
		name:  "UDP",
		value: delaySeconds(func(d *Delay) *time.Duration { return &d.UDP }),
		doc:   "The same for UDP flows.",
	},
	{
		name:  "Default",
		value: delaySeconds(func(d *Delay) *time.Duration { return &d.Default }),
		doc:   "The same for the flows of other protocols.",
	},
	{
		name: "MinPackets",
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.Sync.Delay.MinPackets }, max: maxInt, def: 3, keepZero: true,
		},
		doc: "A flow with so many packets, in both directions together, does not wait; with 0 their number does not count. It " +
			"is known from the kernel's counters (net.netfilter.nf_conntrack_acct), which readings of its table show and " +
			"events do not, and from a reply, with which there are 2.",
	},
	{
		name:  "Assured",
		value: &boolean{at: func(s scope) *bool { return &s.cfg.Sync.Delay.Assured }, def: true},
		doc: "on: an assured flow does not wait. The kernel calls a TCP flow assured at the end of its handshake, so with on " +
			"TCP flows wait only until then; off saves the traffic of short TCP connections, too.",
	},
}

// delaySeconds is the time that the flows of a protocol wait.
func delaySeconds(at func(*Delay) *time.Duration) *seconds {
	return &seconds{at: func(s scope) *time.Duration { return at(&s.cfg.Sync.Delay) }, max: uint64(MaxDelay / time.Second)}
}

var readyClauses = []clause{
	{
		name: "File",
		value: &path{
			at:      func(s scope) *string { return &s.cfg.Sync.Ready.File },
			most:    maxLogPath,
			tooLong: "File path is longer than 256 characters",
		},
		doc: "A file for keepalived's track_file: 0 while this node may take over, otherwise Weight as a negative number. It is " +
			"replaced by rename and never removed. Without it there is no file.",
	},
	{
		name: "Weight",
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.Sync.Ready.Weight }, min: 1, max: 253, def: 60,
		},
		doc: "What a node that may not take over has less in priority. It must exceed the difference between the nodes' " +
			"priorities in keepalived.conf.",
	},
	{
		name:  "MaxLag",
		value: &seconds{at: func(s scope) *time.Duration { return &s.cfg.Sync.Ready.MaxLag }, def: time.Second},
		doc: "How long changes may wait, and messages may be missing, while the node counts as in sync. A node that may take " +
			"over keeps that for as long after it is no longer in sync.",
	},
	{
		name:  "StartGrace",
		value: &seconds{at: func(s scope) *time.Duration { return &s.cfg.Sync.Ready.StartGrace }, def: 10 * time.Second},
		doc:   "A node that has heard no peer for so long after its start may take over.",
	},
	{
		name:  "GiveUp",
		value: &seconds{at: func(s scope) *time.Duration { return &s.cfg.Sync.Ready.GiveUp }, def: 300 * time.Second, onOff: true},
		doc: "A node that has come no closer to being in sync for so long may take over all the same. on and 0 are 300 " +
			"seconds; off is never.",
	},
}

// in returns a clause of the modes for the Sync block itself. unless reports whether to print
// it in the mode's block instead.
func in(c clause, unless func(scope) bool) clause {
	c.unless = unless
	return c
}

const (
	docFTFW    = "Reliable: messages are numbered, acknowledged and sent again when lost. For two nodes."
	docALARM   = "Unreliable: every state is sent again periodically, and expires on nodes that no longer receive it."
	docDefault = "The link with Default is used first; without Default, the first link."
	docNOTRACK = "Unreliable: every change is sent once."
)

var (
	refreshTime = clause{
		name:  "RefreshTime",
		live:  true,
		value: &seconds{at: func(s scope) *time.Duration { return &s.cfg.Sync.RefreshTime }, def: 60 * time.Second},
		doc:   "A state is sent again at random intervals of up to this many seconds.",
	}
	cacheTimeout = clause{
		name:  "CacheTimeout",
		live:  true,
		value: &seconds{at: func(s scope) *time.Duration { return &s.cfg.Sync.CacheTimeout }, def: 180 * time.Second},
		doc:   "A state in the external cache expires if it is not refreshed for this long.",
	}
	commitTimeout = clause{
		name:  "CommitTimeout",
		live:  true,
		value: &seconds{at: func(s scope) *time.Duration { return &s.cfg.Sync.CommitTimeout }},
		doc: "The timeout of flows that are committed to the kernel. Without it they keep the rest of their own. It " +
			"is ignored with DisableExternalCache.",
	}
	purgeTimeout = clause{
		name:  "PurgeTimeout",
		live:  true,
		value: &seconds{at: func(s scope) *time.Duration { return &s.cfg.Sync.PurgeTimeout }, def: 60 * time.Second},
		doc:   "The delay between `conntrackd -t` and the flush of the kernel's table.",
	}
	disableExternalCache = clause{
		name:  "DisableExternalCache",
		value: &boolean{at: func(s scope) *bool { return &s.cfg.Sync.DisableExternalCache }},
		doc:   "Inject the states of other nodes into the kernel's table at once, without a cache.",
	}
	startupResync = clause{
		name:  "StartupResync",
		live:  true,
		value: &boolean{at: func(s scope) *bool { return &s.cfg.Sync.StartupResync }},
		doc:   "Request a resync from the other node at start.",
	}
)

var ftfwClauses = []clause{
	{
		name: "ResendQueueSize",
		live: true,
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.Sync.ResendQueueSize }, max: maxInt, def: defaultResendQueueSize,
		},
		doc: "The largest number of messages kept until the other node acknowledges them.",
	},
	{
		name: "ACKWindowSize",
		live: true,
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.Sync.ACKWindowSize }, max: maxInt, def: defaultACKWindowSize,
		},
		doc: "Messages received per acknowledgement.",
	},
	commitTimeout,
	purgeTimeout,
	disableExternalCache,
	startupResync,
}

var alarmClauses = []clause{refreshTime, cacheTimeout, commitTimeout, purgeTimeout}

var notrackClauses = []clause{
	{
		name:  "DisableInternalCache",
		value: &boolean{at: func(s scope) *bool { return &s.cfg.Sync.DisableInternalCache }},
		doc:   "Send events as they arrive, without a cache of the kernel's table.",
	},
	commitTimeout,
	purgeTimeout,
	disableExternalCache,
	startupResync,
}

// mode is the Mode clause with its three blocks.
type mode [3]block

var modeNames = [3]string{ModeFTFW: "FTFW", ModeALARM: "ALARM", ModeNOTRACK: "NOTRACK"}

// oldModeNames have warnings of their own; the first one's ends in a newline.
var oldModeNames = []struct {
	name    string
	mode    Mode
	warning string
}{
	{"NACK", ModeFTFW, "Now `nack' mode is called `ftfw'. Please, update your conntrackd.conf file.\n"},
	{"PERSISTENT", ModeALARM, "Now `persistent' mode is called `alarm'. Please, update your conntrackd.conf file."},
}

// String returns the mode's name in the file.
func (m Mode) String() string { return modeNames[m] }

func (v *mode) blocks() []*block { return []*block{&v[0], &v[1], &v[2]} }
func (v *mode) syntax() string   { return "FTFW | ALARM | NOTRACK { ... }" }
func (v *mode) standard() string { return "FTFW" }

func (v *mode) field(s scope) any { return &s.cfg.Sync.Mode }

func (v *mode) reset(s scope) {
	s.cfg.Sync.Mode = ModeFTFW
	for i := range v {
		v[i].reset(s)
	}
}

func (v *mode) read(p *parser, c *clause, s scope, at Pos) *Error {
	m, err := p.mode()
	if err != nil {
		return err
	}
	field := &s.cfg.Sync.Mode
	before, twice := p.cfg.pos[field]
	switch {
	case twice && m > *field:
		p.warn(at, OnCheck, "Mode "+m.String()+" does not count beside Mode "+field.String())
	case twice && m < *field:
		p.warn(before, OnCheck, "Mode "+field.String()+" does not count beside Mode "+m.String())
		fallthrough
	case !twice:
		*field = m
		p.cfg.pos[field] = at
	}
	return p.body(&v[m], s)
}

// mode parses the name of a mode, in any letter case.
func (p *parser) mode() (Mode, *Error) {
	if p.tok.kind == tokenWord {
		for _, old := range oldModeNames {
			if strings.EqualFold(old.name, p.tok.text) {
				p.warn(p.next().pos, Always, old.warning)
				return old.mode, nil
			}
		}
	}
	i, err := p.oneOf(true, modeNames[:]...)
	return Mode(i), err
}

func (v *mode) print(w *printer, c *clause, s scope) {
	m := s.cfg.Sync.Mode
	w.block("Mode "+m.String(), true, func() { w.clauses(&v[m], s) })
}

// expectationSync is on, off or a list of helpers.
type expectationSync struct{}

func (*expectationSync) syntax() string   { return "on | off | { HELPER ... }" }
func (*expectationSync) standard() string { return "off" }

func (*expectationSync) field(s scope) any { return &s.cfg.Sync.ExpectationSync }

func (*expectationSync) reset(s scope) {
	s.cfg.Sync.ExpectationSync, s.cfg.Sync.ExpectationHelpers = false, nil
}

func (*expectationSync) read(p *parser, c *clause, s scope, at Pos) *Error {
	field, helpers := &s.cfg.Sync.ExpectationSync, &s.cfg.Sync.ExpectationHelpers
	if p.tok.kind == tokenOpen {
		p.cfg.pos[field] = at
		*field = true
		const expected = "the name of a helper"
		return p.items("ExpectationSync", expected, func(t token) *Error {
			if !p.isName(t.text) {
				return p.mismatch(t, expected)
			}
			if _, twice := p.helpers[t.text]; !twice {
				p.helpers[t.text] = struct{}{}
				*helpers = append(*helpers, t.text)
			}
			return nil
		})
	}
	on, err := p.flag()
	if err != nil {
		err.Expected = `on, off or "{" and the names of helpers`
		return err
	}
	p.mark(field, c, at)
	*field, *helpers = on, nil
	clear(p.helpers)
	return nil
}

func (*expectationSync) print(w *printer, c *clause, s scope) {
	on, helpers := s.cfg.Sync.ExpectationSync, s.cfg.Sync.ExpectationHelpers
	switch {
	case on && len(helpers) > 0:
		w.block(c.name, true, func() {
			for _, name := range helpers {
				w.line(name)
			}
		})
	case on || w.all:
		w.line(c.name, onOff(on))
	}
}

const (
	defaultResendQueueSize = 131072
	defaultACKWindowSize   = 300
)
