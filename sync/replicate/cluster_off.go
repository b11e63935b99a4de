//go:build no_cluster

package replicate

import (
	"net/netip"
	"time"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/link"
	"ctbox/sync/owner"
	"ctbox/sync/proto"
	"ctbox/sync/ready"
	"ctbox/sync/wire"
)

// cluster stands for version 2 of the protocol in a build without it, where the parser refuses the
// Cluster clause. There is never one: all methods are for nil.
type cluster struct{}

func (r *Replicator) openCluster() error { return nil }

func setPeers(*link.Config, *conf.Cluster, int) {}

func (*cluster) speaks() bool                        { return false }
func (*cluster) several() bool                       { return false }
func (*cluster) takes(int, netip.Addr, []byte) bool  { return false }
func (*cluster) sendChallenges()                     {}
func (*cluster) fillOffer(*wire.Notice)              {}
func (*cluster) unannounced(proto.Object)            {}
func (*cluster) closed(*peerCopy, cache.Handle) bool { return false }
func (*cluster) announces(_ cache.Handle, _ *ctnetlink.Flow, why owner.Why) bool {
	return why != owner.Silent
}
func (*cluster) mayAnnounce(proto.Object) bool                       { return true }
func (*cluster) keepsExpect(cache.Handle)                            {}
func (*cluster) lackCopies()                                         {}
func (*cluster) awaitsCopies() bool                                  { return false }
func (*cluster) ending(cache.Handle)                                 {}
func (*cluster) goneFlow(*ctnetlink.Flow, uint32)                    {}
func (*cluster) endsFlow(*peerCopy, *ctnetlink.Flow, uint32) bool    { return true }
func (*cluster) goesOn(cache.Handle)                                 {}
func (*cluster) withdrawn(*ctnetlink.Flow, bool)                     {}
func (*cluster) shows(*peerCopy, cache.Handle, *ctnetlink.Flow) bool { return true }

// HasOwners reports whether flows have owners: never. The methods below are not called.
func (r *Replicator) HasOwners() bool                                 { return false }
func (r *Replicator) Announces() bool                                 { return false }
func (r *Replicator) Owner(*ctnetlink.Flow) string                    { return "" }
func (r *Replicator) AskOwners(func(take, kept owner.Nodes))          {}
func (r *Replicator) OnRelease(func(owner.Nodes))                     {}
func (r *Replicator) OnAsked(func())                                  {}
func (r *Replicator) CopyNodes() owner.Nodes                          { return 0 }
func (r *Replicator) EndTake()                                        {}
func (r *Replicator) Shows(uint8, cache.Handle, *ctnetlink.Flow) bool { return true }
func (r *Replicator) BeginTake(owner.Nodes, owner.Selector) (
	wants func(uint8, cache.Handle, *ctnetlink.Flow) bool, wantsExpect func(uint8, *ctnetlink.Expect) bool,
) {
	return nil, nil
}

func (*cluster) transmit()                             {}
func (*cluster) probeSize(int) int                     { return 0 }
func (*cluster) probePacket(int) int                   { return 0 }
func (*cluster) readyPeers(time.Duration) []ready.Peer { return nil }
func (*cluster) setFlags(bool, bool, bool)             {}
func (*cluster) fillStatus(*Status)                    {}
func (*cluster) gaps(uint8) int                        { return 0 }
func (*cluster) memberStatus(uint8) *MemberStatus      { return nil }
func (*cluster) reconfigure(*conf.Cluster, Keys)       {}
func (*cluster) close()                                {}
