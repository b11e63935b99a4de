package report

import (
	"strconv"
	"time"

	"ctbox/internal/export"
	"ctbox/internal/jsonout"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/link"
	"ctbox/sync/node"
	"ctbox/sync/replicate"
	"ctbox/sync/wire"
)

// Section is a part of the statistics, with the name that `-s` uses.
type Section uint8

// The sections that JSON can be limited to.
const (
	All Section = iota
	SectionNetwork
	SectionCache
	SectionRuntime
	SectionLink
	SectionQueue
	SectionTasks
	SectionHelpers
	SectionExports
	SectionPeers
)

// AppendStatusJSON appends the statistics as one JSON object and a newline: one section or
// All. docs/conntrackd.md lists its members; other programs rely on their names.
func AppendStatusJSON(dst []byte, s *node.Status, l *Local, section Section) []byte {
	o := object{jsonout.Object{Dst: append(dst, '{')}}
	o.Text("mode", modeNames[s.Mode])
	has := func(of Section) bool { return section == All || section == of }
	if has(SectionRuntime) {
		o.seconds("uptime", s.Uptime)
	}
	if has(SectionCache) {
		o.Open("caches")
		internal, external := cacheNames(s.Mode)
		o.cache(internal, &s.Internal, s.ExpectationSync)
		o.cache(external, &s.External, s.ExpectationSync)
		o.cache("standby", &s.Standby, false)
		o.End()
		o.Open("traffic")
		o.Uint("bytes", s.Traffic.Bytes)
		o.Uint("packets", s.Traffic.Packets)
		o.End()
	}
	if has(SectionLink) && s.Mode.Sync() {
		o.List("links", len(s.Links), func(i int) { o.link(&s.Links[i]) })
	}
	if has(SectionNetwork) && s.Mode.Sync() {
		o.network(s)
	}
	if section == SectionPeers && s.Mode.Sync() {
		o.peers(s) // otherwise they are in the network's section
	}
	if has(SectionQueue) && s.Mode.Sync() {
		o.List("queues", len(s.Queues.Queues), func(i int) {
			q := &s.Queues.Queues[i]
			o.Text("name", q.Name)
			o.Uint("length", q.Len)
			if q.Max != 0 {
				o.Uint("limit", q.Max)
			}
			o.Uint("full", q.NoSpace)
		})
	}
	if has(SectionRuntime) {
		o.runtime(s, l)
	}
	if has(SectionTasks) {
		o.List("tasks", len(s.Tasks), func(i int) {
			t := &s.Tasks[i]
			o.Text("type", taskTypes[t.Type])
			o.seconds("running", t.Running)
			o.Uint("done", t.Done)
		})
	}
	if has(SectionHelpers) && l.Helpers != nil {
		o.helpers(l.Helpers)
	}
	if has(SectionExports) && len(l.Exports) > 0 {
		o.exports(l.Exports)
	}
	if has(SectionPeers) && s.Mode.Sync() {
		o.ready(s)
	}
	o.End()
	return append(o.Dst, '\n')
}

// helpers appends the section helpers.
func (o *object) helpers(h *Helpers) {
	o.Open("helpers")
	for _, c := range helperCounts(h) {
		o.Uint(c.name, c.n)
	}
	o.End()
}

// helperCounts are the counters of helpers with their names in JSON.
func helperCounts(h *Helpers) [8]namedCount {
	return [...]namedCount{
		{"packets", h.Packets}, {"unread", h.Unread}, {"dropped", h.Dropped}, {"rewritten", h.Rewritten},
		{"expectations", h.Expectations}, {"expectations_refused", h.Refused}, {"verdicts_refused", h.Verdicts},
		{"overruns", h.Overruns},
	}
}

// exports appends what `-s export` has.
func (o *object) exports(all []export.Status) {
	o.List("exports", len(all), func(i int) {
		e := &all[i]
		o.Text("name", e.Name)
		for _, c := range exportCounts(e) {
			o.Uint(c.name, c.n)
		}
		if e.Error != "" {
			o.Text("error", e.Error)
		}
	})
}

