package report

import (
	"strconv"
	"time"

	"ctbox/internal/export"
	"ctbox/sync/cache"
	"ctbox/sync/link"
	"ctbox/sync/node"
	"ctbox/sync/replicate"
	"ctbox/sync/sched"
)

// AppendSummary appends `-s ct`, or with t cache.ExpectTable `-s expect`: both caches,
// traffic, the current link and lost messages.
func AppendSummary(dst []byte, s *node.Status, t cache.Tables) []byte {
	internal, external := cacheNames(s.Mode)
	dst = appendCounts(dst, internal, &s.Internal, t)
	dst = appendCounts(dst, external, &s.External, t)
	if t == cache.FlowTable {
		dst = appendCounts(dst, "", &s.Standby, t)
	}
	dst = append(dst, "traffic processed:\n"...)
	dst = appendFields(dst,
		field{"", w20, s.Traffic.Bytes, " Bytes      "},
		field{"", w20, s.Traffic.Packets, " Pckts\n\n"})
	if !s.Mode.Sync() {
		return dst
	}
	dst = appendCurrentLink(dst, s)
	dst = append(dst, "message tracking:\n"...)
	dst = appendFields(dst,
		field{"", w20, s.Wire.Received.Malformed(), " Malformed msgs "},
		field{"", w20, s.Wire.Lost, " Lost msgs\n\n"})
	return appendMissing(dst, s)
}

// appendMissing appends how many events the peers report as lost, which our external caches
// lack, and how many this node has lost. conntrack-tools has neither.
func appendMissing(dst []byte, s *node.Status) []byte {
	if n := PeersMissing(s); n > 0 {
		dst = append(strconv.AppendUint(dst, n, 10), " events of the peer were lost and not yet made up\n\n"...)
	}
	if n := s.Kernel.Missing; n > 0 {
		dst = append(strconv.AppendUint(dst, n, 10), " events of this node were lost and not yet made up\n\n"...)
	}
	return dst
}

// PeersMissing returns how many events the peers have lost and not yet recovered.
func PeersMissing(s *node.Status) (events uint64) {
	for i := range s.Peers {
		events += s.Peers[i].Incomplete
	}
	return events
}

// appendCounts appends the counters of a cache, or of the bypass or injector in its place.
func appendCounts(dst []byte, name string, c *node.CacheStatus, table cache.Tables) []byte {
	t := of(c, table)
	switch c.Kind {
	case node.CacheStored:
		dst = append(append(append(dst, "cache "...), name...), ":\n"...)
		return appendFields(dst,
			field{"current active connections:\t", w12, t.Active, "\n"},
			field{"connections created:\t\t", w12, t.Created, ""}, field{"\tfailed:\t", w12, t.CreateFailed, "\n"},
			field{"connections updated:\t\t", w12, t.Updated, ""}, field{"\tfailed:\t", w12, t.UpdateFailed, "\n"},
			field{"connections destroyed:\t\t", w12, t.Destroyed, ""}, field{"\tfailed:\t", w12, t.DestroyFailed, "\n\n"})
	case node.CacheBypass:
		dst = append(dst, "internal bypass:\n"...)
		return appendFields(dst,
			field{"connections new:\t\t", w12, t.Created, "\n"},
			field{"connections updated:\t\t", w12, t.Updated, "\n"},
			field{"connections destroyed:\t\t", w12, t.Destroyed, "\n\n"})
	case node.CacheInject:
		dst = append(dst, "external inject:\n"...)
		return appendFields(dst,
			field{"connections created:\t\t", w12, t.Created, ""}, field{"\tfailed:\t", w12, t.CreateFailed, "\n"},
			field{"connections updated:\t\t", w12, t.Updated, ""}, field{"\tfailed:\t", w12, t.UpdateFailed, "\n"},
			field{"connections destroyed:\t\t", w12, t.Destroyed, ""}, field{"\tfailed:\t", w12, t.DestroyFailed, "\n\n"})
	}
	return dst
}

// AppendCaches appends `-s cache`.
func AppendCaches(dst []byte, s *node.Status) []byte {
	internal, external := cacheNames(s.Mode)
	dst = appendDetail(dst, internal, &s.Internal)
	return appendDetail(dst, external, &s.External)
}

