package report

import (
	"ctbox/internal/export"
	"ctbox/sync/cache"
	"ctbox/sync/commit"
	"ctbox/sync/follow"
	"ctbox/sync/link"
	"ctbox/sync/node"
	"ctbox/sync/replicate"
)

// families returns the table of all metrics, in the order of the output and of
// docs/metrics.md. It is a function because a variable would stay in the binary of a build
// without metrics.
func families() []family {
	return []family{
		{"conntrackd_build", "info", "", "Version and mode of the daemon.", info},
		{"conntrackd_uptime_seconds", "gauge", "seconds", "Time since the daemon's start.",
			func(m *metricsWriter, s *node.Status, _ *Local) { m.seconds(s.Uptime) }},

		{"conntrackd_cache_entries", "gauge", "", "Entries in a cache.",
			ofTables(func(t *cache.TableStatus) uint64 { return t.Active })},
		{"conntrackd_cache_objects", "gauge", "", "Entries in a cache, with those that ended and are not acknowledged yet.",
			ofTables(func(t *cache.TableStatus) uint64 { return t.Objects })},
		{"conntrackd_cache_limit", "gauge", "", "Entries that a cache takes (HashLimit).",
			ofTables(func(t *cache.TableStatus) uint64 { return t.Limit })},
		{"conntrackd_cache_memory_bytes", "gauge", "bytes", "Memory of a cache.",
			ofTables(func(t *cache.TableStatus) uint64 { return t.Bytes })},
		{"conntrackd_cache_full", "counter", "", "Entries that a cache refused because it held its limit.",
			ofTables(func(t *cache.TableStatus) uint64 { return t.NoSpace })},
		{"conntrackd_cache_operations", "counter", "", "Changes that a cache, or the bypass or injector in its place, was asked for.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				for _, t := range tables(s) {
					for _, c := range [...]struct {
						operation  string
						ok, failed uint64
					}{
						{"create", t.t.Created, t.t.CreateFailed},
						{"update", t.t.Updated, t.t.UpdateFailed},
						{"destroy", t.t.Destroyed, t.t.DestroyFailed},
					} {
						m.number(c.ok, append(t.labels, "operation", c.operation, "result", "ok")...)
						m.number(c.failed, append(t.labels, "operation", c.operation, "result", "failed")...)
					}
				}
			}},
		{"conntrackd_traffic_bytes", "counter", "bytes", "Bytes of flows that ended, both directions.",
			ofTraffic(func(t *follow.Traffic) uint64 { return t.Bytes })},
		{"conntrackd_traffic_packets", "counter", "", "Packets of flows that ended, both directions.",
			ofTraffic(func(t *follow.Traffic) uint64 { return t.Packets })},

		{"conntrackd_link_up", "gauge", "", "1 if the link's interface is up and has a carrier.",
			ofLinks(func(m *metricsWriter, l *replicate.LinkStatus, labels []string) {
				m.flag(l.State == link.Running, labels...)
			})},
		{"conntrackd_link_active", "gauge", "", "1 for the link in use, 0 for one that waits.",
			ofLinks(func(m *metricsWriter, l *replicate.LinkStatus, labels []string) { m.flag(l.Active, labels...) })},
		{"conntrackd_link_connected", "gauge", "", "TCP: 1 if the peer is connected to us (server), or we to it (client).",
			ofLinks(func(m *metricsWriter, l *replicate.LinkStatus, labels []string) {
				if l.Transport == link.TCP {
					m.flag(l.ServerConnected, append(labels, "side", "server")...)
					m.flag(l.ClientConnected, append(labels, "side", "client")...)
				}
			})},
		{"conntrackd_link_bytes", "counter", "bytes", "Bytes over a link.",
			ofDirections(func(c *directionCounters) uint64 { return c.bytes })},
		{"conntrackd_link_packets", "counter", "", "Packets over a link.",
			ofDirections(func(c *directionCounters) uint64 { return c.packets })},
		{"conntrackd_link_errors", "counter", "", "Packets that could not be sent or received.",
			ofDirections(func(c *directionCounters) uint64 { return c.errors })},
		{"conntrackd_link_refused", "counter", "", "Packets or connections from a source that the configuration does not name.",
			ofLinks(func(m *metricsWriter, l *replicate.LinkStatus, labels []string) { m.number(l.Refused, labels...) })},

		{"conntrackd_messages_malformed", "counter", "", "Received messages that were refused, by reason.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				if s.Mode.Sync() {
					for _, c := range malformed(s) {
						m.number(c.n, "reason", c.name)
					}
				}
			}},
		{"conntrackd_messages_unsaid", "counter", "", "Messages that were not sent because the protocol has no place for the flow or expectation, by reason.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				if s.Mode.Sync() {
					for _, c := range unsaid(s) {
						m.number(c.n, "reason", c.name)
					}
				}
			}},
		{"conntrackd_messages_lost", "counter", "", "Messages that never came, by their sequence numbers.",
			inSync(func(s *node.Status) uint64 { return s.Wire.Lost })},
		{"conntrackd_messages_before", "counter", "", "Messages that came again, or too late.",
			inSync(func(s *node.Status) uint64 { return s.Wire.Before })},
		{"conntrackd_messages", "counter", "", "Messages sent and received.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				if s.Mode.Sync() {
					m.number(s.Replica.Sent, "direction", "sent")
					m.number(s.Replica.Received, "direction", "received")
				}
			}},
		{"conntrackd_messages_resent", "counter", "", "Messages sent again because the peer missed them.",
			inSync(func(s *node.Status) uint64 { return s.Replica.Resent })},
		{"conntrackd_messages_given_up", "counter", "", "Messages that the peer missed and that could not be sent again.",
			inSync(func(s *node.Status) uint64 { return s.Replica.GivenUp })},
		{"conntrackd_nacks", "counter", "", "Negative acknowledgements sent and received.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				if s.Mode.Sync() {
					m.number(s.Replica.NacksSent, "direction", "sent")
					m.number(s.Replica.NacksRecv, "direction", "received")
				}
			}},
		{"conntrackd_resyncs", "counter", "", "Requests for everything that a node has: asked by this one, and served to a peer.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				if s.Mode.Sync() {
					m.number(s.Replica.ResyncsAsked, "side", "asked")
					m.number(s.Replica.ResyncsServed, "side", "served")
				}
			}},
		{"conntrackd_third_node_messages", "counter", "", "Messages of a third FT-FW node, which were ignored.",
			inSync(func(s *node.Status) uint64 { return s.Replica.ThirdNode })},

		{"conntrackd_flows_ended_by_peer", "counter", "", "Flows deleted from the kernel of a node that stepped down because its peer has ended them.",
			inSync(func(s *node.Status) uint64 { return s.Replica.EndedByPeer })},
		{"conntrackd_standby_flows", "counter", "", "Changes of the peers' flows in the kernel's table (HotStandby). refused is what the kernel refused.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				if f := &s.Standby.Flows; s.Standby.Kind != node.CacheAbsent {
					m.number(f.Created, "result", "created")
					m.number(f.Updated, "result", "updated")
					m.number(f.Destroyed, "result", "deleted")
					m.number(f.CreateFailed+f.UpdateFailed+f.DestroyFailed, "result", "refused")
				}
			}},
		{"conntrackd_replication_lag_seconds", "gauge", "seconds", "How long there have been changes that are not sent yet, without a break.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				if s.Mode.Sync() {
					m.seconds(s.Replica.Lag)
				}
			}},
		{"conntrackd_replication_pending", "gauge", "", "Changes that are not sent yet.",
			inSync(func(s *node.Status) uint64 { return s.Replica.Pending })},
		{"conntrackd_replication_unacknowledged", "gauge", "", "Messages that the peer has not acknowledged yet.",
			inSync(func(s *node.Status) uint64 { return s.Replica.Unacked })},
		{"conntrackd_replication_waiting", "gauge", "", "New flows that are not to be sent yet (Delay).",
			inSync(func(s *node.Status) uint64 { return s.Replica.Waiting })},
		{"conntrackd_queue_length", "gauge", "", "Elements in a queue.",
			ofQueues(func(m *metricsWriter, q *replicate.QueueStatus) { m.number(q.Len, "queue", q.Name) })},
		{"conntrackd_queue_limit", "gauge", "", "Elements that a queue takes.",
			ofQueues(func(m *metricsWriter, q *replicate.QueueStatus) {
				if q.Max != 0 {
					m.number(q.Max, "queue", q.Name)
				}
			})},
		{"conntrackd_queue_full", "counter", "", "Elements that a queue had no room for.",
			ofQueues(func(m *metricsWriter, q *replicate.QueueStatus) { m.number(q.NoSpace, "queue", q.Name) })},

		{"conntrackd_peer_age_seconds", "gauge", "seconds", "Time since a peer's last message.",
			ofPeers(func(m *metricsWriter, p *replicate.PeerStatus, peer string) { m.seconds(p.LastMessage, "peer", peer) })},
		{"conntrackd_peer_messages", "counter", "", "Messages received from a peer.",
			ofPeers(func(m *metricsWriter, p *replicate.PeerStatus, peer string) { m.number(p.Messages, "peer", peer) })},
		{"conntrackd_peer_in_sync", "gauge", "", "1 if this node has all flows of the peer.",
			ofPeers(func(m *metricsWriter, p *replicate.PeerStatus, peer string) {
				m.flag(!p.Ignored && p.Lacks == "", "peer", peer)
			})},
		{"conntrackd_peer_holes", "gauge", "", "Gaps in what the peer sent that are not repaired yet.",
			ofPeers(func(m *metricsWriter, p *replicate.PeerStatus, peer string) { m.number(uint64(p.Gaps), "peer", peer) })},
		{"conntrackd_peer_ignored", "gauge", "", "1 for a third FT-FW node, whose messages are ignored.",
			ofPeers(func(m *metricsWriter, p *replicate.PeerStatus, peer string) { m.flag(p.Ignored, "peer", peer) })},
		{"conntrackd_peer_events_missing", "gauge", "", "Events of its kernel that a peer has lost and not yet made up: the external cache lacks these.",
			ofPeers(func(m *metricsWriter, p *replicate.PeerStatus, peer string) { m.number(p.Incomplete, "peer", peer) })},
		{"conntrackd_peer_hears", "gauge", "", "1 if a peer hears this node, 0 if messages reach this node only. A C daemon and mode ALARM do not say.",
			ofPeers(func(m *metricsWriter, p *replicate.PeerStatus, peer string) {
				if p.Answers || p.OneWay {
					m.flag(!p.OneWay, "peer", peer)
				}
			})},
		{"conntrackd_peer_large_packets", "gauge", "", "1 if packets of the link's full MTU reach a peer, 0 if only smaller ones do; absent where that is not tested.",
			ofPeers(func(m *metricsWriter, p *replicate.PeerStatus, peer string) {
				if p.Path != replicate.PathUntested {
					m.flag(p.Path == replicate.PathWhole, "peer", peer)
				}
			})},

		{"conntrackd_cluster_version", "gauge", "", "Version of the protocol that a node with a Cluster clause speaks.",
			ofCluster(func(m *metricsWriter, c *replicate.ClusterStatus) {
				m.number(uint64(c.Version), "cluster", c.Name, "node", c.NodeName)
			})},
		{"conntrackd_cluster_key", "gauge", "", "Number of the key that seals what this node sends, 0 for none.",
			ofCluster(func(m *metricsWriter, c *replicate.ClusterStatus) { m.number(uint64(c.Key)) })},
		{"conntrackd_cluster_plain_allowed", "gauge", "", "1 if datagrams are accepted that are not sealed, although this node has keys.",
			ofCluster(func(m *metricsWriter, c *replicate.ClusterStatus) { m.flag(c.AllowPlain) })},
		{"conntrackd_cluster_nodes", "gauge", "", "Nodes that the Cluster clause names, this one included.",
			ofCluster(func(m *metricsWriter, c *replicate.ClusterStatus) { m.number(uint64(c.Nodes)) })},
		{"conntrackd_primary", "gauge", "", "1 if this node is primary: it has taken over, and no peer has since.",
			ofCluster(func(m *metricsWriter, c *replicate.ClusterStatus) { m.flag(c.Primary) })},
		{"conntrackd_primaries", "gauge", "", "Nodes that are primary as far as this node sees, this one included.",
			ofCluster(func(m *metricsWriter, c *replicate.ClusterStatus) { m.number(uint64(c.Primaries)) })},
		{"conntrackd_cluster_refused", "counter", "", "Datagrams of version 2 that were refused, by reason and node.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				for _, r := range s.Cluster.Refused {
					m.number(r.Datagrams, "reason", r.Reason, "node", "")
				}
				eachMember(s, func(member *replicate.MemberStatus) {
					for _, r := range member.Refused {
						m.number(r.Datagrams, "reason", r.Reason, "node", member.Name)
					}
				})
			}},
		{"conntrackd_node_key", "gauge", "", "Number of the key that has sealed a node's last datagram, 0 for none.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.number(uint64(p.Key), "node", p.Name) })},
		{"conntrackd_node_in_sync", "gauge", "", "1 if a node says that it is in sync.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.flag(p.InSync, "node", p.Name) })},
		{"conntrackd_node_promotable", "gauge", "", "1 if a node says that it may take over.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.flag(p.Promotable, "node", p.Name) })},
		{"conntrackd_node_primary", "gauge", "", "1 if a node says that it is primary.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.flag(p.Primary, "node", p.Name) })},
		{"conntrackd_node_equal", "gauge", "", "1 if the copy of a node's tables was equal at the last comparison.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.flag(p.Equal, "node", p.Name) })},
		{"conntrackd_node_last_equal_age_seconds", "gauge", "seconds", "Time since the copy of a node's tables was last proven to be equal.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) {
				if p.Proven {
					m.seconds(p.LastEqual, "node", p.Name)
				}
			})},
		{"conntrackd_node_unproven", "gauge", "", "Changes by a node that were applied since the copy of its tables was last proven to be equal.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.number(p.Unproven, "node", p.Name) })},
		{"conntrackd_node_differences", "counter", "", "Times that the copy of a node's tables was found to differ.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.number(p.Differences, "node", p.Name) })},
		{"conntrackd_node_repaired", "counter", "", "Entries of a node's tables that were fetched again, or removed, because they differed.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.number(p.Repaired, "node", p.Name) })},
		{"conntrackd_node_digests_skipped", "counter", "", "Digests of a node that could not be compared, because messages were missing.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.number(p.Skipped, "node", p.Name) })},
		{"conntrackd_node_repair_bytes", "counter", "bytes", "Bytes of the messages that have found the differences.",
			ofMembers(func(m *metricsWriter, p *replicate.MemberStatus) { m.number(p.RepairBytes, "node", p.Name) })},

		{"conntrackd_kernel_events", "counter", "", "Events received from the kernel, those of filtered flows too.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.Events })},
		{"conntrackd_kernel_events_filtered", "counter", "", "Events of flows that the Filter clause excludes.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.Filtered })},
		{"conntrackd_kernel_events_unknown", "counter", "", "Events of an unknown type.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.UnknownEvents })},
		{"conntrackd_kernel_events_failed", "counter", "", "Events that could not be read.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.FailedEvents })},
		{"conntrackd_kernel_overruns", "counter", "", "Times that the kernel dropped events for want of buffer.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.Overruns })},
		{"conntrackd_kernel_events_lost", "counter", "", "Events that the kernel dropped.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.Lost })},
		{"conntrackd_kernel_events_missing", "gauge", "", "Lost events that no reading of the kernel's table has made up yet.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.Missing })},
		{"conntrackd_kernel_flushes", "counter", "", "Flushes of a table of the kernel.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.Flushes })},
		{"conntrackd_kernel_resyncs", "counter", "", "Times that a table of the kernel was read again, but for polling.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.Resyncs })},
		{"conntrackd_kernel_buffer_bytes", "gauge", "bytes", "Receive buffer of the event socket.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.BufferSize })},
		{"conntrackd_kernel_limit_reached", "counter", "", "Times that EventIterationLimit gave peers and commands a turn between events.",
			ofKernel(func(k *node.KernelStatus) uint64 { return k.LimitReached })},

		{"conntrackd_in_sync", "gauge", "", "1 if this node has all flows of a peer that is heard.",
			inSync(func(s *node.Status) uint64 { return uint64(b2i(s.Ready.InSync)) })},
		{"conntrackd_promotable", "gauge", "", "1 if this node may take over, as the file for keepalived says.",
			inSync(func(s *node.Status) uint64 { return uint64(b2i(s.Ready.Promotable)) })},
		{"conntrackd_last_in_sync_age_seconds", "gauge", "seconds", "Time since this node was last in sync.",
			func(m *metricsWriter, s *node.Status, _ *Local) {
				if s.Mode.Sync() && s.Ready.Age >= 0 {
					m.seconds(s.Ready.Age)
				}
			}},

		{"conntrackd_commits", "counter", "", "Commits that ended.",
			inSync(func(s *node.Status) uint64 { return s.Commits.Count })},
		{"conntrackd_commit_running", "gauge", "", "1 while a commit is under way.",
			inSync(func(s *node.Status) uint64 { return uint64(b2i(s.Commits.Running)) })},
		{"conntrackd_last_commit_age_seconds", "gauge", "seconds", "Time since the last commit ended.",
			lastCommit(func(m *metricsWriter, c *commit.Status) { m.seconds(c.Age) })},
		{"conntrackd_last_commit_duration_seconds", "gauge", "seconds", "What the last commit took.",
			lastCommit(func(m *metricsWriter, c *commit.Status) { m.seconds(c.Last.Took) })},
		{"conntrackd_last_commit_events_missing", "gauge", "", "Events of the peer that were lost and not yet made up when the last commit began.",
			lastCommit(func(m *metricsWriter, c *commit.Status) { m.number(c.Last.Missing) })},
		{"conntrackd_last_commit_flows_taken", "gauge", "", "Flows of a node that the last commit has taken over, with those that the kernel has refused; absent with HotStandby, which has them in the kernel.",
			lastCommit(func(m *metricsWriter, c *commit.Status) {
				for i := range c.Last.Taken {
					if t := &c.Last.Taken[i]; !t.InKernel {
						m.number(t.Flows, "node", t.Name)
					}
				}
			})},
		{"conntrackd_last_commit_entries", "gauge", "", "Entries of the last commit, by table and result.",
			lastCommit(func(m *metricsWriter, c *commit.Status) {
				for _, t := range [...]struct {
					table  cache.Tables
					name   string
					counts *commit.Count
				}{{cache.FlowTable, "flows", &c.Last.Flows}, {cache.ExpectTable, "expectations", &c.Last.Expects}} {
					if c.Last.Tables&t.table != 0 {
						m.number(t.counts.Committed, "table", t.name, "result", "ok")
						m.number(t.counts.Failed, "table", t.name, "result", "failed")
					}
				}
			})},

		{"conntrackd_tasks", "gauge", "", "Dumps, flushes and commits that run at this moment.",
			always(func(s *node.Status, _ *Local) uint64 { return uint64(len(s.Tasks)) })},
		{"conntrackd_tasks_failed", "counter", "", "Dumps, flushes and commits that ended with an error.",
			always(func(s *node.Status, _ *Local) uint64 { return s.TaskFail })},
		{"conntrackd_control_read_failed", "counter", "", "Control clients that went or timed out before their request was complete.",
			always(func(_ *node.Status, l *Local) uint64 { return l.ReadFailed })},
		{"conntrackd_control_unknown", "counter", "", "Control requests that mean nothing.",
			always(func(_ *node.Status, l *Local) uint64 { return l.Unknown })},
		{"conntrackd_control_refused", "counter", "", "Control clients of another user, who were refused.",
			always(func(_ *node.Status, l *Local) uint64 { return l.Refused })},
		{"conntrackd_control_dropped", "counter", "", "Control clients that were dropped because they kept others waiting.",
			always(func(_ *node.Status, l *Local) uint64 { return l.Dropped })},

		{"conntrackd_helper_packets", "counter", "", "Packets read from the queues of user-space helpers.",
			ofHelpers(func(h *Helpers) uint64 { return h.Packets })},
		{"conntrackd_helper_packets_unread", "counter", "", "Packets that were accepted because no helper could read them.",
			ofHelpers(func(h *Helpers) uint64 { return h.Unread })},
		{"conntrackd_helper_packets_dropped", "counter", "", "Packets that a helper dropped.",
			ofHelpers(func(h *Helpers) uint64 { return h.Dropped })},
		{"conntrackd_helper_packets_rewritten", "counter", "", "Packets that a helper sent on with another payload.",
			ofHelpers(func(h *Helpers) uint64 { return h.Rewritten })},
		{"conntrackd_helper_expectations", "counter", "", "Expectations that helpers gave to the kernel.",
			ofHelpers(func(h *Helpers) uint64 { return h.Expectations })},
		{"conntrackd_helper_expectations_refused", "counter", "", "Expectations of helpers that the kernel refused, as far as it tells.",
			ofHelpers(func(h *Helpers) uint64 { return h.Refused })},
		{"conntrackd_helper_verdicts_refused", "counter", "", "Verdicts on packets that the kernel refused.",
			ofHelpers(func(h *Helpers) uint64 { return h.Verdicts })},
		{"conntrackd_helper_overruns", "counter", "", "Times that the queues' receive buffer was full, and packets passed unread.",
			ofHelpers(func(h *Helpers) uint64 { return h.Overruns })},

		{"conntrackd_export_records", "counter", "", "Records that an exporter has made.",
			ofExports(func(e *export.Status) uint64 { return e.Made })},
		{"conntrackd_export_records_sent", "counter", "", "Records that the destination was sent.",
			ofExports(func(e *export.Status) uint64 { return e.Sent })},
		{"conntrackd_export_records_queued", "gauge", "", "Records that wait for the destination.",
			ofExports(func(e *export.Status) uint64 { return e.Queued })},
		{"conntrackd_export_records_thrown_away", "counter", "", "Records that gave way because the queue was full (QueueLimit).",
			ofExports(func(e *export.Status) uint64 { return e.ThrownAway })},
		{"conntrackd_export_records_resent", "counter", "", "Records sent again over TCP since the collector had not acknowledged them.",
			ofExports(func(e *export.Status) uint64 { return e.Resent })},
		{"conntrackd_export_messages", "counter", "", "Messages, datagrams or writes with records.",
			ofExports(func(e *export.Status) uint64 { return e.Messages })},
		{"conntrackd_export_failures", "counter", "", "Failures of connections, writes and files.",
			ofExports(func(e *export.Status) uint64 { return e.Failures })},
		{"conntrackd_export_reconnects", "counter", "", "Connections and files that were opened after the first.",
			ofExports(func(e *export.Status) uint64 { return e.Reconnects })},
		{"conntrackd_export_events_lost", "counter", "", "Kernel events that an exporter has lost.",
			ofExports(func(e *export.Status) uint64 { return e.EventsLost })},
		{"conntrackd_export_flows", "counter", "", "Flows that an exporter has seen.",
			ofExports(func(e *export.Status) uint64 { return e.Flows })},
		{"conntrackd_export_flows_now", "gauge", "", "Flows in the table of an exporter.",
			ofExports(func(e *export.Status) uint64 { return e.FlowsNow })},
		{"conntrackd_export_up", "gauge", "", "Whether an exporter can send.",
			ofExports(func(e *export.Status) uint64 { return uint64(b2i(e.Error == "")) })},
	}
}
