package report

import (
	"strconv"
	"time"

	"ctbox/nl/format"
	"ctbox/sync/node"
	"ctbox/sync/wire"
)

// Section is a part of the numbers, as `-s` names it; JSON has them all, or one.
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
)

// AppendStatusJSON appends the numbers as one JSON object and a newline: those of
// one section or All. Its members are listed in docs/conntrackd.md; the
// programs that read them rely on their names.
func AppendStatusJSON(dst []byte, s *node.Status, l *Local, section Section) []byte {
	o := object{append(dst, '{')}
	o.text("mode", modeNames[s.Mode])
	has := func(of Section) bool { return section == All || section == of }
	if has(SectionRuntime) {
		o.seconds("uptime", s.Uptime)
	}
	if has(SectionCache) {
		o.open("caches")
		internal, external := cacheNames(s.Mode)
		o.cache(internal, &s.Internal, s.ExpectationSync)
		o.cache(external, &s.External, s.ExpectationSync)
		o.close()
		o.open("traffic")
		o.uint("bytes", s.Traffic.Bytes)
		o.uint("packets", s.Traffic.Packets)
		o.close()
	}
	if has(SectionLink) && s.Mode.Sync() {
		o.list("links", len(s.Links), func(i int) { o.link(&s.Links[i]) })
	}
	if has(SectionNetwork) && s.Mode.Sync() {
		o.network(s)
	}
	if has(SectionQueue) && s.Mode.Sync() {
		o.list("queues", len(s.Queues.Queues), func(i int) {
			q := &s.Queues.Queues[i]
			o.text("name", q.Name)
			o.uint("length", q.Len)
			if q.Max != 0 {
				o.uint("limit", q.Max)
			}
			o.uint("full", q.NoSpace)
		})
	}
	if has(SectionRuntime) {
		o.runtime(s, l)
	}
	if has(SectionTasks) {
		o.list("tasks", len(s.Tasks), func(i int) {
			t := &s.Tasks[i]
			o.text("type", taskTypes[t.Type])
			o.seconds("running", t.Running)
			o.uint("done", t.Done)
		})
	}
	if has(SectionHelpers) && l.Helpers != nil {
		o.helpers(l.Helpers)
	}
	o.close()
	return append(o.dst, '\n')
}

// helpers appends what `-s helpers` has.
func (o *object) helpers(h *Helpers) {
	o.open("helpers")
	for _, c := range helperCounts(h) {
		o.uint(c.name, c.n)
	}
	o.close()
}

// helperCounts are the numbers of helpers with their names in JSON.
func helperCounts(h *Helpers) [8]namedCount {
	return [...]namedCount{
		{"packets", h.Packets}, {"unread", h.Unread}, {"dropped", h.Dropped}, {"rewritten", h.Rewritten},
		{"expectations", h.Expectations}, {"expectations_refused", h.Refused}, {"verdicts_refused", h.Verdicts},
		{"overruns", h.Overruns},
	}
}

// AppendResendQueueJSON appends `-s rsqueue` as a JSON object and a newline.
func AppendResendQueueJSON(dst []byte, queue []node.Resend) []byte {
	o := object{append(dst, '{')}
	o.list("resend_queue", len(queue), func(i int) {
		e := &queue[i]
		if e.Control {
			o.text("type", "control")
			o.uint("flags", uint64(e.Flags))
		} else {
			o.text("type", "object")
		}
		o.uint("seq", uint64(e.Seq))
	})
	o.close()
	return append(o.dst, '\n')
}

var modeNames = [...]string{node.ModeNone: "none", node.ModeStats: "stats", node.ModeFTFW: "ftfw",
	node.ModeALARM: "alarm", node.ModeNOTRACK: "notrack"}

var cacheKinds = [...]string{node.CacheStored: "cache", node.CacheBypass: "bypass", node.CacheInject: "inject"}

// The values of "transport" and "state", which metrics have as labels.
var (
	transportNames = [...]string{node.Multicast: "multicast", node.UDP: "udp", node.TCP: "tcp"}
	linkStateNames = [...]string{node.LinkDown: "down", node.LinkNoCarrier: "no-carrier", node.LinkRunning: "running"}
)

// object writes the members of JSON objects, one within another.
type object struct{ dst []byte }

func (o *object) name(name string) {
	if last := o.dst[len(o.dst)-1]; last != '{' && last != '[' {
		o.dst = append(o.dst, ',')
	}
	o.dst = append(append(append(o.dst, '"'), name...), '"', ':')
}

func (o *object) open(name string) {
	o.name(name)
	o.dst = append(o.dst, '{')
}

func (o *object) close() { o.dst = append(o.dst, '}') }

// list writes an array of n objects.
func (o *object) list(name string, n int, element func(int)) {
	o.name(name)
	o.dst = append(o.dst, '[')
	for i := range n {
		if i > 0 {
			o.dst = append(o.dst, ',')
		}
		o.dst = append(o.dst, '{')
		element(i)
		o.close()
	}
	o.dst = append(o.dst, ']')
}

func (o *object) uint(name string, n uint64) {
	o.name(name)
	o.dst = strconv.AppendUint(o.dst, n, 10)
}

func (o *object) bool(name string, b bool) {
	o.name(name)
	o.dst = strconv.AppendBool(o.dst, b)
}

func (o *object) text(name, text string) {
	o.name(name)
	o.dst = format.AppendJSONString(o.dst, []byte(text))
}

func (o *object) seconds(name string, d time.Duration) {
	o.name(name)
	o.dst = appendSeconds(o.dst, d)
}

// appendSeconds appends a duration as seconds with a fraction where it has one.
func appendSeconds(dst []byte, d time.Duration) []byte {
	return strconv.AppendFloat(dst, max(d, 0).Seconds(), 'f', -1, 64)
}