func appendDetail(dst []byte, name string, c *node.CacheStatus) []byte {
	if c.Kind != node.CacheStored {
		return appendCounts(dst, name, c, cache.FlowTable)
	}
	t := &c.Flows
	dst = append(append(dst, "cache:"...), name...)
	return appendFields(dst,
		// Includes flows that have ended and are not acknowledged yet.
		field{"\tactive objects:\t\t", w12, t.Objects, "\n"},
		field{"\tactive/total entries:\t\t", w12, t.Active, "/"}, field{"", w12, t.Objects, "\n"},
		field{"\tcreation OK/failed:\t\t", w12, t.Created, "/"}, field{"", w12, t.CreateFailed, "\n"},
		// Go's allocations do not fail.
		field{"\t\tno memory available:\t", w12, 0, "\n"},
		field{"\t\tno space left in cache:\t", w12, t.NoSpace, "\n"},
		field{"\tupdate OK/failed:\t\t", w12, t.Updated, "/"}, field{"", w12, t.UpdateFailed, "\n"},
		field{"\t\tentry not found:\t", w12, 0, "\n"},
		field{"\tdeletion created/failed:\t", w12, t.Destroyed, "/"}, field{"", w12, t.DestroyFailed, "\n"},
		field{"\t\tentry not found:\t", w12, 0, "\n\n"})
}

// AppendNetwork appends `-s network`, followed by the peers, which conntrack-tools does not
// have.
func AppendNetwork(dst []byte, s *node.Status) []byte {
	c := &s.Wire.Received
	dst = append(dst, "network statistics:\n\trecv:\n"...)
	dst = appendFields(dst,
		field{"\t\tMalformed messages:\t", w20, c.Malformed(), "\n"},
		field{"\t\tWrong protocol version:\t", w20, c.BadVersion, "\n"},
		field{"\t\tMalformed header:\t", w20, c.BadHeader, "\n"},
		field{"\t\tMalformed payload:\t", w20, c.BadPayload, "\n"},
		field{"\t\tBad message type:\t", w20, c.BadType, "\n"},
		field{"\t\tTruncated message:\t", w20, c.Truncated, "\n"},
		field{"\t\tBad message size:\t", w20, c.BadSize, "\n"},
		field{"\tsend:\n\t\tMalformed messages:\t", w20, 0, "\n\n"})
	dst = append(dst, "sequence tracking statistics:\n\trecv:\n"...)
	dst = appendFields(dst,
		field{"\t\tPackets lost:\t\t", w20, s.Wire.Lost, "\n"},
		field{"\t\tPackets before:\t\t", w20, s.Wire.Before, "\n\n"})
	return appendCluster(appendPaths(appendPeers(appendCurrentLink(dst, s), s), s), s)
}

// appendCluster appends version 2 of the protocol, and which datagrams it has refused.
func appendCluster(dst []byte, s *node.Status) []byte {
	c := &s.Cluster
	if c.Version == 0 {
		return dst
	}
	dst = append(append(append(dst, "cluster "...), c.Name...), ":\n\tnode "...)
	dst = append(append(strconv.AppendUint(dst, uint64(c.Node), 10), ' '), c.NodeName...)
	dst = append(append(append(dst, "\tversion "...), versionOf(c.Version, c.Key)...), '\n')
	eachMember(s, func(m *replicate.MemberStatus) {
		dst = append(append(strconv.AppendUint(append(dst, "\tnode "...), uint64(m.Node), 10), ' '), m.Name...)
		dst = append(append(append(dst, "\tversion "...), versionOf(m.Version, m.Key)...), '\n')
	})
	dst = append(dst, "datagrams refused:\n"...)
	for i, r := range c.Refused {
		n := r.Datagrams
		eachMember(s, func(m *replicate.MemberStatus) { n += m.Refused[i].Datagrams })
		dst = append(append(append(dst, '\t'), r.Reason...), '\t')
		dst = append(strconv.AppendUint(dst, n, 10), '\n')
	}
	return append(dst, '\n')
}

