package cttimeout

import (
	"strings"

	"ctbox/nl/ctnetlink"
)

// State is a state of a flow as timeouts are given for it: the number of the
// attribute that carries the timeout. Numbers are a protocol's own.
type State uint8

const stateMax = 31

// Generic is the protocol number that stands for all protocols that the kernel
// tracks no states for.
const Generic = 255

// states are the names of each protocol's states from number 1 on, the ones
// that nfct(8) takes and prints (enum ctattr_timeout_tcp and its neighbours).
// SCTP's HEARTBEAT_SENT, number 8 of newer kernels, has no name there.
var states = map[uint8][]string{
	ctnetlink.ProtoTCP: {"SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK",
		"TIME_WAIT", "CLOSE", "SYN_SENT2", "RETRANS", "UNACKNOWLEDGED"},
	ctnetlink.ProtoUDP:     {"UNREPLIED", "REPLIED"},
	ctnetlink.ProtoUDPLite: {"UNREPLIED", "REPLIED"},
	ctnetlink.ProtoGRE:     {"UNREPLIED", "REPLIED"},
	ctnetlink.ProtoICMP:    {"TIMEOUT"},
	ctnetlink.ProtoICMPv6:  {"TIMEOUT"},
	Generic:                {"TIMEOUT"},
	ctnetlink.ProtoSCTP: {"CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT",
		"SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT"},
	ctnetlink.ProtoDCCP: {"REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT"},
}

// StateNames returns the names of a protocol's states; the first is State 1's.
// It is nil for a protocol without states of its own. The caller must not
// change it.
func StateNames(proto uint8) []string { return states[proto] }

// StateNamed returns the state of a protocol by its name, in upper or lower
// case.
func StateNamed(proto uint8, name string) (State, bool) {
	for i, n := range states[proto] {
		if strings.EqualFold(n, name) {
			return State(i + 1), true
		}
	}
	return 0, false
}