func (o *object) cache(name string, c *node.CacheStatus, expects bool) {
	if c.Kind == node.CacheAbsent {
		return
	}
	o.open(name)
	o.text("kind", cacheKinds[c.Kind])
	o.table("flows", c.Kind, &c.Flows)
	if expects {
		o.table("expectations", c.Kind, &c.Expects)
	}
	o.close()
}

func (o *object) table(name string, kind node.CacheKind, t *node.TableStatus) {
	o.open(name)
	if kind == node.CacheStored {
		o.uint("active", t.Active)
		o.uint("objects", t.Objects)
		if t.Limit != 0 {
			o.uint("limit", t.Limit)
		}
		o.uint("memory", t.Bytes)
	}
	o.uint("created", t.Created)
	o.uint("updated", t.Updated)
	o.uint("destroyed", t.Destroyed)
	if kind != node.CacheBypass {
		o.uint("create_failed", t.CreateFailed)
	}
	switch kind {
	case node.CacheStored:
		o.uint("no_space", t.NoSpace)
	case node.CacheInject:
		o.uint("update_failed", t.UpdateFailed)
		o.uint("destroy_failed", t.DestroyFailed)
	}
	o.close()
}

func (o *object) link(l *node.LinkStatus) {
	o.text("transport", transportNames[l.Transport])
	o.text("interface", l.Interface)
	o.text("state", linkStateNames[l.State])
	o.bool("active", l.Active)
	if l.Transport == node.TCP {
		o.bool("server_connected", l.ServerConnected)
		o.bool("client_connected", l.ClientConnected)
	}
	for _, c := range linkCounters(l) {
		o.open(c.direction)
		o.uint("bytes", c.bytes)
		o.uint("packets", c.packets)
		o.uint("errors", c.errors)
		o.close()
	}
	o.uint("refused", l.Refused)
	if l.Heard {
		o.seconds("last_message", l.LastMessage)
	}
}

type directionCounters struct {
	direction              string
	bytes, packets, errors uint64
}

func linkCounters(l *node.LinkStatus) [2]directionCounters {
	return [...]directionCounters{
		{"sent", l.BytesSent, l.PacketsSent, l.ErrorsSent},
		{"received", l.BytesRecv, l.PacketsRecv, l.ErrorsRecv},
	}
}

// malformed are the reasons to refuse a message, as JSON and metrics name them.
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

// unsaid are messages that were not sent because the protocol has no place for what they
// are about, by reason.
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
	o.open("malformed")
	for _, c := range malformed(s) {
		o.uint(c.name, c.n)
	}
	o.close()
	o.uint("lost", s.Wire.Lost)
	o.uint("before", s.Wire.Before)
	o.list("peers", len(s.Peers), func(i int) {
		p := &s.Peers[i]
		o.text("address", p.Addr.Addr().String())
		o.seconds("last_message", p.LastMessage)
		o.uint("messages", p.Messages)
		o.bool("ignored", p.Ignored)
		o.uint("missing", p.Incomplete)
	})
	r := &s.Replica
	o.open("replication")
	for _, c := range [...]namedCount{
		{"sent", r.Sent}, {"received", r.Received}, {"resent", r.Resent},
		{"nacks_sent", r.NacksSent}, {"nacks_received", r.NacksRecv},
		{"resyncs_asked", r.ResyncsAsked}, {"resyncs_served", r.ResyncsServed},
		{"given_up", r.GivenUp}, {"third_node", r.ThirdNode},
		{"pending", r.Pending}, {"unacknowledged", r.Unacked},
	} {
		o.uint(c.name, c.n)
	}
	o.seconds("lag", r.Lag)
	o.open("unsaid")
	for _, c := range unsaid(s) {
		o.uint(c.name, c.n)
	}
	o.close()
	o.close()
}

func (o *object) runtime(s *node.Status, l *Local) {
	k := &s.Kernel
	o.open("kernel")
	for _, c := range [...]namedCount{
		{"events", k.Events}, {"filtered", k.Filtered}, {"unknown_events", k.UnknownEvents},
		{"failed_events", k.FailedEvents}, {"unknown_dumps", k.UnknownDumps}, {"overruns", k.Overruns}, {"lost", k.Lost}, {"missing", k.Missing},
		{"flushes", k.Flushes}, {"resyncs", k.Resyncs}, {"buffer_size", k.BufferSize},
		{"limit_reached", k.LimitReached},
	} {
		o.uint(c.name, c.n)
	}
	o.close()
	o.uint("tasks_failed", s.TaskFail)
	o.open("control")
	o.uint("read_failed", l.ReadFailed)
	o.uint("unknown_requests", l.Unknown)
	o.uint("refused", l.Refused)
	o.uint("dropped", l.Dropped)
	o.close()
	if !s.Mode.Sync() {
		return
	}
	c := &s.Commits
	o.open("commits")
	o.uint("count", c.Count)
	o.bool("running", c.Running)
	if c.Count > 0 {
		o.open("last")
		o.seconds("age", c.Age)
		o.seconds("took", c.Last.Took)
		o.uint("missing", c.Last.Missing)
		if c.Last.Tables&node.Flows != 0 {
			o.committed("flows", &c.Last.Flows)
		}
		if c.Last.Tables&node.Expects != 0 {
			o.committed("expectations", &c.Last.Expects)
		}
		if refused := c.Last.Refused; len(refused) > 0 {
			o.list("refused", len(refused), func(i int) {
				o.text("reason", refused[i].Reason)
				o.text("entry", refused[i].Entry)
			})
		}
		o.close()
	}
	o.close()
}

func (o *object) committed(name string, c *node.CommitCount) {
	o.open(name)
	o.uint("committed", c.Committed)
	o.uint("failed", c.Failed)
	o.close()
}