// appendPeers appends when each peer last sent a message. `ctbox doctor` reads it.
func appendPeers(dst []byte, s *node.Status) []byte {
	dst = append(dst, "peers:\n"...)
	for i := range s.Peers {
		p := &s.Peers[i]
		dst = p.Addr.Addr().AppendTo(append(dst, '\t'))
		dst = appendHeard(append(dst, '\t'), true, p.LastMessage)
		if p.Ignored {
			dst = append(dst, ", ignored: a third FT-FW node"...)
		}
		dst = append(dst, '\n')
	}
	if len(s.Peers) == 0 {
		dst = append(dst, "\tnone heard"...)
		if s.Mode == node.ModeALARM {
			dst = append(dst, "; in mode ALARM a node without flows sends nothing"...)
		}
		dst = append(dst, '\n')
	}
	return append(dst, '\n')
}

// silent is the age of a peer's last message from which on the way to it is no longer known.
const silent = 5 * time.Second

// appendPaths appends what is known of the way to each peer that is heard. `ctbox doctor` reads it. In mode ALARM
// nodes announce nothing about it.
func appendPaths(dst []byte, s *node.Status) []byte {
	if s.Mode == node.ModeALARM || len(s.Peers) == 0 {
		return dst
	}
	dst = append(dst, "paths to peers:\n"...)
	for i := range s.Peers {
		p := &s.Peers[i]
		if p.Ignored || p.LastMessage >= silent {
			continue
		}
		dst = append(p.Addr.Addr().AppendTo(append(dst, '\t')), '\t')
		size := strconv.Itoa(p.PathBytes)
		switch {
		case p.OneWay:
			dst = append(dst, "no message arrives"...)
		case !p.Answers:
			dst = append(dst, "not known: the peer does not say what arrives (conntrack-tools does not)"...)
		case p.Path == replicate.PathBroken:
			dst = append(dst, "messages arrive, but no packet of "+size+" bytes"...)
		case p.Path == replicate.PathWhole:
			dst = append(dst, "messages arrive, also in packets of "+size+" bytes"...)
		default:
			dst = append(dst, "messages arrive"...)
		}
		dst = append(dst, '\n')
	}
	return append(dst, '\n')
}

// appendHeard appends the time since the last message.
func appendHeard(dst []byte, heard bool, ago time.Duration) []byte {
	if !heard {
		return append(dst, "nothing heard"...)
	}
	dst = strconv.AppendInt(append(dst, "last heard "...), int64(ago/time.Second), 10)
	return append(dst, " s ago"...)
}

// transports are the names of the transports in text output.
var transports = [...]string{link.Multicast: "multicast", link.UDP: "UDP", link.TCP: "TCP"}

var linkStates = [...]string{link.Down: "DOWN", link.NoCarrier: "NO-CARRIER", link.Running: "RUNNING"}

// appendCurrentLink appends the block of the link in use.
func appendCurrentLink(dst []byte, s *node.Status) []byte {
	for i := range s.Links {
		l := &s.Links[i]
		if !l.Active {
			continue
		}
		dst = append(append(dst, transports[l.Transport]...), " traffic (active device="...)
		dst = append(append(dst, l.Interface...), ')')
		if l.Transport == link.TCP {
			dst = append(append(dst, " server="...), connected(l.ServerConnected)...)
			dst = append(append(dst, " client="...), connected(l.ClientConnected)...)
		}
		return appendLinkCounters(append(dst, ":\n"...), l)
	}
	return dst
}

func connected(yes bool) string {
	if yes {
		return "connected"
	}
	return "disconnected"
}

func role(active bool) string {
	if active {
		return "ACTIVE"
	}
	return "BACKUP"
}

func appendLinkCounters(dst []byte, l *replicate.LinkStatus) []byte {
	return appendFields(dst,
		field{"", w20, l.BytesSent, " Bytes sent "}, field{"", w20, l.BytesRecv, " Bytes recv\n"},
		field{"", w20, l.PacketsSent, " Pckts sent "}, field{"", w20, l.PacketsRecv, " Pckts recv\n"},
		field{"", w20, l.ErrorsSent, " Error send "}, field{"", w20, l.ErrorsRecv, " Error recv\n\n"})
}

