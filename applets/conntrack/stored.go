package conntrack

import (
	"ctbox/nl/ctnetlink"
)

// lossy are the protocols whose ports or keys a kernel may throw away, because it
// follows them no closer than any other protocol: DCCP since Linux 6.18, UDP-Lite since
// 7.2, SCTP and GRE without their kernel options.
var lossy = [...]uint8{ctnetlink.ProtoUDPLite, ctnetlink.ProtoDCCP, ctnetlink.ProtoSCTP, ctnetlink.ProtoGRE}

// checkStored warns if the kernel has accepted a new flow without its ports, or without
// its labels, which it does without a word. place stands in front of the warning.
func (s *session) checkStored(c *Command, place string) {
	ports := hasLossyPorts(&c.Flow.Orig)
	labels := c.Flow.Has&ctnetlink.HasLabels != 0 && c.Flow.Labels != (ctnetlink.Labels{})
	if !ports && !labels {
		return
	}
	conn, err := s.ask()
	if err != nil {
		return
	}
	var have ctnetlink.Flow
	if err := ctnetlink.Get(s.brief(), conn, wanted(&c.Flow), &have); err != nil {
		return // it has ended meanwhile
	}
	if ports && (have.Orig.SrcPort != c.Flow.Orig.SrcPort || have.Orig.DstPort != c.Flow.Orig.DstPort) {
		name := protocols[protocolNumbered(c.Flow.Orig.Proto)].name
		what := "ports"
		if c.Flow.Orig.Proto == ctnetlink.ProtoGRE {
			what = "keys"
		}
		s.warn("%sWARNING: this kernel keeps no %s of %s; the flow has none.", place, what, name)
	}
	if labels && have.Has&ctnetlink.HasLabels == 0 {
		s.warn("%sWARNING: the flow has no labels: %s.", place, noRoomForLabels)
	}
}

// noRoomForLabels is why the kernel takes no labels.
const noRoomForLabels = "no rule of this network namespace uses labels, or the flow is older than the rule"

func hasLossyPorts(t *ctnetlink.Tuple) bool {
	if t.Has&ctnetlink.TuplePorts == 0 || t.SrcPort|t.DstPort == 0 {
		return false
	}
	for _, proto := range lossy {
		if t.Proto == proto {
			return true
		}
	}
	return false
}
