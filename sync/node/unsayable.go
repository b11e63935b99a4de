package node

import (
	"ctbox/nl/ctnetlink"
	"ctbox/sync/wire"
)

// unsayableTexts say, once each, what is not replicated because the protocol has no place
// for it.
var unsayableTexts = [wire.Reasons]string{
	wire.OneWayZone:   "flows whose zone is of one direction are not replicated: the protocol would make them flows without a zone",
	wire.GREKeys:      "GRE flows with keys (PPTP) are not replicated: the protocol would make them flows without keys",
	wire.UDPLitePorts: "UDP-Lite flows are not replicated: the protocol would make them flows without ports",
	wire.ICMPID:       "ICMP flows whose identifier is translated are not replicated: the protocol has no place for the translation",
	wire.ExpectZone:   "expectations in a zone are not replicated: the protocol would make them expectations without one",
	wire.ExpectNAT6:   "expectations whose IPv6 address is translated are not replicated: the protocol has no place for the translation",
}

// saysFlow reports whether the protocol can say what f is. What it cannot is counted.
func (n *Node) saysFlow(f *ctnetlink.Flow) bool {
	why := wire.UnsayableFlow(f)
	if why == wire.Sayable {
		return true
	}
	if n.unsaid(why) {
		n.log.Warn(unsayableTexts[why], EntryKey, string(appendFlowLine(nil, f)))
	}
	return false
}

// saysExpect is saysFlow for an expectation.
func (n *Node) saysExpect(x *ctnetlink.Expect) bool {
	why := wire.UnsayableExpect(x)
	if why == wire.Sayable {
		return true
	}
	if n.unsaid(why) {
		n.log.Warn(unsayableTexts[why], EntryKey, string(appendExpectLine(nil, x)))
	}
	return false
}

// unsaid counts a message that is not sent, and reports whether it is the first for its
// reason.
func (n *Node) unsaid(why wire.Unsayable) bool {
	n.replica.Unsaid[why]++
	return n.replica.Unsaid[why] == 1
}
