package report

import (
	"strconv"

	"ctbox/sync/node"
	"ctbox/sync/ready"
	"ctbox/sync/replicate"
)

// AppendReady appends `-s peers`: what is known of each peer, and whether this node may take
// over. conntrack-tools has nothing like it.
func AppendReady(dst []byte, s *node.Status) []byte {
	for i := range s.Peers {
		p := &s.Peers[i]
		dst = append(append(append(dst, "peer "...), p.Addr.Addr().String()...), ":\n"...)
		version := "1"
		switch {
		case p.Member != nil:
			version = versionOf(p.Member.Version, p.Member.Key)
		case p.Ignored:
			version += ", ignored: a third FT-FW node"
		case p.CTBox:
			version += ", ctbox"
		}
		dst = appendText(dst, "protocol version:", version)
		dst = appendText(dst, "heard:", ready.Seconds(p.LastMessage)+" ago")
		if p.Ignored {
			dst = append(dst, '\n')
			continue
		}
		dst = appendText(dst, "lag:\t", ready.Seconds(s.Replica.Lag))
		dst = appendText(dst, "holes:\t", strconv.Itoa(p.Gaps))
		dst = appendText(dst, "in sync:", yesOr(p.Lacks))
		dst = append(appendMember(dst, p.Member), '\n')
	}
	r := &s.Ready
	dst = append(dst, "this node:\n"...)
	dst = appendText(dst, "in sync:", yesOr(r.Why))
	may := "no: "
	if r.Promotable {
		may = "yes: "
	}
	dst = appendText(dst, "may take over:", may+r.Reason)
	dst = appendRole(dst, &s.Cluster)
	dst = appendText(dst, "flows held:", strconv.FormatUint(r.Held, 10))
	return append(appendText(dst, "flows waiting:", strconv.FormatUint(s.Replica.Waiting, 10)), '\n')
}

// appendRole appends the role of this node in its Cluster. scripts/primary-backup.sh reads the
// number of nodes.
func appendRole(dst []byte, c *replicate.ClusterStatus) []byte {
	if c.Version == 0 {
		return dst
	}
	dst = appendText(dst, "role:\t", roleOf(c.Primary))
	nodes := strconv.Itoa(c.Nodes) + " in the Cluster, " + strconv.Itoa(c.Primaries) + " primary"
	return appendText(dst, "nodes:\t", nodes)
}

func roleOf(primary bool) string {
	if primary {
		return "primary"
	}
	return "not primary"
}

// versionOf describes a version of the protocol and its seal.
func versionOf(version, key uint8) string {
	text := strconv.Itoa(int(version))
	if key == 0 {
		return text + ", not sealed"
	}
	return text + ", sealed with key " + strconv.Itoa(int(key))
}

// appendMember appends what version 2 knows of a peer.
func appendMember(dst []byte, m *replicate.MemberStatus) []byte {
	if m == nil {
		return dst
	}
	dst = appendText(dst, "node:\t", strconv.Itoa(int(m.Node))+" "+m.Name)
	dst = appendText(dst, "role:\t", roleOf(m.Primary))
	equal := "not compared yet"
	switch {
	case m.Equal:
		equal = "yes, " + ready.Seconds(m.LastEqual) + " ago"
	case m.Proven:
		equal = "no, last " + ready.Seconds(m.LastEqual) + " ago"
	}
	if m.Proven {
		equal += ", " + strconv.FormatUint(m.Unproven, 10) + " changes since then"
	}
	dst = appendText(dst, "proven equal:", equal)
	dst = appendText(dst, "differences:", strconv.FormatUint(m.Differences, 10)+", "+
		strconv.FormatUint(m.Repaired, 10)+" entries repaired with "+strconv.FormatUint(m.RepairBytes, 10)+" bytes")
	return dst
}

// appendText appends a line with a label and a text.
func appendText(dst []byte, label, text string) []byte {
	return append(append(append(append(append(dst, '\t'), label...), "\t\t"...), text...), '\n')
}

