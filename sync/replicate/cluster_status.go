//go:build !no_cluster

package replicate

import (
	"strconv"
	"time"

	"ctbox/sync/proto"
	"ctbox/sync/ready"
	"ctbox/sync/seal"
)

// setFlags sets what the header of each datagram says about this node.
func (c *cluster) setFlags(inSync, promotable, primary bool) {
	if c == nil {
		return
	}
	before := c.flags
	c.flags = 0
	if inSync {
		c.flags |= flagInSync
	}
	if promotable {
		c.flags |= flagPromotable
	}
	if primary {
		c.flags |= flagPrimary
	}
	if (before^c.flags)&flagPrimary != 0 {
		c.look = c.sched.Now()
		if before&flagPrimary != 0 {
			c.stepDown()
		}
		if c.speaks() {
			c.announce(0) // the peers decide by it who owns a flow
		}
	}
}

// readyPeers returns what ready has to know of each peer that was heard. The copy of a peer's
// flows counts as whole if a digest has proven that it is equal, after all that was lost before.
func (c *cluster) readyPeers(now time.Duration) (peers []ready.Peer) {
	for _, m := range c.members {
		if m == nil || !m.addr.IsValid() {
			continue
		}
		receipt := c.stream.Receipt(m.number, now)
		peer := ready.Peer{
			ID: strconv.Itoa(int(m.number)), Name: m.name, Life: m.lives, Copy: copies[receipt.Copy],
			Missing: receipt.Gaps, Waited: receipt.Late,
		}
		peer.Silence, peer.Lost = c.lastOf(m)
		if receipt.Copy != proto.CopyArrived {
			m.copy.lost = false // it is being fetched anew
		}
		if m.copy.lost {
			peer.Copy = ready.CopyNone
		}
		peer.Unproven = c.stream.Incomplete(m.number) || !m.proven()
		peers = append(peers, peer)
	}
	ready.Sort(peers)
	return peers
}

// lastOf returns how long a peer has been silent on all its addresses, and how many events of its
// kernel it has lost, as it says.
func (c *cluster) lastOf(m *member) (silence time.Duration, lost uint64) {
	last := time.Duration(0)
	for _, p := range c.peers {
		if p.node == m.number {
			last, lost = max(last, p.last), max(lost, uint64(p.incomplete))
		}
	}
	return c.sched.Now() - last, lost
}

// fillStatus sets what the status has of the cluster.
func (c *cluster) fillStatus(s *Status) {
	if c == nil {
		return
	}
	s.Cluster = ClusterStatus{
		Version: 1, Name: c.config.Name, Node: c.config.Node, NodeName: c.config.NodeName, AllowPlain: c.config.AllowPlain && c.config.Send != 0, Refused: refusedStatus(&c.unknown),
		Nodes: len(c.config.Peers) + 1, Primary: c.flags&flagPrimary != 0, Primaries: c.primaries(),
	}
	if c.speaks() {
		s.Cluster.Version = seal.Version
	}
	if c.version == proto.Version2Sealed {
		s.Cluster.Key = c.config.Send
	}
}

// primaries returns how many nodes say that they are primary, this one included. A peer that is
// no longer heard does not count.
func (c *cluster) primaries() (n int) {
	if c.flags&flagPrimary != 0 {
		n++
	}
	for _, m := range c.members {
		if m == nil || m.flags&flagPrimary == 0 {
			continue
		}
		if silence, _ := c.lastOf(m); silence < peerQuiet {
			n++
		}
	}
	return n
}

// gaps returns how many gaps in what a peer sent are not repaired yet, with version 2.
func (c *cluster) gaps(node uint8) int { return c.stream.Receipt(node, c.sched.Now()).Gaps }

// memberStatus returns the status of a peer of version 2, or nil.
func (c *cluster) memberStatus(node uint8) *MemberStatus {
	if c == nil || c.members[node] == nil {
		return nil
	}
	m := c.members[node]
	s := &MemberStatus{
		Node: node, Name: m.name, Version: seal.Version, Key: m.key,
		InSync: m.flags&flagInSync != 0, Promotable: m.flags&flagPromotable != 0, Primary: m.flags&flagPrimary != 0,
		Refused: refusedStatus(&m.refused), Equal: m.proven(), Unproven: m.applied[proto.Flows] + m.applied[proto.Expects],
	}
	for table, comparer := range m.comparers {
		if comparer == nil {
			return s
		}
		n := comparer.Stats()
		if table == 0 || n.LastEqual < s.LastEqual { // the older of the two
			s.LastEqual = n.LastEqual
		}
		s.Proven = n.Proven && (table == 0 || s.Proven)
		s.Differences += n.Differences
		s.Repaired += n.Wanted + n.Removed
		s.Skipped += n.Skipped
		s.RepairBytes += n.RepairBytes
	}
	s.LastEqual = c.sched.Now() - s.LastEqual
	return s
}

func refusedStatus(counts *[seal.Verdicts]uint64) (all []Refused) {
	for reason := seal.Malformed; reason < seal.Verdicts; reason++ {
		all = append(all, Refused{reason.String(), counts[reason]})
	}
	return all
}
