package report

import (
	"strconv"

	"ctbox/sync/node"
	"ctbox/sync/ready"
)

// AppendReady appends `-s peers`: what is known of each peer, and whether this node may take
// over. conntrack-tools has nothing like it.
func AppendReady(dst []byte, s *node.Status) []byte {
	for i := range s.Peers {
		p := &s.Peers[i]
		dst = append(append(append(dst, "peer "...), p.Addr.Addr().String()...), ":\n"...)
		version := "1"
		switch {
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
		dst = append(appendText(dst, "in sync:", yesOr(p.Lacks)), '\n')
	}
	r := &s.Ready
	dst = append(dst, "this node:\n"...)
	dst = appendText(dst, "in sync:", yesOr(r.Why))
	may := "no: "
	if r.Promotable {
		may = "yes: "
	}
	dst = appendText(dst, "may take over:", may+r.Reason)
	dst = appendText(dst, "flows held:", strconv.FormatUint(r.Held, 10))
	return append(appendText(dst, "flows waiting:", strconv.FormatUint(s.Replica.Waiting, 10)), '\n')
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
		o.Uint("version", 1)
		o.Bool("ctbox", p.CTBox)
		o.Uint("holes", uint64(p.Gaps))
		o.Bool("in_sync", !p.Ignored && p.Lacks == "")
		if p.Lacks != "" {
			o.Text("lacks", p.Lacks)
		}
	})
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
	if r.Age >= 0 {
		o.seconds("last_in_sync", r.Age)
	}
	o.seconds("lag", s.Replica.Lag)
	o.Uint("flows_held", r.Held)
	o.Uint("flows_waiting", s.Replica.Waiting)
	o.End()
}