// AppendLinks appends `-s link`, followed by when each link last received a message, which
// conntrack-tools does not have.
func AppendLinks(dst []byte, s *node.Status) []byte {
	for i := range s.Links {
		l := &s.Links[i]
		dst = append(append(dst, transports[l.Transport]...), " traffic device="...)
		dst = append(append(dst, l.Interface...), " status="...)
		dst = append(append(dst, linkStates[l.State]...), " role="...)
		dst = appendLinkCounters(append(append(dst, role(l.Active)...), ":\n"...), l)
	}
	if len(s.Links) == 0 {
		return dst
	}
	dst = append(dst, "peer:\n"...)
	for i := range s.Links {
		l := &s.Links[i]
		dst = append(append(append(dst, '\t'), l.Interface...), '\t')
		dst = append(appendHeard(dst, l.Heard, l.LastMessage), '\n')
	}
	return append(dst, '\n')
}

// AppendRuntime appends `-s runtime`. Tasks take the place of conntrack-tools' child
// processes; they can fail but are never killed by a signal.
func AppendRuntime(dst []byte, s *node.Status, l *Local) []byte {
	dst = append(dst, "daemon uptime: "...)
	dst = append(appendUptime(dst, s.Uptime), "\n\n"...)
	k := &s.Kernel
	dst = append(dst, "netlink stats:\n"...)
	dst = appendFields(dst,
		field{"\tevents received:\t", w20, k.Events, "\n"},
		field{"\tevents filtered:\t", w20, k.Filtered, "\n"},
		field{"\tevents unknown type:\t\t", w12, k.UnknownEvents, "\n"},
		field{"\tcatch event failed:\t\t", w12, k.FailedEvents, "\n"},
		field{"\tdump unknown type:\t\t", w12, k.UnknownDumps, "\n"},
		field{"\tnetlink overrun:\t\t", w12, k.Overruns, "\n"},
		field{"\tflush kernel table:\t\t", w12, k.Flushes, "\n"},
		field{"\tresync with kernel table:\t", w12, k.Resyncs, "\n"},
		field{"\tcurrent buffer size (in bytes):\t", w12, k.BufferSize, "\n\n"})
	dst = append(dst, "runtime stats:\n"...)
	return appendFields(dst,
		field{"\tchild process failed:\t\t", w12, s.TaskFail, "\n"},
		field{"\t\tchild process segfault:\t", w12, 0, "\n"},
		field{"\t\tchild process termsig:\t", w12, 0, "\n"},
		field{"\tselect failed:\t\t\t", w12, 0, "\n"},
		field{"\twait failed:\t\t\t", w12, 0, "\n"},
		field{"\tlocal read failed:\t\t", w12, l.ReadFailed, "\n"},
		field{"\tlocal unknown request:\t\t", w12, l.Unknown, "\n\n"})
}

// AppendHelpers appends `-s helpers`, which conntrack-tools does not have.
func AppendHelpers(dst []byte, h *Helpers) []byte {
	if h == nil {
		return dst
	}
	dst = append(dst, "user-space helpers:\n"...)
	for _, name := range h.Names {
		dst = append(append(append(dst, '\t'), name...), '\n')
	}
	dst = append(dst, "\npackets:\n"...)
	dst = appendFields(dst,
		field{"\tread:\t\t\t", w20, h.Packets, "\n"},
		field{"\tnot understood:\t\t", w20, h.Unread, "\n"},
		field{"\tdropped:\t\t", w20, h.Dropped, "\n"},
		field{"\trewritten:\t\t", w20, h.Rewritten, "\n"},
		field{"\tverdicts refused:\t", w20, h.Verdicts, "\n"},
		field{"\tqueue overruns:\t\t", w20, h.Overruns, "\n"})
	return appendFields(append(dst, "\nexpectations:\n"...),
		field{"\tcreated:\t\t", w20, h.Expectations - min(h.Refused, h.Expectations), "\n"},
		field{"\trefused:\t\t", w20, h.Refused, "\n\n"})
}

