package conf

import (
	"net/netip"
	"time"
)

// grammar is the table: the whole file as a block. Clauses are in the order of the printed
// file and of the reference. It never changes after start.
var grammar = block{
	title: "conntrackd.conf",
	clauses: []clause{
		{
			name: "General",
			doc:  "Settings of the daemon for every mode.",
			value: &group{block: &block{
				title:   "General",
				syntax:  "{ ... }",
				clauses: generalClauses,
			}},
		},
		{
			name: "Sync",
			doc: "Replicates the states of flows to other nodes. It cannot be combined with Stats. Without a Mode " +
				"the mode is FTFW. There may be up to four dedicated links, all with one transport.",
			value: &group{
				block:     &block{title: "Sync", syntax: "{ ... }", clauses: syncClauses},
				instances: true,
				enter:     enterSync,
				each: func(s scope) []instance {
					if s.cfg.Sync == nil {
						return nil
					}
					return []instance{{"Sync", s, s.cfg.Sync}}
				},
				always: true,
			},
		},
		{
			name: "Stats",
			doc:  "Collects statistics and logs flows that end. It cannot be combined with Sync.",
			value: &group{
				block:     &block{title: "Stats", syntax: "{ ... }", clauses: statsClauses},
				instances: true,
				enter:     enterStats,
				each: func(s scope) []instance {
					if s.cfg.Stats == nil {
						return nil
					}
					return []instance{{"Stats", s, s.cfg.Stats}}
				},
				always: true,
			},
		},
		{
			name: "Helper",
			doc:  "Runs connection tracking helpers in user space, alone or together with Sync or Stats.",
			value: &group{
				block:     &block{title: "Helper", syntax: "{ ... }", clauses: helperClauses},
				instances: true,
				enter:     enterHelper,
				each: func(s scope) []instance {
					if s.cfg.Helper == nil {
						return nil
					}
					return []instance{{"Helper", s, s.cfg.Helper}}
				},
				always: true,
			},
		},
		{
			name:  "Export",
			ours:  true,
			live:  true,
			doc:   "Records flows and translations, alone or together with the others; several record independently of one another.",
			value: exportGroup(),
		},
	},
}

// Default returns the Config of an empty file.
func Default() *Config {
	c := &Config{pos: make(map[any]Pos)}
	grammar.reset(scope{cfg: c})
	return c
}

const bothModes = "cannot use both `Stats' and `Sync' clauses in conntrackd.conf"

// once creates the only instance of a top-level clause, with its defaults, when the clause is
// first read. Repeated clauses add to it.
func once[T any](p *parser, s scope, at Pos, instance **T, b []clause) {
	if *instance == nil {
		*instance = new(T)
		p.cfg.pos[*instance] = at
		(&block{clauses: b}).reset(s)
	}
}

func enterSync(p *parser, s scope, at Pos) (scope, *Error) {
	if s.cfg.Stats != nil {
		return s, &Error{Pos: at, Text: bothModes}
	}
	once(p, s, at, &s.cfg.Sync, syncClauses)
	return s, nil
}

func enterStats(p *parser, s scope, at Pos) (scope, *Error) {
	if s.cfg.Sync != nil {
		return s, &Error{Pos: at, Text: bothModes}
	}
	once(p, s, at, &s.cfg.Stats, statsClauses)
	return s, nil
}

func enterHelper(p *parser, s scope, at Pos) (scope, *Error) {
	once(p, s, at, &s.cfg.Helper, helperClauses)
	return s, nil
}