// exportCounts are the numbers of an exporter with their names in JSON.
func exportCounts(e *export.Status) [11]namedCount {
	return [...]namedCount{
		{"records", e.Made}, {"sent", e.Sent}, {"queued", e.Queued}, {"thrown_away", e.ThrownAway}, {"resent", e.Resent}, {"messages", e.Messages},
		{"failures", e.Failures}, {"reconnects", e.Reconnects}, {"events_lost", e.EventsLost}, {"flows", e.Flows}, {"flows_now", e.FlowsNow},
	}
}

// AppendResendQueueJSON appends `-s rsqueue` as a JSON object and a newline.
func AppendResendQueueJSON(dst []byte, queue []replicate.Resend) []byte {
	o := object{jsonout.Object{Dst: append(dst, '{')}}
	o.List("resend_queue", len(queue), func(i int) {
		e := &queue[i]
		if e.Control {
			o.Text("type", "control")
			o.Uint("flags", uint64(e.Flags))
		} else {
			o.Text("type", "object")
		}
		o.Uint("seq", uint64(e.Seq))
	})
	o.End()
	return append(o.Dst, '\n')
}

var modeNames = [...]string{node.ModeNone: "none", node.ModeStats: "stats", node.ModeFTFW: "ftfw",
	node.ModeALARM: "alarm", node.ModeNOTRACK: "notrack"}

var cacheKinds = [...]string{node.CacheStored: "cache", node.CacheBypass: "bypass", node.CacheInject: "inject"}

// The values of "transport" and "state", which metrics have as labels.
var (
	transportNames = [...]string{link.Multicast: "multicast", link.UDP: "udp", link.TCP: "tcp"}
	linkStateNames = [...]string{link.Down: "down", link.NoCarrier: "no-carrier", link.Running: "running"}
)

// object writes the members of JSON objects, one within another.
type object struct{ jsonout.Object }

func (o *object) seconds(name string, d time.Duration) {
	o.Name(name)
	o.Dst = appendSeconds(o.Dst, d)
}

// appendSeconds appends a duration as seconds with a fraction where it has one.
func appendSeconds(dst []byte, d time.Duration) []byte {
	return strconv.AppendFloat(dst, max(d, 0).Seconds(), 'f', -1, 64)
}

func (o *object) cache(name string, c *node.CacheStatus, expects bool) {
	if c.Kind == node.CacheAbsent {
		return
	}
	o.Open(name)
	o.Text("kind", cacheKinds[c.Kind])
	o.table("flows", c.Kind, &c.Flows)
	if expects {
		o.table("expectations", c.Kind, &c.Expects)
	}
	o.End()
}

func (o *object) table(name string, kind node.CacheKind, t *cache.TableStatus) {
	o.Open(name)
	if kind == node.CacheStored {
		o.Uint("active", t.Active)
		o.Uint("objects", t.Objects)
		if t.Limit != 0 {
			o.Uint("limit", t.Limit)
		}
		o.Uint("memory", t.Bytes)
	}
	o.Uint("created", t.Created)
	o.Uint("updated", t.Updated)
	o.Uint("destroyed", t.Destroyed)
	if kind != node.CacheBypass {
		o.Uint("create_failed", t.CreateFailed)
	}
	switch kind {
	case node.CacheStored:
		o.Uint("no_space", t.NoSpace)
	case node.CacheInject:
		o.Uint("update_failed", t.UpdateFailed)
		o.Uint("destroy_failed", t.DestroyFailed)
	}
	o.End()
}

func (o *object) link(l *replicate.LinkStatus) {
	o.Text("transport", transportNames[l.Transport])
	o.Text("interface", l.Interface)
	o.Text("state", linkStateNames[l.State])
	o.Bool("active", l.Active)
	if l.Transport == link.TCP {
		o.Bool("server_connected", l.ServerConnected)
		o.Bool("client_connected", l.ClientConnected)
	}
	for _, c := range linkCounters(l) {
		o.Open(c.direction)
		o.Uint("bytes", c.bytes)
		o.Uint("packets", c.packets)
		o.Uint("errors", c.errors)
		o.End()
	}
	o.Uint("refused", l.Refused)
	if l.Heard {
		o.seconds("last_message", l.LastMessage)
	}
}

type directionCounters struct {
	direction              string
	bytes, packets, errors uint64
}