// AppendExports appends `-s export`, which conntrack-tools does not have.
func AppendExports(dst []byte, all []export.Status) []byte {
	for i := range all {
		e := &all[i]
		dst = append(append(append(dst, "export "...), e.Name...), ":\n"...)
		if e.Error != "" {
			dst = append(append(append(dst, "\tcannot send: "...), e.Error...), '\n')
		}
		dst = appendFields(dst,
			field{"\tflows now:\t\t", w20, e.FlowsNow, "\n"},
			field{"\tflows in all:\t\t", w20, e.Flows, "\n"},
			field{"\tevents lost:\t\t", w20, e.EventsLost, "\n"},
			field{"\trecords made:\t\t", w20, e.Made, "\n"},
			field{"\trecords sent:\t\t", w20, e.Sent, "\n"},
			field{"\trecords queued:\t\t", w20, e.Queued, "\n"},
			field{"\trecords thrown away:\t", w20, e.ThrownAway, "\n"},
			field{"\trecords resent:\t\t", w20, e.Resent, "\n"},
			field{"\tmessages:\t\t", w20, e.Messages, "\n"},
			field{"\tfailures:\t\t", w20, e.Failures, "\n"},
			field{"\treconnects:\t\t", w20, e.Reconnects, "\n\n"})
	}
	return dst
}

// appendUptime appends "2 days 3 h 4 min". It omits days and hours that are zero.
func appendUptime(dst []byte, up time.Duration) []byte {
	minutes := uint64(max(up, 0) / time.Minute)
	days, hours := minutes/(24*60), minutes/60%24
	switch {
	case days == 1:
		dst = append(dst, "1 day "...)
	case days > 1:
		dst = append(strconv.AppendUint(dst, days, 10), " days "...)
	}
	if hours != 0 {
		dst = append(strconv.AppendUint(dst, hours, 10), " h "...)
	}
	return append(strconv.AppendUint(dst, minutes%60, 10), " min"...)
}

// unlimited is the maximum that is printed for a queue without a limit.
const unlimited = 1<<31 - 1

// AppendQueues appends `-s queue`.
func AppendQueues(dst []byte, s *node.Status) []byte {
	dst = appendFields(dst, field{"allocated queue nodes:\t\t", w12, s.Queues.Nodes, "\n\n"})
	for i := range s.Queues.Queues {
		q := &s.Queues.Queues[i]
		limit := q.Max
		if limit == 0 {
			limit = unlimited
		}
		dst = append(append(append(dst, "queue "...), q.Name...), ":\n"...)
		dst = appendFields(dst,
			field{"current elements:\t\t", w12, q.Len, "\n"},
			field{"maximum elements:\t\t", w12, limit, "\n"},
			field{"not enough space errors:\t", w12, q.NoSpace, "\n\n"})
	}
	return dst
}

// AppendResendQueue appends `-s rsqueue`.
func AppendResendQueue(dst []byte, queue []replicate.Resend) []byte {
	dst = append(strconv.AppendInt(append(dst, "resent queue (len="...), int64(len(queue)), 10), ")\n"...)
	for i := range queue {
		e := &queue[i]
		kind := "object"
		if e.Control {
			kind = "control"
		}
		dst = append(append(dst, kind...), " -> seq:"...)
		dst = strconv.AppendUint(dst, uint64(e.Seq), 10)
		if e.Control {
			dst = strconv.AppendUint(append(dst, " flags:"...), uint64(e.Flags), 10)
		}
		dst = append(dst, '\n')
	}
	return dst
}

var taskTypes = [...]string{sched.KindAny: "any", sched.KindFlush: "flush", sched.KindCommit: "commit"}

// AppendTasks appends `-s process`. Tasks are not processes, so pid is the daemon's own.
func AppendTasks(dst []byte, s *node.Status, pid int) []byte {
	for _, t := range s.Tasks {
		dst = strconv.AppendInt(append(dst, "PID="...), int64(pid), 10)
		dst = append(append(append(dst, " type="...), taskTypes[t.Type]...), '\n')
	}
	return dst
}