var generalClauses = []clause{
	{
		name:  "Systemd",
		value: &boolean{at: func(s scope) *bool { return &s.cfg.General.Systemd }, def: true},
		doc:   "Notify systemd when the daemon is ready and when it stops, and feed its watchdog. Without systemd it has no effect.",
	},
	{
		name: "HashSize",
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.General.HashSize }, max: maxInt, def: 65536,
		},
		doc: "Buckets of the caches' hash tables.",
	},
	{
		name: "HashLimit",
		live: true,
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.General.HashLimit }, max: maxInt, def: 262144,
		},
		doc: "The largest number of objects in a cache. In a Cluster it holds for the copy of each peer's flows. Twice net.netfilter.nf_conntrack_max leaves room for ended flows " +
			"that are not acknowledged yet.",
	},
	{
		name: "LogFile",
		live: true,
		value: &logFile{
			at:      func(s scope) *string { return &s.cfg.General.LogFile },
			usual:   "/var/log/conntrackd.log",
			tooLong: "LogFile path is longer than 256 characters",
		},
		doc: "Log to a file; on is /var/log/conntrackd.log. An off does not undo a LogFile before it.",
	},
	{
		name: "Syslog",
		live: true,
		value: &facility{
			at: func(s scope) *Facility { return &s.cfg.General.Syslog },
			usual: func(s scope) Facility {
				// As in conntrack-tools, on also sets the facility of Stats, without the
				// warning about two different ones.
				if s.cfg.Stats != nil && s.cfg.Stats.Syslog != FacilityOff {
					s.cfg.Stats.Syslog = FacilityDaemon
				}
				return FacilityDaemon
			},
			unknown: "ignoring",
		},
		doc: "Log to syslog; on is daemon.",
	},
	{
		name:  "LogFormat",
		ours:  true,
		live:  true,
		value: &logFormat{at: func(s scope) *LogFormat { return &s.cfg.General.LogFormat }},
		doc: "The form of the lines in LogFile and on the console: conntrack-tools' text, or a JSON object per line. " +
			"Syslog and the log of Stats are always text.",
	},
	{
		name: "LockFile",
		value: &path{
			at:      func(s scope) *string { return &s.cfg.General.LockFile },
			def:     "/var/lock/conntrackd.lock",
			most:    maxLogPath,
			tooLong: "LockFile path is longer than 256 characters",
		},
		doc: "The file whose existence keeps a second daemon from starting.",
	},
	{
		name: "UNIX",
		doc:  "The control socket, through which conntrackd's commands reach the daemon.",
		value: &group{block: &block{
			title:  "UNIX",
			syntax: "{ ... }",
			clauses: []clause{
				{
					name: "Path",
					value: &path{
						at:      func(s scope) *string { return &s.cfg.General.UNIXPath },
						most:    107,
						tooLong: "Path is longer than 107 characters",
					},
					doc: "The path of the socket. Without it the daemon cannot be controlled.",
				},
				{
					name:    "Backlog",
					value:   &ignored{skip: skipNumber, form: "N"},
					warning: "deprecated unix backlog configuration, ignoring.",
					doc:     "Ignored.",
				},
			},
		}},
	},
	{
		name: "Metrics",
		ours: true,
		doc:  "Serves the output of `conntrackd -s metrics` over HTTP, as http://ADDRESS:PORT/metrics.",
		live: true,
		value: &group{block: &block{
			title:  "Metrics",
			syntax: "{ ... }",
			clauses: []clause{{
				name:  "Listen",
				value: &listen{at: func(s scope) *netip.AddrPort { return &s.cfg.General.MetricsListen }},
				doc: "The address and TCP port, as 127.0.0.1:9107 or [::1]:9107. There is no encryption and no authentication: " +
					"restrict access to other addresses than the loopback ones by firewall rules.",
			}},
		}},
	},
	{
		name:    "NetlinkBufferSize",
		live:    true,
		aliases: []string{"SocketBufferSize"},
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.General.NetlinkBufferSize }, max: maxInt,
		},
		doc: "Initial receive buffer of the event socket in bytes. Without it, or above NetlinkBufferSizeMaxGrowth, " +
			"the buffer is sized for bursts of events: 1/32 of the memory rounded up to a power of two, at least " +
			"8 MiB and at most 256 MiB. Memory is used only while events wait.",
	},
	{
		name:    "NetlinkBufferSizeMaxGrowth",
		live:    true,
		aliases: []string{"SocketBufferSizeMaxGrown", "SocketBufferSizeMaxGrowth"},
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.General.NetlinkBufferSizeMaxGrowth }, max: maxInt,
		},
		doc: "The size in bytes up to which the buffer is doubled when events were lost. A buffer below the default of " +
			"NetlinkBufferSize first grows to that default in one step, regardless of this limit.",
	},
	{
		name:  "NetlinkBufferSizeFixed",
		ours:  true,
		live:  true,
		value: &boolean{at: func(s scope) *bool { return &s.cfg.General.NetlinkBufferSizeFixed }},
		doc: "on sizes the buffer as conntrack-tools does: without NetlinkBufferSize it is the system's default, and it never " +
			"grows beyond NetlinkBufferSizeMaxGrowth.",
	},
	{
		name: "NetlinkOverrunResync",
		live: true,
		value: &seconds{
			at:    func(s scope) *time.Duration { return &s.cfg.General.NetlinkOverrunResync },
			def:   30 * time.Second,
			onOff: true,
		},
		doc: "After a loss of events the caches are compared with the kernel's table within a second. If another loss " +
			"follows soon, the next comparison waits for this time, and each further one twice as long, up to 8 minutes. " +
			"on and 0 are 30 seconds; off disables the comparison.",
	},
	{
		name:  "NetlinkEventsReliable",
		value: &boolean{at: func(s scope) *bool { return &s.cfg.General.NetlinkEventsReliable }},
		doc:   "Make the kernel redeliver events that did not fit the buffer. Meanwhile it drops packets.",
	},
	{
		name: "PollSecs",
		value: &seconds{
			at: func(s scope) *time.Duration { return &s.cfg.General.PollInterval }, min: 1,
			tooFar: "`PollSecs' clause must be > 0",
		},
		doc: "Dump the kernel's table at this interval instead of listening to events.",
	},
	{
		name: "EventIterationLimit",
		live: true,
		value: &number[uint32]{
			at: func(s scope) *uint32 { return &s.cfg.General.EventIterationLimit }, max: maxInt, def: 100,
		},
		doc: "Events handled in a row before messages of peers and commands are handled.",
	},
	{
		name:    "Nice",
		value:   &ignored{skip: skipSigned, form: "+N | -N"},
		warning: "deprecated nice configuration, ignoring. The nice value can be set externally with nice(1) and renice(1).",
		doc:     "Ignored. The sign is mandatory.",
	},
	{
		name: "Scheduler",
		doc:  "The scheduling policy of the daemon; see sched(7).",
		value: &group{block: &block{
			title:  "Scheduler",
			syntax: "{ ... }",
			clauses: []clause{
				{
					name:  "Type",
					value: &scheduler{at: func(s scope) *SchedulerType { return &s.cfg.General.Scheduler.Type }},
					doc:   "The real-time policy, in any letter case.",
				},
				{
					name: "Priority",
					value: &number[uint32]{
						at: func(s scope) *uint32 { return &s.cfg.General.Scheduler.Priority }, max: 99, def: 99, keepZero: true,
						tooFar: "`Priority' must be [0, 99]",
					},
					doc: "0 to 99; sched(7) wants 1 at least.",
				},
			},
		}},
	},
	{
		name: "Filter",
		live: true,
		doc: "Selects the flows to cache and replicate. Several Filter clauses add up; the From of the last one counts. " +
			"Without From it is Userspace.",
		value: &filter{&block{
			title:   "Filter",
			syntax:  "[From Userspace | From Kernelspace] { ... }",
			clauses: filterClauses,
		}},
	},
}

