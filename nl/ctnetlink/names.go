package ctnetlink

import "ctbox/nl"

// protoNames are the layer-4 protocols that conntrack-tools prints by name; any
// other is "unknown".
var protoNames = [256]string{
	ProtoICMP: "icmp", ProtoTCP: "tcp", ProtoUDP: "udp", ProtoDCCP: "dccp",
	ProtoGRE: "gre", ProtoICMPv6: "icmpv6", ProtoSCTP: "sctp", ProtoUDPLite: "udplite",
}

// ProtoName returns the name that outputs use for a layer-4 protocol, or
// "unknown".
func ProtoName(proto uint8) string {
	if n := protoNames[proto]; n != "" {
		return n
	}
	return "unknown"
}

// FamilyName returns "ipv4", "ipv6" or "unknown".
func FamilyName(family uint8) string {
	switch family {
	case nl.FamilyIPv4:
		return "ipv4"
	case nl.FamilyIPv6:
		return "ipv6"
	}
	return "unknown"
}

// States of TCP, SCTP and DCCP flows, by number (enum tcp_conntrack,
// sctp_conntrack, ct_dccp_states). Number 9 of TCP was LISTEN in old kernels.
var (
	tcpStates = [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT",
		"CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}
	sctpStates = [...]string{"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED",
		"SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT", "HEARTBEAT_ACKED"}
	dccpStates = [...]string{"NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN",
		"CLOSEREQ", "CLOSING", "TIMEWAIT", "IGNORE", "INVALID"}
)

// Numbers of the TCP states that code outside the name tables needs.
const (
	TCPStateEstablished = 3
	TCPStateTimeWait    = 7
	TCPStateClose       = 8
)

func stateName(names []string, state uint8) string {
	if int(state) < len(names) {
		return names[state]
	}
	return "NONE"
}

func stateNumber(names []string, name string) (uint8, bool) {
	for i, n := range names {
		if n == name {
			return uint8(i), true
		}
	}
	return 0, false
}

// TCPStateName returns the name of a TCP state; an unknown number is "NONE", as
// conntrack-tools prints it.
func TCPStateName(state uint8) string { return stateName(tcpStates[:], state) }

// SCTPStateName is TCPStateName for SCTP.
func SCTPStateName(state uint8) string { return stateName(sctpStates[:], state) }

// DCCPStateName is TCPStateName for DCCP.
func DCCPStateName(state uint8) string { return stateName(dccpStates[:], state) }

// StateNames returns the names of a protocol's states by number, or nil for a protocol
// without states. The slice must not be changed.
func StateNames(proto uint8) []string {
	switch proto {
	case ProtoTCP:
		return tcpStates[:]
	case ProtoSCTP:
		return sctpStates[:]
	case ProtoDCCP:
		return dccpStates[:]
	}
	return nil
}

// TCPStateNumber returns the number of a state's exact, upper-case name.
// "LISTEN" is number 9's old name.
func TCPStateNumber(name string) (uint8, bool) {
	if name == "LISTEN" {
		return 9, true
	}
	return stateNumber(tcpStates[:], name)
}

// SCTPStateNumber is TCPStateNumber for SCTP.
func SCTPStateNumber(name string) (uint8, bool) { return stateNumber(sctpStates[:], name) }

// DCCPStateNumber is TCPStateNumber for DCCP.
func DCCPStateNumber(name string) (uint8, bool) { return stateNumber(dccpStates[:], name) }