func yesOr(lacks string) string {
	if lacks == "" {
		return "yes"
	}
	return "no: " + lacks
}

// peers appends the list of peers.
func (o *object) peers(s *node.Status) {
	o.List("peers", len(s.Peers), func(i int) {
		p := &s.Peers[i]
		o.Text("address", p.Addr.Addr().String())
		o.seconds("last_message", p.LastMessage)
		o.Uint("messages", p.Messages)
		o.Bool("ignored", p.Ignored)
		o.Uint("missing", p.Incomplete)
		if s.Mode != node.ModeALARM {
			o.Bool("answers", p.Answers)
			o.Bool("one_way", p.OneWay)
			o.Text("path", p.Path.String())
			o.Uint("path_bytes", uint64(p.PathBytes))
		}
		o.version(p.Member)
		o.Bool("ctbox", p.CTBox)
		o.Uint("holes", uint64(p.Gaps))
		o.Bool("in_sync", !p.Ignored && p.Lacks == "")
		if p.Lacks != "" {
			o.Text("lacks", p.Lacks)
		}
		o.member(p.Member)
	})
}

func (o *object) version(m *replicate.MemberStatus) {
	if m == nil {
		o.Uint("version", 1)
		return
	}
	o.Uint("version", uint64(m.Version))
	o.Uint("key", uint64(m.Key))
}

// member appends what version 2 knows of a peer.
func (o *object) member(m *replicate.MemberStatus) {
	if m == nil {
		return
	}
	o.Uint("node", uint64(m.Node))
	o.Text("name", m.Name)
	o.Bool("peer_in_sync", m.InSync)
	o.Bool("peer_promotable", m.Promotable)
	o.Bool("peer_primary", m.Primary)
	o.refused(m.Refused)
	o.Open("digest")
	o.Bool("equal", m.Equal)
	if m.Proven {
		o.seconds("last_equal", m.LastEqual)
	}
	for _, c := range digestCounts(m) {
		o.Uint(c.name, c.n)
	}
	o.End()
}

// digestCounts are the counters of the comparison with a peer, with their names in JSON.
func digestCounts(m *replicate.MemberStatus) [5]namedCount {
	return [...]namedCount{{"unproven", m.Unproven}, {"differences", m.Differences}, {"repaired", m.Repaired}, {"skipped", m.Skipped}, {"repair_bytes", m.RepairBytes}}
}

func (o *object) refused(all []replicate.Refused) {
	o.Open("refused")
	for _, r := range all {
		o.Uint(r.Reason, r.Datagrams)
	}
	o.End()
}

// cluster appends version 2 of the protocol.
func (o *object) cluster(c *replicate.ClusterStatus) {
	if c.Version == 0 {
		return
	}
	o.Open("cluster")
	o.Text("name", c.Name)
	o.Uint("node", uint64(c.Node))
	o.Text("node_name", c.NodeName)
	o.Uint("version", uint64(c.Version))
	o.Uint("key", uint64(c.Key))
	o.Bool("allow_plain", c.AllowPlain)
	o.refused(c.Refused)
	o.End()
}

// ready appends whether this node may take over.
func (o *object) ready(s *node.Status) {
	r := &s.Ready
	o.Open("ready")
	o.Bool("in_sync", r.InSync)
	if !r.InSync {
		o.Text("lacks", r.Why)
	}
	o.Bool("promotable", r.Promotable)
	o.Text("reason", r.Reason)
	if c := &s.Cluster; c.Version != 0 {
		o.Bool("primary", c.Primary)
		o.Uint("primaries", uint64(c.Primaries))
		o.Uint("nodes", uint64(c.Nodes))
	}
	if r.Age >= 0 {
		o.seconds("last_in_sync", r.Age)
	}
	o.seconds("lag", s.Replica.Lag)
	o.Uint("flows_held", r.Held)
	o.Uint("flows_waiting", s.Replica.Waiting)
	o.End()
}