var statsClauses = []clause{
	{
		name: "LogFile",
		live: true,
		value: &logFile{
			at:      func(s scope) *string { return &s.cfg.Stats.LogFile },
			usual:   "/var/log/conntrackd-stats.log",
			tooLong: "stats LogFile path is longer than 256 characters",
		},
		doc: "Log flows that end to a file; on is /var/log/conntrackd-stats.log. An off does not undo a LogFile before it.",
	},
	{
		name: "Syslog",
		live: true,
		value: &facility{
			at: func(s scope) *Facility { return &s.cfg.Stats.Syslog },
			usual: func(s scope) Facility {
				if f := s.cfg.General.Syslog; f != FacilityOff {
					return f
				}
				return FacilityDaemon
			},
			unknown: "ignoring.",
		},
		doc: "Log flows that end to syslog; on is daemon. A facility in General overrides this one.",
	},
}

func skipNumber(p *parser) *Error {
	_, err := p.number(0, maxInt, "")
	return err
}

// skipSigned skips an integer with its sign.
func skipSigned(p *parser) *Error {
	const expected = "a number with its sign, as +5 or -5"
	t, err := p.word(expected)
	if err != nil {
		return err
	}
	if sign := t.text[0]; len(t.text) < 2 || sign != '+' && sign != '-' {
		return p.mismatch(t, expected)
	}
	for _, c := range t.text[1:] {
		if c < '0' || c > '9' {
			return p.mismatch(t, expected)
		}
	}
	return nil
}
