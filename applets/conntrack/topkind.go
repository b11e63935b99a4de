package conntrack

import (
	"strconv"

	"ctbox/internal/jsonout"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// topKind is something that flows can be counted by.
type topKind struct {
	word   string // of --key, and in the view
	letter byte
	key    func(k *topKey, f *ctnetlink.Flow)
	text   func(dst []byte, k *topKey) []byte
	json   func(o *jsonout.Object, k *topKey) // members
}

// topKinds are the words of --key and their letters in the view.
var topKinds = [...]topKind{
	{"source", 's', func(k *topKey, f *ctnetlink.Flow) { k.addr, k.family = f.Orig.Src, f.Orig.Family }, addrText,
		func(o *jsonout.Object, k *topKey) { addrJSON(o, "source", k) }},
	{"destination", 'd', func(k *topKey, f *ctnetlink.Flow) { k.addr, k.family = f.Orig.Dst, f.Orig.Family }, addrText,
		func(o *jsonout.Object, k *topKey) { addrJSON(o, "destination", k) }},
	{"port", 'p', portKey, portText, portJSON},
	{"protocol", 'l', func(k *topKey, f *ctnetlink.Flow) { k.proto, _ = f.Proto() }, protoText, protoJSON},
	{"zone", 'z', zoneKey, numberText, func(o *jsonout.Object, k *topKey) { o.Uint("zone", uint64(k.number)) }},
	{"mark", 'm', func(k *topKey, f *ctnetlink.Flow) { k.number = present(f.Has&ctnetlink.HasMark != 0, f.Mark) }, numberText,
		func(o *jsonout.Object, k *topKey) { o.Uint("mark", uint64(k.number)) }},
}

// topSorts are the columns: the words of --key behind the comma, and the
// letters in the view.
var topSorts = [topColumns]struct {
	word, title string
	letter      byte
}{
	topFlows:   {"flows", "FLOWS", 'f'},
	topNew:     {"new", "NEW/s", 'n'},
	topEnded:   {"ended", "ENDED/s", 'e'},
	topPackets: {"packets", "PACKETS/s", 'k'},
	topBytes:   {"bytes", "BYTES/s", 'b'},
}

// noPort is the number of a flow without a destination port.
const noPort = 1 << 16

func portKey(k *topKey, f *ctnetlink.Flow) {
	k.proto, _ = f.Proto()
	k.number = noPort
	if f.Orig.Has&ctnetlink.TupleDstPort != 0 {
		k.number = uint32(f.Orig.DstPort)
	}
}

func zoneKey(k *topKey, f *ctnetlink.Flow) {
	switch {
	case f.Has&ctnetlink.HasZone != 0:
		k.number = uint32(f.Zone)
	case f.Orig.Has&ctnetlink.TupleZone != 0:
		k.number = uint32(f.Orig.Zone)
	}
}

func addrText(dst []byte, k *topKey) []byte { return format.AppendAddr(dst, k.family, &k.addr) }

func addrJSON(o *jsonout.Object, name string, k *topKey) {
	o.Name(name)
	o.Dst = append(addrText(append(o.Dst, '"'), k), '"')
}

func numberText(dst []byte, k *topKey) []byte { return strconv.AppendUint(dst, uint64(k.number), 10) }

func protoText(dst []byte, k *topKey) []byte {
	if name := ctnetlink.ProtoName(k.proto); name != "unknown" {
		return append(dst, name...)
	}
	return strconv.AppendUint(dst, uint64(k.proto), 10)
}

func protoJSON(o *jsonout.Object, k *topKey) {
	o.Uint("proto", uint64(k.proto))
	if name := ctnetlink.ProtoName(k.proto); name != "unknown" {
		o.Token("proto_name", name)
	}
}

func portText(dst []byte, k *topKey) []byte {
	if k.number != noPort {
		dst = append(numberText(dst, k), '/')
	}
	return protoText(dst, k)
}

func portJSON(o *jsonout.Object, k *topKey) {
	if k.number != noPort {
		o.Uint("port", uint64(k.number))
	}
	protoJSON(o, k)
}
