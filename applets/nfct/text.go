package nfct

import (
	"strconv"

	"ctbox/nl/cthelper"
	"ctbox/nl/cttimeout"
)

// appendPolicy appends a timeout policy as nfct(8) prints it. A line stands for
// each attribute that is there; of the timeouts all that the protocol has names
// for, 0 for one that the kernel did not send.
func appendPolicy(dst []byte, p *cttimeout.Policy) []byte {
	if p.Has&cttimeout.HasName != 0 {
		dst = append(append(append(dst, '.'), p.Name...), " = {\n"...)
	}
	if p.Has&cttimeout.HasFamily != 0 {
		dst = appendLine(dst, ".l3proto", uint64(p.Family))
	}
	if p.Has&cttimeout.HasProto != 0 {
		dst = appendLine(dst, ".l4proto", uint64(p.Proto))
	}
	if p.Timeouts != (cttimeout.Timeouts{}) {
		dst = append(dst, "\t.policy = {\n"...)
		names := cttimeout.StateNames(p.Proto)
		if names == nil {
			names = cttimeout.StateNames(cttimeout.Generic)
		}
		for i, name := range names {
			seconds, _ := p.Timeouts.Get(cttimeout.State(i + 1))
			dst = append(append(dst, "\t\t."...), name...)
			dst = append(strconv.AppendUint(append(dst, " = "...), uint64(seconds), 10), ",\n"...)
		}
		dst = append(dst, "\t},\n"...)
	}
	return append(dst, "};\n"...)
}

// appendHelper appends a helper as nfct(8) prints it.
func appendHelper(dst []byte, h *cthelper.Helper) []byte {
	dst = append(append(append(dst, "{\n\t.name = "...), h.Name...), ",\n"...)
	dst = appendLine(dst, ".queuenum", uint64(h.Queue))
	dst = appendLine(dst, ".l3protonum", uint64(h.Family))
	dst = appendLine(dst, ".l4protonum", uint64(h.Proto))
	dst = appendLine(dst, ".priv_data_len", uint64(h.PrivDataLen))
	return append(append(append(dst, "\t.status = "...), statusName(h.Status)...), ",\n};\n"...)
}

func appendLine(dst []byte, name string, v uint64) []byte {
	dst = append(append(append(dst, '\t'), name...), " = "...)
	return append(strconv.AppendUint(dst, v, 10), ",\n"...)
}

func statusName(status uint32) string {
	if status == cthelper.Disabled {
		return "disabled"
	}
	return "enabled"
}