func linkCounters(l *replicate.LinkStatus) [2]directionCounters {
	return [...]directionCounters{
		{"sent", l.BytesSent, l.PacketsSent, l.ErrorsSent},
		{"received", l.BytesRecv, l.PacketsRecv, l.ErrorsRecv},
	}
}

// malformed are the counters of refused messages, with the reasons' names in JSON and metrics.
func malformed(s *node.Status) [6]namedCount {
	c := &s.Wire.Received
	return [...]namedCount{
		{"truncated", c.Truncated},
		{"bad_size", c.BadSize},
		{"bad_version", c.BadVersion},
		{"bad_header", c.BadHeader},
		{"bad_type", c.BadType},
		{"bad_payload", c.BadPayload},
	}
}

// unsaid are the counters of messages that were not sent because the protocol cannot represent
// their objects, with the reasons' names.
func unsaid(s *node.Status) [wire.Reasons - 1]namedCount {
	u := &s.Replica.Unsaid
	return [...]namedCount{
		{"one_way_zone", u[wire.OneWayZone]},
		{"gre_keys", u[wire.GREKeys]},
		{"udplite_ports", u[wire.UDPLitePorts]},
		{"icmp_id", u[wire.ICMPID]},
		{"expect_zone", u[wire.ExpectZone]},
		{"expect_nat6", u[wire.ExpectNAT6]},
	}
}

type namedCount struct {
	name string
	n    uint64
}

func (o *object) network(s *node.Status) {
	o.Open("malformed")
	for _, c := range malformed(s) {
		o.Uint(c.name, c.n)
	}
	o.End()
	o.Uint("lost", s.Wire.Lost)
	o.Uint("before", s.Wire.Before)
	o.peers(s)
	o.cluster(&s.Cluster)
	r := &s.Replica
	o.Open("replication")
	for _, c := range [...]namedCount{
		{"sent", r.Sent}, {"received", r.Received}, {"resent", r.Resent},
		{"nacks_sent", r.NacksSent}, {"nacks_received", r.NacksRecv},
		{"resyncs_asked", r.ResyncsAsked}, {"resyncs_served", r.ResyncsServed},
		{"given_up", r.GivenUp}, {"third_node", r.ThirdNode}, {"ended_by_peer", r.EndedByPeer},
		{"pending", r.Pending}, {"unacknowledged", r.Unacked}, {"waiting", r.Waiting},
	} {
		o.Uint(c.name, c.n)
	}
	o.seconds("lag", r.Lag)
	o.Open("unsaid")
	for _, c := range unsaid(s) {
		o.Uint(c.name, c.n)
	}
	o.End()
	o.End()
}

func (o *object) runtime(s *node.Status, l *Local) {
	k := &s.Kernel
	o.Open("kernel")
	for _, c := range [...]namedCount{
		{"events", k.Events}, {"filtered", k.Filtered}, {"unknown_events", k.UnknownEvents},
		{"failed_events", k.FailedEvents}, {"unknown_dumps", k.UnknownDumps}, {"overruns", k.Overruns}, {"lost", k.Lost}, {"missing", k.Missing},
		{"flushes", k.Flushes}, {"resyncs", k.Resyncs}, {"buffer_size", k.BufferSize},
		{"limit_reached", k.LimitReached},
	} {
		o.Uint(c.name, c.n)
	}
	o.End()
	o.Uint("tasks_failed", s.TaskFail)
	o.Open("control")
	o.Uint("read_failed", l.ReadFailed)
	o.Uint("unknown_requests", l.Unknown)
	o.Uint("refused", l.Refused)
	o.Uint("dropped", l.Dropped)
	o.End()
	if !s.Mode.Sync() {
		return
	}
	c := &s.Commits
	o.Open("commits")
	o.Uint("count", c.Count)
	o.Bool("running", c.Running)
	if c.Count > 0 {
		o.Open("last")
		o.seconds("age", c.Age)
		o.commit(&c.Last)
		o.End()
	}
	o.End()
}

func (o *object) committed(name string, c *commit.Count) {
	o.Open(name)
	o.Uint("committed", c.Committed)
	o.Uint("failed", c.Failed)
	o.End()
}
